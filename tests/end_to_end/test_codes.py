"""Codes that the server undoes, and a defense that it does not: from plug-ins in files, on a fitted network."""

from pathlib import Path

import pytest

import dpbench as package
from dpbench.records.store import CELLS

CODING = Path(__file__).parents[1] / "contract" / "coding.py"
CODES = ("Lattice", "KeyedNoise")  # all others: tests/contract/test_server.py

SUITE = """
name = "codes"
victims = 16
threat_models = ["query"]
[judge]
name = "resnet14t"
epochs = 1
[dataset]
image_size = 16
private = 256
auxiliary = 256
test = 64
[[backbones]]
name = "resnet10t"
weights = "fit"
epochs = 1
split_points = ["layer1"]
[[defenses]]
name = "none"
[[defenses]]
name = "dpm"
epochs = 1
channels = 4
grid = 2
{codes}
[[attacks]]
name = "decoder"
steps = 40
width = 32
blocks = 1
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("codes")
    codes = "".join(f'[[defenses]]\nname = "{CODING}:{name}"\n' for name in CODES)
    (folder / "codes.toml").write_text(SUITE.format(codes=codes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))
        board = package.run(str(folder / "codes.toml"), output=folder / "run", device="cpu")
    return board, folder / "run"


def row(board, defense):
    rows = board[(board["attack"] == "decoder") & board["defense"].str.endswith(defense)]
    (found,) = rows.to_dict("records")
    return found


@pytest.mark.parametrize("code", CODES)
def test_what_the_server_undoes_leaks_as_if_nothing_were_done(finished, code):
    board, _ = finished
    honest, coded = row(board, "none"), row(board, code)
    assert coded["status"] == "ok"
    assert coded["accuracy"] == pytest.approx(honest["accuracy"], abs=0.02)
    assert coded["ssim"] > 0.9 * honest["ssim"]


def test_a_waist_is_judged_by_what_its_server_forms(finished):
    board, run = finished
    assert row(board, "dpm")["ssim"] < 0.9 * row(board, "none")["ssim"]
    (record,) = [r for r in CELLS.all(run) if (r.cell.defense.name, r.cell.attack.name) == ("dpm", "decoder")]
    assert record.notes["view"]
