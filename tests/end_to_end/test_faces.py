"""The suite `faces`: planned on a folder like the one it asks for, and its path walked in miniature."""

import numpy as np
import pytest
from parsing import load_suite
from PIL import Image

from dpbench import api
from dpbench.board.columns import WORST_CASE
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.reporting.overview import write_overview
from dpbench.running import runner
from dpbench.suite.suite import Suite


def portraits(folder, people, each, size):
    """Every person is a random pattern, in each picture under a little other noise."""
    random = np.random.default_rng(people)
    for person in range(people):
        (folder / f"s{person + 1}").mkdir(parents=True)
        pattern = np.kron(random.integers(40, 215, (4, 4)), np.ones((size // 4, size // 4), int))
        for index in range(each):
            pixels = (pattern + random.integers(-20, 21, pattern.shape)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"s{person + 1}" / f"{index + 1}.pgm")
    return folder


def test_plans_on_the_database_as_it_comes(tmp_path):
    folder = portraits(tmp_path / "orl_faces", 40, 10, 8)
    plan = api.plan("faces", data=str(folder), shifted="spectra", output=tmp_path / "run")
    assert len({cell.id for cell in plan.units}) == len(plan.units)
    assert {cell.dataset.auxiliary_classes for cell in plan.units} == {10}
    attacks = {cell.attack.name for cell in plan.units}
    assert {"decoder", "rmle", "gan", "gan-faces"} <= attacks


def test_says_what_it_needs_where_the_folder_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DpbenchError, match=r"no folder ./orl-faces; .* ORL Database of Faces .* --data") as caught:
        api.plan("faces", output=tmp_path / "run")
    assert "\n" not in str(caught.value)
    with pytest.raises(DpbenchError, match=r"no folder my/faces") as caught:
        api.plan("faces", data="my/faces", output=tmp_path / "run")
    assert "ORL" not in str(caught.value)


def test_the_path_in_miniature(tmp_path):
    folder = portraits(tmp_path / "people", 6, 10, 32)
    suite = load_suite("faces").model_dump()
    suite |= {"name": "tiny", "victims": 8, "ensemble": None, "auxiliary": ["same"], "shifted": None}
    suite["dataset"] |= {"name": str(folder), "image_size": 32, "private": 32, "auxiliary": 20, "test": 8}
    suite["dataset"]["auxiliary_classes"] = 2
    suite["judge"]["epochs"] = 1
    suite["backbones"] = [{"name": "resnet10t", "weights": "fit", "epochs": 1, "split_points": ["act1"]}]
    suite["defenses"] = [{"name": "none"}]
    suite["attacks"] = [{"name": "mean-image"}, {"name": "decoder", "steps": 64, "width": 16, "blocks": 1}]
    plan = api.plan(Suite.model_validate(suite), output=tmp_path / "run")
    records = runner.execute(plan, device="cpu")
    assert [record.error for record in records] == [None] * len(records)
    by_attack = {record.cell.attack.name: record for record in records}
    assert by_attack["mean-image"].recognition.identities == 4
    assert by_attack["decoder"].headline == "identity_top1"
    board = build_board(records)
    worst = board[board["attack"] == WORST_CASE].iloc[0]
    assert worst["identity_chance"] == 0.25
    assert worst["identity_top1"] > 0.7  # a shallow split without a defense
    write_overview(tmp_path / "run", board, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").is_file()
