"""What a plug-in does to what it is lent, to itself and to the process reaches no other cell, and no cache."""

import shutil
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
from tiny_suite import tiny_suite

import dpbench as package
from dpbench.records import store

PLUGINS = Path(__file__).with_name("spoiling.py")


def suite(defenses, attacks):
    images = {"private": 96, "auxiliary": 64}
    return tiny_suite(defenses, attacks, threat_models=["weights"], dataset=images, backbone={"epochs": 0})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A cache that holds the images, the backbone and the judge, and nothing of a defense of these plug-ins."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "tiny.toml").write_text(suite(["none"], ["mean-image"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(folder / "cache"))
        package.run(str(folder / "tiny.toml"), output=folder / "run", device="cpu")
    return folder / "cache"


@pytest.fixture
def run(fitted, tmp_path, dpbench, monkeypatch):
    """Records of a suite with these plug-ins, in their order: `run(["none"], ["Guess"])`."""
    shutil.copytree(fitted, tmp_path / "cache")
    monkeypatch.setenv("DPBENCH_CACHE", str(tmp_path / "cache"))
    plugins = shutil.copy(PLUGINS, tmp_path / "plugins.py")

    def named(name: str) -> str:
        return f"{plugins}:{name}" if name[0].isupper() else name

    def call(defenses, attacks=("Guess",), output="run"):
        (tmp_path / "tiny.toml").write_text(suite(map(named, defenses), map(named, attacks)))
        outcome = dpbench("run", tmp_path / "tiny.toml", "--device", "cpu", "--output", tmp_path / output)
        records = store.CELLS.all(tmp_path / output)
        found = {tuple(spec.name.rpartition(":")[2] for spec in (r.cell.defense, r.cell.attack)): r for r in records}
        return found, outcome

    return call


def measured(record):
    assert record.status == "ok", record.error
    return record.fidelity, record.utility


def test_what_is_done_to_lent_images_and_to_the_process_changes_no_other_cell(run):
    alone, _ = run(["gaussian"], output="alone")
    together, _ = run(["Posterise", "Doodles", "Mirrors", "Relabels", "Switches", "gaussian"], ["Spoils", "Guess"])
    assert measured(together["gaussian", "Guess"]) == measured(alone["gaussian", "Guess"])
    for name in ("Posterise", "Doodles", "Mirrors", "Relabels", "Switches"):
        measured(together[name, "Guess"])  # what they were given was theirs alone


def test_nothing_of_a_call_that_broke_the_rules_is_stored(run, tmp_path):
    for _ in range(2):  # nor does the second time find anything
        found, _ = run(["none", "Attribute"])
        assert found["Attribute", "Guess"].status == "failed"
    assert len(list((tmp_path / "cache" / "defenses").glob("*.safetensors"))) == 1  # the undefended one


def test_all_that_is_learned_travels(run):
    one, _ = run(["Buffers"], output="one")
    two, _ = run(["Buffers"], output="two")  # from the cache
    assert measured(one["Buffers", "Guess"]) == measured(two["Buffers", "Guess"])


LEFT = {
    "Attribute": "'scale'",
    "Nested": "'extra'",
    "OnClass": "Model.other",
    "Global": "'CALLS'",
    "Itself": "'_scale' of the defense",
    "Closure": "'change'",
    "Hook": "forward_hooks of split.client_head",
    "Submodule": "added the submodule 'extra'",
    "Volatile": "'mean'",
    "Method": "'transform'",
    "Elsewhere": "releases something else",
}


def test_what_would_not_travel_is_refused_by_name(run):
    found, _ = run(list(LEFT))
    for name, words in LEFT.items():
        error = found[name, "Guess"].error
        assert error, name
        assert words in error
        assert ": fit " in error


def test_a_claim_of_noise_that_releases_do_not_bear_out(run):
    found, _ = run(["Claims", "gaussian"])
    claimed, true = found["Claims", "Guess"], found["gaussian", "Guess"]
    assert claimed.guarantees is None
    assert "times the stated" in claimed.missing_metrics["mse_bound"]
    assert true.guarantees is not None
    assert "mse_bound" not in true.missing_metrics


@pytest.mark.parametrize("damage", ["bit", "no hash"])
def test_a_damaged_cache_is_noticed_and_made_again(run, tmp_path, damage):
    one, _ = run(["gaussian"], output="one")
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        if path.parent.name == "datasets":
            continue
        if damage == "no hash":
            safetensors.torch.save_file(safetensors.torch.load_file(path), path)
        elif (size := path.stat().st_size) > 1000:
            content = bytearray(path.read_bytes())
            content[size - 1] ^= 0x40
            path.write_bytes(content)
    two, _ = run(["gaussian"], output="two")
    assert measured(one["gaussian", "Guess"]) == measured(two["gaussian", "Guess"])
    assert one["gaussian", "Guess"].backbone_weights == two["gaussian", "Guess"].backbone_weights
    for path in (tmp_path / "cache" / "backbones").glob("*.safetensors"):
        with safetensors.safe_open(path, "pt") as file:
            assert file.metadata()


def test_what_changed_is_said(run, tmp_path, dpbench):
    run(["Plain", "none"])
    with (tmp_path / "plugins.py").open("a") as file:
        file.write("\n# another\n")
    again = ["run", tmp_path / "tiny.toml", "--output", tmp_path / "run", "--dry-run"]
    assert "plugins.py changed: 2 cells again" in dpbench(*again).out
