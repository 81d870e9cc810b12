"""What a plug-in does to what it is lent, to itself and to the process reaches no other cell, and no cache."""

import shutil
import textwrap

import pytest
import safetensors
import safetensors.torch
from tiny_suite import tiny_suite

import dpbench as package
from dpbench.records import store


def suite(defenses, attacks):
    images = {"private": 96, "auxiliary": 64}
    return tiny_suite(defenses, attacks, threat_models=["weights"], dataset=images, backbone={"epochs": 0})


PLUGINS = """
    from typing import ClassVar
    import torch
    from torch import nn
    from dpbench import Attack, Defense, ProtectedModel
    from dpbench import AdditiveNoise

    CALLS = []

    class Model(ProtectedModel):
        scale = 1.0

        def transform(self, features, *, generator=None):
            return features * self.scale

    class Plain(Defense):
        '''Nothing.'''
        name: ClassVar[str] = "plain"
        def build(self, split):
            return Model(split)

    class Posterise(Plain):
        '''Works in place on what it is given.'''
        class Model(ProtectedModel):
            def release(self, images, *, generator=None):
                images.data.mul_(3).round_().div_(3)
                return self.features(images)
        def build(self, split):
            return self.Model(split)

    class Doodles(Plain):
        '''Draws on the private images.'''
        def fit(self, model, private, *, generator, progress):
            private.images.data[3].zero_()

    class Mirrors(Plain):
        def fit(self, model, private, *, generator, progress):
            private.images.numpy()[:] = private.images.flip(3).numpy()

    class Relabels(Plain):
        '''Its labels are its own copy.'''
        def fit(self, model, private, *, generator, progress):
            private.labels.zero_()

    class Attribute(Plain):
        def fit(self, model, private, *, generator, progress):
            model.scale = 3.0

    class Nested(Plain):
        def fit(self, model, private, *, generator, progress):
            model.extra["scale"].append(torch.tensor(3.0))
        def build(self, split):
            model = Model(split)
            model.extra = {"scale": []}
            return model

    class OnClass(Plain):
        def fit(self, model, private, *, generator, progress):
            type(model).scale = 3.0
            type(model).other = 3.0

    class Global(Plain):
        def fit(self, model, private, *, generator, progress):
            CALLS.append(3.0)

    class Itself(Plain):
        _scale: float = 1.0
        def fit(self, model, private, *, generator, progress):
            self._scale = 3.0

    class Closure(Plain):
        def build(self, split):
            model, scale = Model(split), [1.0]
            model.scaled = lambda features: features * scale[0]
            model.change = lambda: scale.__setitem__(0, 3.0)
            return model
        def fit(self, model, private, *, generator, progress):
            model.change()

    class Hook(Plain):
        def fit(self, model, private, *, generator, progress):
            model.split.client_head.register_forward_hook(lambda module, given, out: out * 3)

    class Submodule(Plain):
        def fit(self, model, private, *, generator, progress):
            model.extra = nn.Linear(2, 2)

    class Volatile(Plain):
        def build(self, split):
            model = Model(split)
            model.register_buffer("mean", torch.zeros(1), persistent=False)
            return model
        def fit(self, model, private, *, generator, progress):
            model.mean += 3

    class Method(Plain):
        def fit(self, model, private, *, generator, progress):
            model.transform = lambda features, generator=None: features * 3

    class Elsewhere(Plain):
        '''Where nobody looks: in the network that dpbench made.'''
        def fit(self, model, private, *, generator, progress):
            model.split.client_head[0].std = model.split.client_head[0].std * 3
            model.split.unseen = 3.0
        class Model(ProtectedModel):
            def transform(self, features, *, generator=None):
                return features * getattr(self.split, "unseen", 1.0)
        def build(self, split):
            return self.Model(split)

    class Buffers(Plain):
        '''New, resized, and of another type: all of them travel.'''
        class Model(ProtectedModel):
            def __init__(self, split):
                super().__init__(split)
                self.register_buffer("resized", torch.zeros(0))
                self.register_buffer("unset", None)
                self.plain = None
                self.table = nn.Parameter(torch.zeros(1))
            def transform(self, features, *, generator=None):
                return features * self.resized.mean() * self.unset * self.new * self.plain * self.table.mean()
        def build(self, split):
            return self.Model(split)
        def fit(self, model, private, *, generator, progress):
            model.resized = torch.full((3,), 2.0)
            model.unset = torch.tensor(2.0)
            model.register_buffer("new", torch.tensor(2.0))
            del model.plain
            model.register_buffer("plain", torch.tensor(2.0))
            model.table = nn.Parameter(torch.full((2, 2), 2.0))

    class Claims(Plain):
        '''Says more noise than it adds.'''
        class Model(ProtectedModel):
            def transform(self, features, *, generator=None):
                return features + 0.01 * torch.randn(features.shape, generator=generator)
            def noise(self):
                return AdditiveNoise("gaussian", 10.0)
        def build(self, split):
            return self.Model(split)

    class Switches(Plain):
        '''Leaves the process as nobody wants it.'''
        def leave(self):
            torch.set_default_dtype(torch.float64)
            torch._C._set_grad_enabled(False)
            torch.autocast("cpu", torch.bfloat16).__enter__()
            torch.manual_seed(3)
        def build(self, split):
            self.leave()
            return Model(split)
        def fit(self, model, private, *, generator, progress):
            self.leave()

    class Guess(Attack):
        '''What is released, as a picture.'''
        name: ClassVar[str] = "guess"
        needs = "weights"
        def reconstruct(self, seen, *, generator):
            known = seen.client.release(seen.auxiliary.images[:8])
            nearest = (seen.released.flatten(1)[:, None] - known.flatten(1)).square().sum(2).argmin(1)
            return seen.auxiliary.images[:8][nearest]

    class Spoils(Guess):
        '''Works in place on what it sees.'''
        def reconstruct(self, seen, *, generator):
            images = super().reconstruct(seen, generator=generator)
            seen.released.sub_(3).div_(100)
            seen.auxiliary.labels.zero_()
            return images
"""


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
    plugins = tmp_path / "plugins.py"
    plugins.write_text(textwrap.dedent(PLUGINS))

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
