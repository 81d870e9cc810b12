"""What a command line changes in a suite: plug-ins with parameters, backbones, any value."""

import pytest
from parsing import load_suite

from dpbench.api import plan as make_plan
from dpbench.errors import DpbenchError
from dpbench.suite.files import built_in_suites
from dpbench.suite.overrides import changed, entry
from dpbench.suite.suite import AttackEntry, PluginEntry, entries


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("gaussian", {}),
        ("gaussian std=1.0", {"std": 1.0}),
        ("gaussian std=[0.5,3.0]", {"std": [0.5, 3.0]}),
        ("gaussian std=[0.5, 3.0]  clip=2", {"std": [0.5, 3.0], "clip": 2}),
        ("mine.py:X weight=0.1", {"weight": 0.1}),
        ("path with space/it's.py:X mode=fast flag=true", {"mode": "fast", "flag": True}),
        ('x text="two words, [one" n=1', {"text": "two words, [one", "n": 1}),
        ("x table={a = 1, b = [2, 3]} n=-1", {"table": {"a": 1, "b": [2, 3]}, "n": -1}),
        ("x file=weights/a.pth", {"file": "weights/a.pth"}),
        ("  x   a='it'  ", {"a": "it"}),
    ],
)
def test_a_plug_in_with_parameters(text, table):
    found = entry(text, "--defense")
    assert found.pop("name") == text.strip().split("=")[0].rsplit(" ", 1)[0].strip() or not table
    assert found == table


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a name, then parameters"),
        ("std=1.0", "expected a name, then parameters"),
        ("gaussian std=[1.0", "'[1.0' is no value; expected one as in TOML"),
        ("gaussian std=", "'' is no value"),
        ("gaussian std=1.0 std=2.0", "'std=2.0' is there twice"),
        ("gaussian std=1.0 clip", "'clip' is no parameter"),
        ('gaussian std="a', "is no value"),
        ("gaussian std=1.0 # why", "'#' is no parameter"),
    ],
)
def test_what_is_neither_name_nor_parameter_is_one_line(text, words):
    with pytest.raises(DpbenchError) as refused:
        entry(text, "--defense")
    assert words in str(refused.value)
    assert str(refused.value).startswith("--defense")
    assert "\n" not in str(refused.value)


def test_lists_make_settings_and_attacks_know_their_own_keys():
    (found,) = entries(PluginEntry, ["gaussian std=[0.5,3.0]"], "--defense")
    assert found.settings() == [{"std": 0.5}, {"std": 3.0}]
    (attack,) = entries(AttackEntry, ["rmle steps=[3,4] victims=8 threat_models=['weights']"], "--attack")
    assert (attack.victims, attack.threat_models, len(attack.settings())) == (8, ["weights"], 2)
    with pytest.raises(DpbenchError, match=r"--attack 'rmle victims=0': victims: input should be greater"):
        entries(AttackEntry, ["rmle victims=0"], "--attack")


def test_a_plan_has_the_settings_that_are_named():
    plan = make_plan("smoke", defenses=["gaussian std=[0.7,3.0]"], attacks=["rmle steps=40 victims=2"])
    stds = {unit.defense.arguments["std"] for unit in plan.units if unit.defense.name == "gaussian"}
    assert {0.7, 3.0} <= stds
    # the suite's small budget takes fewer of the steps
    assert (2, 16) in {(u.victims, u.attack.arguments["steps"]) for u in plan.units if u.attack.name == "rmle"}
    with pytest.raises(DpbenchError, match=r"unknown parameter of 'gaussian' 'sdt'; did you mean 'std'"):
        make_plan("smoke", defenses=["gaussian sdt=1.0"])


@pytest.mark.parametrize("name", built_in_suites())
def test_a_suite_that_is_written_out_is_the_same_suite(name):
    suite = load_suite(name)
    assert changed(suite) is suite
    assert changed(suite, settings=[f"description={suite.description!r}"]) == suite


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("victims=7", lambda suite: suite.victims == 7),
        ("budget=large", lambda suite: suite.budget == "large"),
        ('description="two words"', lambda suite: suite.description == "two words"),
        ("seeds=[1, 2]", lambda suite: suite.seeds == [1, 2]),
        ("dataset.test=70", lambda suite: suite.dataset.test == 70),
        ("backbones.epochs=2", lambda suite: [b.epochs for b in suite.backbones] == [2] * len(suite.backbones)),
        ("backbones.1.learning_rate=0.01", lambda suite: suite.backbones[0].learning_rate == 0.01),
        ("judge.name=resnet14t", lambda suite: suite.judge is not None and suite.judge.name == "resnet14t"),
    ],
)
def test_any_value_of_a_suite(setting, found):
    suite = load_suite("quick")
    assert not found(suite)
    assert found(changed(suite, settings=[setting]))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("victms=8", "unknown key in --set victms=8: 'victms'; did you mean 'victims'?"),
        ("dataset.tset=8", "unknown key in --set dataset.tset=8: 'tset'; did you mean 'test'?"),
        ("datset.test=8", "unknown key in --set datset.test=8: 'datset'; did you mean 'dataset'?"),
        ("victims=many", "--set victims=many: victims: input should be a valid integer"),
        ("victims=0", "--set victims=0: victims: input should be greater than or equal to 1"),
        ("victims", "--set victims: expected KEY=VALUE"),
        ("=8", "expected KEY=VALUE"),
        ("victims.x=8", "--set victims.x=8: victims is no table"),
        ("backbones.9.epochs=8", "there are 1, counted from 1, and no 9"),
        ("victims=[1", "'[1' is no value"),
    ],
)
def test_what_a_suite_does_not_have_is_one_line(setting, words):
    with pytest.raises(DpbenchError) as refused:
        changed(load_suite("quick"), settings=[setting])
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_victims_are_a_bound_for_every_attack():
    suite = load_suite("quick")
    assert any(attack.victims and attack.victims > 8 for attack in suite.attacks)
    few = changed(suite, victims=8)
    assert few.victims == 8
    assert {attack.victims for attack in few.attacks} <= {None, 8}
    assert {attack.victims for attack in changed(suite, victims=10**6).attacks} == {a.victims for a in suite.attacks}
    assert changed(load_suite("sharing"), victims=3).victims == 3


def test_another_backbone_and_other_split_points():
    suite = changed(load_suite("depth"), backbone="resnet18 epochs=3", splits=["layer2", "1"])
    (backbone,) = suite.backbones
    assert (backbone.name, backbone.epochs, backbone.split_points) == ("resnet18", 3, ["layer2", 1])
    sharing = changed(load_suite("sharing"), backbone="resnet18", splits=["layer2"])
    assert (sharing.backbone.name, sharing.backbone.split_points) == ("resnet18", ["layer2"])
    with pytest.raises(DpbenchError, match=r"backbone\.split_points has 2 entries"):
        changed(load_suite("sharing"), splits=["layer1", "layer2"])
    with pytest.raises(
        DpbenchError, match="unknown key in --backbone resnet18 epoch=3: 'epoch'; did you mean 'epochs'"
    ):
        changed(load_suite("quick"), backbone="resnet18 epoch=3")


def test_only_may_be_repeated(dpbench, tmp_path):
    arguments = ["run", "smoke", "--output", tmp_path, "--dry-run"]
    both = dpbench(*arguments, "--only", "none*mean-image", "--only", "gaussian*rmle", "--victims", "3")
    assert both.status == 0
    lines = [line for line in both.out.splitlines() if " | " in line]
    assert {line.split(" | ")[1].split()[0] for line in lines} == {"none", "gaussian"}
    wrong = dpbench(*arguments, "--only", "none", "--only", "nothing like it")
    assert (wrong.status, wrong.out) == (2, "")
    assert "--only 'nothing like it' matches no cell" in wrong.err
