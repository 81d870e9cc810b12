"""The scale at its two ends and in between, and defenses that try to cheat, through the whole path."""

from pathlib import Path

import pytest

import dpbench as package

SECRETS = Path(__file__).with_name("hiding.py")

SUITE = """
name = "sanity"
victims = 12
threat_models = ["weights"]
[judge]
name = "resnet14t"
epochs = 1
[dataset]
image_size = 16
private = 256
auxiliary = 1000
test = 128
[[backbones]]
name = "resnet10t"
weights = "fit"
epochs = 2
split_points = ["layer1"]
[[defenses]]
name = "none"
{defenses}
"""

ATTACKS = """
[[attacks]]
name = "mean-image"
[[attacks]]
name = "random-image"
[[attacks]]
name = "nearest-auxiliary"
[[attacks]]
name = "class-mean"
[[attacks]]
name = "decoder"
steps = 105
width = 64
[[attacks]]
name = "rmle"
steps = 200
decoder_steps = 105
decoder_width = 64
total_variation = [[0.01, 1.0]]
nearness = 0
"""

SHORT = """
[[attacks]]
name = "decoder"
steps = 10
width = 16
blocks = 1
"""

INVERTIBLE = ("Affine", "Deep")
STRENGTHS = (2.0, 16.0)


def run(folder, defenses, attacks):
    path = folder / "sanity.toml"
    path.write_text(SUITE.format(defenses=defenses) + attacks)
    return package.run(str(path), output=folder / "run", device="cpu")


def secret(name):
    return f'[[defenses]]\nname = "{SECRETS}:{name}"\n'


def worst(board):
    """Defense -> its worst-case row; of noise by strength."""
    rows = board[(board["attack"] == "worst-case")]
    assert set(rows["status"]) == {"ok"}
    return {f"{row.defense} {row.defense_args}".strip(): row for row in rows.itertuples()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))
        noise = f'[[defenses]]\nname = "gaussian"\nstd = {list(STRENGTHS)}\n'
        defenses = noise + "".join(map(secret, [*INVERTIBLE, "Silent", "Hoarder"]))
        board = run(tmp_path_factory.mktemp("sanity"), defenses, ATTACKS)
    return worst(board)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_an_invertible_secret_hides_nothing(rows, name):
    assert rows[f"hiding.py:{name}"].leakage >= 0.9


def test_a_release_that_carries_nothing_sits_at_the_floor(rows):
    assert rows["hiding.py:Silent"].leakage <= 0.05


def test_more_noise_leaks_less(rows):
    leaks = [rows["none"].leakage, *(rows[f"gaussian std={strength}"].leakage for strength in STRENGTHS)]
    assert leaks == sorted(leaks, reverse=True)
    assert leaks[0] == 1
    assert leaks[-1] <= 0.25


def test_the_server_knows_nothing_but_what_was_released(rows):
    assert rows["hiding.py:Hoarder"].accuracy < 0.3
    assert rows["hiding.py:Hoarder"].leakage <= 0.05


TWO_FACES = {"TwoFaced": "with gradients", "Tired": "something else", "Rolled": "in batches of"}
"""Defense -> words of the reason for which it fails."""


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))
        return run(tmp_path_factory.mktemp("two-faces"), "".join(map(secret, TWO_FACES)), SHORT)


@pytest.mark.parametrize(("name", "words"), TWO_FACES.items())
def test_a_defense_with_two_faces_fails(two_faces, name, words):
    cells = two_faces[(two_faces["defense"] == f"hiding.py:{name}") & (two_faces["attack"] == "decoder")]
    assert set(cells["status"]) == {"failed"}
    assert words in cells.iloc[0]["error"]
