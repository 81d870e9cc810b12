"""Every published board comes out of its published records, byte for byte; where there are none, a reason says why."""

import itertools
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from dpbench.records.archive import head_of
from dpbench.suite.ensembles import ENSEMBLES, NEWEST

BOARDS = Path(__file__).resolve().parents[3] / "leaderboards"
RECORDS = BOARDS / "records"
TABLES = sorted(path.stem for path in BOARDS.glob("*.csv"))
PACKED = sorted(path.name.removesuffix(".jsonl.xz") for path in RECORDS.glob("*.jsonl.xz"))
MISSING = tomllib.loads((RECORDS / "MISSING.toml").read_text(encoding="utf-8"))
LARGEST = 1 << 20
FURTHER = {"portfolio": ["--portfolio"], **{name: ["--equal-accuracy"] for name in ("cifar10", "defenses", "waist")}}
"""Tables that are not what a run writes of itself -> the options that make them."""


def sources(table: str) -> tuple[Path, list[str]]:
    """The records of a table, and the options that derive it from them."""
    name = table.removesuffix("-transfer")
    options = ["--plot", "transfer"] if name != table else FURTHER.get(table, [])
    return RECORDS / f"{name}.jsonl.xz", options


def test_every_board_has_records_or_a_reason_and_never_both():
    published = {table for table in TABLES if sources(table)[0].is_file()}
    assert published.isdisjoint(MISSING)
    assert sorted(published | MISSING.keys()) == TABLES
    assert set(PACKED) <= published
    assert all(len(reason) > 10 for reason in MISSING.values())


@pytest.mark.parametrize("table", [table for table in TABLES if table not in MISSING])
def test_the_records_give_the_board_byte_for_byte(table, tmp_path, dpbench):
    packed, options = sources(table)
    outcome = dpbench("leaderboard", packed, *options, "--output", tmp_path / "board.csv")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "board.csv").read_bytes() == (BOARDS / f"{table}.csv").read_bytes()


@pytest.mark.parametrize("name", PACKED)
def test_the_records_are_small_whole_and_contradict_nothing(name, dpbench):
    packed = RECORDS / f"{name}.jsonl.xz"
    assert packed.stat().st_size < LARGEST
    outcome = dpbench("verify", packed)
    assert outcome.status == 0, outcome.out
    assert f"nothing contradicts itself in {head_of(packed).count} records" in outcome.out


def test_the_page_of_the_portfolio_has_its_table(tmp_path, dpbench):
    packed, options = sources("portfolio")
    assert dpbench("leaderboard", packed, *options, "--output", tmp_path / "portfolio.md").status == 0
    page = (BOARDS / "portfolio.md").read_text(encoding="utf-8")
    assert (tmp_path / "portfolio.md").read_text(encoding="utf-8").strip() in page


def test_the_newest_ensemble_pins_what_the_portfolio_shows_to_earn_its_place():
    """Those that do so by observation alone are no help to who may ask: suites that grant no more name them."""
    table = pd.read_csv(BOARDS / "portfolio.csv", keep_default_na=False)
    earned = table[(table["earns_on"] != "") & (table["needs"] != "observe")]["attack"].str.split().str[0]
    assert len(earned)
    assert set(earned) <= set(ENSEMBLES[NEWEST])
    comparable = list(ENSEMBLES)[1:]  # the first did not hold the server's half
    for older, newer in itertools.pairwise(comparable):
        pinned = ENSEMBLES[newer]
        weaker = {name for name, version in ENSEMBLES[older].items() if pinned.get(name, 0) < version}
        assert not weaker, "no worst case may be weaker than before"
