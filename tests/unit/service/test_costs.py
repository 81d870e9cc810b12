"""What a release costs the client: counted on networks whose figures are known, coded by a coder that is lossless."""

import math

import constriction
import numpy as np
import pytest
import torch
from torch import nn

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.service import costs
from dpbench.service.costs import coded_bits, cost_of, encoded, model_of, work_of

HEAD = 8 * 27 * 64
"""Multiply-adds of the client's convolution, 3 to 8 channels of 3x3 pixels at 64 places."""

TAIL = 8 * 64 * 10


@pytest.fixture
def split():
    head = nn.Conv2d(3, 8, 3, padding=1)
    tail = nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 10))
    return SplitModel(head, tail, split_point="conv", image_shape=(3, 8, 8), classes=10).eval()


def work(model):
    return work_of(model.eval(), torch.rand(3, 3, 8, 8), torch.Generator())


class Projected(ProtectedModel):
    """A 1x1 convolution more on the client, and a decoder on the server."""

    def __init__(self, split):
        super().__init__(split)
        self.encoder = nn.Conv2d(8, 2, 1)
        self.decoder = nn.Conv2d(2, 8, 1)

    def transform(self, features, *, generator=None):
        return self.encoder(features)

    def predict(self, released):
        return self.split.server_tail(self.decoder(released))


class Everything(ProtectedModel):
    """The client does it all."""

    def transform(self, features, *, generator=None):
        return self.split.server_tail(features)

    def predict(self, released):
        return released


class Noisy(ProtectedModel):
    """Adds one of ten learned tensors."""

    def __init__(self, split):
        super().__init__(split)
        self.register_buffer("tensors", torch.rand(10, 8, 8, 8))

    def transform(self, features, *, generator=None):
        chosen = torch.randint(10, (len(features),), generator=generator)
        return features + self.tensors[chosen]


def test_an_undefended_client_costs_its_head_and_nothing_more(split):
    found = work(ProtectedModel(split))
    assert (found.client, found.server, found.stored) == (HEAD, TAIL, 8 * 27 + 8)
    assert found.share == HEAD / (HEAD + TAIL)
    assert 0 < found.milliseconds < 1000
    assert cost_of(found, found, 7).model_dump() == {
        "multiply_adds": HEAD,
        "added_multiply_adds": 0,
        "parameters": 224,
        "added_parameters": 0,
        "coded_bits": 7,
    }


def test_what_a_defense_computes_on_the_client_counts_and_what_it_leaves_to_the_server_does_not(split):
    bare, projected = work(ProtectedModel(split)), work(Projected(split))
    cost = cost_of(projected, bare, None)
    assert cost.added_multiply_adds == 2 * 8 * 64
    assert cost.added_parameters == 2 * 8 + 2
    assert projected.server == TAIL + 8 * 2 * 64


def test_a_client_that_does_everything_has_the_whole_share(split):
    found = work(Everything(split))
    assert found.share == 1
    assert found.client == HEAD + TAIL
    assert found.stored == 224 + 8 * 64 * 10 + 10


def test_tensors_that_a_client_has_to_hold_count_as_parameters(split):
    cost = cost_of(work(Noisy(split)), work(ProtectedModel(split)), None)
    assert (cost.added_multiply_adds, cost.added_parameters) == (0, 10 * 8 * 64)


def test_a_client_may_cost_less_than_the_undefended_one(split):
    small = SplitModel(nn.Conv2d(3, 8, 1), split.server_tail, split_point="x", image_shape=(3, 8, 8), classes=10)
    cost = cost_of(work(ProtectedModel(small)), work(ProtectedModel(split)), None)
    assert cost.added_multiply_adds == -8 * 24 * 64


def test_a_network_without_products_has_no_share():
    split = SplitModel(nn.Identity(), nn.Flatten(), split_point="x", image_shape=(3, 8, 8), classes=192)
    assert work(ProtectedModel(split)).share == 0


def test_the_median_of_the_times_counts_and_the_first_call_does_not(monkeypatch):
    times = iter([0, 9, 10, 11, 20, 23, 30, 30.5, 40, 42, 50, 52.5])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(times))
    assert costs.median_milliseconds(lambda: None, torch.device("cpu")) == 2000


# bits


def test_the_coder_is_lossless_and_as_short_as_the_entropy():
    probability = np.array([0.7, 0.2, 0.05, 0.05])
    symbols = np.random.default_rng(0).choice(4, size=20_000, p=probability)
    counts = np.bincount(symbols)
    words = encoded(symbols, counts)
    decoder = constriction.stream.queue.RangeDecoder(words)
    assert np.array_equal(decoder.decode(model_of(counts), len(symbols)), symbols)
    share = counts / counts.sum()
    entropy = -(share * np.log2(share)).sum() * len(symbols)
    assert entropy <= 32 * len(words) <= entropy + 64


def test_rare_levels_cost_what_they_say_and_a_table():
    generator = torch.Generator().manual_seed(0)
    integers = (torch.rand(50, 1000, generator=generator) < 0.1).to(torch.int8)  # entropy 0.469 bits
    bits = coded_bits(integers, 8000, torch.int8)
    assert 0.46 * 1000 < bits < 0.48 * 1000
    assert coded_bits(integers.float(), 8000, torch.int8) == bits  # what they mean is as many values
    assert coded_bits(torch.zeros(50, 1000, dtype=torch.int8), 8000, torch.int8) == 1  # a table of one, over 50 images


def test_sparse_floats_cost_their_places_and_their_values():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 1000, generator=generator)
    sparse = values * (torch.rand(40, 1000, generator=generator) < 0.1)
    bits = coded_bits(sparse, 32_000, torch.float32)
    assert 469 + 100 * 22 < bits < 469 + 100 * 32
    dense = coded_bits(values, 32_000, torch.float32)
    assert 22_000 < dense < 29_000
    half = coded_bits(values.half(), 16_000, torch.float16)
    assert 10_000 < half < 16_000


def test_coded_bits_are_never_more_than_a_fixed_length():
    assert coded_bits(torch.randn(1, 2), 64, torch.float32) == 64
    bits = torch.randint(0, 256, (4, 5), generator=torch.Generator().manual_seed(0)).float()
    assert coded_bits(bits, 40, torch.uint8) == 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_are_coded(dtype):
    values = torch.zeros(4, 500, dtype=dtype)
    values[:, :50] = 1.5
    fixed = 500 * 8 * dtype.itemsize
    assert math.ceil(0.4 * 500) < coded_bits(values, fixed, dtype) < 0.6 * 500


def test_wide_releases_are_coded_by_fewer_images(monkeypatch):
    monkeypatch.setattr(costs, "CODED_VALUES", 2000)
    values = torch.cat([torch.ones(2, 1000), torch.randn(6, 1000)])
    assert coded_bits(values, 32_000, torch.float32) < 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(12, 3, 4), (1, 1), (70, 5)])
def test_releases_of_zeros_alone_are_coded_too(dtype, shape):
    zeros = torch.zeros(shape, dtype=dtype)
    fixed = zeros[0].numel() * dtype.itemsize * 8
    assert 0 <= coded_bits(zeros, fixed, dtype) <= fixed
