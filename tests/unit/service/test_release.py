"""What crosses the border between client and attacker."""

import pytest
import torch
from torch import nn

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.errors import DpbenchError
from dpbench.service.release import (
    RELEASE_BATCH,
    Levels,
    checked_images,
    places_bits,
    predict_in_batches,
    release_bits,
    release_in_batches,
    release_to_server,
)
from dpbench.service.same_release import assert_same_release


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count):
    return torch.rand(count, 3, 16, 16, generator=generator(1))


class Observed(ProtectedModel):
    """Releases the images as they are and keeps a diary."""

    def __init__(self):
        super().__init__(SplitModel(nn.Identity(), nn.Flatten(), split_point="x", image_shape=(3, 16, 16), classes=2))
        self.batches = []

    def transform(self, features, *, generator=None):
        self.batches.append(features)
        assert not torch.is_grad_enabled()
        return features


@pytest.mark.parametrize("count", [1, 10, RELEASE_BATCH, 2 * RELEASE_BATCH + 3])
def test_every_batch_looks_the_same_and_the_order_says_nothing(count):
    model, sent = Observed(), images(count)
    released = release_in_batches(model, sent, generator(), generator(2))
    assert torch.equal(released, sent)
    assert {tuple(batch.shape) for batch in model.batches} == {(RELEASE_BATCH, 3, 16, 16)}
    if count >= RELEASE_BATCH:
        assert not torch.equal(model.batches[0], sent[:RELEASE_BATCH])


def test_the_server_s_answers_come_back_in_order():
    model, sent = Observed(), images(150)
    assert torch.equal(predict_in_batches(model, sent, generator()), sent.flatten(1))


class Loaded(torch.Tensor):
    """A tensor that could carry more than numbers."""


@pytest.mark.parametrize(
    ("change", "came"),
    [
        (lambda x: x.as_subclass(Loaded), "Loaded"),
        (lambda x: torch.complex(x, x), "complex64"),
        (lambda x: x.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda x: x.to(torch.uint16), "uint16"),
        (lambda x: x.sum(), "Tensor () torch.float32"),
        (lambda x: x[:5], "(5, 3, 16, 16)"),
        (lambda x: [x], "list"),
    ],
)
def test_only_plain_data_leaves(change, came):
    model = Observed()
    model.transform = lambda features, generator=None: change(features)
    with pytest.raises(DpbenchError, match=r"expected a plain Tensor of float32, .*int8.* or bool") as error:
        release_in_batches(model, images(10), generator(), generator())
    assert came in str(error.value)


def test_the_same_release_whoever_asks():
    model = Observed()
    model.transform = lambda features, generator=None: features + torch.randn(features.shape, generator=generator)
    before = assert_same_release(model, images(10), seed=3)
    assert_same_release(model, images(10), seed=3, before=before)
    model.transform = lambda features, generator=None: features * (2 if torch.is_grad_enabled() else 1)
    with pytest.raises(DpbenchError, match="with gradients than without"):
        assert_same_release(model, images(10), seed=3)
    model.transform = lambda features, generator=None: features
    with pytest.raises(DpbenchError, match="than a moment ago"):
        assert_same_release(model, images(10), seed=3, before=before)


@pytest.mark.parametrize(
    ("features", "bits"),
    [
        (torch.rand(4000, 64, generator=generator()), 64 * 32),
        (torch.rand(4000, 64, generator=generator()).half(), 64 * 14),
        ((torch.rand(4000, 4, 4, generator=generator()) * 3).round(), 16 * 2),
        ((torch.rand(10, 8, generator=generator()) > 0.5).float(), 8),
        (torch.zeros(10, 8), 8),
        (torch.rand(10, 8, generator=generator()), 8 * 32),  # few images, but no levels
    ],
)
def test_bits_are_counted(features, bits):
    assert release_bits(features) == bits


class Counting(ProtectedModel):
    """Releases noisy copies; the server counts what it sees at once."""

    def __init__(self):
        super().__init__(SplitModel(nn.Identity(), nn.Flatten(), split_point="x", image_shape=(3, 16, 16), classes=768))
        self.seen = []

    def transform(self, features, *, generator=None):
        return features + torch.randn(features.shape, generator=generator)

    def predict(self, released):
        self.seen.append(released)
        return super().predict(released)


def to_server(count, **changes):
    client, server = Counting(), Counting()
    arguments = {"releases": 2, "kept": 100, "window": 1 << 20, "generator": generator(), "order": generator(2)}
    return release_to_server(client, server, images(count), **arguments | changes), server


@pytest.mark.parametrize("count", [10, 64, 300])
def test_the_server_predicts_from_the_very_release_that_is_kept(count):
    released, server = to_server(count, kept=count)
    order, draws = generator(2), generator()
    orders = [torch.randperm(count, generator=order) for _ in range(2)]
    for features, shuffled in zip(released.features, orders, strict=True):
        full = shuffled[torch.arange(-(-count // RELEASE_BATCH) * RELEASE_BATCH) % count]
        noise = torch.cat([torch.randn(64, 3, 16, 16, generator=draws) for _ in full.split(64)])[:count]
        torch.testing.assert_close(features, images(count) + noise[shuffled.argsort()])
    logits = released.features[0].flatten(1)
    assert torch.equal(released.guesses[:, 0], logits.argmax(1))
    assert torch.equal(released.guesses[:, :5].sort().values, logits.topk(5).indices.sort().values)
    assert torch.equal(torch.cat(server.seen), released.features[0][torch.randperm(count, generator=order)])
    assert released.bits == release_bits(released.features[0])


@pytest.mark.parametrize("window", [64, 128, 256])
def test_a_release_in_windows_is_the_same_release(window):
    whole, together = to_server(300)
    released, server = to_server(300, window=window)
    assert all(torch.equal(one, other) for one, other in zip(released.features, whole.features, strict=True))
    assert {len(features) for features in released.features} == {100}
    assert torch.equal(released.guesses, whole.guesses)
    assert released.bits == whole.bits
    # the server sees each image once, in an order that is not that of the release
    seen, before = torch.cat(server.seen), torch.cat(together.seen)
    assert not torch.equal(seen, before)
    assert torch.equal(seen.flatten(1).sum(1).sort().values, before.flatten(1).sum(1).sort().values)
    assert {len(features) for features in server.seen} <= {64, 300 % 64}


def test_what_is_not_finite_is_refused_in_any_window():
    client = Counting()
    client.transform = lambda features, generator=None: features / (features.amax((1, 2, 3), keepdim=True) < 0.9999)
    with pytest.raises(DpbenchError, match="NaN or infinite"):
        release_to_server(
            client, Counting(), images(300), releases=1, kept=1, window=64, generator=generator(), order=generator()
        )


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(2, 3, 4, 4), ""),
        (torch.full((2, 3, 4, 4), 1.002), ""),
        (torch.full((2, 3, 4, 4), 255.0), "100.0% of its values, from 255 to 255"),
        (torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4), "50.0% of its values, from -1 to 1"),
    ],
)
def test_what_is_clamped_is_said(images, words):
    clamped, said = checked_images(images, torch.zeros(2, 3, 4, 4), "mine")
    assert said == words
    assert (clamped.min() >= 0) & (clamped.max() <= 1)


def test_a_sparse_release_costs_its_values_and_their_places() -> None:
    features = torch.zeros(30, 4, 5)
    features[:20, 0, :3] = torch.tensor([1.0, 2.0, 3.0])
    features[20, 0, 0] = 2.0
    levels = Levels(sparse=True)
    levels.add(features)
    # four different values with the zero: two bits; C(20, 3) = 1140
    assert levels.bits(features) == 3 * 2 + 11
    assert release_bits(features) == 20 * 2
    dense = Levels(sparse=True)
    dense.add(features + 1)
    assert dense.bits(features + 1) == 20 * 2


@pytest.mark.parametrize(("values", "chosen", "bits"), [(20, 0, 0), (20, 20, 0), (2, 1, 1), (20, 3, 11), (4, 2, 3)])
def test_places_of_chosen_values(values: int, chosen: int, bits: int) -> None:
    assert places_bits(values, chosen) == bits
