"""A code that the server undoes, and a defense that it does not: from a plug-in in a file, on a fitted network."""

from pathlib import Path

import pytest
from tiny_suite import tiny_suite

import dpbench as package
from dpbench.records.store import CELLS

CODING = Path(__file__).parents[1] / "contract" / "coding.py"  # all its codes: contract/test_server.py

SUITE = tiny_suite(
    [
        "none",
        {"name": "dpm", "epochs": 1, "channels": 4, "grid": 2},
        f"{CODING}:Lattice",
    ],
    [{"name": "decoder", "steps": 40, "width": 32, "blocks": 1}],
    victims=16,
    threat_models=["query"],
    dataset={"image_size": 16, "auxiliary": 256},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("codes")
    (folder / "codes.toml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))
        board = package.run(str(folder / "codes.toml"), output=folder / "run", device="cpu")
    return board, folder / "run"


def row(board, defense):
    rows = board[(board["attack"] == "decoder") & board["defense"].str.endswith(defense)]
    (found,) = rows.to_dict("records")
    return found


def test_what_the_server_undoes_leaks_as_if_nothing_were_done(finished):
    board, _ = finished
    honest, coded = row(board, "none"), row(board, "Lattice")
    assert coded["status"] == "ok"
    assert coded["accuracy"] == pytest.approx(honest["accuracy"], abs=0.02)
    assert coded["ssim"] > 0.9 * honest["ssim"]


def test_a_waist_is_judged_by_what_its_server_forms(finished):
    board, run = finished
    assert row(board, "dpm")["ssim"] < 0.9 * row(board, "none")["ssim"]
    (record,) = [r for r in CELLS.all(run) if (r.cell.defense.name, r.cell.attack.name) == ("dpm", "decoder")]
    assert record.notes["view"]
