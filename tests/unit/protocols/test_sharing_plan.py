"""The protocol `sharing`: suites, what they plan, and what the ids of its units depend on."""

import pytest
from parsing import parse_sharing
from tiny_suite import tiny_sharing

from dpbench.errors import DpbenchError
from dpbench.protocols.known import loaded
from dpbench.protocols.sharing.plan import plan_sharing
from dpbench.protocols.sharing.units import Attacked, OnShared, Training, Transferred
from dpbench.suite.grid import plan
from dpbench.suite.suite import PluginEntry

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


def test_two_settings_of_an_attack_are_told_apart_by_their_full_names():
    two = BASE.replace('name = "decoder"', 'name = "decoder"\nsteps = [200, 300]') + TRANSFER
    units = of_kind(OnShared, planned(two))
    full = [unit.named.full for unit in units]
    assert len(set(full)) == len(full)
    before = "attack | clinic on hospital | gaussian std=0.5 | decoder"
    assert [one for one in full if one.startswith(before) and one.endswith("seed 0")] == [
        f"{before} steps={steps} width=64 blocks=1 | {knowledge} small | seed 0"
        for steps in (50, 75)  # a quarter of what is asked: the budget is small
        for knowledge in ("public", "own", "query")
    ]
    transfer = (
        "transfer | hospital | dpm strength=1.0 | 0 to 1 | decoder steps=200 width=64 blocks=1 | query small | seed 0"
    )
    assert transfer in full


def test_a_budget_is_part_of_a_full_name_and_not_of_a_label():
    small, large = (of_kind(Attacked, planned(budget=budget))[-1].named for budget in ("small", "large"))
    assert small.label == large.label
    assert "weights small" in small.full
    assert "weights large" in large.full
