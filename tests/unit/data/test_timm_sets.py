"""Data sets under timm's names: of torch and of a hub."""

from pathlib import Path

import numpy as np
import pytest
import timm.data
from image_folders import check_parts, noise, refused, same, spec
from PIL import Image

from dpbench.data import division, images
from dpbench.data.datasets import known_datasets, load_parts
from dpbench.data.images import content_hash
from dpbench.data.spec import DatasetSpec


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
        patch.setattr("urllib.request._opener", None)  # made once for all of a process, with the proxies of that time
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
