"""What lies behind `torch/...` is no longer taken at its word: it is hashed, recorded, and asked again."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import timm.data
from PIL import Image

from dpbench.data.datasets import content_of, fingerprint, load_parts
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.running.changes import Exchanged

SPEC = DatasetSpec(name="torch/cifar10", image_size=16, private=12, auxiliary=9, test=6)


class Fake:
    """Reads its images from a file of its root, as torchvision's do."""

    classes = ("cat", "dog")

    def __init__(self, root, split):
        random = np.random.default_rng([int((root / "seed.bin").read_text()), len(split)])
        self.images = [Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(30)]
        self.targets = [0, 1] * 15

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of the downloads, filled at the first fetch."""
    root = tmp_path / "downloads" / "torch_cifar10"

    def create_dataset(name, *, root, split, download, input_img_mode):
        place = root_path / "seed.bin"
        if not place.exists():
            place.write_text("1")
        return Fake(root_path, split)

    root_path = root
    monkeypatch.setattr(timm.data, "create_dataset", create_dataset)
    return root


def test_what_was_downloaded_is_identified_and_its_fingerprint_stays(root, tmp_path):
    before = fingerprint(SPEC)
    assert content_of(SPEC, tmp_path) == ""
    parts = load_parts(SPEC, cache=tmp_path)
    assert parts.content == content_of(SPEC, tmp_path) != ""
    assert load_parts(SPEC, cache=tmp_path, expected=before).content == parts.content
    assert fingerprint(SPEC) == before
    assert content_of(SPEC.model_copy(update={"name": "leaves"}), tmp_path) == ""


def test_exchanged_files_are_decoded_again(root, tmp_path):
    first = load_parts(SPEC, cache=tmp_path)
    (root / "seed.bin").write_text("2")
    other = load_parts(SPEC, cache=tmp_path)
    assert other.content != first.content
    assert other.hashes != first.hashes
    (root / "seed.bin").write_text("1")
    assert load_parts(SPEC, cache=tmp_path).hashes == first.hashes


def test_a_file_of_the_same_size_and_time_is_noticed(root, tmp_path):
    load_parts(SPEC, cache=tmp_path)
    before = content_of(SPEC, tmp_path)
    times = (root / "seed.bin").stat()
    (root / "seed.bin").write_text("2")
    os.utime(root / "seed.bin", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_of(SPEC, tmp_path) != before


def test_removed_downloads_are_not_missed(root, tmp_path):
    first = load_parts(SPEC, cache=tmp_path)
    (root / "seed.bin").unlink()
    again = load_parts(SPEC, cache=tmp_path)
    assert again.content == first.content
    assert again.hashes == first.hashes


@pytest.mark.parametrize("text", ["", "[]", '{"seed.bin": 3}', '{"seed.bin": [1, 2, 3, "x"]}', "\x00"])
def test_notes_of_what_was_hashed_are_not_trusted(root, tmp_path, text):
    load_parts(SPEC, cache=tmp_path)
    before = content_of(SPEC, tmp_path)
    (root.parent / "torch_cifar10.files.json").write_text(text)
    assert content_of(SPEC, tmp_path) == before


def test_a_change_while_it_is_decoded_is_noticed(root, tmp_path):
    load_parts(SPEC, cache=tmp_path)
    (root / "seed.bin").write_text("2")

    def change(text):
        if "decoding" in text:
            (root / "seed.bin").write_text("3")

    with pytest.raises(DpbenchError, match="changed while the run went on"):
        load_parts(SPEC, cache=tmp_path, progress=change)


def test_finished_units_on_other_files_run_again(root, tmp_path):
    content = load_parts(SPEC, cache=tmp_path).content
    protocol = SimpleNamespace(data=lambda unit: {"dataset": (SPEC, "mark")})
    records = {
        "same": SimpleNamespace(data_files={"dataset": content}),
        "other": SimpleNamespace(data_files={"dataset": "0" * 64}),
        "unknown": SimpleNamespace(data_files={}),
    }
    moved = Exchanged(protocol, tmp_path)
    found = {name: moved.of(SimpleNamespace(), record) for name, record in records.items()}
    assert found == {"same": "", "other": "torch/cifar10", "unknown": ""}
