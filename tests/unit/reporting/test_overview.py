"""Pictures of reconstructions, one by one and beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import pixels
from record_factory import make_record
from safetensors.torch import save_file

from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.records.pictures import reconstructions_path, write_picture
from dpbench.records.record import Record
from dpbench.reporting.overview import write_overview


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
