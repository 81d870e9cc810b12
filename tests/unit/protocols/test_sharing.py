"""Sharing features: who has which images, what a suite plans, how the receiver trains, what its board says."""

import copy
import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from parsing import parse_sharing
from PIL import Image
from rich.console import Console
from sharing_records import HASHES, attacked, trained, transferred
from tiny_suite import tiny_sharing
from torch import nn

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError
from dpbench.metrics.linkage import Link
from dpbench.protocols import boards
from dpbench.protocols.known import loaded
from dpbench.protocols.sharing.benefit import Benefit, _mean_of
from dpbench.protocols.sharing.pipeline import Mixing, Several, groups_of, mean_of_groups
from dpbench.protocols.sharing.plan import plan_sharing
from dpbench.protocols.sharing.records import SHARED, latest
from dpbench.protocols.sharing.refinement import ChannelMap, Shared, Tail, refine
from dpbench.protocols.sharing.reporting.board import FLOOR, build_sharing_board
from dpbench.protocols.sharing.reporting.columns import OPTIONAL_COLUMNS
from dpbench.protocols.sharing.reporting.plots import write_benefit
from dpbench.protocols.sharing.reporting.report import report_of_sharing
from dpbench.protocols.sharing.reporting.table import print_sharing, write_csv
from dpbench.protocols.sharing.reporting.transfer import build_transfer
from dpbench.protocols.sharing.suite import Owner, Refinement
from dpbench.protocols.sharing.units import Attacked, Training, Transferred
from dpbench.protocols.sharing.world import divide_among
from dpbench.service.costs import ClientCost
from dpbench.suite.grid import plan
from dpbench.suite.suite import PluginEntry

LABELS = np.repeat(np.arange(10), 100)


def divided(*owners, seed=0, labels=LABELS):
    return divide_among(owners, labels, seed=seed)


def owner(name, images, alpha=None):
    return Owner(name=name, images=images, alpha=alpha)


def counts(places, labels=LABELS):
    return np.bincount(labels[places], minlength=10)


def test_no_image_has_two_owners_and_everyone_gets_as_many_as_asked():
    owned = divided(owner("a", 130), owner("b", 401, 0.3), owner("c", 469))
    assert {name: len(places) for name, places in owned.items()} == {"a": 130, "b": 401, "c": 469}
    together = np.concatenate(list(owned.values()))
    assert sorted(together) == list(range(1000))  # all of them, each once


def test_a_division_is_drawn_by_its_seed():
    ask = owner("a", 100), owner("b", 100, 1.0)
    first, again, other = divided(*ask), divided(*ask), divided(*ask, seed=1)
    for name in ("a", "b"):
        assert (first[name] == again[name]).all()
        assert set(first[name]) != set(other[name])


def test_without_skew_classes_are_as_frequent_as_in_the_data():
    labels = np.repeat(np.arange(10), [300, 20, 80, 100, 100, 100, 100, 100, 50, 50])
    owned = divided(owner("a", 100), owner("b", 800), labels=labels)
    for places in owned.values():
        assert np.abs(counts(places, labels) / len(places) - np.bincount(labels) / 1000).max() <= 0.01
    assert len(set(labels[owned["a"]][:20])) > 3  # in a random order, not class by class


def test_a_small_alpha_is_skewed_and_a_large_one_is_not():
    assert counts(divided(owner("a", 90, 0.01))["a"]).max() >= 60
    assert counts(divided(owner("a", 90, 1e5))["a"]).max() <= 10
    for alpha in (1e-12, 1e6):
        assert len(divided(owner("a", 500, alpha))["a"]) == 500


def test_where_a_class_runs_out_others_fill_up():
    owned = divided(owner("a", 450, 0.01), owner("b", 550, 0.01))
    assert counts(owned["a"]).max() == 100
    assert (counts(owned["a"]) + counts(owned["b"]) == 100).all()


def test_more_images_than_there_are_is_refused():
    with pytest.raises(DpbenchError, match="entity 'b' wants 500 private images, 400 are left"):
        divided(owner("a", 600), owner("b", 500))


BASE = tiny_sharing(
    [{"name": "gaussian", "std": [0.5, 1.0]}, "dpm"],
    ["mean-image", "decoder", {"name": "rmle", "victims": 4}],
    entities={"clinic": 32, "hospital": 96},
    dataset={"private": 144, "auxiliary": 64, "test": 64},
    name="tiny",
    seeds=[0, 1],
    victims=8,
)
TRANSFER = '[transfer]\nfits = 3\n[transfer.defense]\nname = "dpm"\n[transfer.attack]\nname = "decoder"\n'
HOSPITAL = '[[entities]]\nname = "hospital"\nimages = 96\n'
ATTACKS = BASE[BASE.index("[[attacks]]") :]
ALONE = BASE.replace(HOSPITAL, "")


def planned(text=BASE, fingerprint="data", **changes):
    suite = parse_sharing(text, origin="tiny.toml").model_copy(update=changes)
    return plan_sharing(suite, data_fingerprint=fingerprint, split_point="layer1")


def of_kind(kind, units):
    return [unit for unit in units if isinstance(unit, kind)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE.replace("images = 32", "images = 0"), r"entity 'clinic' has no data \(images = 0\)"),
        (BASE.replace("images = 96", "images = 113"), "together want 145 private images, but dataset.private is 144"),
        (BASE.replace('"hospital"', '"clinic"'), "entity 'clinic' is there twice"),
        (BASE.replace('["clinic"]', '["clinik"]'), "receiver 'clinik' is no entity; the entities are clinic, hospital"),
        (ALONE.replace(ATTACKS, ""), "condition 'clean-images' needs a partner, but 'clinic' is the only entity"),
        (ALONE.replace("seeds", 'conditions = ["own"]\nseeds'), "attacks need features that a partner shared"),
        (BASE.replace("seeds", 'conditions = ["clean-images"]\nseeds'), "conditions lacks 'own'"),
        (BASE.replace('["layer1"]', '["layer1", "layer2"]'), "backbone.split_points has 2 entries"),
        (BASE.replace("private", "privat"), "'privat'; did you mean 'private'"),
        (BASE.replace("seeds", "leakage_seed = [0]\nseeds"), "'leakage_seed'; did you mean 'leakage_seeds'"),
        (BASE + "[refinement]\nstep = 3", "'step'; did you mean 'steps'"),
        (BASE.replace("victims = 4", 'knowledge = ["guess"]'), "attacks.3.knowledge.1: .*'guess'"),
        (BASE.replace("seeds", "leakage_seeds = [0, 7]\nseeds"), "leakage_seeds has 7, which is not in seeds"),
        (BASE.replace("victims = 8", "victims ="), r"tiny.toml: TOML syntax error: .*line 5"),
        (BASE.replace("test = 64", "test = 64\nauxiliary_classes = 2"), "dataset.auxiliary_classes is 2, but"),
        (BASE.replace("images = 32", "images = 32\nalpha = 0"), "entities.1.alpha: .*greater than 0"),
        (BASE + TRANSFER.replace("fits = 3", "fits = 1"), "transfer.fits: .*greater than or equal to 2, got 1"),
    ],
)
def test_bad_suites_are_refused_in_one_line(text, message):
    with pytest.raises(DpbenchError, match=message) as caught:
        parse_sharing(text, origin="tiny.toml")
    assert "\n" not in str(caught.value)


OWN_DEFENSE = HOSPITAL + '[entities.defense]\nname = "gaussian"\nstd = {}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE.replace('"decoder"', '"decodr"'), "did you mean 'decoder'"),
        (BASE.replace('"gaussian"', '"gausian"'), "did you mean 'gaussian'"),
        (BASE.replace("[0.5, 1.0]", "-1"), "gaussian: parameter std = -1 does not fit"),
        (BASE.replace("[0.5, 1.0]", "[0.5, 0.5]"), "'gaussian' is in the suite twice"),
        (BASE.replace("victims = 8", "victims = 97"), "wants 97 victims, but entity 'hospital' shares 96 images"),
        (BASE + TRANSFER.replace("decoder", "rmle"), r"\[transfer\]: attack 'rmle' needs 'weights'"),
        (BASE + TRANSFER.replace('"dpm"', '"dpm"\nstrength = [1, 2]'), r"\[transfer\]: defense 'dpm' lists several"),
        (BASE.replace(HOSPITAL, OWN_DEFENSE.format("[1.0, 2.0]")), "entity 'hospital': defense 'gaussian' lists"),
        (
            BASE.replace("victims = 4", 'knowledge = ["query"]'),
            "attack 'rmle' needs 'weights', but the knowledge listed for it is query",
        ),
        (BASE + '[controls]\ndefenses = ["gausian"]', "did you mean 'gaussian'"),
    ],
)
def test_bad_plans_are_refused_in_one_line(text, message):
    with pytest.raises(DpbenchError, match=message) as caught:
        planned(text)
    assert "\n" not in str(caught.value)


def test_the_protocol_of_a_suite_is_found_by_its_name(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(BASE)
    assert loaded(str(path))[0].name == "sharing"
    assert loaded("smoke")[0].name == "inference"
    assert loaded("sharing")[0].name == "sharing"
    path.write_text(BASE.replace('"sharing"', '"sharin"'))
    with pytest.raises(DpbenchError, match="'sharin'; did you mean 'sharing'"):
        loaded(str(path))


def test_every_condition_is_there_and_controls_for_the_named_defenses_alone():
    trainings = of_kind(Training, planned(seeds=[0]))
    found = {}
    for unit in trainings:
        found.setdefault(unit.condition, []).append(unit.applied["hospital"].name if unit.applied else "")
    assert found == {
        "own": [""],
        "own-longer": [""],
        "clean-images": [""],
        "clean-features": [""],
        "defended-features": ["gaussian", "gaussian", "dpm"],
        "shuffled-labels": ["dpm"],
        "equal-noise": ["dpm"],
    }
    without = planned(BASE.replace("seeds", 'conditions = ["own", "equal-noise"]\nseeds'), seeds=[0])
    assert [unit.condition for unit in of_kind(Training, without)] == ["own", "equal-noise"]


def test_codes_are_attacked_and_nobody_trains_on_them():
    coded = '"resynthesis"\nform = ["features", "code"]'
    units = planned(BASE.replace('"dpm"', coded), seeds=[0])
    forms = [unit.applied["hospital"].arguments.get("form") for unit in of_kind(Training, units) if unit.applied]
    assert "code" not in forms
    attacks = [unit for unit in of_kind(Attacked, units) if unit.defense.name == "resynthesis"]
    assert [unit.defense.arguments.get("form") for unit in attacks].count("code") == len(attacks) // 2


def test_what_a_sender_can_give_instead_of_features_is_measured_where_it_is_listed():
    listed = BASE.replace("seeds", 'conditions = ["own", "sender-tail", "soft-labels"]\nseeds')
    trainings = of_kind(Training, planned(listed, seeds=[0]))
    assert [(unit.condition, unit.applied) for unit in trainings] == [
        ("own", {}),
        ("sender-tail", {}),
        ("soft-labels", {}),
    ]
    alone = ALONE.replace("seeds", 'conditions = ["own", "soft-labels"]\nseeds')
    with pytest.raises(DpbenchError, match="'soft-labels' needs a partner"):
        planned(alone)


def test_an_entity_with_a_defense_of_its_own_applies_nothing_else():
    text = BASE.replace(HOSPITAL, OWN_DEFENSE.format(3.0))
    trainings = [u for u in of_kind(Training, planned(text)) if u.applied]
    assert {u.applied["hospital"].arguments["std"] for u in trainings} == {3.0}
    attacks = [u for u in of_kind(Attacked, planned(text)) if u.defense.name != "none"]
    assert {u.defense.arguments["std"] for u in attacks} == {3.0}
    alone = text[: text.index("[[defenses]]")] + ATTACKS  # no [[defenses]]: others share undefended features
    assert {u.applied["clinic"].name for u in of_kind(Training, planned(alone)) if u.applied} == {"none"}


def tiers(units, defense):
    found = {}
    for unit in of_kind(Attacked, units):
        if unit.world.seed == 0 and unit.defense.name == defense and unit.defense.arguments.get("std", 0.5) == 0.5:
            found.setdefault(unit.attack.name, []).append(unit.knowledge)
    return found


def test_floors_and_the_undefended_reference_are_attacked_once():
    units = planned()
    assert tiers(units, "none") == {"mean-image": ["public"], "decoder": ["public"], "rmle": ["public"]}
    # of the tiers that know the sender's defense the weakest that suffices
    expected = {"decoder": ["public", "own", "query"], "rmle": ["public", "own", "weights"]}
    assert tiers(units, "gaussian") == tiers(units, "dpm") == expected
    one = planned(BASE.replace("victims = 4", 'victims = 4\nknowledge = ["weights"]'))
    assert tiers(one, "dpm") == {"decoder": ["public", "own", "query"], "rmle": ["weights"]}
    assert tiers(one, "none")["rmle"] == ["public"]
    assert {u.victims for u in of_kind(Attacked, units) if u.attack.name == "rmle"} == {4}


def test_leakage_is_measured_in_its_seeds_alone():
    units = planned(BASE.replace("seeds", "leakage_seeds = [1]\nseeds") + TRANSFER)
    assert {unit.world.seed for unit in of_kind(Training, units)} == {0, 1}
    assert {unit.world.seed for unit in of_kind(Attacked, units)} == {1}
    assert {unit.world.seed for unit in of_kind(Transferred, units)} == {1}


def test_transfers_hold_every_pair_of_fits_and_all_but_one():
    pairs = [(tuple(u.prepared_on), u.judged_on) for u in of_kind(Transferred, planned(BASE + TRANSFER, seeds=[0]))]
    assert len(pairs) == len(set(pairs)) == 12
    assert {((0,), 0), ((2,), 1), ((1, 2), 0), ((0, 2), 1), ((0, 1), 2)} < set(pairs)
    two = of_kind(Transferred, planned(BASE + TRANSFER.replace("fits = 3", "fits = 2"), seeds=[0]))
    assert len(two) == 4  # all but one is one: no further rows


def test_two_receivers_each_attack_what_the_other_shared():
    attacks = of_kind(Attacked, planned(BASE.replace('["clinic"]', '["clinic", "hospital"]')))
    assert {(unit.receiver, unit.sender) for unit in attacks} == {("clinic", "hospital"), ("hospital", "clinic")}


def ids(*arguments, **changes):
    return [unit.id for unit in planned(*arguments, **changes)]


def test_ids_depend_on_what_affects_the_result_and_on_nothing_else():
    base = ids(BASE + TRANSFER)
    assert len(set(base)) == len(base)
    assert ids(BASE + TRANSFER) == base
    assert all("/" not in unit_id and len(unit_id) < 200 for unit_id in base)
    moved = (BASE + TRANSFER).replace("[dataset]", '[dataset]\nname = "somewhere/else"')
    assert ids(moved) == base  # the fingerprint identifies the images, not the folder
    more = (BASE + TRANSFER).replace("[[attacks]]", '[[attacks]]\nname = "random-image"\n[[attacks]]', 1)
    assert set(base) < set(ids(more))
    renamed = (BASE + TRANSFER).replace('name = "tiny"', 'name = "another"\ndescription = "another"')
    assert ids(renamed) == base


@pytest.mark.parametrize(
    "changed",
    [
        BASE.replace("images = 32", "images = 33"),
        BASE.replace("images = 96", "images = 95"),
        BASE.replace("images = 96", "images = 96\nalpha = 1.0"),
        BASE.replace("seeds = [0, 1]", "seeds = [2, 3]"),
        BASE.replace("seeds", "public_images = false\nseeds"),
        BASE.replace('"fit"', '"fit"\nepochs = 9'),
        BASE.replace("auxiliary = 64", "auxiliary = 65"),
    ],
)
def test_what_everything_depends_on_changes_every_id(changed):
    assert set(ids(changed)).isdisjoint(ids(BASE))


def test_recipes_and_attacks_change_the_ids_of_what_depends_on_them():
    def by_kind(text):
        return {kind: {unit.id for unit in of_kind(kind, planned(text))} for kind in (Training, Attacked)}

    base = by_kind(BASE)
    recipe = by_kind(BASE + "[refinement]\nsteps = 3\n")
    assert recipe[Attacked] == base[Attacked]
    assert recipe[Training].isdisjoint(base[Training])
    for attack in ('"decoder"', '"decoder"\nsteps = 7', '"decoder"\nvictims = 7'):
        found = by_kind(BASE.replace('"decoder"', attack))
        assert found[Training] == base[Training]
        assert (found[Attacked] == base[Attacked]) == (attack == '"decoder"')
    assert by_kind(BASE.replace("victims = 8", 'victims = 8\nbudget = "large"'))[Attacked].isdisjoint(base[Attacked])


class Net(nn.Module):
    """A head and a tail with batch norm, dropout in the tail."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
        self.tail = nn.Sequential(
            nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 3)
        )


def split_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    split = SplitModel(net.head, net.tail, split_point="head", image_shape=(3, 16, 16), classes=3)
    return split.eval().requires_grad_(False)


def some(count, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 16, 16, generator=generator)
    return LabelledImages(images, torch.randint(0, 3, (count,), generator=generator))


class Client(ProtectedModel):
    """Notes what it is asked to release."""

    def __init__(self, split):
        super().__init__(split)
        self.asked = []

    def release(self, images, *, generator=None):
        self.asked.append(images.clone())
        return super().release(images, generator=generator)


def refined(shared=None, *, longer=False, seed=0, client=None, split=None, **settings):
    split = split or split_net()
    return refine(
        split,
        client or Client(split),
        some(12, seed=1),
        shared,
        Refinement(**({"steps": 3, "batch_size": 4, "learning_rate": 0.01} | settings)),
        longer=longer,
        channel_dim=1,
        seed=seed,
        generator=torch.Generator().manual_seed(seed),
        of_shared=torch.Generator().manual_seed(seed + 100),
        progress=lambda text: None,
    )


def shared_features(count=20):
    given = some(count, seed=2)
    with torch.no_grad():
        return Shared(labels=given.labels, features=split_net().client_head(given.images))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("adapter", [False, True])
def test_refinement_trains_a_copy_of_the_tail_and_keeps_the_statistics_of_batch_norm(adapter):
    split = split_net()
    before = copy.deepcopy(state(split))
    tail = refined(shared_features(), split=split, adapter=adapter)
    assert all(torch.equal(value, before[name]) for name, value in split.state_dict().items())
    learned, public = state(tail.tail), state(split.server_tail)
    for name in public:
        kept = any(part in name for part in ("running_", "num_batches"))
        assert torch.equal(learned[name], public[name]) == kept, name
    assert not tail.training
    assert not any(value.requires_grad for value in tail.parameters())


def test_refinement_is_repeatable_and_its_seed_matters():
    first, again, other = (refined(shared_features(), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in again.state_dict().items())
    assert not torch.equal(other.tail[-1].weight, first.tail[-1].weight)


def test_labels_may_be_shares_of_each_class():
    given = some(20, seed=2)
    shares = torch.nn.functional.one_hot(given.labels, 3).float()
    hard, soft, other = (
        refined(Shared(labels=labels, images=given.images)) for labels in (given.labels, shares, shares.flip(1))
    )
    for name, value in hard.state_dict().items():
        torch.testing.assert_close(soft.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other.tail[-1].weight, hard.tail[-1].weight, atol=1e-3)


def test_the_mean_of_tails_has_the_mean_of_their_weights():
    one, other = refined(seed=0), refined(seed=1)
    mean = _mean_of([one, other])
    expected = (one.tail[-1].weight + other.tail[-1].weight) / 2
    torch.testing.assert_close(mean.tail[-1].weight, expected)
    assert torch.equal(_mean_of([one]).tail[-1].weight, one.tail[-1].weight)


def test_groups_of_a_class_share_their_mean():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 0])
    groups = groups_of(labels, 2, torch.Generator().manual_seed(0))
    assert sorted(len(group) for group in groups) == [2, 3, 3]
    assert sorted(torch.cat(groups).tolist()) == list(range(8))
    assert all(len(labels[group].unique()) == 1 for group in groups)
    features = torch.rand(8, 3, 2)
    means = mean_of_groups(features, groups)
    for group in groups:
        torch.testing.assert_close(means[group], features[group].mean(0).expand(len(group), 3, 2))
    with pytest.raises(DpbenchError, match="class 1 has 3 images, but 4 of a class are to be shared as one"):
        groups_of(labels, 4, torch.Generator())


def test_an_attacker_of_means_makes_means_of_its_own():
    split, known, images = split_net(), some(200, seed=4), some(6, seed=5).images
    mixing = Mixing(ProtectedModel(split), known, 3, generator=torch.Generator())
    with torch.no_grad():
        own, bank = split.client_head(images), split.client_head(known.images)
        classes = split.server_tail(own).argmax(1)
        mixed = mixing.release(images, generator=torch.Generator().manual_seed(0))
        other = mixing.release(images, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(mixed, other)
    for row, (one, label) in enumerate(zip(own, classes, strict=True)):
        alike = bank[known.labels == label]
        rest = (3 * mixed[row] - one)[None] - alike  # what the other partner must be, for each first one
        off = torch.cdist(rest.flatten(1), alike.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        assert off.min() < 1e-4


def test_defenses_that_mean_nothing_elsewhere_are_refused():
    with pytest.raises(DpbenchError, match="defense 'waist' is for suites of the protocol 'inference' alone"):
        planned(BASE.replace('name = "dpm"', 'name = "waist"'))
    suite = loaded("smoke")[1]
    for name, arguments, message in (
        ("mix", {}, "defense 'mix' is for suites of the protocol 'sharing' alone"),
        ("resynthesis", {"fit_on": "public"}, "'inference' have no public images"),
    ):
        entry = PluginEntry(name=name, **arguments)
        with pytest.raises(DpbenchError, match=message):
            plan(suite.model_copy(update={"defenses": [entry]}), data_fingerprint="x", split_names=[["layer1"]])


def test_a_step_takes_a_batch_of_own_images_and_twice_as_many_where_nothing_is_shared_for_longer():
    sizes = {}
    for longer in (False, True):
        client = Client(split_net())
        refined(client=client, longer=longer)
        sizes[longer] = [len(images) for images in client.asked[1:]]  # the first only tells the shape
    assert sizes == {False: [4, 4, 4], True: [8, 8, 8]}


def test_own_images_their_order_and_their_augmentation_are_the_same_whatever_is_shared():
    given = some(20, seed=2)
    asked = []
    for shared in (None, shared_features(), Shared(labels=given.labels, images=given.images)):
        client = Client(split_net())
        refined(shared, client=client, steps=8)
        asked.append(torch.cat(client.asked))
    assert torch.equal(asked[0], asked[1])
    assert torch.equal(asked[0], asked[2])


def test_refinement_learns_what_is_shared():
    """Own labels say nothing; features with the answer in their mean do."""
    split = split_net()
    labels = torch.arange(3).repeat(20)
    features = torch.randn(60, 4, 7, 7, generator=torch.Generator().manual_seed(0)) * 0.1
    features[torch.arange(60), labels] += 2.0
    tail = refined(Shared(labels=labels, features=features), split=split, steps=60, batch_size=16)
    with torch.no_grad():
        assert (tail(features, foreign=True).argmax(1) == labels).float().mean() > 0.9
        assert (split.server_tail(features).argmax(1) == labels).float().mean() < 0.7


def test_the_adapter_serves_foreign_features_alone():
    features = torch.randn(5, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    split = split_net()
    tail = Tail(split.server_tail, ChannelMap((4, 7, 7), 1)).eval()
    assert torch.allclose(tail(features, foreign=True), tail(features), atol=1e-6)  # before training
    trained_tail = refined(shared_features(), split=split, adapter=True)
    assert torch.equal(trained_tail(features), trained_tail.tail(features))
    assert not torch.allclose(trained_tail(features, foreign=True), trained_tail(features), atol=1e-4)
    assert isinstance(refined(adapter=True, split=split).adapter, nn.Identity)  # nothing is foreign


@pytest.mark.parametrize(("shape", "channel_dim"), [((4, 5, 6), 1), ((5, 5, 4), 3), ((7, 4), 2), ((4,), 1)])
def test_the_adapter_maps_channels_wherever_they_are(shape, channel_dim):
    adapter = ChannelMap(shape, channel_dim)
    features = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(adapter(features), features, atol=1e-6)
    with torch.no_grad():
        adapter.bias[2] += 1.0
        if len(shape) > 1:  # channel 0 becomes what channel 1 was
            adapter.weight[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    changed = adapter(features).movedim(channel_dim, 0)
    expected = features.movedim(channel_dim, 0).clone()
    if len(shape) > 1:
        expected[0] = expected[1]
    expected[2] += 1.0
    assert torch.allclose(changed, expected, atol=1e-6)


class Constant(ProtectedModel):
    """Releases one number."""

    def __init__(self, split, value):
        super().__init__(split)
        self.value = value

    def release(self, images, *, generator=None):
        noise = torch.rand(len(images), 2, generator=generator)
        return self.value + images.mean(dim=(1, 2, 3))[:, None] + 0 * noise


def test_a_mixture_answers_each_image_with_one_of_its_fits():
    split, images = split_net(), some(64, seed=0).images
    models = [Constant(split, value) for value in (0.0, 10.0, 20.0)]
    released = Several(models).release(images, generator=torch.Generator().manual_seed(0))
    each = torch.stack([model.release(images) for model in models])
    equal = (released == each).all(dim=2)
    assert (equal.sum(dim=0) == 1).all()
    assert (equal.sum(dim=1) > 8).all()  # all occur, none nearly always
    again = Several(models).release(images, generator=torch.Generator().manual_seed(0))
    other = Several(models).release(images, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again, released)
    assert not torch.equal(other, released)
    assert Several(models).release(images[:1]).shape == (1, 2)


class Channel:
    """Stands in for the pipeline: a sender's features, clean and defended."""

    device = torch.device("cpu")
    world = None

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.clean = torch.randn(200, 3, 4, 4, generator=generator)
        self.defended = self.clean + 0.7 * torch.rand(self.clean.shape, generator=generator)
        self.labels = torch.arange(10).repeat(20)

    def shared(self, sender, defense, progress):
        return (self.clean if defense.name == "none" else self.defended), self.labels


def handed_over(condition):
    channel = Channel()
    unit = trained(condition, None, defense="dpm", error="").unit
    return channel, Benefit(channel)._shared(unit, ["hospital"], lambda text: None)


def test_controls_change_what_they_name_and_nothing_else():
    channel, clean = handed_over("clean-features")
    assert torch.equal(clean.features, channel.clean)
    channel, defended = handed_over("defended-features")
    assert torch.equal(defended.features, channel.defended)
    assert torch.equal(defended.labels, channel.labels)

    channel, shuffled = handed_over("shuffled-labels")
    assert torch.equal(shuffled.features, channel.defended)
    assert torch.equal(shuffled.labels.sort().values, channel.labels.sort().values)
    assert (shuffled.labels == channel.labels).float().mean() < 0.3  # a tenth by chance

    channel, noisy = handed_over("equal-noise")
    assert torch.equal(noisy.labels, channel.labels)
    noise, change = noisy.features - channel.clean, channel.defended - channel.clean
    assert noise.square().mean().item() == pytest.approx(change.square().mean().item(), rel=0.05)
    assert abs(np.corrcoef(noise.flatten(), change.flatten())[0, 1]) < 0.05
    assert abs(noise.mean()) < 0.05  # of the power alone: what shifts all features alike is not copied
    assert handed_over("own")[1] is None


HITS = {  # seed -> condition -> right on each of 40 test images, as many as said
    0: {"own": 10, "clean-images": 30, "defended-features": 20, "own-longer": 12},
    1: {"own": 8, "clean-images": 32, "defended-features": 20, "own-longer": 8},
}


def hits(number, images=40):
    return [index < number for index in range(images)]


def some_trainings():
    return [
        trained(condition, hits(number), seed=seed, defense="dpm" if condition == "defended-features" else None)
        for seed, by_condition in HITS.items()
        for condition, number in by_condition.items()
    ]


def rows(records):
    board = build_sharing_board(records)
    return {row["condition"]: row for row in board.to_dict("records")}


def test_accuracy_gain_and_share_kept_are_what_one_computes_by_hand():
    found = rows(some_trainings())
    assert found["own"]["accuracy"] == pytest.approx((10 + 8) / 80)
    assert found["clean-images"]["gain"] == pytest.approx((20 + 24) / 80)
    defended = found["defended-features"]
    assert defended["accuracy"] == pytest.approx(40 / 80)
    assert defended["gain"] == pytest.approx((10 + 12) / 80)
    assert defended["share_kept"] == pytest.approx(22 / 44)
    assert (found["own"]["gain"], found["own"]["share_kept"], found["clean-images"]["share_kept"]) == (0, 0, 1)
    for row in found.values():
        assert row["status"] == "ok"
        assert row["seeds"] == "0 1"
        for figure in ("accuracy", "gain", "share_kept"):
            assert row[f"{figure}_low"] <= row[figure] <= row[f"{figure}_high"]


def test_gains_are_paired_image_by_image():
    """The same 5 images more: the gain is certain, although either accuracy is not."""
    found = rows([trained("own", hits(15)), trained("clean-images", hits(20))])
    width = {
        figure: found["clean-images"][f"{figure}_high"] - found["clean-images"][f"{figure}_low"]
        for figure in ("accuracy", "gain")
    }
    assert width["gain"] < 1.2 * width["accuracy"]  # of two accuracies on other images: 1.4
    assert rows([trained("own", hits(15)), trained("own-longer", hits(15))])["own-longer"]["gain_high"] == 0


def test_gains_are_paired_seed_by_seed():
    """What a seed is worth by itself is no doubt about the gain."""
    records = []
    for seed, own in enumerate((5, 30)):
        records += [trained("own", hits(own), seed=seed), trained("clean-images", hits(own + 9), seed=seed)]
    row = rows(records)["clean-images"]
    assert row["gain"] == pytest.approx(9 / 40)
    assert row["gain_low"] > 0
    assert row["gain_high"] < 18 / 40
    assert (row["share_kept_low"], row["share_kept_high"]) == (1, 1)  # of itself, in every resample


def test_the_order_of_records_changes_nothing():
    records = [*some_trainings(), *some_attacks()]
    board = build_sharing_board(records).to_csv(index=False)
    for seed in range(3):
        shuffled = [records[index] for index in np.random.default_rng(seed).permutation(len(records))]
        assert build_sharing_board(shuffled).to_csv(index=False) == board


def test_there_is_no_share_of_a_gain_that_there_is_not():
    found = rows([trained("own", hits(20)), trained("clean-images", hits(21)), trained("own-longer", hits(25))])
    assert found["own-longer"]["gain"] == pytest.approx(5 / 40)
    assert all(np.isnan(row["share_kept"]) for row in found.values())
    assert all(np.isnan(row["share_kept"]) for row in rows([trained("own", hits(20))]).values())


def test_failed_trainings_are_rows_with_their_reason():
    records = some_trainings()
    records[2] = trained("defended-features", None, seed=0, defense="dpm", error="ValueError: no")
    records += [trained("clean-features", None, seed=seed, error="out of memory") for seed in (0, 1)]
    found = rows(records)
    assert found["defended-features"]["status"] == "incomplete"
    assert found["defended-features"]["error"] == "seed 0: ValueError: no"
    assert found["defended-features"]["seeds"] == "1"
    assert found["defended-features"]["gain"] == pytest.approx(12 / 40)  # of the seed that both finished
    assert found["clean-features"]["status"] == "failed"
    assert "seed 0: out of memory; seed 1: out of memory" in found["clean-features"]["error"]
    assert np.isnan(found["clean-features"]["accuracy"])


def test_figures_of_two_recipes_do_not_mix():
    other = [trained("own", hits(30), steps=7), trained("clean-images", hits(40), steps=7)]
    board = build_sharing_board([trained("own", hits(10)), trained("clean-images", hits(20)), *other])
    assert sorted(board["accuracy"]) == [0.25, 0.5, 0.75, 1.0]
    assert board[board["condition"] == "clean-images"]["gain"].tolist() == [0.25, 0.25]
    assert set(board["seeds"]) == {"0"}


DPM = {
    ("decoder", "public"): [0.2, 0.3, 0.1, 0.2],
    ("decoder", "own"): [0.1, 0.5, 0.1, 0.1],
    ("decoder", "query"): [0.2, 0.1, 0.6, 0.1],
    ("rmle", "weights"): [0.1, 0.1, 0.1, 0.7],
}
UNDEFENDED = {"mean-image": [0.1, 0.1, 0.1, 0.15], "nearest-auxiliary": [0.15, 0.1, 0.1, 0.1], "decoder": [0.8] * 4}


def some_attacks(**more):
    found = [attacked(name, "public", ssim, defense="none", **more) for name, ssim in UNDEFENDED.items()]
    return found + [attacked(name, knowledge, ssim, defense="dpm", **more) for (name, knowledge), ssim in DPM.items()]


def leaks(attacks):
    trainings = [trained("own", hits(10)), trained("clean-features", hits(20))]
    return rows([*trainings, trained("defended-features", hits(20), defense="dpm"), *attacks])


def test_the_worst_case_is_per_image_and_cumulative_over_what_is_known():
    row = leaks(some_attacks())["defended-features"]
    by_hand = {
        "ssim_public": [0.2, 0.3, 0.1, 0.2],
        "ssim_own": [0.2, 0.5, 0.1, 0.2],
        "ssim_query": [0.2, 0.5, 0.6, 0.2],
        "ssim_weights": [0.2, 0.5, 0.6, 0.7],
        "ssim": [0.2, 0.5, 0.6, 0.7],
    }
    for column, values in by_hand.items():
        assert row[column] == pytest.approx(np.mean(values), abs=1e-4), column
    figures = [row[f"ssim_{knowledge}"] for knowledge in ("public", "own", "query", "weights")]
    assert all(weaker <= stronger for weaker, stronger in pairwise(figures))
    assert row["ssim_low"] <= row["ssim"] <= row["ssim_high"]
    assert row["victims"] == len(HASHES)


def test_every_knowledge_is_shown_on_the_same_images():
    attacks = [*some_attacks(), attacked("gan", "weights", [0.1, 0.1], defense="dpm", victims=HASHES[2:])]
    row = leaks(attacks)["defended-features"]
    figures = [row[f"ssim_{knowledge}"] for knowledge in ("public", "own", "query", "weights")]
    assert figures == pytest.approx([np.mean(v) for v in ([0.1, 0.2], [0.1, 0.2], [0.6, 0.2], [0.6, 0.7])], abs=1e-4)
    assert row["ssim"] == row["ssim_weights"]


def test_knowledge_that_no_attack_had_has_no_figure():
    attacks = [a for a in some_attacks() if a.unit.knowledge != "own"]
    assert np.isnan(leaks(attacks)["defended-features"]["ssim_own"])
    assert np.isnan(leaks(attacks)["clean-features"]["ssim_query"])


def test_a_floor_that_looks_at_nothing_is_the_least_that_anyone_recovers():
    attacks = [attacked("mean-image", "public", [0.3] * 4, defense="none")]
    attacks += [attacked("decoder", "public", [0.1, 0.1, 0.1, 0.5], defense="dpm")]
    assert leaks(attacks)["defended-features"]["ssim_public"] == pytest.approx(np.mean([0.3, 0.3, 0.3, 0.5]))
    looked_up = [attacked("nearest-auxiliary", "public", [0.3] * 4, defense="none"), attacks[1]]
    assert leaks(looked_up)["defended-features"]["ssim_public"] == pytest.approx(0.2)


def test_leakage_is_one_undefended_and_zero_at_the_floor():
    found = leaks(some_attacks())
    assert found["clean-features"]["leakage"] == 1
    assert found[FLOOR]["leakage"] == 0
    floor = np.mean([0.15, 0.1, 0.1, 0.15])
    assert found[FLOOR]["ssim"] == pytest.approx(floor)
    # ssim alone was recorded, and dpm here was not trained on it
    assert found["defended-features"]["leakage"] == pytest.approx((0.5 - floor) / (0.8 - floor), abs=1e-4)
    assert "leakage" in found["own"]
    assert np.isnan(found["own"]["leakage"])


def test_a_defense_that_says_it_trained_on_the_only_metric_still_shows_what_it_leaks():
    attacks = [
        a.model_copy(update={"trained_on": ["ssim"]}) if a.unit.defense.name == "dpm" else a for a in some_attacks()
    ]
    row, unsaid = leaks(attacks)["defended-features"], leaks(some_attacks())["defended-features"]
    assert row["leakage"] == unsaid["leakage"] > 0
    assert (row["leakage_metrics"], unsaid["leakage_metrics"]) == ("ssim (trained on)", "ssim")
    assert row["trained_on"] == "ssim"


def test_the_floor_belongs_to_no_defense():
    records = [trained("defended-features", hits(20), defense="dpm"), trained("own", hits(20)), *some_attacks()]
    assert rows(records)[FLOOR]["defense"] == ""
    assert rows(records)[FLOOR]["defense_args"] == ""


def test_a_failed_attack_makes_its_row_incomplete():
    attacks = some_attacks()
    broken = attacked("rmle", "own", None, defense="dpm", error="RuntimeError: no")
    row = leaks([*attacks, broken])["defended-features"]
    assert (row["status"], row["error"]) == ("incomplete", "rmle: RuntimeError: no")
    assert row["ssim"] == pytest.approx(0.5)
    assert leaks([*attacks, broken])["clean-features"]["status"] == "ok"


def test_a_row_whose_attacks_all_failed_says_so():
    attacks = [a for a in some_attacks() if a.unit.defense.name == "none"]
    row = leaks([*attacks, attacked("decoder", "query", None, defense="dpm", error="no")])["defended-features"]
    assert (row["status"], row["error"]) == ("incomplete", "decoder: no")
    assert np.isnan(row["ssim"])


def test_a_failed_floor_is_told():
    broken = attacked("class-mean", "public", None, defense="none", error="no")
    found = leaks([*some_attacks(), broken])
    assert (found[FLOOR]["status"], found[FLOOR]["error"]) == ("incomplete", "class-mean: no")


def test_failures_of_training_and_attack_are_both_told():
    records = some_trainings()
    records[2] = trained("defended-features", None, seed=0, defense="dpm", error="full")
    found = rows([*records, *some_attacks(), attacked("rmle", "own", None, defense="dpm", error="no")])
    assert found["defended-features"]["error"] == "seed 0: full; rmle: no"
    nothing = [trained("own", hits(10)), trained("defended-features", None, defense="dpm", error="full")]
    broken = attacked("rmle", "own", None, defense="dpm", error="no")
    assert rows([*nothing, *some_attacks(), broken])["defended-features"]["status"] == "failed"


def test_two_senders_of_whom_one_defends_nothing():
    """Each column is of both senders: what is known of the one's defense changes nothing of the other."""
    senders = {"hospital": "dpm", "lab": "none"}
    records = [trained("own", hits(10), senders=senders), trained("defended-features", hits(9), senders=senders)]
    records += [attacked("decoder", k, [s] * 4, "dpm", senders=senders) for k, s in (("public", 0.2), ("own", 0.3))]
    records += [attacked("decoder", "public", [0.8] * 4, "none", sender="lab", senders=senders)]
    row = rows(records)["defended-features"]
    assert row["ssim_public"] == pytest.approx(0.5)
    assert row["ssim_own"] == pytest.approx(0.55)
    assert row["ssim"] == pytest.approx(0.55)


def test_the_table_shows_what_varies_where_senders_apply_different_defenses():
    senders = [{"hospital": "dpm", "lab": other} for other in ("gaussian", "strong", "none")]
    records = [trained("defended-features", hits(9), senders=names) for names in senders]
    records.append(trained("own", hits(9), senders=senders[0]))
    console = Console(file=io.StringIO(), width=200)
    print_sharing(build_sharing_board(records), console)
    shown = console.file.getvalue()
    assert "+ dpm + gaussian std=1.0 " in shown
    assert "+ dpm + gaussian std=2.0 " in shown
    assert "+ dpm + none " in shown
    assert "strength" not in shown  # the same in all rows


def test_a_board_of_attacks_alone_shows_what_leaks_and_says_that_nothing_was_trained():
    alone, beside = build_sharing_board(some_attacks()), build_sharing_board([*some_trainings(), *some_attacks()])
    assert set(alone["condition"]) == {"clean-features", "defended-features", "floor"}
    attacked = alone[alone["condition"] != "floor"]
    assert (attacked["status"] == "incomplete").all()
    assert attacked["error"].str.contains("no training").all()
    assert attacked["accuracy"].isna().all()
    for _, row in alone[alone["condition"] != "clean-features"].iterrows():
        same = beside[(beside["condition"] == row["condition"]) & (beside["defense_args"] == row["defense_args"])]
        assert same["leakage"].tolist() == [row["leakage"]]
        assert same["ssim"].tolist() == [row["ssim"]]


def test_what_nobody_trained_on_stands_below_the_trainings():
    code = PluginSpec(name="resynthesis", arguments={"form": "code"})
    on_code = attacked("decoder", "query", [0.3] * 4, "strong")
    on_code = on_code.model_copy(update={"unit": on_code.unit.model_copy(update={"defense": code})})
    trainings = [trained("own", hits(10)), trained("defended-features", hits(20), defense="dpm")]
    board = build_sharing_board(
        [*trainings, *some_attacks(), on_code, attacked("decoder", "query", [0.4] * 4, "strong")]
    )
    below = board[board["accuracy"].isna() & (board["condition"] != "floor")].set_index("defense")
    assert dict(below["status"]) == {"gaussian": "incomplete", "resynthesis": "ok"}
    assert below.loc["resynthesis", "error"] == ""
    assert below.loc["resynthesis", "leakage"] > 0


def test_boards_of_nothing_are_empty():
    assert build_sharing_board([]).empty
    assert build_transfer(some_trainings()).empty


def test_a_transfer_matrix_has_a_row_for_each_pair():
    records = [transferred([a], b, [0.1 * a + 0.3] * 4) for a in range(3) for b in range(3)]
    records += [transferred([1, 2], 0, [0.6, 0.2, 0.2, 0.2]), transferred([0, 2], 1, None, error="no")]
    matrix = build_transfer(reversed(records))
    assert matrix["prepared_on"].tolist() == [*"000111222", "0+2", "1+2"]
    assert matrix["judged_on"].tolist() == [*[0, 1, 2] * 3, 1, 0]
    last = matrix.iloc[-1]
    assert last["ssim"] == pytest.approx(0.3)
    assert last["ssim_low"] <= last["ssim"] <= last["ssim_high"]
    assert (matrix.iloc[-2]["status"], matrix.iloc[-2]["error"]) == ("failed", "no")


def test_of_a_unit_measured_again_with_newer_plugins_only_the_newest_counts(tmp_path):
    def stored(source, created, ssim, error=None):
        record = attacked("decoder", "query", ssim, "dpm", error=error)
        attack = record.unit.attack.model_copy(update={"source": source})
        unit = record.unit.model_copy(update={"attack": attack})
        SHARED.write(tmp_path, record.model_copy(update={"unit": unit, "id": unit.id, "created": created}))
        return unit.id

    old = stored("old", "2026-01-01", [0.1] * 4)
    new = stored("new", "2026-01-02", [0.2] * 4)
    stored("older", "2025-12-31", None, error="no")
    assert old != new
    assert [record.id for record in latest(SHARED.all(tmp_path))] == [new]
    other = attacked("decoder", "public", [0.3] * 4, "dpm")
    SHARED.write(tmp_path, other)
    assert {record.id for record in latest([*SHARED.all(tmp_path), *SHARED.all(tmp_path)])} == {new, other.id}


def test_the_plot_shows_re_identification_where_leakage_is(tmp_path):
    board = build_sharing_board([*some_trainings(), *some_attacks()])
    shapes = []
    for name, shown in (
        ("without", board),
        ("with", board.assign(reid_top1=0.5, reid_top1_low=0.4, reid_top1_high=0.6)),
    ):
        write_benefit(shown, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            shapes.append(picture.size[0])
    assert shapes[1] == pytest.approx(1.5 * shapes[0], rel=0.01)


def test_what_sharing_costs_and_whom_it_names_are_columns_where_records_say_so(tmp_path):
    def cost(added, coded):
        return ClientCost(
            multiply_adds=100 + added, added_multiply_adds=added, parameters=9, added_parameters=3, coded_bits=coded
        )

    def told(knowledge, ranks, *, seed=0, coded=60, ms=2.0):
        link = None if ranks is None else Link(rank=ranks, candidates=50)
        figures = {"cost": cost(20, coded), "client_ms": ms, "release_bits": 64, "link": link}
        return attacked("decoder", knowledge, [0.5] * 4, "dpm", seed=seed, **figures)

    attacks = [told("query", [0, 0, 3, 9]), told("public", [0, 0, 0, 0]), told("own", None, ms=1.0)]
    board = build_sharing_board([*some_trainings(), *attacks, told("query", [0, 0, 0, 9], seed=1, coded=62, ms=3.0)])
    row = board[(board.condition == "defended-features") & (board.defense == "dpm")].iloc[0]
    assert row.link_top1 == 0.625  # of who queries, not of who knows less
    assert row.link_top1_low < 0.625 < row.link_top1_high
    assert row.link_chance == 0.02
    counted = [row.client_multiply_adds, row.added_multiply_adds, row.added_parameters, row.release_bits]
    assert [*counted, row.coded_bits, row.client_ms] == [120, 20, 3, 64, 62, 2.0]
    assert board[board.condition == "own"].added_multiply_adds.isna().all()
    shown = io.StringIO()
    print_sharing(board, Console(file=shown, width=200))
    assert "62%" in shown.getvalue()
    path = tmp_path / "board.csv"
    write_csv(board, path)
    again, _ = boards.read(path)
    assert list(again.columns) == list(board.columns)
    assert again.link_top1.equals(board.link_top1)
    older = build_sharing_board([*some_trainings(), attacked("decoder", "query", [0.5] * 4, "dpm")])
    assert not {*OPTIONAL_COLUMNS} & {*older.columns}


def test_what_a_sender_can_give_instead_of_features_stands_beside_it():
    records = [*some_trainings(), *some_attacks(), *(trained("sender-tail", hits(25), seed=seed) for seed in (0, 1))]
    board = build_sharing_board(records)
    row = board[board["condition"] == "sender-tail"].iloc[0]
    assert (row["status"], row["defense"], np.isnan(row["ssim"])) == ("ok", "", True)
    assert row["gain"] > 0
    said = " ".join(report_of_sharing(records, board, None, title="x").answers[0].lines)
    assert "The sender's own trained tail, without any feature, would give" in said
    console = Console(file=io.StringIO(), width=200)
    print_sharing(board, console)
    assert "the sender's tail, no features" in console.file.getvalue()


def test_two_files_of_one_name_are_two_defenses_on_a_sharing_board():
    records = some_attacks()
    for number, team in enumerate("ab"):
        spec = PluginSpec(name=f"/home/me/team_{team}/defense.py:Mine", source=f"v1-{number}")
        found = attacked("decoder", "query", [0.2 + number / 2] * 4, defense="dpm")
        unit = found.unit.model_copy(update={"defense": spec})
        records.append(found.model_copy(update={"unit": unit, "id": f"team-{team}"}))
    board = build_sharing_board(records).set_index("defense")
    assert board.loc["team_a/defense.py:Mine", "ssim"] == 0.2
    assert board.loc["team_b/defense.py:Mine", "ssim"] == 0.7


def test_a_plugin_that_says_it_is_a_floor_sets_no_zero_on_a_sharing_board():
    claims = attacked("mine.py:Guess", "public", [0.75] * 4, defense="none").model_copy(update={"floor": True})
    before, after = leaks(some_attacks()), leaks([*some_attacks(), claims])
    assert after[FLOOR]["ssim"] == before[FLOOR]["ssim"]
    assert after["defended-features"]["leakage"] <= before["defended-features"]["leakage"]
