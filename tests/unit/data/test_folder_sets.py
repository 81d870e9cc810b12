"""A folder as a data set: what counts as its classes and images, and what is known of it without decoding."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import check_parts, fill, refused, same, spec
from PIL import Image

from dpbench.data import datasets, division, images
from dpbench.data.datasets import fingerprint, load_parts
from dpbench.data.images import content_hash, to_uint8_array


def test_a_flat_folder(flat, tmp_path):
    wanted = spec(flat, private=21, auxiliary=18, test=12)
    parts = load_parts(wanted, cache=tmp_path)
    check_parts(parts, wanted)
    assert parts.classes == ("a", "b", "c")
    for part, each in ((parts.private, 7), (parts.auxiliary, 6), (parts.test, 4)):
        assert all(abs(int(count) - each) <= 1 for count in torch.bincount(part.labels))  # stratified
    for label, name in enumerate(parts.classes):
        at_size = {content_hash(to_uint8_array(path, 16)) for path in (flat / name).iterdir()}
        assert {h for h, k in zip(parts.hashes["test"], parts.test.labels, strict=True) if k == label} <= at_size


@pytest.mark.parametrize("held_out", ["test", "val", "valid"])
def test_a_folder_with_train_and_test(split, tmp_path, held_out):
    (split / "test").rename(split / held_out)
    wanted = spec(split, private=20, auxiliary=16, test=10)
    parts = load_parts(wanted, cache=tmp_path)
    check_parts(parts, wanted)
    where = {
        part: {content_hash(to_uint8_array(path, 16)) for path in (split / part).rglob("*.png")}
        for part in ("train", held_out)
    }
    assert set(parts.hashes["test"]) <= where[held_out]
    assert set(parts.hashes["private"] + parts.hashes["auxiliary"]) <= where["train"]


def test_a_class_may_be_called_train(tmp_path):
    random = np.random.default_rng(2)
    for name in ("train", "car"):
        fill(tmp_path / "vehicles" / name, 20, random)
    assert load_parts(spec(tmp_path / "vehicles"), cache=tmp_path).classes == ("car", "train")


def test_more_private_images_do_not_change_the_test_images(flat, tmp_path):
    one = load_parts(spec(flat), cache=tmp_path)
    more = load_parts(spec(flat, private=30, auxiliary=15), cache=tmp_path)
    assert one.hashes["test"] == more.hashes["test"]


def test_the_seed_draws_the_parts(flat, tmp_path):
    one, again, other = (load_parts(spec(flat, seed=seed), cache=tmp_path / str(n)) for n, seed in enumerate((3, 3, 4)))
    same(one, again)
    assert one.hashes["test"] != other.hashes["test"]


def test_folders_in_class_folders_and_other_files(flat, tmp_path):
    before = fingerprint(spec(flat))
    (flat / "a" / "notes.txt").write_text("not an image")
    (flat / "a" / "._000.png").write_bytes(b"what a Mac leaves behind")
    (flat / ".thumbnails").mkdir()
    (flat / "empty").mkdir()
    assert fingerprint(spec(flat)) == before
    fill(flat / "a" / "more", 5, np.random.default_rng(3), ending="JPG")
    assert fingerprint(spec(flat)) != before
    load_parts(spec(flat, private=30, auxiliary=20, test=15), cache=tmp_path)  # all 65 of them


def test_duplicates_are_dropped_and_replaced(split, tmp_path):
    # every test image is also in train, under the other class and in another format
    for path in (split / "test").rglob("*.png"):
        other = "b" if path.parent.name == "a" else "a"
        Image.open(path).save(split / "train" / other / f"copy-{path.parent.name}-{path.stem}.bmp")
    wanted = spec(split, private=24, auxiliary=16, test=12)
    check_parts(load_parts(wanted, cache=tmp_path), wanted)
    refused(split, "different images", "lower private", cache=tmp_path, private=25, auxiliary=16, test=12)


def test_only_what_is_needed_is_decoded(flat, tmp_path, monkeypatch):
    decoded = []
    real = images._decode
    monkeypatch.setattr(images, "_decode", lambda path, size: decoded.append(path) or real(path, size))
    load_parts(spec(flat), cache=tmp_path)
    assert len(decoded) == 12 + 9 + 6


def test_progress_is_shown(flat, tmp_path):
    shown = []
    load_parts(spec(flat), cache=tmp_path, progress=shown.append)
    assert "decoding 6/27" in shown


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), seed=st.integers(0, 2**64))
def test_any_run_of_the_order_holds_the_classes_in_proportion(labels, seed):
    labels = np.array(labels)
    order = division._stratified(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    for end in range(1, len(labels)):
        for label in set(labels.tolist()):
            expected = end * (labels == label).mean()
            assert abs((labels[order[:end]] == label).sum() - expected) <= 5


def test_a_moved_folder_keeps_its_fingerprint_and_a_changed_file_does_not(flat, tmp_path, monkeypatch):
    before = fingerprint(spec(flat))
    moved = tmp_path / "elsewhere" / "photos"
    shutil.copytree(flat, moved)
    assert fingerprint(spec(moved)) == before
    monkeypatch.chdir(moved.parent)
    assert fingerprint(spec("photos")) == fingerprint(spec("./photos/")) == before
    file = moved / "b" / "007.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    changed = fingerprint(spec(moved))
    assert changed != before
    file.rename(moved / "b" / "x.png")
    assert fingerprint(spec(moved)) not in (before, changed)


def test_the_fingerprint_covers_the_division(flat):
    variants = [{}, {"private": 13}, {"auxiliary": 10}, {"test": 7}, {"seed": 1}, {"image_size": 17}]
    for name in (*datasets.BUILT_IN, flat, "torch/cifar10", "torch/mnist", "hfds/owner/name"):
        assert len({fingerprint(spec(name, **variant)) for variant in variants}) == len(variants)
    assert fingerprint(spec("torch/cifar10")) == fingerprint(spec("Torch/CIFAR10")) != fingerprint(spec("torch/mnist"))


@pytest.mark.parametrize("name", datasets.BUILT_IN)
def test_the_fingerprint_covers_the_generator(monkeypatch, name):
    before = fingerprint(spec(name))
    monkeypatch.setattr(datasets.BUILT_IN[name], "version", datasets.BUILT_IN[name].version + 1)
    assert fingerprint(spec(name)) != before


def test_no_image_is_decoded_for_a_fingerprint(flat, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    assert fingerprint(spec(flat))
