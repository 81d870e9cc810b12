"""What is no data set is refused in one clear line."""

import os
import shutil

import numpy as np
import pytest
from image_folders import fill, refused, spec
from PIL import Image

from dpbench.data.datasets import fingerprint
from dpbench.data.embedded import leaves
from dpbench.errors import DpbenchError


def test_shared_images_are_refused(tmp_path, monkeypatch):
    drawn = leaves.draw(0, range(12), 16)
    monkeypatch.setattr(leaves, "draw", lambda seed, indices, size: tuple(a[: len(indices)] for a in drawn))
    refused("leaves", "private and auxiliary images share", "disjoint", cache=tmp_path)


def test_names_that_are_no_data_set(tmp_path):
    refused("leafs", "unknown dataset 'leafs'", "did you mean 'leaves'")
    refused("torch/cifar1", "unknown dataset", "did you mean 'torch/cifar10'")
    refused("torch/", "there is no folder torch/")
    refused(tmp_path / "nowhere", f"there is no folder {tmp_path / 'nowhere'}", "class folders")
    refused("./nowhere", "there is no folder ./nowhere")
    refused("~/surely/nowhere", "there is no folder ~/surely/nowhere")
    (tmp_path / "file.zip").write_bytes(b"")
    refused(tmp_path / "file.zip", "is a file", "class folders")


def test_an_empty_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    refused(tmp_path / "photos", "the folder is empty", "FOLDER/CLASS")


def test_a_folder_without_class_folders(tmp_path):
    fill(tmp_path / "photos", 3, np.random.default_rng(0))
    refused(tmp_path / "photos", "3 images lie directly in it", "FOLDER/CLASS")


def test_class_folders_without_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "notes.txt").write_text("nothing to see")
    refused(tmp_path / "photos", "no class folder in it holds images (a, b)")


def test_only_one_class(tmp_path):
    fill(tmp_path / "photos" / "cat", 30, np.random.default_rng(0))
    refused(tmp_path / "photos", "only one class (cat)", "at least two")


def test_train_without_test(split):
    shutil.rmtree(split / "test")
    refused(split, "no test/, val/ or valid/", "/train")


def test_a_test_class_that_is_not_in_train(split):
    (split / "test" / "a").rename(split / "test" / "z")
    refused(split, "class 'z' is in test/ but not in train/")


def test_too_few_images(flat, split):
    message = refused(flat, "too few images: 60", "together need 61", private=30, auxiliary=20, test=11)
    for key in ("private = 30", "auxiliary = 20", "test = 11", "lower private, auxiliary or test"):
        assert key in message
    refused(split, "too few training images: 40", "together need 41", "lower private or auxiliary", private=32)
    refused(split, "too few test images: 12", "lower test", test=13)
    with pytest.raises(DpbenchError, match="too few"):  # before anything is decoded
        fingerprint(spec(flat, private=100))


def test_a_folder_that_cannot_be_read(flat, monkeypatch):
    # a simulation: the permissions of files do not bind an administrator
    real = os.scandir

    def scandir(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(flat, str(flat / "b"), "cannot be read (Permission denied)", "make it readable")


def test_a_file_that_cannot_be_read(flat, monkeypatch, tmp_path):
    def read(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", read)
        refused(flat, "000.png", "cannot be read (Permission denied)", "make it readable")
    monkeypatch.setattr(Image, "open", read)
    refused(flat, ".png", "cannot be read (Permission denied)", "make it readable", cache=tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is no picture", "cut"])
def test_a_corrupt_image_is_named(flat, tmp_path, content):
    bad = flat / "b" / "007.png"
    bad.write_bytes(bad.read_bytes()[:400] if content == "cut" else content)
    refused(flat, str(bad), "cannot be decoded", "replace it or delete it", private=40, test=11, cache=tmp_path)


def test_an_image_too_large_to_be_true(flat, tmp_path, monkeypatch):
    for limit in (300, 100):  # Pillow warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(flat, ".png", "more pixels than", "make it smaller", cache=tmp_path)
