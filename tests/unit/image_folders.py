"""Folders of small pictures, and what holds for the parts of a data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpbench.data.datasets import load_parts
from dpbench.data.images import content_hash
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def noise(random, height=20, width=20):
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(folder, count, random, ending="png"):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(noise(random)).save(folder / f"{index:03}.{ending}")


def flat_folder(tmp_path):
    """FOLDER/CLASS/*.png: three classes with 20 images each."""
    random = np.random.default_rng(0)
    for name in ("b", "a", "c"):
        fill(tmp_path / "flat" / name, 20, random)
    return tmp_path / "flat"


def divided_folder(tmp_path):
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
