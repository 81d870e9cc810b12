"""How much goes into memory at once."""

import threading
import time

import numpy as np
import pytest
import torch

from dpbench.cells.pipeline import Pipeline
from dpbench.contract.images import LabelledImages
from dpbench.data import images
from dpbench.data.datasets import load_parts
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.machine import memory
from dpbench.machine.memory import Batches, auto_batch_size, is_out_of_memory, parse_batch_size
from dpbench.metrics.recognition import reidentification_ranks
from dpbench.protocols.sharing.pipeline import SharedPipeline

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same images in memory and in a file."""
    spec, cache = DatasetSpec(image_size=16, private=70, auxiliary=20, test=10), tmp_path_factory.mktemp("images")
    return load_parts(spec, cache=cache).private.images, load_parts(spec, cache=cache, room=0).private.images


@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(3, 9),
        slice(-4, None),
        slice(60, 500),
        slice(5, 5),
        slice(0, 30, 7),
        torch.tensor([69, 0, 7, 7]),
        torch.tensor([-1, -70]),
        torch.arange(70) % 3 == 0,
        12,
        -1,
    ],
)
def test_a_file_of_images_reads_as_the_tensor_does(both, index):
    held, filed = both
    assert torch.equal(filed[index], held[index])
    assert filed[index].dtype == torch.float32


def test_a_file_of_images_is_looked_at_like_a_tensor(both):
    held, filed = both
    assert filed.shape == held.shape
    assert len(filed) == len(held)
    assert filed.device == CPU
    assert filed[2:6].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(filed.split(32), held.split(32), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(filed.narrow(0, 10, 20)[torch.tensor([0, 19])], held[torch.tensor([10, 29])])
    assert torch.equal(LabelledImages(filed, torch.zeros(70)).to(CPU).images[:5], held[:5])
    with pytest.raises(IndexError, match="index 70 is out of bounds"):
        filed[torch.tensor([70])]
    with pytest.raises(IndexError):
        filed.narrow(0, 60, 11)


def test_a_gallery_in_parts_gives_the_same_ranks(both):
    held, filed = both
    noise = 0.3 * torch.randn(held.shape, generator=torch.Generator().manual_seed(0))
    guesses = torch.cat([(held + noise)[:30], torch.full((1, 3, 16, 16), 0.5)])
    truth = torch.cat([torch.arange(30), torch.tensor([69])])
    whole = reidentification_ranks(guesses, held, truth)
    assert whole[-1] == 69
    assert torch.equal(reidentification_ranks(guesses, filed, truth, gallery_size=13), whole)


@pytest.mark.parametrize(
    ("size", "total", "batch"),
    [(32, 24 * GIB, 1024), (16, 24 * GIB, 4096), (224, 24 * GIB, 256), (224, 8 * GIB, 128), (512, GIB // 8, 1)],
)
def test_auto_follows_from_the_image_size_and_the_whole_memory(monkeypatch, size, total, batch):
    monkeypatch.setattr(memory, "total_memory", lambda device: total)
    assert auto_batch_size(size, CPU) == batch


def test_the_whole_memory_is_not_what_is_free():
    held = torch.ones(1 << 24)
    assert memory.total_memory(CPU) == memory.total_memory(CPU) > held.nbytes


def test_what_the_command_line_says():
    assert parse_batch_size("auto") is None
    assert parse_batch_size("64") == 64
    for text in ("0", "-1", "abc", "1.5", "", "\u0663"):
        with pytest.raises(DpbenchError, match="expected auto or a whole number of images"):
            parse_batch_size(text)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (np._core._exceptions._ArrayMemoryError((9,), np.dtype("u1")), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (DpbenchError("out of memory"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_allocator_of_this_machine_says_what_we_look_for():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert is_out_of_memory(error.value)


def greedy(limit):
    tried = []

    def stage(size):
        tried.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("no more")
        return size

    return stage, tried


def test_memory_that_runs_out_halves_the_batch():
    batches = Batches(100)
    stage, tried = greedy(30)
    assert batches(stage) == 25
    assert tried == [100, 50, 25]
    assert (batches.smallest, batches.halved) == (25, 2)
    assert batches(lambda size: size) == 100  # another stage starts where every stage does
    assert (batches.smallest, batches.halved) == (25, 2)


def test_not_even_one_image_fits():
    stage, tried = greedy(0)
    with pytest.raises(DpbenchError, match=r"even with one image at a time \(OutOfMemoryError: no more\)"):
        Batches(4)(stage)
    assert tried == [4, 2, 1]


def test_other_errors_are_not_tried_again():
    tried = []

    def stage(size):
        tried.append(size)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Batches(4)(stage)
    assert tried == [4]


def test_decoding_runs_ahead_a_little_and_no_further():
    begun = []
    lock = threading.Lock()

    def decode(item):
        with lock:
            begun.append(item)
        return np.full((3, 2, 2), item, np.uint8)

    decoded = images.in_threads(decode, iter(range(200)), threads=2)
    for taken in range(200):
        assert next(decoded)[0, 0, 0] == taken
        time.sleep(0.001)
        assert len(begun) <= taken + 2 + 2 * images.AHEAD
    assert next(decoded, None) is None


def test_the_first_image_that_cannot_be_decoded_ends_it():
    begun = []

    def decode(item):
        begun.append(item)
        if item == 3:
            raise DpbenchError("image 3 cannot be decoded")
        return np.zeros((3, 2, 2), np.uint8)

    with pytest.raises(DpbenchError, match="image 3"):
        list(images.in_threads(decode, range(10_000), threads=2))
    assert len(begun) < 100


def test_a_batch_of_no_images_is_refused(tmp_path):
    for kind in (Pipeline, SharedPipeline):
        with pytest.raises(DpbenchError, match="batch_size = 0 is not usable; expected 1 or more"):
            kind(torch.device("cpu"), tmp_path, batch_size=0)
