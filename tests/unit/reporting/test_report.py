from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from record_factory import make_grid, make_record
from rich.console import Console
from safetensors.torch import save_file

from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.records.pictures import reconstructions_path, write_picture
from dpbench.records.record import Record
from dpbench.reporting.overview import write_overview
from dpbench.reporting.plots.budget_plot import write_budgets
from dpbench.reporting.plots.depth_plot import depths, write_depth
from dpbench.reporting.plots.marks import style_of_defense
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff
from dpbench.reporting.table import print_table


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def images(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "tile"), [(32, 96), (64, 128), (128, 128), (17, 102)])
def test_picture_shows_every_pixel_enlarged(tmp_path: Path, size: int, tile: int) -> None:
    victims, found = images(3, size), images(3, size, seed=1)
    write_picture(tmp_path / "a.png", victims, found, captions=["SSIM 0.83"] * 3, title="a title")
    picture = pixels(tmp_path / "a.png")
    for source in (victims, found):
        tiles = (source * 255).round().byte().permute(0, 2, 3, 1).numpy()
        expected = tiles[2].repeat(tile // size, 0).repeat(tile // size, 1)
        windows = np.lib.stride_tricks.sliding_window_view(picture, expected.shape[:2], axis=(0, 1))
        corners = (windows[..., 0, 0] == expected[0, 0]).all(-1)
        places = [(y, x) for y, x in np.argwhere(corners) if (picture[y : y + tile, x : x + tile] == expected).all()]
        assert len(places) == 1


def test_picture_size_grows_with_rows_and_title(tmp_path: Path) -> None:
    write_picture(tmp_path / "one.png", images(8), images(8))
    write_picture(tmp_path / "two.png", images(9), images(9))
    write_picture(tmp_path / "title.png", images(8), images(8), title="word " * 60, captions=["SSIM 0.10"])
    one, two, title = (pixels(tmp_path / f"{name}.png").shape for name in ("one", "two", "title"))
    assert one[1] == two[1] == title[1]
    assert two[0] - one[0] > 2 * 96
    assert 40 < title[0] - one[0] < 120


def test_picture_of_bytes_equals_picture_of_floats(tmp_path: Path) -> None:
    exact = (images(2) * 255).byte()
    write_picture(tmp_path / "a.png", exact, exact)
    write_picture(tmp_path / "b.png", exact / 255, exact / 255)
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()


def test_picture_refuses_what_does_not_fit(tmp_path: Path) -> None:
    for victims, found in ((images(2), images(3)), (images(0), images(0)), (images(2)[0], images(2)[0])):
        with pytest.raises(DpbenchError, match="a picture needs"):
            write_picture(tmp_path / "a.png", victims, found)
    assert not list(tmp_path.iterdir())


def keep_images(run_dir: Path, records: list[Record], count: int = 4) -> torch.Tensor:
    victims = (images(count) * 255).byte()
    for index, record in enumerate(records):
        path = reconstructions_path(run_dir, record.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = torch.full_like(victims, index)
        save_file({"victims": victims, "reconstructions": found}, path)
    return victims


def test_overview_shows_the_strongest_attack_of_each_defense(tmp_path: Path) -> None:
    records = [
        make_record(attack="decoder", ssim=0.5),
        make_record(attack="rmle", ssim=0.8),
        make_record(defense="dpm", attack="decoder", ssim=0.4),
        make_record(defense="dpm", attack="rmle", ssim=0.3),
        make_record(defense="dpm", attack="gan", ssim=0.9, threat_model="static"),
        make_record(defense="dpm", attack="gan", failed="no"),
    ]
    keep_images(tmp_path, records)
    write_overview(tmp_path, build_board(records), tmp_path / "a.png", columns=3)
    picture = pixels(tmp_path / "a.png")
    shown = [grey for grey in range(6) if (picture == grey).all(-1).sum() == 3 * 96 * 96]
    assert shown == [1, 2]
    write_overview(tmp_path, build_board(records), tmp_path / "b.png", threat_model="static", defenses=["dpm"])
    picture = pixels(tmp_path / "b.png")
    assert [grey for grey in range(6) if (picture == grey).all(-1).sum() == 4 * 96 * 96] == [4]


def test_overview_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    records = [make_record(), make_record(defense="dpm")]
    board = build_board(records)
    with pytest.raises(DpbenchError, match="holds no reconstructions"):
        write_overview(tmp_path, board, tmp_path / "a.png")
    with pytest.raises(DpbenchError, match="did you mean 'layer1'"):
        write_overview(tmp_path, board, tmp_path / "a.png", split_point="layer9")
    with pytest.raises(DpbenchError, match="unknown threat model"):
        write_overview(tmp_path, board, tmp_path / "a.png", threat_model="query")
    with pytest.raises(DpbenchError, match="the board is empty"):
        write_overview(tmp_path, board.iloc[:0], tmp_path / "a.png")
    keep_images(tmp_path, records)
    path = reconstructions_path(tmp_path, records[1].id)
    save_file({"victims": torch.zeros(4, 3, 32, 32), "reconstructions": torch.zeros(4, 3, 32, 32)}, path)
    with pytest.raises(DpbenchError, match="other victims"):
        write_overview(tmp_path, board, tmp_path / "a.png")
    path.write_bytes(b"cut short")
    with pytest.raises(DpbenchError, match="damaged"):
        write_overview(tmp_path, board, tmp_path / "a.png")


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
