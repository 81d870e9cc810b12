"""Clients that hide nothing, or something, what an attack sees of them, and quick attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import piq
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import attacks

CPU = torch.device("cpu")


SIDE = 16


VICTIMS = 6


DECODER = {"decoder_steps": 30, "decoder_width": 32, "decoder_blocks": 1, "decoder_batch_size": 32}


TINY: dict[str, dict[str, Any]] = {
    "decoder": {"steps": 96, "width": 32, "blocks": 1, "batch_size": 32},
    "rmle": {"steps": 60, "decoder_steps": 30, "decoder_width": 32, "decoder_blocks": 1, "decoder_batch_size": 32},
    "fuse": {
        **{"steps": 30, "rounds": 1, "held_out": 8, "trials": 2, "finalists": 2, "nearness": (1.0, 100.0)},
        **{"total_variation": (0.01, 1.0), "decoder_steps": 30, "decoder_width": 32, "decoder_blocks": 1},
    },
    "fora": {"steps": 20, "batch_size": 16, **DECODER},
    "reorder": {"steps": 20, "width": 16, "layers": 1, "batch_size": 16, **DECODER},
    "mixture": {"repeats": 16, "stations": 3, "stops": 2, **DECODER},
    "flow": {"steps": 20, "width": 8, "batch_size": 16, **DECODER},
    "dip": {"steps": 120, "width": 8, "trials": 2},
    "gan": {"training_steps": 20, "width": 8, "pool": 64, "restarts": 2, "search_steps": 3, "refine_steps": 60},
    "gan-faces": {"pool": 16, "restarts": 1, "search_steps": 2, "refine_steps": 60},
    "gan-progressive": {"training_steps": 20, "width": 8, "pool": 64, "steps": 12, "encoder_steps": 20},
    "gan-cma": {"training_steps": 20, "width": 8, "pool": 64, "generations": 50, "correction": 0.3},
    "decoder-tokens": {"steps": 40, "width": 32, "layers": 1, "batch_size": 16},
    "diffusion": {"training_steps": 8, "width": 8, "steps": 4, "recurrences": 1, **DECODER},
    "unsplit": {"rounds": 2, "substitutes": 1, "image_steps": 5, "model_steps": 5},
}
"""Parameters that make an attack quick; an attack that is not here runs with its defaults."""


def smooth_images(count: int, *, seed: str, height: int = SIDE, width: int = SIDE) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=derive_generator(CPU, seed))
    return functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


class ConvHead(nn.Module):
    """(N,3,H,W) -> (N,12,H/2,W/2), invertible enough that every attack should succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 2, stride=2)
        nn.init.orthogonal_(self.conv.weight.data.view(12, 12), generator=derive_generator(CPU, "head"))
        nn.init.zeros_(self.conv.bias)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.conv(images * 2 - 1)
        return functional.leaky_relu(features, 0.5)


class TokenHead(ConvHead):
    """(N,3,H,W) -> (N, prefix + H/2 * W/2, 12)."""

    def __init__(self, prefix: int = 1, drop: int = 0) -> None:
        super().__init__()
        self.prefix, self.drop = prefix, drop

    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images).flatten(2).transpose(1, 2)
        prefix = tokens.mean(1, keepdim=True).expand(-1, self.prefix, -1)
        return torch.cat([prefix, tokens[:, self.drop :]], 1)


class FlatHead(ConvHead):
    """(N,3,H,W) -> (N,D)."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flatten(1)


class NoisyModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + 0.3 * torch.randn(features.shape, generator=generator)


class LoudModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + 0.8 * torch.randn(features.shape, generator=generator)


class MaskedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features * (torch.rand(features.shape, generator=generator) < 0.5) * 2


class PrunedModel(ProtectedModel):
    """Two of twelve channels are always zero, and a third is but for few images."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        channels = torch.arange(12)[:, None, None]
        rare = features.mean((1, 2, 3), keepdim=True) > 0.4
        return features * ((channels > 2) | ((channels == 2) & rare))


class QuantisedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return (features * 8).round() / 8


class SparseModel(ProtectedModel):
    """The tenth of the values that is largest, as it is."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        flat = features.flatten(1)
        least = flat.abs().kthvalue(round(0.9 * flat.shape[1]), 1, keepdim=True).values
        return (flat * (flat.abs() > least)).view_as(features)


class SparseNoisyModel(SparseModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        kept = super().transform(features)
        return kept + 0.2 * torch.randn(features.shape, generator=generator)


class ShrunkModel(ProtectedModel):
    """Values nearer to zero by one, those that were within one of it zero (Donoho 1995, soft thresholding)."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return functional.softshrink(features, 1.0)


class DetachedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features.detach().clone()


class ShatteredModel(ProtectedModel):
    """Hardly other values, and a gradient that is fifty times what it should be, of either sign."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + 0.05 * features.std() * torch.sin(1000 * features)


class StarvingModel(ProtectedModel):
    """The right values and direction, a gradient that is a billionth of what it should be."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features.detach() + 1e-9 * (features - features.detach())


class MixedModel(ProtectedModel):
    """An orthogonal mixture of the channels, in which most directions all but vanish."""

    def __init__(self, split: SplitModel) -> None:
        super().__init__(split)
        mixture = torch.empty(12, 12)
        nn.init.orthogonal_(mixture, generator=derive_generator(CPU, "mixture"))
        sizes = torch.tensor([1.0] * 2 + [0.02] * 10)
        self.register_buffer("mixture", mixture @ torch.diag(sizes) @ mixture.T)

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return (features.movedim(1, -1) @ self.mixture).movedim(-1, 1)


HEADS: dict[str, Callable[[], nn.Module]] = {
    "conv": ConvHead,
    "tokens": TokenHead,
    "tokens without a grid": lambda: TokenHead(prefix=0, drop=3),
    "flat": FlatHead,
}


def remember(
    name: str,
    train: Callable[[torch.Generator], dict[str, Tensor]],
    depends_on: Literal["auxiliary", "query"],
    *,
    owner: tuple[str, str] | None = None,
) -> dict[str, Tensor]:
    return train(derive_generator(CPU, name, depends_on))


def observe(
    model: type[ProtectedModel] = ProtectedModel,
    head: nn.Module | None = None,
    *,
    height: int = SIDE,
    width: int = SIDE,
    releases: int = 1,
) -> tuple[Observation, Tensor]:
    """An observation that grants everything, and the victims it is about."""
    shape = (3, height, width)
    split = SplitModel(head or ConvHead(), nn.Identity(), split_point="head", image_shape=shape, classes=2)
    client = model(split).eval().requires_grad_(False)
    victims = smooth_images(VICTIMS, seed="victims", height=height, width=width)
    auxiliary = smooth_images(320, seed="auxiliary", height=height, width=width)
    draws = derive_generator(CPU, "queries")

    @torch.no_grad()
    def query(images: Tensor) -> Tensor:
        return client.release(images, generator=draws)

    seen = Observation(
        released=query(victims),
        again=tuple(query(victims) for _ in range(releases - 1)),
        image_shape=shape,
        auxiliary=LabelledImages(auxiliary, torch.zeros(len(auxiliary), dtype=torch.int64)),
        query=query,
        client=WhiteBox(client),
        remember=remember,
    )
    return seen, victims


def run(name: str, seen: Observation, seed: str = "attack", **arguments: object) -> Tensor:
    attack = configure(attacks()[name], TINY.get(name, {}) | arguments)
    return attack.reconstruct(seen, generator=derive_generator(CPU, seed))


def psnr_db(images: Tensor, victims: Tensor) -> float:
    return float(piq.psnr(images, victims))


def check_images(images: Tensor, seen: Observation) -> None:
    assert images.shape == (len(seen.released), *seen.image_shape)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.max() <= 1


class Silent(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros_like(features)


class Frozen(ProtectedModel):
    """Nothing passes a gradient, not even what would be before the defense."""

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        return super().features(images)


class Liar(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.randn(gradient.shape, generator=derive_generator(CPU, "lies")) * gradient.norm()


class LyingModel(ProtectedModel):
    """The backward pass is noise, also that of the features before the defense."""

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = Liar.apply(super().features(images))
        return features
