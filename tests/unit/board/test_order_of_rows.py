"""Rows in an order, told apart, and compared with their like: whatever the order of records."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from record_factory import make_grid, make_record

from dpbench.board import comparisons
from dpbench.board.columns import KEY, WORST_CASE
from dpbench.board.files import write_board
from dpbench.board.leaderboard import build_board, build_rows
from dpbench.board.rows import BoardRow
from dpbench.metrics.intervals import bounds


def test_rows_that_would_look_alike_are_told_apart() -> None:
    board = build_board(
        [
            make_record(attack_args={"steps": 100, "lr": 0.1}),
            make_record(attack_args={"steps": 200, "lr": 0.1}),
            make_record(attack="rmle", attack_args={"tv": 1.0}),
            make_record(attack="gan", source="v1"),
            make_record(attack="gan", source="v2"),
            make_record(dataset="/somewhere/else/leaves", fingerprint="beef"),
        ]
    )
    assert {"decoder steps=100", "decoder steps=200", "rmle", "gan v1", "gan v2"} <= set(board.attack)
    assert set(board.dataset) == {"leaves f00d", "leaves beef"}
    keys = board[list(KEY)]
    assert not keys.duplicated().any()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("leaves", "leaves"),
        ("torch/cifar10", "torch/cifar10"),
        ("/home/someone/data/cifar10/", "cifar10"),
        ("C:\\data\\faces", "faces"),
    ],
)
def test_names_hold_nothing_of_the_machine(name: str, shown: str) -> None:
    board = build_board(
        [make_record(dataset=name, defense="/home/me/mine.py:Mine", defense_args={"b": [1, 2], "a": 0.5})]
    )
    assert set(board.dataset) == {shown}
    assert set(board.defense) == {"mine.py:Mine"}
    assert set(board.defense_args) == {"a=0.5 b=[1,2]"}


def test_order_of_rows() -> None:
    hits = [True] * 8 + [False] * 2
    board = build_board(
        [
            make_record(attack="mean-image", ssim=0.1, correct=hits),
            make_record(attack="decoder", ssim=0.9, correct=hits),
            make_record(defense="leaky", ssim=0.7),
            make_record(defense="tight", ssim=0.3, attack="rmle"),
            make_record(defense="tight", ssim=0.4, attack="gan"),
            make_record(defense="tight", ssim=0.5, attack="gan", threat_model="static"),
            make_record(defense="tight", attack="broken", failed="no"),
        ]
    )
    assert list(zip(board.defense, board.attack, board.threat_model, strict=True)) == [
        ("none", "worst-case", "weights"),
        ("none", "decoder", "weights"),
        ("none", "mean-image", "weights"),
        ("none", "floor", "weights"),
        ("tight", "worst-case", "weights"),
        ("tight", "worst-case", "static"),
        ("tight", "gan", "weights"),
        ("tight", "rmle", "weights"),
        ("tight", "broken", "weights"),
        ("tight", "gan", "static"),
        ("leaky", "worst-case", "weights"),
        ("leaky", "decoder", "weights"),
    ]


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = [*make_grid(20), make_record(attack="gan", failed='a "reason", with | signs')]
    paths = []
    for seed in range(3):
        random.Random(seed).shuffle(records)
        paths.append(tmp_path / f"{seed}.csv")
        write_board(build_board(records), paths[-1])
    contents = {path.read_bytes() for path in paths}
    assert len(contents) == 1
    text = contents.pop().decode()
    assert "\r" not in text
    assert "nan" not in text
    assert "inf" not in text.replace("information", "")
    assert text.count("\n") == len(build_board(records)) + 1


def test_a_row_does_not_depend_on_other_defenses() -> None:
    few = build_board([make_record(ssim=[0.1, 0.5, 0.6, 0.9])])
    many = build_board([make_record(ssim=[0.1, 0.5, 0.6, 0.9]), make_record(defense="dpm")])
    many = many[many.defense == "none"].reset_index(drop=True)
    pd.testing.assert_frame_equal(few.drop(columns="tied"), many.drop(columns="tied"))


def test_a_cell_found_twice_counts_once_and_finished_before_failed() -> None:
    ok = make_record(ssim=0.4)
    board = build_board([make_record(failed="first try", created="2030"), ok, ok])
    assert list(board.attack) == ["worst-case", "decoder"]
    assert list(board.status) == ["ok", "ok"]


def pair_by_pair(rows: list[BoardRow]) -> dict[BoardRow, str]:
    """What `ties` says, one difference at a time."""
    worst = [row for row in rows if row.name.attack == WORST_CASE]
    tied: dict[BoardRow, list[str]] = {row: [] for row in worst}
    for first, second in itertools.combinations(worst, 2):
        granted = [(row.name.group, row.name.threat_model, row.name.releases) for row in (first, second)]
        if granted[0] != granted[1]:
            continue
        figure = first.facts["headline"] or "leakage"
        interval = comparisons.difference(first, second, figure) or comparisons.difference(first, second, "ssim")
        if interval is not None and not comparisons.significant(interval):
            tied[first].append(second.name.setting)
            tied[second].append(first.name.setting)
    return {row: "; ".join(sorted(others)) for row, others in tied.items()}


@pytest.mark.parametrize("headline", ["leakage", "reid_top1", "ssim"])
@pytest.mark.parametrize("floored", [True, False])
def test_rows_that_are_compared_at_once_are_told_apart_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, headline: str, floored: bool
) -> None:
    rng = np.random.default_rng(5)
    monkeypatch.setattr(comparisons, "BLOCK", 7)
    records = []
    for seed in (0, 1):
        records += [make_record(attack="mean-image", ssim=0.1, seed=seed, headline=headline, victims=12)] * floored
        for setting in range(24):
            victims = 10 if setting in (5, 6) else 12
            ssim = rng.normal(0.9 - 0.02 * setting, 0.1, victims).clip(0, 1)
            if setting in (8, 9):
                ssim = np.full(victims, 0.5)  # equal in each image
            figures = {"ssim": ssim.tolist(), "reid_rank": rng.integers(0, 3, victims).tolist()}
            lacking = {"ssim": None} if setting == 11 else {"failed": "broke"} if setting == 12 else {}
            named = {"defense": "gaussian", "defense_args": {"std": setting}} if setting else {}
            more = {"seed": seed, "headline": headline, "victims": victims}
            records.append(make_record(**{**figures, **lacking, **named, **more}))
    rows = build_rows(records)
    found = comparisons.ties(rows)
    assert found == pair_by_pair(rows)
    assert any(found.values())
    if headline == "ssim" and not floored:
        assert any(one.count(";") < 20 for one in found.values())


def test_comparing_many_settings_takes_few_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    calls = []
    monkeypatch.setattr(comparisons, "bounds", lambda *given: calls.append(given) or bounds(*given))
    for settings in (20, 40):
        noisy = [
            make_record(defense="gaussian", defense_args={"std": one}, ssim=rng.uniform(0, 1, 8).tolist(), victims=8)
            for one in range(settings)
        ]
        comparisons.ties(build_rows(noisy))
    assert len(calls) < 20
