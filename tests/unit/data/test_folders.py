"""Folders as people have them: read as their owner means them, or named in one line."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dpbench.data import images
from dpbench.data.datasets import fingerprint, load_parts
from dpbench.data.folders import ClassFolders
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError

RANDOM = np.random.default_rng(0)


def fill(folder, count=12, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(os.fsencode(folder / f"{index:03}.{ending}"), "PNG")


def spec(root, private=4, auxiliary=4, test=4):
    return DatasetSpec(name="x", image_size=16, private=private, auxiliary=auxiliary, test=test).model_copy(
        update={"name": str(root)}
    )


def look(root):
    return ClassFolders.look_into(spec(root))


def refused(root, *words):
    with pytest.raises(DpbenchError) as error:
        look(root)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photos"


def folders(root, *names, count=12):
    for name in names:
        fill(root / name, count)


# ------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training", "Training"])
@pytest.mark.parametrize("test", ["test", "Test", "VAL", "val", "Valid", "validation", "Validation", "Testing"])
def test_splits_in_any_case(root, train, test):
    folders(root, *(f"{part}/{name}" for part in (train, test) for name in ("cat", "dog")))
    found = look(root)
    assert found.classes == ("cat", "dog")
    assert found.test is not None
    assert (len(found.train), len(found.test)) == (24, 24)
    assert all(path.startswith(f"{train}{os.sep}") for path, _ in found.train)
    assert found.left_out == ()


def test_of_several_test_splits_one_is_taken_and_the_others_are_named(root):
    folders(root, *(f"{part}/{name}" for part in ("train", "val", "test", "extra") for name in ("cat", "dog")))
    found = look(root)
    assert found.test is not None
    assert {path.split(os.sep)[0] for path, _ in found.test} == {"test"}
    assert found.left_out == ("left out: extra/, val/ beside train/ and test/",)


def test_two_splits_of_one_name(root):
    folders(root, *(f"{part}/{name}" for part in ("train", "Train", "test") for name in ("cat", "dog")))
    if len(os.listdir(root)) == 3:  # where the disk tells them apart
        refused(root, "Train/ and train/", "rename one")


def test_splits_without_class_folders_are_no_classes(root):
    folders(root, "train", "test")
    refused(root, "train/, test/ hold images but no class folders", "FOLDER/{train,test}/CLASS")
    folders(root, "cat", "dog")
    refused(root, "train/, test/ hold images but no class folders", "rename these if they are classes")


@pytest.mark.parametrize("names", [("test", "val"), ("Valid", "Test"), ("train", "training")])
def test_classes_that_are_all_named_as_splits(root, names):
    folders(root, *names)
    refused(root, "hold images but no class folders")


def test_a_test_split_without_a_training_split(root):
    folders(root, "Test/cat", "Test/dog", "cat", "dog")
    refused(root, "has Test/ but no train/", "Test to draw all parts from it")


def test_a_class_called_train_is_said(root):
    folders(root, "cat", "dog", "train")
    found = look(root)
    assert found.classes == ("cat", "dog", "train")
    assert found.left_out == ("train/ taken for a class, not for a split",)


def test_a_class_called_train_with_folders_in_it_is_ambiguous(root):
    folders(root, "cat", "dog", "train/steam", "train/diesel")
    refused(root, "train/ but no test/", "where it is a class, call it otherwise")


def test_splits_inside_each_class(root):
    folders(root, *(f"{name}/{part}" for name in ("cat", "dog") for part in ("train", "test")))
    refused(root, "each class folder has splits in it, such as cat/train")


def test_one_folder_too_many(root):
    folders(root, "archive/cat", "archive/dog", "__MACOSX/archive")
    refused(root, "only one class (archive)", f"name {root / 'archive'}")


# --------------------------------------------------------------------------------------------- what is left out


JUNK = ["__MACOSX", "__macosx", "@eaDir", ".ipynb_checkpoints", ".git", "$RECYCLE.BIN", "lost+found", "#recycle"]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("place", ["", "cat", "cat/more"])
def test_what_systems_leave_is_no_image(root, junk, place):
    folders(root, "cat", "dog")
    before = fingerprint(spec(root))
    fill(root / place / junk)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._000.png"):
        (root / place / name).parent.mkdir(exist_ok=True)
        (root / place / name).write_bytes(b"not an image")
    assert look(root).classes == ("cat", "dog")
    assert look(root).left_out == ()
    assert fingerprint(spec(root)) == before


def test_what_is_left_out_is_counted(root):
    folders(root, "cat", "dog", "train/")
    for name in ("a.heic", "b.heic", "c.txt", "d.avif", "e.json", "f"):
        (root / "cat" / name).write_text("?")
    (root / "empty").mkdir()
    fill(root, 2)
    (root / "cat" / "loop").symlink_to(root)
    files, split = look(root).left_out
    assert "6 files of no known ending of images (2 .heic, 1 .avif, 1 .json, 2 more endings)" in files
    assert "2 images in no class folder" in files
    assert "1 link that leads back" in files
    assert "empty/ without images" in files
    assert split.startswith("train/ taken for a class")


# ------------------------------------------------------------------------------------------------------- links


def test_circles_add_nothing(root):
    folders(root, "cat", "dog", count=9)
    before = fingerprint(spec(root))
    (root / "cat" / "self").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    (root / "dog" / "above").symlink_to(root.parent)
    (root / "here").symlink_to(root)
    (root / "higher").symlink_to(root.parent)
    (root / "dog" / "nowhere").symlink_to("nowhere")
    (root / "dog" / "itself").symlink_to("itself")
    found = look(root)
    assert len(found.train) == 18
    assert found.classes == ("cat", "dog")
    assert "5 links that lead back" in found.left_out[0]
    assert fingerprint(spec(root)) == before


def test_links_are_followed_and_each_file_counts_once(root, tmp_path):
    folders(tmp_path / "store", "a", "b", count=6)
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "store" / "a")
    (root / "dog").mkdir()
    (root / "dog" / "one.png").symlink_to(tmp_path / "store" / "b" / "001.png")
    (root / "dog" / "two.png").symlink_to(tmp_path / "store" / "b" / "001.png")
    (root / "dog" / "all").symlink_to(tmp_path / "store" / "b")
    (root / "dog" / "all again").symlink_to(tmp_path / "store" / "b")
    found = look(root)
    assert [label for _, label in found.train].count(0) == 6
    assert [label for _, label in found.train].count(1) == 6
    assert load_parts(spec(root), cache=tmp_path / "cache").classes == ("cat", "dog")


def test_one_file_in_two_classes_is_named(root):
    folders(root, "cat", "dog")
    (root / "dog" / "x.png").symlink_to(root / "cat" / "000.png")
    refused(root, os.path.join("dog", "x.png"), os.path.join("cat", "000.png"), "are one file, in two classes")
    (root / "dog" / "x.png").unlink()
    (root / "bird").symlink_to(root / "cat")
    refused(root, "are one file, in two classes")


def test_links_to_nowhere_and_to_themselves_are_one_line(root):
    folders(root, "cat", "dog")
    for target in ("gone.png", "000x.png"):
        (root / "cat" / "000x.png").symlink_to(target)
        with pytest.raises(DpbenchError, match=r"000x\.png cannot be read") as error:
            fingerprint(spec(root))
        assert "\n" not in str(error.value)
        (root / "cat" / "000x.png").unlink()


def test_what_is_no_file_is_not_waited_for(root):
    folders(root, "cat", "dog")
    os.mkfifo(root / "cat" / "pipe.png")
    assert len(look(root).train) == 24


# ------------------------------------------------------------------------------------- names that are not UTF-8


def test_names_that_are_not_utf_8(tmp_path):
    root = os.fsdecode(os.fsencode(tmp_path) + b"/photos\xff")
    for name in (b"caf\xe9", b"\xfe\xff"):
        folder = os.fsencode(root) + b"/" + name
        os.makedirs(folder)
        for index in range(12):
            pixels = RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder + b"/\xe4%d.png" % index, "PNG")
    one, again = (load_parts(spec(root), cache=tmp_path / "cache") for _ in range(2))
    assert one.classes == again.classes == ("caf\udce9", "\udcfe\udcff")
    assert one.hashes == again.hashes
    assert torch.equal(one.private.labels, again.private.labels)
    assert json.loads(spec(root).model_dump_json())["name"].endswith("photos?")  # as a record holds it
    assert spec(root).model_dump()["name"] == root
    moved = tmp_path / "plain"
    os.rename(os.fsencode(root), moved)
    assert fingerprint(spec(moved))


# -------------------------------------------------------------------------------------- changed while a run goes on


def test_a_folder_that_was_swapped_since_it_was_planned(root, tmp_path):
    folders(root, "cat", "dog")
    planned = fingerprint(spec(root))
    load_parts(spec(root), cache=tmp_path / "cache", expected=planned)
    fill(root / "cat")
    with pytest.raises(DpbenchError, match=r"data changed while the run went on: .*; run again") as error:
        load_parts(spec(root), cache=tmp_path / "cache", expected=planned)
    assert "\n" not in str(error.value)


def test_a_folder_that_changes_while_it_is_decoded(root, tmp_path, monkeypatch):
    folders(root, "cat", "dog")
    planned, real = fingerprint(spec(root)), images._decode

    def decode(path, size):
        fill(root / "dog", 1)
        return real(path, size)

    monkeypatch.setattr(images, "_decode", decode)
    with pytest.raises(DpbenchError, match="data changed while the run went on"):
        load_parts(spec(root), cache=tmp_path / "cache", expected=planned)
    assert not list((tmp_path / "cache").glob("*"))  # nothing is kept under the old name
