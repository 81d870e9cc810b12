"""The printed table and the plots of a board."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from image_folders import pixels
from record_factory import make_grid, make_record
from rich.console import Console

from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.records.record import Record
from dpbench.reporting.plots.budget_plot import write_budgets
from dpbench.reporting.plots.depth_plot import depths, write_depth
from dpbench.reporting.plots.marks import style_of_defense
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff
from dpbench.reporting.table import print_table


@pytest.mark.parametrize("split_points", [("layer1",), ("layer1", "layer2")])
def test_tradeoff_is_drawn(tmp_path: Path, split_points: tuple[str, ...]) -> None:
    board = build_board(make_grid(12, split_points=split_points))
    write_tradeoff(board, tmp_path / "plot.png")
    picture = pixels(tmp_path / "plot.png")
    assert picture.shape[1] > 800
    for colour, _ in map(style_of_defense, ("gaussian", "dpm", "quantise")):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (picture == wanted).all(-1).sum() > 100
    write_tradeoff(board[board.threat_model == "static"], tmp_path / "static.svg")
    assert "static.svg" in [path.name for path in tmp_path.iterdir()]


def test_tradeoff_without_leakage_or_curve(tmp_path: Path) -> None:
    write_tradeoff(build_board([make_record(defense="dpm", ssim=0.4)]), tmp_path / "plot.png")
    assert pixels(tmp_path / "plot.png").std() > 1


def test_tradeoff_says_that_no_attack_finished(tmp_path: Path) -> None:
    write_tradeoff(build_board([make_record(failed="no")]), tmp_path / "plot.png")
    assert pixels(tmp_path / "plot.png").std() > 1


def test_tradeoff_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(DpbenchError, match=r"ends in \.png, \.pdf or \.svg"):
        write_tradeoff(build_board([make_record()]), tmp_path / "plot.docx")


def table(records: list[Record], width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_table(build_board(records), console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def test_table_has_a_row_per_setting() -> None:
    lines = table(
        [
            make_record(attack="mean-image", ssim=0.1),
            make_record(attack="decoder", ssim=0.9),
            make_record(attack="rmle", ssim=0.7),
            make_record(defense="dpm", defense_args={"[weight]": 1.0}, attack="decoder", ssim=0.5),
            make_record(defense="dpm", defense_args={"[weight]": 1.0}, attack="rmle", failed="no"),
        ]
    )
    rows = {line.split()[0]: line.split() for line in lines if line.split()}
    assert rows["none"] == ["none", "75.0%", "+0.0", "0.70", "0.90", "0.90", "1.00"]
    assert rows["dpm"] == ["dpm", "[weight]=1.0", "75.0%", "+0.0", "failed", "0.50", "0.50*", "0.50*"]
    assert rows["floor:"] == ["floor:", "0.10", "(mean-image", "0.10)"]  # ran once: a line, not a column
    assert not any("static" in line for line in lines)


def test_table_shows_the_arguments_that_differ() -> None:
    long = {"depth": 3, "epochs": 8, "learning_rate": 0.001}
    lines = table(
        [
            make_record(),
            make_record(defense="dpm", defense_args=long | {"weight": 1.0}),
            make_record(defense="dpm", defense_args=long | {"weight": 5.0}),
            make_record(defense="single", defense_args=long),
        ]
    )
    text = "\n".join(lines)
    assert "dpm weight=1.0" in text
    assert "dpm weight=5.0" in text
    assert "epochs" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_table_fits_the_terminal(width: int) -> None:
    records = make_grid(8)
    lines = table(records, width)
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert text.count("split at layer") == 2
    assert "gaussian" in text
    assert "worst" in text
    assert ("left out for lack of width" in text) == (width < 100)
    assert ("static" in text) == (width > 60 or "left out" in text)


def test_table_has_a_column_per_other_attacker_and_for_recognition() -> None:
    dpm = {"defense": "dpm", "reid_rank": [0, 0, 0, 9], "label_read": [True, False, False, False]}
    lines = table(
        [
            make_record(attack="mean-image", ssim=0.1, reid_rank=9),
            make_record(attack="nearest-auxiliary", ssim=0.15, reid_rank=9),
            make_record(ssim=0.9, threat_model="query", reid_rank=0, label_read=True),
            make_record(ssim=0.8, attack="rmle", reid_rank=0, label_read=True),
            make_record(ssim=0.20, threat_model="static", **dpm),
            make_record(ssim=0.30, threat_model="query", auxiliary="shifted", **dpm),
            make_record(ssim=0.40, threat_model="query", **dpm),
            make_record(ssim=0.45, threat_model="query", releases=4, **dpm),
            make_record(ssim=0.50, threat_model="query", releases=4, budget="large", **dpm),
            make_record(ssim=0.35, attack="rmle", auxiliary="shifted", **dpm),
            make_record(ssim=0.42, attack="rmle", **dpm),
        ],
        width=200,
    )
    rows = {line.split()[0]: line.split() for line in lines if line.split()}
    # attacks at their strongest (rmle, decoder), worst, worst query, static, weights shifted, query shifted
    shown = ["0.42", "0.50", "0.50", "0.50", "0.20", "0.35", "0.30", "0.75", "0.25", "0.47"]
    assert rows["dpm"] == ["dpm", "75.0%", "+0.0", *shown]
    assert rows["floor:"] == ["floor:", "0.15", "(nearest-auxiliary", "0.15,", "mean-image", "0.10)"]
    heading = " ".join(lines[2].split() + lines[3].split() + lines[4].split())
    assert all(word in heading for word in ("query", "static", "shifted", "re-id", "label", "leakage"))


def test_table_marks_ties_doubts_claims_and_seeds() -> None:
    records = [
        make_record(attack="mean-image", ssim=0.1),
        make_record(ssim=0.9),
        make_record(attack="rmle", ssim=0.1),
        make_record(defense="a", ssim=0.5),
        make_record(defense="b", ssim=0.5),
        make_record(defense="c", attack="rmle", ssim=0.1),
    ]
    rows = {line.split()[0]: line for line in table(records, 120) if line.split()}
    assert "0.50≈" in rows["b"]
    assert "0.50≈" not in rows["a"] + rows["none"]
    assert rows["c"].split()[3] == "0.10?"
    console = Console(file=io.StringIO(), width=120)
    print_table(build_board(records, claimed=[make_record(defense="b", ssim=0.2)]), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("b (claimed)") == 1
    seeds = "\n".join(table([*records, make_record(defense="a", seed=1)], 120))
    assert "layer1, seed 0" in seeds
    assert "layer1, all seeds" in seeds


def budget_records() -> list[Record]:
    return [
        make_record(
            defense=defense, attack=attack, budget=budget, attack_args={"epochs": index}, ssim=ssim + index / 10
        )
        for defense, ssim in (("none", 0.5), ("dpm", 0.2))
        for attack in ("decoder", "rmle")
        for index, budget in enumerate(("small", "standard", "large"))
    ]


def test_budgets_are_drawn_where_there_are_several(tmp_path: Path) -> None:
    records = [*budget_records(), make_record(attack="mean-image", ssim=0.1)]
    assert write_budgets(build_board(records), tmp_path / "budgets.png")
    picture = pixels(tmp_path / "budgets.png")
    colour, _ = style_of_defense("dpm")
    assert (picture == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum() > 100
    assert not write_budgets(build_board([make_record()]), tmp_path / "one.png")
    assert not write_budgets(build_board([]), tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["budgets.png"]
    with pytest.raises(DpbenchError, match=r"ends in \.png, \.pdf or \.svg"):
        write_budgets(build_board(records), tmp_path / "plot.docx")


def depth_records() -> list[Record]:
    return [
        make_record(backbone=backbone, split_point=point, attack=attack, ssim=ssim * scale).model_copy(
            update={"released": {"shape": [1], "dtype": "float32", "client_share": share}}
        )
        for backbone, scale in (("resnet18", 1.0), ("resnet10t", 0.8))
        for point, share, ssim in (("layer1", 0.2, 0.9), ("layer2", 0.5, 0.5), ("layer3", 0.8, 0.3))
        for attack in ("decoder", "mean-image")
    ]


def test_depth_is_drawn_where_there_are_several_split_points(tmp_path: Path) -> None:
    records = depth_records()
    depth = depths(records)
    assert depth["leaves", "resnet18", "layer2"] == 0.5
    assert write_depth(build_board(records), depth, tmp_path / "depth.png")
    picture = pixels(tmp_path / "depth.png")
    for colour in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00]):
        assert (picture == colour).all(-1).sum() > 100
    assert not write_depth(build_board(records[:2]), depth, tmp_path / "one.png")
    assert not write_depth(build_board(records), {}, tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["depth.png"]


def test_tradeoff_copes_with_every_kind_of_attacker(tmp_path: Path) -> None:
    records = make_grid(12, split_points=("layer1",))
    records += [make_record(defense="dpm", seed=seed, releases=2, auxiliary="shifted") for seed in (1, 2)]
    records += [make_record(defense="gaussian", defense_args={"noise_std": 1.0}, releases=4, ssim=0.7)]
    write_tradeoff(build_board(records, claimed=make_grid(4)), tmp_path / "plot.png")
    write_tradeoff(build_board([make_record(auxiliary="shifted")]), tmp_path / "shifted.png")
    assert pixels(tmp_path / "plot.png").std() > 1
    assert pixels(tmp_path / "shifted.png").std() > 1


def test_table_of_nothing() -> None:
    assert table([]) == []
