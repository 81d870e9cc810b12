"""What networks and files say of themselves is taken as they say it: classes, normalisation, embeddings."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from dpbench.errors import DpbenchError
from dpbench.models.adapters.class_order import order_of, rows_for
from dpbench.models.adapters.zero_shot import read_class_embeddings
from dpbench.models.backbones import normalisation
from dpbench.models.checkpoints import read_checkpoint

CRANES = ("crane", "dog", "crane")  # ImageNet has two classes of this name


def test_classes_of_one_name_keep_rows_of_their_own():
    assert rows_for("stated", CRANES, CRANES) is None
    assert order_of(CRANES, CRANES, folders=False) == ("auto", "")
    assert rows_for("stated", CRANES, ("dog", "crane", "crane")) == [1, 0, 2]
    assert rows_for("sorted", CRANES, ()) == [0, 2, 1]


@pytest.mark.parametrize(
    ("stated", "mean", "std"),
    [
        ({"mean": 0.0, "std": 1.0}, [0.0], [1.0]),
        ({"mean": (0, 0, 0), "std": 2}, [0.0, 0.0, 0.0], [2.0]),
        ({"mean": torch.tensor([0.1, 0.2, 0.3])}, [0.1, 0.2, 0.3], [0.5] * 3),
        ({"mean": None, "std": ()}, [0.5] * 3, [0.5] * 3),
        (None, [0.5] * 3, [0.5] * 3),
    ],
)
def test_a_stated_normalisation_is_the_one_that_is_done(stated, mean, std):
    network = nn.Identity()
    network.default_cfg = stated
    found = normalisation(network)
    assert found.mean.flatten().tolist() == pytest.approx(mean)
    assert found.std.flatten().tolist() == pytest.approx(std)


@pytest.mark.parametrize("classes", [torch.arange(3), np.arange(3), 3, torch.tensor([])], ids=str)
def test_classes_that_are_no_names_are_not_stated(tmp_path, classes):
    torch.save({"state_dict": {"w": torch.ones(2)}, "classes": classes}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").classes == ()


def damaged(path):
    np.savez(path, only=np.ones((2, 3)))
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "write",
    [
        damaged,
        lambda path: np.savez(path, only=np.ones((2, 3), dtype=complex)),
        lambda path: np.savez(path, only=np.array(["a", "b"])),
        lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
    ],
)
def test_class_embeddings_that_are_none_are_refused_in_a_line(tmp_path, write):
    path = tmp_path / "classes.npz"
    write(path)
    with pytest.raises(DpbenchError, match=re.escape(f"class embeddings {path} are")):
        read_class_embeddings(path, ["a", "b"])
