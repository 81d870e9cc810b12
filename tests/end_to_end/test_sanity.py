"""The scale at its two ends and in between, and defenses that try to cheat, through the whole path."""

from pathlib import Path

import pytest
from tiny_suite import tiny_suite

import dpbench as package

SECRETS = Path(__file__).with_name("hiding.py")

FLOORS = ("mean-image", "random-image", "nearest-auxiliary", "class-mean")
DECODER = {"name": "decoder", "steps": 105, "width": 32}
WHITE_BOX = {
    **{"name": "rmle", "steps": 100, "decoder_steps": 105, "decoder_width": 32},
    **{"total_variation": [[0.01, 1.0]], "nearness": 0},
}
SHORT = {"name": "decoder", "steps": 10, "width": 16, "blocks": 1}

INVERTIBLE = ("Affine", "Deep")
STRENGTHS = (2.0, 16.0)


@pytest.fixture(scope="module")
def measure(tmp_path_factory, cache):
    """The board of these defenses and attacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))

        def measured(defenses, attacks):
            folder = tmp_path_factory.mktemp("sanity")
            text = tiny_suite(
                ["none", *defenses],
                attacks,
                victims=12,
                threat_models=["weights"],
                dataset={"image_size": 16, "auxiliary": 1000, "test": 128},
                backbone={"epochs": 2},
            )
            (folder / "sanity.toml").write_text(text)
            return package.run(str(folder / "sanity.toml"), output=folder / "run", device="cpu")

        yield measured


def secret(name):
    return f"{SECRETS}:{name}"


def worst(board):
    """Defense -> its worst-case row; of noise by strength."""
    rows = board[(board["attack"] == "worst-case")]
    assert set(rows["status"]) == {"ok"}
    return {f"{row.defense} {row.defense_args}".strip(): row for row in rows.itertuples()}


@pytest.fixture(scope="module")
def secrets(measure):
    return worst(measure(map(secret, INVERTIBLE), [*FLOORS, DECODER, WHITE_BOX]))


@pytest.fixture(scope="module")
def rows(measure):
    noise = {"name": "gaussian", "std": STRENGTHS}
    return worst(measure([noise, *map(secret, ["Silent", "Hoarder"])], [*FLOORS, DECODER]))


@pytest.mark.parametrize("name", INVERTIBLE)
def test_an_invertible_secret_hides_nothing(secrets, name):
    assert secrets[f"hiding.py:{name}"].leakage >= 0.9


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
def two_faces(measure):
    return measure(map(secret, TWO_FACES), [SHORT])


@pytest.mark.parametrize(("name", "words"), TWO_FACES.items())
def test_a_defense_with_two_faces_fails(two_faces, name, words):
    cells = two_faces[(two_faces["defense"] == f"hiding.py:{name}") & (two_faces["attack"] == "decoder")]
    assert set(cells["status"]) == {"failed"}
    assert words in cells.iloc[0]["error"]
