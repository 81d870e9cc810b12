"""Decoded images are kept: what is damaged is noticed and made again."""

import os

import numpy as np
import pytest
import torch
from image_folders import refused, same, spec

from dpbench.data import images
from dpbench.data.datasets import load_parts
from dpbench.errors import DpbenchError


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
