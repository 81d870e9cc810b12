"""Plug-ins that cheat: whatever they patch, remember or look at, no figure follows."""

from pathlib import Path

import pytest
from tiny_suite import tiny_suite

import dpbench as package

CHEATS = Path(__file__).with_name("cheating.py")

DECODER = {"name": "decoder", "steps": 12, "width": 16, "blocks": 1}


def suite(defenses=(), attacks=()):
    return tiny_suite(
        ["none", *defenses],
        ["mean-image", DECODER, *attacks],
        victims=16,
        threat_models=["query"],
        dataset={"image_size": 16, "auxiliary": 256, "test": 128},
    )


CAUGHT = {
    "FirstOnes": "something else",
    "Seed": "something else",
    "Picky": "in batches of 1 than in batches of 64",
    "Notes": "leave a trace outside its process",
    "Quitter": "its process ended (exit status 0)",
}
"""Cheat -> words of the reason for which its cells fail."""

BLIND = ("Stack", "Shelf")
"""Cheats whose tricks tell them nothing: they serve everybody the same, and the server with them."""


@pytest.fixture(scope="module")
def boards(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("cheats")
    suites = {
        "d": suite(defenses=[f"{CHEATS}:{name}" for name in (*CAUGHT, *BLIND)]),
        "a": suite(attacks=[f"{CHEATS}:{name}" for name in ("Thief", "Grey")]),
    }
    boards = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))
        for name, text in suites.items():
            (folder / f"{name}.toml").write_text(text)
            boards.append(package.run(str(folder / f"{name}.toml"), output=folder / name, device="cpu"))
    return boards


@pytest.fixture(scope="module")
def board(boards):
    """Of the defenses that cheat."""
    return boards[0]


@pytest.fixture(scope="module")
def attacked(boards):
    """Of the attacks that cheat."""
    return boards[1]


def row(board, defense, attack):
    (found,) = board[(board["defense"] == defense) & (board["attack"] == attack)].to_dict("records")
    return found


@pytest.mark.parametrize(("name", "words"), CAUGHT.items())
def test_who_tells_victims_from_attackers_is_found_out(board, name, words):
    decoder = row(board, f"cheating.py:{name}", "decoder")
    if decoder["status"] == "failed":
        assert words in decoder["error"]
    else:  # it took a decoy for the first of those whom it serves well: then victims and their accuracy are lost
        assert decoder["accuracy"] < 0.3


@pytest.mark.parametrize("name", BLIND)
def test_nothing_passes_between_client_and_server_but_features(board, name):
    decoder = row(board, f"cheating.py:{name}", "decoder")
    assert decoder["status"] != "failed"
    assert decoder["accuracy"] < 0.3


def test_an_attack_finds_no_victims_where_it_runs(attacked):
    thief, mean = row(attacked, "none", "cheating.py:Thief"), row(attacked, "none", "mean-image")
    assert thief["status"] != "failed"
    assert thief["ssim"] <= mean["ssim"] + 0.05


def test_grading_happens_where_no_plugin_has_patched_it(attacked, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(cache))
    (tmp_path / "plain.toml").write_text(suite())
    plain = package.run(str(tmp_path / "plain.toml"), output=tmp_path / "run", device="cpu")
    assert row(attacked, "none", "decoder")["ssim"] == row(plain, "none", "decoder")["ssim"]


def test_a_floor_that_a_plugin_declares_does_not_lift_the_zero(attacked):
    floor = row(attacked, "none", "floor")
    assert floor["ssim"] == row(attacked, "none", "mean-image")["ssim"]


def test_an_audit_gives_the_figures_of_a_run_without(board, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(cache))
    (tmp_path / "plain.toml").write_text(suite([{"name": "quantise", "bits": 2}]))
    plain = package.run(str(tmp_path / "plain.toml"), output=tmp_path / "run", device="cpu")
    audited = package.run(str(tmp_path / "plain.toml"), output=tmp_path / "audit", device="cpu", audit=True)
    figures = ["defense", "attack", "threat_model", "status", "accuracy", "ssim", "psnr_db", "reid_top1", "leakage"]
    assert audited[figures].equals(plain[figures])
