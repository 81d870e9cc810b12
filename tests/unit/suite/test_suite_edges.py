"""What a suite or a command line can get wrong at its edges: each is one line that names it, or is read as meant."""

import pytest
import torch
from parsing import parse_sharing, parse_suite

from dpbench.api import plan as make_plan
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.models.backbones import create_backbone, resolve_split_point
from dpbench.models.spec import BackboneSpec
from dpbench.suite.files import parse_toml
from dpbench.suite.grid import plan
from dpbench.suite.overrides import matches_any, overrides

SUITE = """
name = "edges"
victims = 2
{top}
[dataset]
private = 8
auxiliary = 8
test = 4
{dataset}
[[backbones]]
name = "resnet10t"
weights = "fit"
split_points = ["layer1"]
{backbone}
[[defenses]]
name = "gaussian"
{defense}
[[attacks]]
name = "decoder"
{attack}
"""


def text(**parts):
    return SUITE.format(**{"top": "", "dataset": "", "backbone": "", "defense": "", "attack": "", **parts})


def cells(**parts):
    suite = parse_suite(text(**parts), origin="edges.toml")
    return plan(suite, data_fingerprint="data", split_names=[["layer1"] for _ in suite.backbones])


WRONG = [
    ({"defense": "std = []"}, "gaussian: std = [] is an empty list"),
    ({"attack": "steps = []"}, "decoder: steps = [] is an empty list"),
    ({"top": "seeds = [18446744073709551616]"}, "seeds"),
    ({"top": "seeds = [9223372036854775808]"}, "seeds"),
    ({"top": "seeds = [-1]"}, "seeds"),
    ({"top": "seeds = [true]"}, "seeds"),
    ({"dataset": "seed = 9223372036854775808"}, "dataset.seed"),
    ({"dataset": "seed = true"}, "dataset.seed"),
    ({"dataset": "image_size = nan"}, "dataset.image_size"),
    ({"top": "[shifted]\nname = 'spectra'\nseed = 18446744073709551616"}, "shifted.seed"),
    ({"backbone": "epochs = true"}, "epochs"),
    ({"backbone": "learning_rate = nan"}, "learning_rate"),
    ({"backbone": "learning_rate = inf"}, "learning_rate"),
    ({"backbone": "args = {drop_rate = nan}"}, "args"),
    ({"backbone": "args = {since = 1979-05-27}"}, "args"),
    ({"backbone": 'class_order = "reversed"'}, "class_order"),
    ({"defense": "std = nan"}, "std"),
    ({"defense": "std = inf"}, "std"),
    ({"defense": "std = true"}, "std"),
    ({"defense": "std = 1979-05-27"}, "std"),
    ({"defense": "std = {a = 1}"}, "std"),
    ({"attack": "victims = true"}, "victims"),
    ({"defense": "std = [0.0, -0.0]"}, "twice with the same parameters"),
]


@pytest.mark.parametrize(("parts", "words"), WRONG, ids=[str(parts) for parts, _ in WRONG])
def test_wrong_values_are_one_line(parts, words):
    with pytest.raises(DpbenchError) as error:
        cells(**parts)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_largest_seed_is_taken():
    (cell,) = cells(top=f"seeds = [{2**63 - 1}]", dataset=f"seed = {2**63 - 1}")
    torch.Generator().manual_seed(cell.seed)
    overrides(DatasetSpec(), data=None, seed=2**63 - 1, budget=None)
    for seed, wrong in ((-1, "negative"), (2**63, "too large"), (2**64, "too large")):
        with pytest.raises(DpbenchError, match=f"--seed {seed} is {wrong}; expected 0 to"):
            overrides(DatasetSpec(), data=None, seed=seed, budget=None)


def test_minus_zero_is_zero():
    assert cells(dataset="seed = 0", defense="std = 1.0")[0].id == cells(dataset="seed = -0", defense="std = 1")[0].id


@pytest.mark.parametrize("toml", ["a = " + "9" * 5000, "a = " + "[" * 3000 + "]" * 3000, "a = 2024-13-45", "a = \x00"])
def test_toml_that_python_does_not_read_is_one_line(toml):
    with pytest.raises(DpbenchError, match=r"edges\.toml: TOML") as error:
        parse_toml(toml, origin="edges.toml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("point", ["\u00b2", "\u0661", "\uff11", "-1", "1.0", " 1", "9" * 5000, 10**12])
def test_split_points_that_are_no_stage(point):
    with torch.device("meta"):
        model = create_backbone(BackboneSpec(name="resnet10t"), image_size=32, classes=2)
    with pytest.raises(DpbenchError, match="is not in resnet10t"):
        resolve_split_point(model, point, name="resnet10t")


TWO = """
[[backbones]]
name = "resnet10t"
weights = "fit"
epochs = {epochs}
split_points = {points}
"""


def test_two_backbones_of_one_name_keep_their_own_split_points(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(text() + TWO.format(epochs=1, points='["layer2", "layer3"]'))
    plan = make_plan(str(path), output=tmp_path / "run")
    assert {(cell.backbone.epochs, cell.split_point) for cell in plan.units} == {
        (8, "layer1"),
        (1, "layer2"),
        (1, "layer3"),
    }
    path.write_text(text() + TWO.format(epochs=8, points='["layer2", "layer1"]'))
    with pytest.raises(DpbenchError, match="'resnet10t' is in the suite twice with the same settings and split point"):
        make_plan(str(path), output=tmp_path / "run")


def test_a_pattern_picks_by_what_is_shown():
    names = (
        "resnet10t layer1 | gaussian std=0.5 | decoder",
        "resnet10t layer1 | gaussian std=0.5 | decoder steps=77",
        "x-1f",
    )
    assert matches_any("gaussian*decoder", names)
    assert matches_any("std=[05].5", names)
    assert matches_any("decoder steps=77", names)
    assert matches_any("steps=7", names)
    assert matches_any("x-1f", names)
    for hidden in ("77", "steps", "1f", "x-", "x-1?"):
        assert not matches_any(hidden, names)


SHARING = """
name = "edges"
protocol = "sharing"
receivers = ["b"]
victims = 2
[dataset]
private = 16
auxiliary = 8
test = 4
[backbone]
name = "resnet10t"
split_points = ["layer1"]
[[entities]]
name = "a"
images = 8
[[entities]]
name = "b"
images = 8
{more}
"""


@pytest.mark.parametrize(
    "more",
    [
        "[transfer]\ndefense = []",
        "[transfer]\ndefense = {name = []}",
        "[transfer]\ndefense = {name = 'gaussian', std = []}",
        "[transfer]\ndefense = {name = 'gaussian'}\nattack = {name = 'decoder', steps = []}",
        "[[defenses]]\nname = 'gaussian'\nstd = []",
    ],
)
def test_empty_lists_in_sharing_suites_are_one_line(more):
    from dpbench.protocols.sharing.plan import plan_sharing

    with pytest.raises(DpbenchError) as error:
        plan_sharing(
            parse_sharing(SHARING.format(more=more), origin="edges.toml"), data_fingerprint="x", split_point="layer1"
        )
    assert "\n" not in str(error.value)
    assert any(word in str(error.value) for word in ("empty list", "transfer.defense"))
