"""Files of a folder that are none, and parts that share an image."""

import os

import numpy as np
import pytest
from PIL import Image

from dpbench.contract.dataset import ImageSet
from dpbench.data.datasets import load_parts
from dpbench.data.embedded.drawing import source_of
from dpbench.data.images import find_images
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError


def test_pipes_and_devices_are_no_images_whatever_leads_there(tmp_path):
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")  # whoever reads it waits for good
    (tmp_path / "linked-pipe.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")  # whoever reads it never comes to an end
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    found = find_images(str(tmp_path), ".")
    assert [os.path.basename(path) for path in found.paths] == ["a.png", "gone.png", "itself.png"]
    assert found.others[".png"] == 3


class Grey(ImageSet):
    """The same image in every place."""

    name = "grey"
    classes = ("dark", "bright")

    def draw(self, part, indices, *, size, seed):
        return np.zeros((len(indices), 3, size, size), np.uint8), np.array([index % 2 for index in indices])


def test_a_data_set_whose_parts_share_an_image_is_told_what_to_do(tmp_path):
    spec = DatasetSpec(name="grey", image_size=16, private=2, auxiliary=2, test=2)
    with pytest.raises(DpbenchError, match=r"must be disjoint\. Let the data set draw each image in one part alone"):
        load_parts(spec, cache=tmp_path, find=lambda spec: source_of(Grey(), "grey"))
