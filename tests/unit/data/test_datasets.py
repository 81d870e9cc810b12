"""Data sets by name: the parts share no image, a folder is what its files are, bad input gets one clear line."""

import io
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dpbench.data import datasets, division, images
from dpbench.data.datasets import fingerprint, known_datasets, load_parts
from dpbench.data.embedded import leaves, spectra
from dpbench.data.images import content_hash, to_uint8_array
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError


def noise(random, height=20, width=20):
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(folder, count, random, ending="png"):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(noise(random)).save(folder / f"{index:03}.{ending}")


@pytest.fixture
def flat(tmp_path):
    """FOLDER/CLASS/*.png: three classes with 20 images each."""
    random = np.random.default_rng(0)
    for name in ("b", "a", "c"):
        fill(tmp_path / "flat" / name, 20, random)
    return tmp_path / "flat"


@pytest.fixture
def split(tmp_path):
    """FOLDER/{train,test}/CLASS/*.png: two classes with 20 and 6 images each."""
    random = np.random.default_rng(1)
    for part, count in (("train", 20), ("test", 6)):
        for name in ("a", "b"):
            fill(tmp_path / "split" / part / name, count, random)
    return tmp_path / "split"


def spec(name, private=12, auxiliary=9, test=6, **more):
    return DatasetSpec(name=str(name), private=private, auxiliary=auxiliary, test=test, **{"image_size": 16, **more})


def refused(name, *words, cache=Path("unused"), **sizes):
    with pytest.raises(DpbenchError) as caught:
        load_parts(spec(name, **sizes), cache=cache)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def all_hashes(parts):
    return [digest for part in ("private", "auxiliary", "test") for digest in parts.hashes[part]]


def same(one, other):
    assert one.classes == other.classes
    assert one.hashes == other.hashes
    for part in ("private", "auxiliary", "test"):
        assert torch.equal(getattr(one, part).images, getattr(other, part).images)
        assert torch.equal(getattr(one, part).labels, getattr(other, part).labels)


def check_parts(parts, wanted):
    for name in ("private", "auxiliary", "test"):
        part, count, size = getattr(parts, name), getattr(wanted, name), wanted.image_size
        assert part.images.shape == (count, 3, size, size)
        assert part.images.dtype == torch.float32
        assert part.images.min() >= 0
        assert part.images.max() <= 1
        assert part.labels.shape == (count,)
        assert part.labels.dtype == torch.int64
        assert part.labels.max() < len(parts.classes)
        pixels = (part.images * 255).round().to(torch.uint8).numpy()
        assert [content_hash(image) for image in pixels] == parts.hashes[name]
    assert len(set(all_hashes(parts))) == len(all_hashes(parts))


# ---------------------------------------------------------------------------------------------- embedded sets


@pytest.fixture(params=datasets.BUILT_IN)
def embedded(request):
    return request.param


def test_embedded_sets(embedded, tmp_path):
    wanted = spec(embedded, private=60, auxiliary=30, test=20, image_size=32)
    parts = load_parts(wanted, cache=tmp_path)
    check_parts(parts, wanted)
    assert parts.classes == tuple({"leaves": leaves, "spectra": spectra}[embedded].CLASSES)
    assert len(parts.classes) == 10
    assert torch.bincount(parts.private.labels).tolist() == [6] * 10


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(private=st.integers(1, 40), auxiliary=st.integers(1, 40), test=st.integers(5, 40))
def test_embedded_parts_do_not_depend_on_each_others_sizes(embedded, tmp_path_factory, private, auxiliary, test):
    cache = tmp_path_factory.mktemp("cache")
    parts = load_parts(spec(embedded, private=private, auxiliary=auxiliary, test=test), cache=cache)
    few = load_parts(spec(embedded, private=1, auxiliary=1, test=5), cache=cache)
    for name in ("private", "auxiliary", "test"):
        assert parts.hashes[name][: len(few.hashes[name])] == few.hashes[name]


def test_other_seeds_share_no_image(embedded, tmp_path):
    one, other = (load_parts(spec(embedded, seed=seed), cache=tmp_path) for seed in (0, 1))
    assert not set(all_hashes(one)) & set(all_hashes(other))


def test_embedded_sets_share_no_image(tmp_path):
    one, other = (load_parts(spec(name), cache=tmp_path) for name in ("leaves", "spectra"))
    assert not set(all_hashes(one)) & set(all_hashes(other))


@pytest.mark.parametrize("name", [*datasets.BUILT_IN, "flat", "split"])
def test_an_attacker_may_have_nearly_all_of_a_data_set(name, request, tmp_path):
    """With one private and one test image, as for auxiliary images of another data set than the victims'."""
    name = name if name in datasets.BUILT_IN else request.getfixturevalue(name)
    wanted = spec(name, private=1, auxiliary=30, test=1)
    parts = load_parts(wanted, cache=tmp_path / "cache")
    check_parts(parts, wanted)
    assert len(parts.auxiliary.labels.unique()) == len(parts.classes)


# ---------------------------------------------------------------------------------------------- folders


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


# ---------------------------------------------------------------------------------------------- fingerprints


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


# ---------------------------------------------------------------------------------------------- cache


def cache_file(cache):
    (file,) = cache.glob("*.npy")
    return file


def test_what_was_decoded_is_kept(flat, tmp_path, monkeypatch):
    first = load_parts(spec(flat), cache=tmp_path / "cache")
    monkeypatch.setattr(images, "_decode", None)
    same(first, load_parts(spec(flat), cache=tmp_path / "cache"))


@pytest.mark.parametrize(
    "damage",
    ["cut short", "empty", "garbage", "flipped bit", "flipped label", "no labels", "pickled", "other sizes", "older"],
)
def test_a_damaged_cache_is_made_again(flat, tmp_path, monkeypatch, damage):
    cache = tmp_path / "cache"
    first = load_parts(spec(flat), cache=cache)
    file = cache_file(cache)
    labels = file.with_suffix(".json")
    whole = file.read_bytes()
    match damage:
        case "cut short":
            file.write_bytes(whole[: len(whole) // 2])
        case "empty":
            file.write_bytes(b"")
        case "garbage":
            file.write_bytes(b"garbage" * 100)
        case "flipped bit":
            file.write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 4]) + whole[-999:])
        case "flipped label":
            text = labels.read_text()
            at = text.index('"private": [') + len('"private": [')
            labels.write_text(f"{text[:at]}{1 - int(text[at])}{text[at + 1 :]}")
        case "no labels":
            labels.unlink()
        case "pickled":
            np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        case "other sizes":
            load_parts(spec(flat, private=13), cache=tmp_path / "other")
            file.write_bytes(cache_file(tmp_path / "other").read_bytes())
        case "older":
            file.rename(file.with_suffix(".safetensors"))
    same(first, load_parts(spec(flat), cache=cache))
    monkeypatch.setattr(images, "_decode", None)
    same(first, load_parts(spec(flat), cache=cache))
    assert {path.suffix for path in cache.iterdir()} == {".npy", ".json"}


def test_a_bit_that_flips_while_the_images_are_read_is_noticed(flat, tmp_path):
    parts = load_parts(spec(flat), cache=tmp_path / "cache", room=0)
    first = parts.private.images[:2]
    with cache_file(tmp_path / "cache").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte ^ 4]))
    assert torch.equal(parts.private.images[:2], first)  # an image that is whole is read
    with pytest.raises(DpbenchError, match="is damaged: an image is not what was written; run again"):
        parts.test.images[:]
    cache_file(tmp_path / "cache").write_bytes(b"short")
    with pytest.raises(DpbenchError, match="cannot be read any more"):
        parts.private.images[:2]


def test_an_unwritable_cache_is_one_line(flat, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(flat, "cannot be written", cache=tmp_path / "file")


def test_shared_images_are_refused(tmp_path, monkeypatch):
    drawn = leaves.draw(0, range(12), 16)
    monkeypatch.setattr(leaves, "draw", lambda seed, indices, size: tuple(a[: len(indices)] for a in drawn))
    refused("leaves", "private and auxiliary images share", "disjoint", cache=tmp_path)


# ---------------------------------------------------------------------------------------------- bad folders


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


# ---------------------------------------------------------------------------------------------- decoding


def saved(image, ending="png", **options):
    file = io.BytesIO()
    image.save(file, ending, **options)
    file.seek(0)
    return file


def test_rgb_of_the_right_size_is_untouched():
    pixels = noise(np.random.default_rng(0), 16, 16)
    decoded = to_uint8_array(saved(Image.fromarray(pixels)), 16)
    np.testing.assert_array_equal(decoded, pixels.transpose(2, 0, 1))
    assert decoded.flags.c_contiguous


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 33]), st.sampled_from(["L", "RGB", "RGBA", "P"]))
def test_any_shape_and_mode_becomes_a_square(height, width, size, mode):
    image = Image.fromarray(noise(np.random.default_rng(0), height, width)).convert(mode)
    decoded = to_uint8_array(saved(image), size)
    assert decoded.shape == (3, size, size)
    assert decoded.dtype == np.uint8


def test_the_middle_is_kept():
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = noise(np.random.default_rng(0), 16, 16)
    np.testing.assert_array_equal(
        to_uint8_array(saved(Image.fromarray(pixels)), 16), pixels[:, 16:32].transpose(2, 0, 1)
    )
    thin = to_uint8_array(saved(Image.new("RGB", (20_000, 1), "red")), 512)
    assert thin[0].min() == 255


def test_shrinking_is_antialiased():
    checker = np.indices((128, 128)).sum(0) % 2 * 255
    decoded = to_uint8_array(saved(Image.fromarray(checker.astype(np.uint8))), 16)
    assert 120 < decoded.min() <= decoded.max() < 135


def test_resizing_is_pillows():
    image = Image.fromarray(noise(np.random.default_rng(0), 40, 40))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(to_uint8_array(saved(image), 16), expected)


def test_grey_is_replicated():
    grey = noise(np.random.default_rng(0), 16, 16)[:, :, 0]
    decoded = to_uint8_array(saved(Image.fromarray(grey)), 16)
    assert all(np.array_equal(channel, grey) for channel in decoded)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bits_are_scaled_not_clipped(ending):
    grey = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    decoded = to_uint8_array(saved(Image.fromarray(grey), ending), 16)
    assert all(np.array_equal(channel, np.arange(256).reshape(16, 16)) for channel in decoded)


def test_32_bits_are_taken_for_16_or_refused():
    grey = np.full((16, 16), 65535, np.int32)
    assert to_uint8_array(saved(Image.fromarray(grey), "tiff"), 16).min() == 255
    with pytest.raises(DpbenchError, match="outside 0 to 65535"):
        to_uint8_array(saved(Image.fromarray(grey + 1), "tiff"), 16)
    with pytest.raises(DpbenchError, match="floating-point"):
        to_uint8_array(saved(Image.fromarray(grey.astype(np.float32)), "tiff"), 16)


def test_transparency_is_laid_on_white():
    rgba = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    rgba.putpixel((3, 5), (200, 0, 0, 255))
    decoded = to_uint8_array(saved(rgba), 16)
    assert decoded[:, 5, 3].tolist() == [200, 0, 0]
    assert decoded[:, 0, 0].tolist() == [255, 255, 255]
    half = to_uint8_array(saved(Image.new("LA", (16, 16), (0, 128))), 16)
    assert half.min() == half.max() == 127


def test_a_palette_and_its_transparency():
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert to_uint8_array(saved(palette), 16)[:, 0, 0].tolist() == [10, 20, 30]
    for transparency in (1, bytes([255, 0])):  # the second makes Pillow warn when it is converted carelessly
        decoded = to_uint8_array(saved(palette, transparency=transparency), 16)
        assert decoded.min() == 255


def test_one_bit():
    assert to_uint8_array(saved(Image.new("1", (16, 16), 1)), 16).min() == 255


def test_cmyk_is_converted():
    decoded = to_uint8_array(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "jpeg", quality=100), 16)
    assert np.abs(decoded[:, 8, 8].astype(int) - [255, 0, 0]).max() < 6


def test_the_orientation_of_a_photograph_is_respected():
    pixels = noise(np.random.default_rng(0), 16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    decoded = to_uint8_array(saved(Image.fromarray(pixels), exif=exif), 16)
    np.testing.assert_array_equal(decoded, np.rot90(pixels, -1).transpose(2, 0, 1))


def test_odd_metadata_is_no_error(tmp_path):
    file = saved(Image.new("RGB", (16, 16), "blue"), "jpeg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_uint8_array(file, 16).shape == (3, 16, 16)


def test_files_decode_in_order(flat):
    paths = sorted(flat.rglob("*.png"))
    for path, decoded in zip(paths, images.decode_files(paths, 16), strict=True):
        np.testing.assert_array_equal(decoded, to_uint8_array(str(path), 16))


@given(st.integers(0, 3 * 16 * 16 - 1))
def test_the_hash_sees_every_pixel_and_no_stride(position):
    pixels = noise(np.random.default_rng(0), 16, 16).transpose(2, 0, 1)
    before = content_hash(pixels)
    assert before == content_hash(np.ascontiguousarray(pixels))
    assert len(before) == 16
    changed = pixels.copy()
    changed.flat[position] ^= 1
    assert content_hash(changed) != before


# ---------------------------------------------------------------------------------------------- timm


class FakeDataset:
    """As torchvision's: Pillow images in `[index]`, labels apart."""

    classes = ("cat", ("dog", "hound"))

    def __init__(self, count, seed):
        random = np.random.default_rng(seed)
        self.targets = [index % 2 for index in range(count)]
        self.images = [Image.fromarray(noise(random)) for _ in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


def test_torch_names_go_through_timm(tmp_path, monkeypatch):
    asked = []

    def create_dataset(name, *, root, split, download, input_img_mode):
        asked.append((name, split, download, Path(root).is_dir()))
        return FakeDataset(40 if split == "train" else 20, seed=split == "train")

    monkeypatch.setattr(timm.data, "create_dataset", create_dataset)
    wanted = spec("torch/CIFAR10", private=20, auxiliary=15, test=10)
    parts = load_parts(wanted, cache=tmp_path)
    check_parts(parts, wanted)
    assert parts.classes == ("cat", "dog, hound")
    assert asked == [("torch/cifar10", split, True, True) for split in ("train", "validation")]
    same(parts, load_parts(wanted, cache=tmp_path))
    assert len(asked) == 2  # the second time from the cache
    refused("torch/mnist", "too few training images: 40", private=30, auxiliary=11, cache=tmp_path)


class FakeReader:
    """As timm's reader of Hugging Face data sets."""

    class_to_idx = {"no": 0, "yes": 1}  # noqa: RUF012

    def iter_targets(self):
        return (index % 2 for index in range(60))


class FakeHub(FakeDataset):
    def __init__(self):
        super().__init__(60, seed=0)
        del self.targets
        self.reader = FakeReader()

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.images[index], index % 2

    classes = None


@pytest.fixture
def hub(monkeypatch):
    """The package datasets is there, and the data sets that a test puts into the answer by split."""
    splits = {}

    def create_dataset(name, *, root, split, download, input_img_mode):
        if split not in splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}.')
        return splits[split]

    monkeypatch.setattr(timm.data, "create_dataset", create_dataset)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return splits


@pytest.mark.parametrize("held_out", [None, "test", "validation"])
def test_hugging_face_names_go_through_timm(hub, tmp_path, held_out):
    hub["train"] = FakeHub()
    if held_out:
        hub[held_out] = FakeDataset(20, seed=5)
    wanted = spec("hfds/owner/Name")
    parts = load_parts(wanted, cache=tmp_path)
    check_parts(parts, wanted)
    assert parts.classes == ("no", "yes")
    held = {
        content_hash(images.from_pillow(image, 16)) for image in (hub[held_out] if held_out else hub["train"]).images
    }
    assert set(parts.hashes["test"]) <= held


def test_a_data_set_with_one_class_without_labels_or_with_a_broken_image(hub, tmp_path):
    hub["train"] = FakeDataset(60, seed=0)
    hub["train"].targets = [0] * 60
    hub["train"].classes = ("cat",)
    refused("hfds/owner/name", "only one class (cat)", cache=tmp_path)
    hub["train"].targets = [None] * 60
    refused("hfds/owner/name", "no class label", cache=tmp_path)
    hub["train"].targets = [0, 1] * 30
    hub["train"].images = [None] * 60
    refused("hfds/owner/name", "of hfds/owner/name cannot be decoded", cache=tmp_path)


def test_a_data_set_without_names_of_classes(hub, tmp_path):
    hub["train"] = FakeDataset(60, seed=0)
    hub["train"].classes = None
    assert load_parts(spec("hfds/owner/name"), cache=tmp_path).classes == ("0", "1")


def test_no_training_split(hub, tmp_path):
    refused("hfds/owner/name", "no split 'train'", cache=tmp_path)


def test_a_download_that_fails(tmp_path):
    # a proxy that refuses: a machine without a network, also where there is one
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            patch.delenv(name, raising=False)
        refused("torch/cifar10", "could not be fetched (URLError", "network", "put its files into", cache=tmp_path)


def test_hugging_face_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("hfds/owner/name", "needs the package datasets", "pip install datasets", cache=tmp_path)


def test_the_list():
    listed = {info.name: info for info in known_datasets()}
    assert set(listed) == {"leaves", "spectra", "FOLDER", "torch/NAME", "hfds/NAME"}
    for info in listed.values():
        assert info.about
        assert "\n" not in info.about
        assert info.parameters["image_size"] == {
            "default": 32,
            "about": DatasetSpec.model_fields["image_size"].description,
            "range": ">= 16, <= 512",
        }
    assert division.PARTS == ("private", "auxiliary", "test")
