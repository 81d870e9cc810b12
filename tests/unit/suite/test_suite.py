import pytest
from parsing import load_suite, parse_suite

from dpbench.contract.threat import THREAT_MODELS
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.suite import ensembles
from dpbench.suite import suite as suites
from dpbench.suite.ensembles import NEWEST
from dpbench.suite.grid import plan
from dpbench.suite.names import name_rows
from dpbench.suite.words import label

BASE = """
name = "tiny"
victims = 8
[dataset]
private = 100
auxiliary = 100
test = 20
[[backbones]]
name = "resnet10t"
split_points = ["layer1"]
[[defenses]]
name = "none"
[[defenses]]
name = "gaussian"
std = [0.5, 1.0]
[[attacks]]
name = "mean-image"
[[attacks]]
name = "decoder"
[[attacks]]
name = "rmle"
victims = 4
"""


def planned(text: str = BASE, **changes):
    suite = parse_suite(text, origin="tiny.toml").model_copy(update=changes)
    return plan(suite, data_fingerprint="data", split_names=[["layer1"]])


def test_lists_of_values_become_settings():
    settings = {tuple(sorted(cell.defense.arguments.items())) for cell in planned() if cell.defense.name == "gaussian"}
    assert settings == {(("std", 0.5),), (("std", 1.0),)}


@pytest.mark.parametrize("name", ['"topk + gaussian"', '["topk", "gaussian"]'])
def test_defenses_in_a_row_are_one_setting_each(name):
    text = BASE.replace("[[attacks]]", f"[[defenses]]\nname = {name}\nstd = [1, 2]\n[[attacks]]", 1)
    cells = [cell for cell in planned(text) if cell.attack.name == "decoder" and "topk" in cell.defense.name]
    assert [cell.defense.arguments for cell in cells] == [{"keep": 0.1, "std": 1.0}, {"keep": 0.1, "std": 2.0}]
    assert cells[0].id.startswith("resnet10t-layer1-topk_gaussian-decoder-")
    assert "| topk + gaussian keep=0.1 std=2.0 |" in label(cells[1])
    assert [(row.defense, row.defense_args) for row in name_rows(cells)] == [
        ("topk + gaussian", "keep=0.1 std=1.0"),
        ("topk + gaussian", "keep=0.1 std=2.0"),
    ]


def test_attacks_can_have_their_own_number_of_victims():
    assert {(cell.attack.name, cell.victims) for cell in planned()} == {
        ("mean-image", 8),
        ("decoder", 8),
        ("rmle", 4),
    }


def test_each_attack_runs_under_the_weakest_threat_model_that_suffices():
    cells = planned(threat_models=["static", "query", "weights"])
    tiers = {(cell.defense.name, cell.attack.name): set() for cell in cells}
    for cell in cells:
        tiers[cell.defense.name, cell.attack.name].add(cell.threat_model)
    assert tiers["none", "mean-image"] == {"query"}  # floors change with nothing: they run once
    assert ("gaussian", "mean-image") not in tiers
    assert tiers["gaussian", "decoder"] == {"static", "query"}
    assert tiers["gaussian", "rmle"] == {"static", "weights"}
    assert tiers["none", "rmle"] == {"weights"}  # nothing to be unaware of


SHIFTED = '[shifted]\nname = "spectra"\nauxiliary = 50\n[[backbones]]'


def test_auxiliary_images_cross_the_threat_models():
    text = BASE.replace("victims = 8", 'victims = 8\nauxiliary = ["same", "shifted"]').replace("[[backbones]]", SHIFTED)
    text = text.replace("victims = 4", 'victims = 4\nauxiliary = ["same"]')
    cells = planned(text, threat_models=["static", "query", "weights"])
    tiers = {(c.threat_model, c.auxiliary) for c in cells if (c.defense.name, c.attack.name) == ("gaussian", "decoder")}
    assert tiers == {("static", "same"), ("static", "shifted"), ("query", "same"), ("query", "shifted")}
    assert {cell.auxiliary for cell in cells if cell.attack.name == "rmle"} == {"same"}  # its own list
    assert {cell.auxiliary for cell in cells if cell.attack.name == "mean-image"} == {"same"}
    shifted = next(cell for cell in cells if cell.auxiliary == "shifted")
    assert "shifted" in shifted.id
    assert "| static shifted |" in label(next(c for c in cells if c.granted == "static shifted"))
    # what is granted beside it changes no cell
    same = {cell.id for cell in planned(threat_models=["static", "query", "weights"])}
    assert {cell.id for cell in cells if cell.auxiliary == "same"} == same
    with pytest.raises(DpbenchError, match=r"does not say which; add a table \[shifted\]"):
        planned(auxiliary=["shifted"])


def test_a_budget_scales_every_attack_and_names_its_cells():
    cells = {budget: planned(budget=budget) for budget in ("small", "standard", "large")}
    decoders = {budget: next(c for c in found if c.attack.name == "decoder") for budget, found in cells.items()}
    steps = [decoders[budget].attack.arguments["steps"] for budget in ("small", "standard", "large")]
    assert steps == sorted(set(steps))
    assert len({cell.id for found in cells.values() for cell in found}) == 3 * len(cells["small"])
    assert "weights large" in label(decoders["large"])


def test_an_ensemble_names_attacks_and_pins_their_versions(monkeypatch):
    text = BASE[: BASE.index("[[attacks]]")].replace("victims = 8", f'victims = 8\nensemble = "{NEWEST}"')
    names = {cell.attack.name for cell in planned(text)}
    assert names == set(ensembles.ENSEMBLES[NEWEST])
    own = planned(text + '[[attacks]]\nname = "rmle"\nvictims = 4\n')
    assert {cell.attack.name for cell in own} == names
    assert {cell.victims for cell in own if cell.attack.name == "rmle"} == {4}
    with pytest.raises(DpbenchError, match="unknown ensemble 'ensemble-v9'; did you mean"):
        planned(text.replace(NEWEST, "ensemble-v9"))
    with pytest.raises(DpbenchError, match="names no attack; add"):
        planned(text.replace(f'ensemble = "{NEWEST}"', ""))
    monkeypatch.setitem(ensembles.ENSEMBLES, NEWEST, {"decoder": 99})
    with pytest.raises(DpbenchError, match="pins 'decoder' at version 99, this dpbench has version"):
        planned(text)


def test_an_attack_that_needs_more_than_is_granted_is_refused():
    with pytest.raises(DpbenchError, match="attack 'rmle' needs 'weights', but the suite grants only query"):
        planned(threat_models=["query"])


OBSERVING = BASE + '[[attacks]]\nname = "fora"\n'


def test_the_lowest_rung_is_for_attacks_that_need_nothing():
    ladder = ["observe", "static", "query", "weights"]
    assert list(THREAT_MODELS) == ladder
    tiers = {(cell.defense.name, cell.attack.name): set() for cell in planned(OBSERVING, threat_models=ladder)}
    for cell in planned(OBSERVING, threat_models=ladder):
        tiers[cell.defense.name, cell.attack.name].add(cell.threat_model)
    assert tiers["gaussian", "fora"] == tiers["none", "fora"] == tiers["none", "mean-image"] == {"observe"}
    assert tiers["gaussian", "decoder"] == {"static", "query"}
    others = [
        cell.id for cell in planned(OBSERVING, threat_models=ladder[1:]) if cell.attack.name in ("decoder", "rmle")
    ]
    assert set(others) <= {cell.id for cell in planned(OBSERVING, threat_models=ladder)}


@pytest.mark.parametrize("name", ["decoder", "rmle", "nearest-auxiliary"])
def test_who_may_ask_nothing_cannot_run_what_asks(name):
    text = BASE[: BASE.index("[[attacks]]")] + f'[[attacks]]\nname = "{name}"\n'
    with pytest.raises(
        DpbenchError, match=f"attack '{name}' needs .*, but the suite grants only observe; add a threat"
    ):
        planned(text, threat_models=["observe"])


def test_an_attack_may_run_under_some_of_the_threat_models():
    given = 'threat_models = ["query"]\n'
    assert BASE.count('name = "decoder"\n') == 1
    text = BASE.replace('name = "decoder"\n', f'name = "decoder"\n{given}')
    tiers = ["static", "query", "weights"]
    all_of_them = {cell.threat_model for cell in planned(BASE, threat_models=tiers) if cell.attack.name == "decoder"}
    some = {cell.threat_model for cell in planned(text, threat_models=tiers) if cell.attack.name == "decoder"}
    assert (all_of_them, some) == ({"static", "query"}, {"query"})
    with pytest.raises(DpbenchError, match=r"lists threat model .query., which suite .* does not grant"):
        planned(text, threat_models=["weights"])


def test_ids_depend_on_what_affects_the_result_and_on_nothing_else():
    ids = [cell.id for cell in planned()]
    assert len(set(ids)) == len(ids)
    assert ids == [cell.id for cell in planned()]
    moved = planned(dataset=DatasetSpec(name="somewhere/else", private=100, auxiliary=100, test=20))
    assert ids == [cell.id for cell in moved]  # the fingerprint identifies the images, not the folder
    assert not set(ids) & {cell.id for cell in planned(seeds=[1])}
    with_more = planned(BASE + '[[attacks]]\nname = "random-image"\n')
    assert set(ids) <= {cell.id for cell in with_more}  # adding a cell changes no other
    assert all("/" not in cell_id and len(cell_id) < 200 for cell_id in ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE.replace("victims = 8", "victims = "), r"tiny.toml: TOML syntax error: .*line 3"),
        (BASE.replace("victims = 8", "victimz = 8"), "'victimz'; did you mean 'victims'"),
        (BASE.replace("private = 100", "privat = 100"), "'privat'; did you mean 'private'"),
        (BASE.replace("split_points", "split_point"), "split_points"),
        (BASE.replace('name = "tiny"', 'name = "../escape"'), "name: string should match pattern"),
        (BASE.replace('name = "tiny"', ""), "name: field required"),
        (BASE.replace("private = 100", "private = 0"), "dataset.private: input should be greater than or equal to 1"),
        (BASE.replace("victims = 8", 'threat_models = ["psychic"]'), "threat_models.1.*'psychic'"),
        (BASE.replace("private = 100", "image_size = 8"), "dataset.image_size: .*16, got 8"),
        ("schema_version = 9\n" + BASE, "schema_version: .*got 9"),
    ],
)
def test_bad_suites_are_refused_in_one_line(text, message):
    with pytest.raises(DpbenchError, match=message) as caught:
        parse_suite(text, origin="tiny.toml")
    assert "\n" not in str(caught.value)


GUESS = """
from dpbench import Attack, register

@register
class Guess(Attack):
    name = "guess"
    floor = True

    def reconstruct(self, seen, *, generator):
        return seen.auxiliary.images[: len(seen.released)]
"""


def test_a_plugin_that_says_it_is_a_floor_attacks_every_defense(tmp_path):
    """Else it would raise the undefended end of the scale, and no defense's figure."""
    (tmp_path / "guess.py").write_text(GUESS)
    cells = planned(BASE.replace('"decoder"', f'"{tmp_path / "guess.py"}:Guess"'))
    attacked = {cell.defense.name for cell in cells if cell.attack.name.endswith("Guess")}
    assert attacked == {"none", "gaussian"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE.replace("std = [0.5, 1.0]", "std = -1"), "gaussian: parameter std = -1 does not fit"),
        (BASE.replace("std = [0.5, 1.0]", "sdt = 1"), "unknown parameter of 'gaussian' 'sdt'; did you mean 'std'"),
        (BASE.replace('"gaussian"', '"gausian"').replace("std", "std"), "did you mean 'gaussian'"),
        (BASE.replace('"decoder"', '"decodr"'), "did you mean 'decoder'"),
        (BASE.replace("victims = 4", "victims = 400"), "wants 400 victims, but dataset.test is 20"),
        (BASE.replace("[0.5, 1.0]", "[0.5, 0.5]"), "twice"),
    ],
)
def test_bad_cells_are_refused_in_one_line(text, message):
    with pytest.raises(DpbenchError, match=message) as caught:
        planned(text)
    assert "\n" not in str(caught.value)


AGAIN = """
[[attacks]]
name = "decoder"
threat_models = {}
"""


def test_an_attack_comes_twice_if_it_is_granted_something_else():
    text = BASE.replace('name = "tiny"', 'name = "tiny"\nthreat_models = ["static", "query", "weights"]')
    once = text.replace('name = "decoder"', 'name = "decoder"\nthreat_models = ["query"]')
    cells = planned(once + AGAIN.format('["static"]'))
    granted = [cell.granted for cell in cells if cell.attack.name == "decoder" and cell.defense.name == "gaussian"]
    assert sorted(granted) == ["query", "query", "static", "static"]
    with pytest.raises(DpbenchError, match=r"'decoder' .* twice with the same parameters, granted query same"):
        planned(once + AGAIN.format('["static", "query"]'))


def test_missing_suites_are_named(tmp_path):
    with pytest.raises(DpbenchError, match="unknown suite 'quik'; did you mean 'quick'"):
        load_suite("quik")
    with pytest.raises(DpbenchError, match="there is no suite file"):
        load_suite(str(tmp_path / "mine.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DpbenchError, match="cannot be read"):
        load_suite(str(tmp_path / "binary.toml"))


def test_a_suite_can_be_extended_by_plugins():
    suite = suites.extend(parse_suite(BASE, origin="x"), defenses=["laplace"], attacks=["random-image"])
    cells = plan(suite, data_fingerprint="data", split_names=[["layer1"]])
    assert {"laplace"} < {cell.defense.name for cell in cells}
    assert {"random-image"} < {cell.attack.name for cell in cells}
