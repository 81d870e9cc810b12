"""Images that somebody holds: how they are read, and how they are divided."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from dpbench.errors import DpbenchError
from dpbench.notebook.given_images import Sizes, _arrays, given_images


def picture(mode, array):
    return Image.fromarray(np.full((16, 16, 4) if mode == "RGBA" else (16, 16), array, np.uint8 if mode else np.uint16))


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (picture("", 32896), 128),  # of 16 bits: scaled, not cut off
        (picture("RGBA", 0), 255),  # transparent: on white, as images of folders
        (picture("L", 7), 7),
    ],
)
def test_pictures_are_read_as_files_are(image, value):
    images, _ = _arrays([(image, 0), (image, 1)], None)
    assert set(images.flatten().tolist()) == {value}


def test_pictures_without_eight_bits_are_refused_in_a_line():
    with pytest.raises(DpbenchError, match=r"cannot be read as images and labels \(its pixels are floating-point"):
        _arrays([(Image.new("F", (16, 16)), 0)] * 2, None)


def test_a_label_is_no_number_of_something_else():
    with pytest.raises(DpbenchError, match="labels go up to 1000000: the network would have a logit for each"):
        _arrays((torch.zeros(2, 3, 16, 16), torch.tensor([0, 10**6])), None)


def folder(root, splits, values):
    """Images of one grey value each, the values in turn; there is one of each class."""
    for split in splits:
        for label in "ab":
            (root / split / label).mkdir(parents=True)
            for place in range(8):
                Image.new("L", (16, 16), next(values)).save(root / split / label / f"{place}.png")


def test_a_folder_with_images_to_test_on_is_divided_as_it_is(tmp_path):
    folder(tmp_path, ("train", "test"), itertools.count())
    with given_images(tmp_path, victims=4, image_size=16) as spec:
        assert (spec.private, spec.auxiliary, spec.test) == (10, 6, 16)


def test_images_of_a_folder_that_are_there_twice_are_counted_once(tmp_path):
    folder(tmp_path, ("",), itertools.cycle(range(10)))
    with given_images(tmp_path, victims=2, image_size=16) as spec:
        assert (spec.private, spec.auxiliary, spec.test) == (5, 3, 2)
    folder(tmp_path / "split", ("train", "test"), itertools.cycle(range(24)))  # 8 to train on are those to test on
    with given_images(tmp_path / "split", victims=2, image_size=16) as spec:
        assert (spec.private, spec.auxiliary, spec.test) == (5, 3, 16)


def test_images_in_memory_that_are_there_twice_are_one():
    grey = [torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (1, 2, 1, 3, 3)]
    images, labels = _arrays([*zip(grey, (0, 1, 1, 2, 0), strict=True)], None)
    assert images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert labels.tolist() == [0, 1, 2]


def test_sizes():
    assert [getattr(Sizes(100, 32).spec("x", 1), part) for part in ("private", "auxiliary", "test")] == [50, 30, 20]
    spec = Sizes(50_000, 32, 10_000).spec("x", 1)
    assert (spec.private, spec.auxiliary, spec.test) == (4000, 2000, 500)
    with pytest.raises(DpbenchError, match="102 different images leave 2 to test on, fewer than victims=3"):
        Sizes(100, 32, 2).spec("x", 3)
