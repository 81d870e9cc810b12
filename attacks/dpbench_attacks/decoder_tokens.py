"""The decoder for tokens: a transformer that turns each back into its patch of pixels."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.plugins.registry import register
from dpbench.toolkit.inverse_network import FeatureInverse, InverseNetwork, features_on_grid
from dpbench.toolkit.inverse_training import VERSION, InverseTraining
from dpbench.toolkit.inversion import pooled, victim_releases
from dpbench.toolkit.linear_inverse import LinearInverse
from dpbench.toolkit.view import viewed

GRID = 8
"""Positions a side where features lie on no grid."""

HEAD = 32
"""Channels of each head of attention."""

SPREAD = 64
"""Channels of the grid over which values are spread that lie on none."""

FINEST = 32
"""Positions a side of the finest grid whose positions are tokens; of a finer one several make a token."""


@register
class TokenDecoder(InverseTraining, Attack):
    """An inverse network of transformer layers, trained as `decoder` is.

    Lei et al. 2025, "DRAG: data reconstruction attack using guided diffusion", its detokenizer: a linear layer, learned
    positions, transformer layers, a linear layer to the pixels of each patch. Every token sees all others, so that
    what a token holds of its neighbours, or a class token of all, comes back to its place. Differs: the training of
    `decoder` (L1 and SSIM, one-cycle AdamW without long warm-up, whitened features, fewer images per step); pre-norm
    layers of a smaller width; a linear path beside them; features of any layout, of which positions are tokens;
    averaged weights.
    """

    name: ClassVar[str] = "decoder-tokens"
    version: ClassVar[int] = VERSION
    paper: ClassVar[str] = "https://arxiv.org/abs/2509.11724"
    needs: ClassVar[Needs] = "query"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"steps": 0.25, "width": 0.5, "layers": 0.5},
        "large": {"steps": 2, "width": 1.5, "layers": 1.5},
    }

    learning_rate: float = Field(1e-3, gt=0, le=0.1, description="peak of the one-cycle schedule, AdamW")
    width: int = Field(256, ge=8, le=1024, description="of a token")
    layers: int = Field(4, ge=1, le=32, description="of the transformer")
    average: float = Field(0.99, ge=0, lt=1, description="decay of the mean of the weights over the steps; 0: the last")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Train (or remember) the inverse network and apply it: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        training = self.within(seen)
        return training.apply(training.trained(seen), pooled(victim_releases(seen)))

    def network(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> FeatureInverse:
        """The untrained network for features (N, *feature_shape) and images (N, *image_shape)."""
        return Detokenizer(feature_shape, image_shape, width=self.width, layers=self.layers)

    def dense_network(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> nn.Sequential:
        """As in `decoder`: what refines the small images of a linear map are convolutions."""
        linear = LinearInverse(feature_shape, image_shape)
        refining = InverseNetwork(linear.small_shape, image_shape, width=self.width // 2, blocks=self.blocks)
        return nn.Sequential(linear, refining)


class Detokenizer(FeatureInverse):
    """Released features of any layout -> images, through transformer layers over their positions.

    Prefix tokens, such as a class token, are seen by all positions; values that lie on no grid are spread over one.

    Args:
        feature_shape: released features without the batch axis.
        image_shape: (3, H, W).
        width: of a token.
        layers: of the transformer.
    """

    def __init__(
        self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int], *, width: int, layers: int
    ) -> None:
        super().__init__(feature_shape, image_shape)
        grid = features_on_grid(torch.empty(1, *feature_shape, device="meta"), self.image_size)
        width = max(HEAD, width // HEAD * HEAD)
        self.spread: nn.Module | None = None
        if grid is None:
            sides = (min(GRID, self.image_size[0]), min(GRID, self.image_size[1]))
            values, channels = math.prod(feature_shape), SPREAD
            self.spread = nn.Sequential(
                nn.Linear(values, min(values, 512)), nn.Linear(min(values, 512), channels * math.prod(sides))
            )
        else:
            channels, sides = grid.shape[1], (grid.shape[2], grid.shape[3])
        coarser = max(1, math.ceil(max(sides) / FINEST))
        self.enter = nn.Conv2d(channels, width, coarser, coarser)
        self.sides = sides
        self.tokens = (sides[0] // coarser, sides[1] // coarser)
        self.patch = tuple(math.ceil(whole / count) for whole, count in zip(self.image_size, self.tokens, strict=True))
        # on no grid but in tokens: their order says nothing of places
        self.prefix = len(feature_shape) == 2 and grid is not None and feature_shape[0] > math.prod(sides)
        self.enter_prefix = nn.Linear(feature_shape[-1], width) if self.prefix else None
        self.positions = nn.Parameter(torch.zeros(1, math.prod(self.tokens), width))
        self.layers = nn.Sequential(*(Layer(width) for _ in range(layers)))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * math.prod(self.patch)))
        self.linear = nn.Linear(channels * coarser**2, 3 * math.prod(self.patch))

    def standardise(self, released: Tensor, images: Tensor) -> None:
        """Take the statistics of both ends, and start small."""
        super().standardise(released, images)
        with torch.no_grad():
            for layer in self.layers:
                assert isinstance(layer, Layer)
                layer.out.weight.mul_(0.1)
                layer.second.weight.mul_(0.1)
            for last in (self.linear, self.leave[1]):
                assert isinstance(last, nn.Linear)
                last.weight.mul_(0.1)

    def forward(self, released: Tensor) -> Tensor:
        """Released features (N, ...) -> images (N,3,H,W), about [0,1] but not clamped."""
        units = self.whitening(released)
        if self.spread is not None:
            grid = self.spread(units.flatten(1)).unflatten(1, (-1, *self.sides))
        else:
            on_grid = features_on_grid(units, self.image_size)
            assert on_grid is not None
            grid = on_grid.contiguous()
        x = self.enter(grid).flatten(2).transpose(1, 2) + self.positions
        if self.enter_prefix is not None:
            x = torch.cat([self.enter_prefix(units[:, : -math.prod(self.sides)]), x], 1)
        x = self.layers(x)[:, -math.prod(self.tokens) :]
        patches = functional.unfold(grid, self.enter.kernel_size, stride=self.enter.stride).transpose(1, 2)
        pixels = self.leave(x) + self.linear(patches)
        rows = pixels.unflatten(1, self.tokens).unflatten(3, (3, *self.patch))  # (N,h,w,3,p,q)
        painted = rows.permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
        return self.resize(painted) + self.image_mean


class Layer(nn.Module):
    """Self-attention over tokens (N,L,C), then a perceptron on each; normalised before both.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.norm_second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N,L,C) -> (N,L,C)."""
        parts = self.look(self.norm(x)).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)  # (3,N,heads,L,HEAD)
        seen = functional.scaled_dot_product_attention(*parts)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        moved: Tensor = x + self.second(functional.gelu(self.first(self.norm_second(x))))
        return moved
