"""Every published board comes out of its published records, byte for byte; where there are none, a reason says why."""

import tomllib
from pathlib import Path

import pytest

from dpbench.records.archive import head_of

BOARDS = Path(__file__).resolve().parents[3] / "leaderboards"
RECORDS = BOARDS / "records"
TABLES = sorted(path.stem for path in BOARDS.glob("*.csv"))
PACKED = sorted(path.name.removesuffix(".jsonl.xz") for path in RECORDS.glob("*.jsonl.xz"))
MISSING = tomllib.loads((RECORDS / "MISSING.toml").read_text(encoding="utf-8"))
LARGEST = 1 << 20


def sources(table: str) -> tuple[Path, list[str]]:
    """The records of a table, and the options that derive it from them."""
    name = table.removesuffix("-transfer")
    return RECORDS / f"{name}.jsonl.xz", ["--plot", "transfer"] if name != table else []


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
