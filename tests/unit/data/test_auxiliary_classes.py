"""Classes that only the attacker has: whom the victims show it has never seen."""

import numpy as np
import pytest
import torch
from PIL import Image

from dpbench.data.datasets import fingerprint, load_parts
from dpbench.data.division import PARTS
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.suite.cell import CellSpec

PEOPLE = 6


def portraits(folder, each):
    """Noise of a brightness that tells the class: 20, 50, 80, ..."""
    random = np.random.default_rng(each)
    for person in range(PEOPLE):
        path = folder / f"s{person}"
        path.mkdir(parents=True)
        for index in range(each):
            pixels = random.integers(-5, 6, (16, 16, 3)) + 20 + 30 * person
            Image.fromarray(pixels.astype(np.uint8)).save(path / f"{index}.png")


@pytest.fixture
def faces(tmp_path):
    portraits(tmp_path / "faces" / "train", 8)
    portraits(tmp_path / "faces" / "test", 2)
    return tmp_path / "faces"


@pytest.fixture
def flat(tmp_path):
    portraits(tmp_path / "flat", 10)
    return tmp_path / "flat"


def spec(name, **more):
    sizes = {"private": 32, "auxiliary": 20, "test": 8, "auxiliary_classes": 2}
    return DatasetSpec(name=str(name), image_size=16, **{**sizes, **more})


def people(part):
    """Who is on each image, by its brightness."""
    return ((part.images.mean((1, 2, 3)) * 255 - 20) / 30).round().long()


@pytest.mark.parametrize("name", ["faces", "flat"])
def test_the_attacker_has_never_seen_the_people_of_the_task(name, request, tmp_path):
    parts = load_parts(spec(request.getfixturevalue(name)), cache=tmp_path / "cache")
    pictured = {part: set(people(getattr(parts, part)).tolist()) for part in PARTS}
    assert len(pictured["auxiliary"]) == 2
    assert len(pictured["private"]) == len(pictured["test"]) == PEOPLE - 2
    assert pictured["private"] == pictured["test"] == set(range(PEOPLE)) - pictured["auxiliary"]
    assert len(parts.auxiliary) == 20  # all of theirs, those of the test folder too
    assert len({digest for part in PARTS for digest in parts.hashes[part]}) == 32 + 20 + 8


def test_labels_are_numbered_anew(faces, tmp_path):
    parts = load_parts(spec(faces), cache=tmp_path / "cache")
    assert len(parts.classes) == PEOPLE - 2
    for part in (parts.private, parts.test):
        names = [f"s{person}" for person in people(part)]
        assert [parts.classes[label] for label in part.labels] == names
    # after the classes that a model knows, so that none of them passes for one
    assert sorted(set(parts.auxiliary.labels.tolist())) == [PEOPLE - 2, PEOPLE - 1]
    assert len(set(zip(parts.auxiliary.labels.tolist(), people(parts.auxiliary).tolist(), strict=True))) == 2
    again = load_parts(spec(faces), cache=tmp_path / "cache")
    assert torch.equal(again.auxiliary.labels, parts.auxiliary.labels)


def test_the_seed_chooses_the_people(faces, tmp_path):
    chosen = {load_parts(spec(faces, seed=seed), cache=tmp_path / "cache").classes for seed in range(6)}
    assert len(chosen) > 1


@pytest.mark.parametrize("name", ["faces", "flat"])
def test_few_images_are_spread_over_the_people(name, request, tmp_path):
    parts = load_parts(spec(request.getfixturevalue(name), private=8, auxiliary=4), cache=tmp_path / "cache")
    assert torch.bincount(parts.private.labels).tolist() == [2] * (PEOPLE - 2)
    assert torch.bincount(parts.auxiliary.labels)[-2:].tolist() == [2, 2]


def test_without_such_classes_nothing_has_changed(faces):
    without = DatasetSpec(name="x")
    assert "auxiliary_classes" not in without.model_dump(mode="json")
    assert "auxiliary_classes" not in without.model_dump_json()
    asked = DatasetSpec(name="x", auxiliary_classes=2)
    assert DatasetSpec.model_validate_json(asked.model_dump_json()) == asked
    assert fingerprint(spec(faces, auxiliary=8)) != fingerprint(spec(faces, auxiliary=8, auxiliary_classes=0))
    cell = {"data_fingerprint": "x", "backbone": {"name": "x"}, "split_point": "x", "victims": 1}
    cell |= {"defense": {"name": "none"}, "attack": {"name": "decoder"}, "threat_model": "query"}
    # of a record that was written before there were such classes
    assert CellSpec.model_validate(cell | {"dataset": {"name": "x"}}).id.endswith("87f8b28d9a")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"auxiliary_classes": 5}, "has 6 classes, of which auxiliary_classes = 5 .* at most 4"),
        (
            {"auxiliary": 21},
            "too few images of the attacker's classes: 20 .* = 2, but auxiliary = 21",
        ),
        ({"private": 33}, "too few training images of the 4 classes .*: 32, but private = 33"),
        ({"test": 9}, "too few test images of the 4 classes .*: 8, but test = 9"),
    ],
)
def test_too_few_are_refused_before_anything_is_decoded(faces, more, message):
    with pytest.raises(DpbenchError, match=message) as caught:
        fingerprint(spec(faces, **more))
    assert "\n" not in str(caught.value)


def test_too_few_of_a_flat_folder(flat):
    with pytest.raises(DpbenchError, match=r"too few images of the 4 classes .*: 40, but private = 32 and test = 9"):
        fingerprint(spec(flat, test=9))


def test_embedded_sets_have_no_such_classes():
    with pytest.raises(DpbenchError, match=r"auxiliary_classes = 2: .* not from the embedded leaves"):
        fingerprint(spec("leaves"))
