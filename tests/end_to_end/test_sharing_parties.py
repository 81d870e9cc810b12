"""Who holds what where features are shared: on which images each party fits, attacks and trains."""

import pytest
import torch
from command_line import refused
from dpbench_attacks.decoder import Decoder
from dpbench_defenses.resynthesis import Resynthesis
from shared_suite import TINY, of_kind, quiet, suite

from dpbench.api import plan
from dpbench.cells.observing import Observer
from dpbench.exchange.exchange import export_features
from dpbench.exchange.feature_file import read_features
from dpbench.executors.stages import Stages
from dpbench.protocols.sharing.benefit import Benefit
from dpbench.protocols.sharing.pipeline import SharedPipeline
from dpbench.protocols.sharing.units import Attacked, Training, Transferred


@pytest.fixture
def units(tmp_path):
    (tmp_path / "tiny-sharing.toml").write_text(TINY)
    return plan(str(tmp_path / "tiny-sharing.toml"), output=tmp_path / "run").units


@pytest.fixture(scope="module")
def pipeline(cache):
    return SharedPipeline(torch.device("cpu"), cache)


def test_the_features_attacked_are_the_features_trained_on(units, pipeline, monkeypatch):
    """Bit by bit, of a defense that draws noise, whichever comes first."""
    seen = []
    original = Observer.observe

    def observe(self, *arguments):
        seen.append(original(self, *arguments))
        return seen[-1]

    trained_on = []
    monkeypatch.setattr(Observer, "observe", observe)
    monkeypatch.setattr(
        "dpbench.protocols.sharing.benefit.refine",
        lambda public, client, own, shared, *_, **__: trained_on.append(shared) or 1 / 0,
    )
    attack = next(u for u in of_kind(Attacked, units, knowledge="query") if u.defense.name == "gaussian")
    training = next(
        u for u in of_kind(Training, units, condition="defended-features") if u.applied["hospital"].name == "gaussian"
    )

    def attack_it(pipeline):
        pipeline.run(attack.cell(), Stages(pipeline.device), quiet)

    def train_on_it(pipeline):
        with pytest.raises(ZeroDivisionError):  # nothing is trained here
            Benefit(pipeline).run(training, Stages(pipeline.device), quiet)

    for steps in ((attack_it, train_on_it), (train_on_it, attack_it)):
        fresh = SharedPipeline(pipeline.device, pipeline.cache_dir)
        fresh.world.enter(attack.world)
        fresh.world.start(fresh.world.public_cell())
        for step in steps:
            step(fresh)
    assert len(seen) == len(trained_on) == 2
    assert len(trained_on[0].features) == 48
    for observed, shared in zip(seen, trained_on, strict=True):
        assert torch.equal(observed.released, shared.features[:6])
        assert torch.equal(shared.features, trained_on[0].features)
    clean, _ = fresh.shared("hospital", of_kind(Attacked, units)[0].defense, quiet)
    assert (trained_on[0].features - clean).std() > 0.1  # there is noise


def test_the_attacker_prepares_on_what_it_knows(units, pipeline):
    world, unit = pipeline.world, next(u for u in of_kind(Attacked, units, knowledge="own") if u.defense.name == "dpm")
    world.enter(unit.world)
    world.start(world.public_cell())

    def known(**changes):
        return pipeline._known_client(unit.cell().model_copy(update=changes), quiet)

    def key(owner, defense, fit=0):
        return world.protected_key(unit.world.cell(owner, defense=defense, fit=fit), defense, quiet)

    keys = {knowledge: known(knowledge=knowledge)[1] for knowledge in ("public", "own", "query", "weights")}
    assert keys["own"] == key("clinic", unit.defense)
    assert keys["query"] == keys["weights"] == key("hospital", unit.defense)
    assert keys["public"] not in (keys["own"], keys["query"])
    images = world.images_of("clinic", quiet).images[:4]
    public, own, query = (known(knowledge=knowledge)[0] for knowledge in ("public", "own", "query"))
    with torch.no_grad():
        assert torch.equal(public.release(images), public.features(images))
        assert not torch.allclose(own.release(images), query.release(images), atol=1e-3)
    several, mixed = known(prepared_on=[1, 2])
    assert len(several.fits) == 2
    assert mixed not in keys.values()
    assert known(prepared_on=[1])[1] == key("hospital", unit.defense, fit=1) != keys["query"]
    assert known(prepared_on=[0])[1] == keys["query"]  # the fit that is shared


def test_the_public_network_and_the_judge_have_seen_public_images_alone(units, pipeline):
    pipeline.world.enter(units[0].world)
    public = pipeline.world.parts(pipeline.world.public_cell(), quiet)
    everything = pipeline.world.divided(quiet).parts
    assert torch.equal(public.private.images[:], everything.auxiliary.images[:])
    one = pipeline.world.backbone(units[0].world.cell("clinic"), quiet)[0]
    assert one == pipeline.world.backbone(units[0].world.cell("hospital", "clinic"), quiet)[0]


def test_every_fit_of_a_defense_is_another_and_on_the_images_of_its_owner(units, pipeline, monkeypatch):
    unit = of_kind(Transferred, units)[0]
    world = pipeline.world
    world.enter(unit.world)
    world.start(world.public_cell())
    cells = [unit.cell().model_copy(update={"fit": fit}) for fit in range(3)]
    cells.append(unit.world.cell("clinic", defense=unit.defense))
    models = [world.protected(cell, unit.defense, quiet, apart=True) for cell in cells]
    images = world.images_of("hospital", quiet).images[:8]
    with torch.no_grad():
        released = [model.release(images) for model in models]
    for index, one in enumerate(released):
        assert all((one - other).abs().mean() > 1e-3 for other in released[:index])
    # who shares what it shares under fit 0: the fit that the transfers call 0
    shared, labels = pipeline.shared("hospital", unit.defense, quiet)
    assert torch.allclose(shared[:8], released[0], atol=1e-4)
    assert torch.equal(labels, world.images_of("hospital", quiet).labels)

    fitted = []
    monkeypatch.setattr(
        "dpbench.machine.cache.remember", lambda folder, kind, key, make, *_: make()
    )  # nothing is at hand
    monkeypatch.setattr(
        type(suite_defense(unit)), "fit", lambda self, model, private, **_: fitted.append(private.images[:].clone())
    )
    monkeypatch.setattr(world, "backbone", lambda cell, progress: ("key", public_state(models[0]), ""))
    for owner in ("hospital", "clinic"):
        world.protected(unit.world.cell(owner, "clinic", defense=unit.defense), unit.defense, quiet, apart=True)
    for owner, seen in zip(("hospital", "clinic"), fitted, strict=True):
        assert torch.equal(seen, world.images_of(owner, quiet).images[:])


def suite_defense(unit):
    from dpbench.plugins.configuring import defense_of

    return defense_of(unit.defense)


def public_state(model):
    """Any state of the unsplit network: a fit that is not made needs no weights."""
    from dpbench.models import backbones
    from dpbench.models.spec import BackboneSpec

    spec = BackboneSpec(name="resnet10t", weights="fit")
    return backbones.create_backbone(spec, image_size=32, classes=model.split.classes).state_dict()


def test_a_defense_may_be_fitted_on_the_public_images(tmp_path, cache, dpbench):
    path = tmp_path / "public.toml"
    path.write_text(suite({"name": "resynthesis", "epochs": 1, "fit_on": "public"}))
    wanted = [unit for unit in plan(str(path), output=tmp_path).units if "resynthesis" in unit.label]
    training = of_kind(Training, wanted, condition="defended-features")[0]
    pipeline = SharedPipeline(torch.device("cpu"), cache)
    world = pipeline.world
    world.enter(training.world)
    world.start(world.public_cell())
    given = []
    fit = Resynthesis.fit

    def noted(self, model, private, **others):
        given.append(private.images[:])
        fit(self, model, private, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resynthesis, "fit", noted)
        trained = Benefit(pipeline).run(training, Stages(pipeline.device), quiet)
    assert trained.shared_images == 48
    assert trained.equivalence["hospital"].distortion > 0
    assert given
    assert all(torch.equal(images, world.divided(quiet).parts.auxiliary.images[:]) for images in given)
    refused(dpbench("run", "smoke", "--output", tmp_path / "run", "--defense", "resynthesis fit_on=public"), "sharing")


def test_means_of_a_class_are_shared_and_attacked(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(cache))
    path = tmp_path / "mix.toml"
    path.write_text(suite("mix"))
    wanted = [unit for unit in plan(str(path), output=tmp_path).units if "mix" in unit.label]
    pipeline = SharedPipeline(torch.device("cpu"), cache)
    world = pipeline.world
    world.enter(wanted[0].world)
    world.start(world.public_cell())
    training = of_kind(Training, wanted, condition="defended-features")[0]
    trained = Benefit(pipeline).run(training, Stages(pipeline.device), quiet)
    assert (trained.shared_images, trained.equivalence) == (48, {})
    shared, labels = pipeline.shared("hospital", training.applied["hospital"], quiet)
    alike = (shared.flatten(1)[:, None] == shared.flatten(1)[None]).all(2)
    assert int(alike.sum(1).min()) >= 2
    assert bool((labels[None].expand(48, 48)[alike] == labels[:, None].expand(48, 48)[alike]).all())
    export_features(str(path), tmp_path / "means.safetensors", only="hospital | mix", device="cpu")
    assert torch.equal(read_features(tmp_path / "means.safetensors").features, shared)
    attack = of_kind(Attacked, wanted, knowledge="query")[0]
    seen = []
    reconstruct = Decoder.reconstruct

    def noted(self, observation, **others):
        seen.append(observation)
        return reconstruct(self, observation, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "reconstruct", noted)
        result = pipeline.run(attack.cell(), Stages(pipeline.device), quiet)
    assert torch.equal(seen[0].released, shared[:6])
    images = world.divided(quiet).parts.auxiliary.images[:4]
    assert not torch.equal(seen[0].query(images), seen[0].query(images))  # mixed with others, anew each time
    assert len(result.fidelity["ssim"]) == 6
