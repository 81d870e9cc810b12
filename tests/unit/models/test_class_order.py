"""A classifier that comes with its weights means the data's classes, however its rows are ordered."""

import argparse

import pytest
import timm
import torch

from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.models import weights
from dpbench.models.adapters.class_order import natural_key, order_of, rows_for
from dpbench.models.spec import BackboneSpec
from dpbench.suite import preflight
from dpbench.suite.suite import BackboneEntry

NAMES = tuple(sorted(map(str, range(12))))
NATURAL = tuple(map(str, range(12)))


def test_natural_is_timms():
    from timm.utils.misc import natural_key as of_timm

    names = ["s10", "S2", "s1", "a", "10", "9", "n01440764", "x-2-b", "x-10-a", "\u0663", "", "007", "7"]
    assert sorted(names, key=natural_key) == sorted(names, key=of_timm)
    assert natural_key("\u00b2")  # timm's takes it for a number and fails


def test_rows():
    rows = rows_for("natural", NAMES, ())
    assert rows is not None
    assert [NATURAL[row] for row in rows] == list(NAMES)
    assert rows_for("sorted", NAMES, ()) is None
    assert rows_for("auto", NAMES, NATURAL) is None
    assert rows_for("stated", NAMES, NATURAL) == rows
    assert rows_for("stated", NAMES, NAMES) is None
    with pytest.raises(DpbenchError, match="class_order = 'stated', but the weights state none"):
        rows_for("stated", NAMES, ())


@pytest.mark.parametrize(
    ("names", "stated", "folders", "order", "said"),
    [
        (
            NAMES,
            (),
            True,
            "natural",
            "taken as timm orders class folders (0, 1, 2, 3, ...), not alphabetically (0, 1, 10",
        ),
        (NAMES, (), False, "auto", ""),
        (NAMES, NATURAL, True, "stated", ""),
        (NAMES, NAMES, True, "auto", ""),
        (("a", "b"), ("b", "a"), False, "stated", ""),
        (("a", "b"), (), True, "auto", ""),
        (("cat", "dog"), ("car", "bus"), True, "auto", "they are for the classes car, bus, and the data has cat, dog"),
    ],
)
def test_what_is_decided(names, stated, folders, order, said):
    decided, line = order_of(names, stated, folders=folders)
    assert decided == order
    assert said in line
    assert bool(said) == bool(line)


@pytest.fixture
def folder(tmp_path):
    """Twelve class folders, 0 to 11, of one image file each."""
    for name in NAMES:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.png").write_bytes(b"not decoded")
    return DatasetSpec(name=str(tmp_path / "data"), image_size=32, private=1, auxiliary=1, test=1)


@pytest.fixture
def truth():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=12)


FORMS = {
    "class_to_idx": {name: row for row, name in enumerate(NATURAL)},
    "classes": list(NATURAL),
    "class_names": NATURAL,
    "idx_to_class": dict(enumerate(NATURAL)),
    "nothing": None,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_in_natural_order_means_the_same_classes(form, folder, truth, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": truth.state_dict(), **({form: FORMS[form]} if FORMS[form] else {})}, path)
    entry = BackboneEntry(name="resnet10t", weights=str(path), split_points=["layer1"])
    (decided,), said = preflight.with_class_order([entry], folder)
    assert decided.class_order == ("natural" if form == "nothing" else "stated")
    assert bool(said) == (form == "nothing")
    model, fits = weights.create(decided.spec(), weights.choose(decided.spec()), image_size=32, classes=12, names=NAMES)
    assert fits
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        meant = {name: truth.eval()(images)[:, row] for row, name in enumerate(NATURAL)}
        assert torch.allclose(model(images), torch.stack([meant[name] for name in NAMES], dim=1))


def test_the_owner_may_say_otherwise(folder, truth, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(truth.state_dict(), path)
    entry = BackboneEntry(name="resnet10t", weights=str(path), split_points=["layer1"], class_order="sorted")
    (decided,), said = preflight.with_class_order([entry], folder)
    assert (decided.class_order, said) == ("sorted", [])
    model, _ = weights.create(decided.spec(), weights.choose(decided.spec()), image_size=32, classes=12, names=NAMES)
    assert torch.equal(model.fc.weight, truth.fc.weight)


def test_what_is_fitted_here_keeps_its_order_and_its_identity(folder):
    entry = BackboneEntry(name="resnet10t", weights="fit", split_points=["layer1"])
    (decided,), said = preflight.with_class_order([entry], folder)
    assert decided == entry
    assert said == []
    assert "class_order" not in BackboneSpec(name="resnet10t").model_dump()


def test_averaged_weights_beside_others_are_named(folder, truth, tmp_path):
    path = tmp_path / "weights.pth"
    content = {"state_dict": truth.state_dict(), "state_dict_ema": truth.state_dict(), "args": argparse.Namespace(lr=1)}
    torch.save({**content, "classes": list(NAMES)}, path)
    entry = BackboneEntry(name="resnet10t", weights=str(path), split_points=["layer1"])
    assert preflight.with_class_order([entry], folder)[1] == [
        f"weights {path} hold state_dict_ema too, which is not taken"
    ]
