"""What the server can compute, the attacker can: codes that the server undoes hide nothing from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import piq
import pytest
import torch
from attacked_clients import ConvHead, Silent, observe, psnr_db, run
from coding import CODES, CodedModel, KeyedNoise, Rows
from torch import Tensor, nn
from torch.nn import functional

from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.service.taps import Sent, TappedServer
from dpbench.toolkit.view import viewed

CPU = torch.device("cpu")


class Tail(nn.Module):
    """(N,12,8,8) -> (N,2), through layers of half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 3, stride=2, padding=1)
        self.last = nn.Linear(12, 2)
        for weight in (self.conv.weight, self.last.weight):
            nn.init.kaiming_normal_(weight, generator=derive_generator(CPU, "tail"))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.last(functional.relu_(self.conv(features)).mean((2, 3)))
        return logits


def split() -> SplitModel:
    return SplitModel(ConvHead(), Tail(), split_point="head", image_shape=(3, 16, 16), classes=2)


def built(code: type) -> ProtectedModel:
    model: ProtectedModel = code().build(split()).eval().requires_grad_(False)
    return model


def seen_through(model: ProtectedModel, *, trusted: bool = False) -> tuple[Observation, Tensor]:
    """An observation of this client that grants everything, the server too."""
    seen, victims = observe()
    draws = derive_generator(CPU, "queries")

    @torch.no_grad()
    def query(images: Tensor) -> Tensor:
        return model.release(images, generator=draws)

    seen = replace(
        seen,
        released=query(victims),
        query=query,
        client=WhiteBox(model),
        undefended=ProtectedModel(split()).eval(),
        server=None if trusted else TappedServer(model),
    )
    return seen, victims


@pytest.fixture(scope="module")
def undefended() -> float:
    seen, victims = seen_through(ProtectedModel(split()).eval())
    return float(piq.ssim(run("decoder", seen), victims))


@pytest.mark.parametrize("code", [*CODES.values(), Rows], ids=lambda code: code.name)
def test_what_the_server_undoes_hides_nothing(code: type, undefended: float) -> None:
    seen, victims = seen_through(built(code))
    assert piq.ssim(run("decoder", seen), victims) > 0.9 * undefended, seen.notes


@pytest.mark.parametrize("code", ["lattice", "xor"])
def test_a_white_box_bites_through_the_server_too(code: str) -> None:
    seen, victims = seen_through(built(CODES[code]))
    images = run("rmle", seen)
    assert psnr_db(images, victims) > psnr_db(run("mean-image", seen), victims) + 6, seen.notes
    assert seen.notes["converged"] is True


@pytest.mark.parametrize("code", ["keyed-by-itself", "key-in-a-channel", "feistel", "shuffle"])
def test_a_static_attacker_recognises_the_features(code: str) -> None:
    model = built(CODES[code])
    seen, _ = seen_through(model)
    honest, _ = observe()
    static = viewed(replace(seen, query=honest.query, client=honest.client, adaptive=False))
    clean = model.features(observe()[1])
    assert str(seen.notes["view"]).startswith("tap")
    assert (static.released - clean).abs().mean() < 0.05 * clean.abs().mean()


@pytest.mark.parametrize("code", ["tiny", "below", "spikes", "pattern"])
def test_scale_precision_and_outliers_hide_nothing_even_where_the_server_is_trusted(
    code: str, undefended: float
) -> None:
    seen, victims = seen_through(built(CODES[code]), trusted=True)
    assert piq.ssim(run("decoder", seen), victims) > 0.9 * undefended
    assert "view" not in seen.notes


class FixedOrder(ProtectedModel):
    """All values in an order that only the server knows, which this suite trusts."""

    def order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=derive_generator(CPU, "order"))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        flat = features.flatten(1)
        return flat[:, self.order(flat.shape[1])].view_as(features)


class FixedPlaces(FixedOrder):
    """All positions in a secret order, the channels of each together."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        flat = features.flatten(2)
        return flat[:, :, self.order(flat.shape[2])].view_as(features)


class Rotated(ProtectedModel):
    """Every value a mixture of all."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        flat = features.flatten(1)
        rotation = torch.randn(flat.shape[1], flat.shape[1], generator=derive_generator(CPU, "rotation"))
        return (flat @ torch.linalg.qr(rotation).Q).view_as(features)


class NoisyOrder(FixedOrder):
    """A secret order, and noise that alone hides little."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        noise = 0.1 * torch.randn(features.shape, generator=generator)
        return super().transform(features + noise)


@pytest.mark.parametrize("model", [FixedOrder, FixedPlaces, Rotated, NoisyOrder])
def test_a_fixed_order_hides_nothing_even_where_the_server_is_trusted(
    model: type[ProtectedModel], undefended: float
) -> None:
    seen, victims = seen_through(model(split()).eval().requires_grad_(False), trusted=True)
    assert piq.ssim(run("decoder", seen), victims) > 0.9 * undefended, seen.notes
    assert seen.notes["converged"]
    assert "linear_loss" in seen.notes


def test_a_white_box_starts_from_the_linear_map() -> None:
    seen, victims = seen_through(FixedOrder(split()).eval().requires_grad_(False), trusted=True)
    assert psnr_db(run("rmle", seen), victims) > psnr_db(run("mean-image", seen), victims) + 6, seen.notes


class Noisy(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + torch.randn(features.shape, generator=generator)


@pytest.mark.parametrize("model", [ProtectedModel, Noisy, Silent])
def test_the_release_is_kept_where_its_server_shows_no_more(model: type[ProtectedModel]) -> None:
    seen, _ = seen_through(model(split()).eval())
    assert viewed(seen) is seen
    assert seen.notes["view"] == "release"


def test_a_tap_invents_nothing() -> None:
    seen, victims = seen_through(Silent(split()).eval())
    others = replace(seen, released=seen.released.roll(1, 0))
    floor = psnr_db(run("mean-image", seen), victims)
    assert psnr_db(run("decoder", others, steps=2), victims) < floor + 0.5


def test_a_trusted_server_shows_nothing() -> None:
    seen, _ = seen_through(built(KeyedNoise), trusted=True)
    assert viewed(seen) is seen
    assert "view" not in seen.notes


def test_taps_are_what_predict_computes_in_order() -> None:
    model = ProtectedModel(split()).eval()
    released = model.features(observe()[1]).detach().requires_grad_(True)
    server = TappedServer(model)
    taps = server.activations(released)
    conv = model.split.server_tail.conv(released)  # type: ignore[operator,union-attr]
    assert torch.equal(taps[0], released)
    assert torch.equal(taps[1], conv)  # as it was before it was changed in place
    assert torch.equal(taps[2], functional.relu(conv))
    assert torch.equal(taps[-1], model.predict(released))
    for place, tap in enumerate(taps):
        assert torch.equal(server.activation(released, place), tap)
    (gradient,) = torch.autograd.grad(server.activation(released, 1).sum(), released)
    assert gradient.abs().sum() > 0
    assert not model.split.server_tail._forward_hooks


class ByHand(CodedModel):
    """Its tail is no module that is called."""

    def predict(self, released: Tensor) -> Tensor:
        tail: Any = self.split.server_tail
        features = self.code.decode(released)
        maps = functional.conv2d(features, tail.conv.weight, tail.conv.bias, stride=2, padding=1)
        logits: Tensor = maps.relu().mean((2, 3)) @ tail.last.weight.T + tail.last.bias
        return logits


class Moody(ProtectedModel):
    """Takes as many steps as the values say, and a row at a time."""

    def predict(self, released: Tensor) -> Tensor:
        rows = []
        for row in released.split(1):
            for _ in range(int(row.abs().sum()) % 3):
                row = row + 1
            rows.append(self.split.server_tail(row))
        return torch.cat(rows)


def test_a_tail_that_is_no_module_is_seen() -> None:
    model = ByHand(split(), CODES["feistel"]()).eval()
    seen, _ = seen_through(model)
    assert viewed(seen).released.shape == seen.released.shape
    assert str(seen.notes["view"]).startswith("tap")


def test_steps_that_depend_on_the_values_are_counted_from_the_end() -> None:
    model = Moody(split()).eval()
    released = model.features(observe()[1]).detach()
    taps = TappedServer(model).activations(released)
    torch.testing.assert_close(taps[-1], model.predict(released))
    assert torch.equal(taps[0], released)


class Growing(ProtectedModel):
    """Takes many images one by one, and few together."""

    def predict(self, released: Tensor) -> Tensor:
        rows = released.split(1 if len(released) > 3 else len(released))
        return torch.cat([self.split.server_tail(row) for row in rows])


def test_a_server_that_changes_its_steps_is_an_error_not_a_low_figure() -> None:
    model = Growing(split()).eval()
    with pytest.raises(DpbenchError, match="something else"):
        TappedServer(model).activations(model.features(observe()[1]).detach())


class Bytes(ProtectedModel):
    """Sends 8-bit integers, each XOR a key, whose meaning nobody but the server knows."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return ((features * 32 + 128).round().clamp(0, 255).to(torch.uint8)) ^ 0x5A

    def predict(self, released: Tensor) -> Tensor:
        return super().predict(((released ^ 0x5A).float() - 128) / 32)


def test_a_server_that_is_sent_integers_is_looked_at_from_its_first_step() -> None:
    model = Bytes(split()).eval()
    clean = model.features(observe()[1])
    sent = model.transform(clean)
    server = Sent(TappedServer(model), torch.uint8, 1.0, 0.0)
    taps = server.activations(sent.float())
    assert torch.equal(taps[0], sent.float())
    decoded = [place for place, tap in enumerate(taps) if tap.shape == clean.shape and tap.allclose(clean, atol=0.02)]
    assert decoded
    assert torch.equal(server.activation(sent.float(), decoded[0]), taps[decoded[0]])
