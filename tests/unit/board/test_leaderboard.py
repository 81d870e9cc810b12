from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from board_pages import written
from record_factory import make_grid, make_record, victim_hashes

from dpbench.api import load_records
from dpbench.board import comparisons
from dpbench.board.columns import COLUMNS, KEY, OPTIONAL_COLUMNS, WORST_CASE
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board, build_rows
from dpbench.board.rows import BoardRow
from dpbench.errors import DpbenchError
from dpbench.metrics.intervals import bounds
from dpbench.records.store import CELLS


def with_interval(column: str) -> list[str]:
    return [column, f"{column}_low", f"{column}_high"]


DOCUMENTED = [
    *"dataset backbone split_point defense defense_args attack threat_model auxiliary releases budget seed".split(),
    *"status images ensemble converged".split(),
    *(c for m in ("accuracy", "accuracy_drop", "ssim", "psnr_db", "lpips", "mse") for c in with_interval(m)),
    *(c for m in ("reid_top1", "reid_top5", "label_read") for c in with_interval(m)),
    *(
        c
        for m in ("leakage", "leakage_ssim", "leakage_psnr_db", "leakage_lpips", "mse_bound")
        for c in with_interval(m)
    ),
    *"accuracy_spread ssim_spread leakage_spread reid_chance judge_accuracy epsilon delta seconds".split(),
    *"release_bits trained_on tied origin error cell".split(),
]


def row(board: pd.DataFrame, **wanted: object) -> pd.Series:
    found = board
    for column, value in wanted.items():
        found = found[found[column] == value]
    assert len(found) == 1, found
    return found.iloc[0]


def test_columns_are_the_documented_ones() -> None:
    assert list(COLUMNS) == DOCUMENTED
    on_a_scale = {"leakage_metrics", "leakage_images"}
    assert [column for column in build_board(make_grid(4)).columns if column not in on_a_scale] == DOCUMENTED
    text = (Path(__file__).parents[3] / "dpbench" / "guide" / "boards.md").read_text()
    assert [column for column in (*DOCUMENTED, *OPTIONAL_COLUMNS) if f"`{column}`" not in text] == []


def test_top5_is_there_where_it_was_measured() -> None:
    record = make_record(correct=[True, False, False, False])
    assert record.utility is not None
    utility = record.utility.model_copy(update={"top5": [True, True, True, False]})
    board = build_board([record.model_copy(update={"utility": utility})])
    row = board[board["attack"] == "decoder"].iloc[0]
    assert (row["accuracy"], row["accuracy_top5"]) == (0.25, 0.75)
    assert row["accuracy_top5_low"] <= 0.75 <= row["accuracy_top5_high"]


def test_worst_case_is_per_image_and_per_metric() -> None:
    board = build_board(
        [
            make_record(
                attack="decoder", ssim=[0.9, 0.1], psnr_db=[10, 20], lpips=[0.5, 0.1], mse=[0.4, 0.1], victims=2
            ),
            make_record(attack="rmle", ssim=[0.3, 0.7], psnr_db=[30, 10], lpips=[0.2, 0.6], mse=[0.2, 0.3], victims=2),
        ]
    )
    worst = row(board, attack=WORST_CASE)
    assert (worst.ssim, worst.psnr_db, worst.lpips, worst.mse) == (0.8, 25.0, 0.15, 0.15)
    assert worst.images == 2
    assert worst.seconds == 2.0
    assert worst.status == "ok"
    assert worst.cell == ""


def test_worst_case_is_over_the_victims_that_all_attacks_share() -> None:
    board = build_board(
        [
            make_record(attack="decoder", ssim=[0.1, 0.2, 0.3, 0.4], victims=4),
            make_record(attack="rmle", ssim=[0.9, 0.0], victims=victim_hashes(2, first=2)),
        ]
    )
    worst = row(board, attack=WORST_CASE)
    assert worst.images == 2
    assert worst.ssim == pytest.approx((0.9 + 0.4) / 2)
    assert row(board, attack="decoder").ssim == 0.25
    assert row(board, attack="decoder").images == 4


def test_attacks_without_a_common_victim_have_no_worst_case() -> None:
    board = build_board([make_record(victims=2), make_record(attack="rmle", victims=victim_hashes(2, first=5))])
    worst = row(board, attack=WORST_CASE)
    assert worst.status == "failed"
    assert "no victim in common" in worst.error
    assert np.isnan(worst.ssim)


def test_floors_count_in_every_threat_model_and_are_run_once() -> None:
    board = build_board(
        [
            make_record(attack="mean-image", ssim=0.2),
            make_record(attack="decoder", ssim=0.8),
            make_record(defense="dpm", attack="decoder", ssim=0.5),
            make_record(defense="dpm", attack="decoder", ssim=0.05, threat_model="static"),
        ]
    )
    static = row(board, defense="dpm", attack=WORST_CASE, threat_model="static")
    assert static.ssim == 0.2  # the mean image, which anyone can output
    assert row(board, defense="dpm", attack=WORST_CASE, threat_model="weights").ssim == 0.5
    assert static.leakage == 0.0
    assert len(board[(board.defense == "none") & (board.attack == WORST_CASE)]) == 1


def calibrated(ssim: float, lpips: float | None = None) -> list:
    grade = {"victims": 3}
    return [
        make_record(attack="mean-image", ssim=[0.1, 0.0, 0.2], lpips=0.8, psnr_db=10, **grade),
        make_record(attack="random-image", ssim=[0.0, 0.2, 0.0], lpips=0.9, psnr_db=8, **grade),
        make_record(attack="decoder", ssim=[0.9, 0.8, 1.0], lpips=0.2, psnr_db=30, **grade),
        make_record(defense="dpm", ssim=ssim, lpips=lpips, psnr_db=20, **grade),
    ]


def test_leakage_is_1_undefended_and_0_at_the_floor() -> None:
    board = build_board(calibrated(0.5, 0.5))
    assert row(board, defense="none", attack=WORST_CASE).leakage == 1.0
    assert row(board, attack="mean-image").leakage == 0.0
    floor = (0.1 + 0.2 + 0.2) / 3  # the best of both floors per image
    expected = np.mean([(0.5 - floor) / (0.9 - floor), (20 - 10) / (30 - 10), (0.8 - 0.5) / (0.8 - 0.2)])
    assert row(board, defense="dpm", attack="decoder").leakage == pytest.approx(expected, abs=1e-4)


def test_leakage_uses_only_metrics_that_all_rows_have() -> None:
    board = build_board(calibrated(0.5, None))
    floor = 0.5 / 3
    expected = np.mean([(0.5 - floor) / (0.9 - floor), 0.5])
    assert row(board, defense="dpm", attack="decoder").leakage == pytest.approx(expected, abs=1e-4)


def test_leakage_is_empty_without_a_scale() -> None:
    no_floor = [make_record(ssim=0.8), make_record(defense="dpm", ssim=0.5)]
    assert build_board(no_floor).leakage.isna().all()
    no_undefended = [make_record(attack="mean-image", ssim=0.1), make_record(defense="dpm", ssim=0.5)]
    assert build_board(no_undefended).leakage.isna().all()
    weak = [make_record(attack="mean-image", ssim=0.1), make_record(ssim=0.11), make_record(defense="dpm", ssim=0.5)]
    assert build_board(weak).leakage.isna().all()


def test_leakage_is_clipped() -> None:
    board = build_board(
        [
            make_record(attack="mean-image", ssim=0.2),
            make_record(attack="decoder", ssim=0.8),
            make_record(defense="a", ssim=0.9),
            make_record(defense="b", ssim=0.1),
        ]
    )
    assert row(board, defense="a", attack="decoder").leakage == 1.0
    assert row(board, defense="b", attack="decoder").leakage == 0.0
    assert row(board, defense="b", attack=WORST_CASE).leakage == 0.0


def test_failed_cells_stay_with_their_reason_and_without_figures() -> None:
    board = build_board(
        [
            make_record(attack="decoder", ssim=0.4),
            make_record(attack="gan", failed="RuntimeError: it\nbroke " + "x" * 500),
        ]
    )
    failed = row(board, attack="gan")
    assert failed.status == "failed"
    assert failed.error.startswith("RuntimeError: it broke xx")
    assert len(failed.error) == 160
    assert pd.isna(failed.images)
    figures = [c for c in COLUMNS if c != "seconds" and board[c].dtype == np.float64]
    assert failed[figures].isna().all()
    worst = row(board, attack=WORST_CASE)
    assert worst.status == "incomplete"
    assert worst.ssim == 0.4
    assert "gan" in worst.error


def test_a_setting_whose_attacks_all_failed_is_not_judged_by_its_floors() -> None:
    records = [
        make_record(attack="mean-image", ssim=0.1),
        make_record(ssim=0.8),
        make_record(defense="dpm", failed="out of memory"),
    ]
    worst = row(build_board(records), defense="dpm", attack=WORST_CASE)
    assert worst.status == "failed"
    assert pd.isna(worst.ssim)
    assert worst.accuracy == 0.75  # measured before the attack


def test_accuracy_and_drop_against_the_undefended_model() -> None:
    hits = [True] * 9 + [False]
    board = build_board(
        [
            make_record(correct=hits),
            make_record(defense="dpm", correct=[*hits[2:], False, False]),
            make_record(defense="dpm", split_point="layer2"),
        ]
    )
    defended = row(board, defense="dpm", split_point="layer1", attack="decoder")
    assert (defended.accuracy, defended.accuracy_drop) == (0.7, 0.2)
    assert defended.accuracy_low < 0.7 < defended.accuracy_high
    assert row(board, defense="none", attack="decoder").accuracy_drop == 0.0
    assert np.isnan(row(board, split_point="layer2", attack="decoder").accuracy_drop)


def test_identical_images_are_capped() -> None:
    board = build_board([make_record(psnr_db=[float("inf"), 20.0], victims=2)])
    assert row(board, attack="decoder").psnr_db == 50.0  # as `dpbench.metrics.fidelity.psnr_db` itself: 80 dB
    assert np.isfinite(row(board, attack=WORST_CASE).psnr_db_high)


def test_figures_that_are_not_finite_count_as_not_measured() -> None:
    board = build_board([make_record(ssim=[0.5, float("nan")], mse=0.1, victims=2)])
    assert board.ssim.isna().all()
    assert (board.mse == 0.1).all()


def test_a_record_with_other_counts_is_refused() -> None:
    with pytest.raises(DpbenchError, match="3 figures of ssim for 4 victims"):
        build_board([make_record(ssim=[0.1, 0.2, 0.3], victims=4)])


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


def test_no_records_make_an_empty_board(tmp_path: Path) -> None:
    board = build_board([])
    assert list(board.columns) == DOCUMENTED
    assert board.empty
    for ending in ("csv", "md", "html"):
        written(board, tmp_path / f"board.{ending}")
    assert read_board(tmp_path / "board.csv").empty


def test_formats(tmp_path: Path) -> None:
    records = [make_record(defense="a_b", defense_args={"p": "50%&<x>"}, lpips=0.25, psnr_db=20, mse=0.01)]
    records += [make_record(attack="gan", failed="it | broke at <layer>_1")]
    board = build_board(records)
    texts = {}
    for ending in ("csv", "md", "html"):
        texts[ending] = written(board, tmp_path / f"board.{ending}")
    figures = "0.5000,0.5000,0.5000,20.000,20.000,20.000,0.2500,0.2500,0.2500,0.010000,0.010000,0.010000"
    assert f",{figures}," in texts["csv"]
    assert "0.5000 [0.5000, 0.5000]" in texts["md"]
    assert "it \\| broke at &lt;layer>" in texts["md"]
    table, *notes = texts["md"].strip().split("\n\n")
    lines = table.splitlines()
    assert notes == ["Intervals of a single seed leave out" + note for note in [notes[0].partition(" leave out")[2]]]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    body = texts["html"].partition('<table id="cells"')[2].partition("</table>")[0]
    rows = [row.partition("</tr>")[0] for row in re.split(r"<tr\b", body)[1:]]
    assert [len(re.findall(r"<t[dh]\b", row)) for row in rows] == [len(COLUMNS)] * (len(board) + 1)
    assert "it | broke at &lt;layer&gt;_1" in body
    assert not list(tmp_path.glob(".*"))


def test_csv_reads_back(tmp_path: Path) -> None:
    board = build_board([*make_grid(6), make_record(attack="gan", failed="no")])
    write_board(board, tmp_path / "board.csv")
    pd.testing.assert_frame_equal(read_board(tmp_path / "board.csv"), board)


def test_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(DpbenchError, match=r"ends in \.csv, \.md, \.html, \.tex, not in '\.xlsx'"):
        write_board(build_board([make_record()]), tmp_path / "board.xlsx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "not a CSV table"),
        (b"\xff\xfe\x00binary", "cannot be read"),
        (b"a,b\n1,2\n", "lacks the columns dataset, backbone"),
        (b'a,b\n1,2,3,4\n5\n"', "not a CSV table"),
        ("text", "ssim is 'high'; expected a number"),
        ("releases", "releases is ''; expected a number"),
    ],
)
def test_unreadable_boards(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "board.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_board(build_board([make_record(ssim=0.1234)]), path)
        old, new = {"text": (",0.1234,", ",high,"), "releases": (",same,1,", ",same,,")}[content]
        path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DpbenchError, match=message):
        read_board(path)


def test_load_records_is_one_row_per_cell_and_victim(tmp_path: Path) -> None:
    CELLS.write(
        tmp_path,
        make_record(
            ssim=[0.1, 0.2, 0.3, 0.4],
            mse=0.5,
            reid_rank=[0, 7, 1, 2],
            label_read=[True, False, True, True],
            victims=["c", "a", "b", "d"],
        ),
    )
    CELLS.write(tmp_path, make_record(attack="gan", failed="no"))
    frame = load_records(tmp_path)
    assert len(frame) == 5
    decoder = frame[frame.attack == "decoder"]
    assert list(decoder.ssim) == [0.1, 0.2, 0.3, 0.4]
    assert list(decoder.victim) == [0, 1, 2, 3]
    assert list(decoder.correct) == [True, True, True, False]
    assert decoder.lpips.isna().all()
    assert frame[frame.attack == "gan"].iloc[0].error == "no"
    assert list(decoder.reid_rank) == [0, 7, 1, 2]
    assert list(decoder.label_read) == [True, False, True, True]
    with pytest.raises(DpbenchError, match="not a run directory"):
        load_records(tmp_path / "nowhere")


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
