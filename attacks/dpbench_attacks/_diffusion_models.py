"""The diffusion models that an attack is guided by: a small one to train, or one from a folder of `diffusers`."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError
from dpbench.machine.devices import autocast
from dpbench.models.checkpoints import misfit, read_checkpoint

GROUPS = 8
"""Of the normalisation: widths are multiples of it."""

SMALLEST = 4
"""Pixels a side below which nothing is halved further."""

POINTS = 40
"""Of the curve that is kept of a search."""

LONGEST = 1 << 20
"""Bytes of a configuration, at most."""


def assert_diffusers() -> None:
    """The package `diffusers` is installed.

    Raises:
        DpbenchError: it is not.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise DpbenchError(
            "the attack 'diffusion' needs the package diffusers, which is not installed; run "
            "`pip install diffusers`, or leave the attack out"
        )


@dataclass(frozen=True)
class Denoiser:
    """A diffusion model of images, scaled to [-1,1].

    Attributes:
        network: noisy images and times -> what it predicts, as `diffusers` gives it.
        alphas: cumulative products, (times,): the share of the image's variance at each time.
        predicts: `epsilon`, `sample` or `v_prediction`.
    """

    network: nn.Module
    alphas: Tensor
    predicts: str

    def split(self, noisy: Tensor, time: int) -> tuple[Tensor, Tensor]:
        """Noisy images (N,3,H,W) at a time -> the image and the noise that they are made of, each (N,3,H,W)."""
        alpha = float(self.alphas[time])
        with autocast(noisy.device):
            predicted = self.network(noisy, torch.full((len(noisy),), time, device=noisy.device)).sample
        predicted = predicted.float()
        signal, spread = math.sqrt(alpha), math.sqrt(1 - alpha)
        if self.predicts == "epsilon":
            return (noisy - spread * predicted) / signal, predicted
        image = predicted if self.predicts == "sample" else signal * noisy - spread * predicted
        return image, (noisy - signal * image) / spread


def small_unet(image_shape: tuple[int, int, int], width: int) -> nn.Module:
    """An untrained pixel U-Net of `diffusers` for images of this shape, halved up to 3 times, as sides allow."""
    from diffusers import UNet2DModel

    halvings = 0
    while halvings < 3 and all(s % 2 ** (halvings + 1) == 0 and s >> halvings >= 2 * SMALLEST for s in image_shape[1:]):
        halvings += 1
    width = max(GROUPS, width // GROUPS * GROUPS)
    widths = (width, *[2 * width] * halvings)
    network: nn.Module = UNet2DModel(
        sample_size=image_shape[1:],
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        norm_num_groups=GROUPS,
        add_attention=False,
    )
    return network


def linear_alphas(times: int = 1000) -> Tensor:
    """The shares (times,) of Ho et al. 2020."""
    return (1 - torch.linspace(1e-4, 0.02, times)).cumprod(0)


def read_pipeline(weights: Path, config: Path, scheduler: Path, image_shape: tuple[int, int, int]) -> Denoiser:
    """The pixel model of a pipeline's folder; its code, if any, is not looked at.

    Raises:
        DpbenchError: it is no `UNet2DModel` of three channels, for images of another size, or its files are damaged.
    """
    from diffusers import DDIMScheduler, UNet2DModel

    told = read_config(config, "UNet2DModel")
    size = told.get("sample_size")
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    if sides != image_shape[1:] or told.get("in_channels", 3) != 3 or told.get("out_channels", 3) != 3:
        raise DpbenchError(
            f"the diffusion model of {config} paints {told.get('out_channels', 3)} channels of {size}; expected 3 of "
            f"{image_shape[1]}x{image_shape[2]}: take one of that size, or none, to train one"
        )
    try:
        network = UNet2DModel.from_config(told)
        schedule = DDIMScheduler.from_config(read_config(scheduler, "Scheduler"))
    except DpbenchError:
        raise
    except Exception as error:
        raise DpbenchError(
            f"the diffusion model of {config} cannot be made: {type(error).__name__}: {error}"
        ) from error
    state = read_checkpoint(weights).state
    wrong = misfit(state, network)
    if wrong:
        raise DpbenchError(f"{weights} does not fit {config}: {wrong}")
    network.load_state_dict(state)
    return Denoiser(network, schedule.alphas_cumprod.float(), str(schedule.config.prediction_type))


def read_config(path: Path, kind: str) -> dict[str, Any]:
    """A configuration of `diffusers`, whose class is named `...kind`.

    Raises:
        DpbenchError: it is none.
    """
    try:
        told: Any = json.loads(path.read_bytes()[:LONGEST])
    except (OSError, ValueError) as error:
        raise DpbenchError(
            f"{path} is no configuration of diffusers ({type(error).__name__}); copy it again"
        ) from error
    name = told.get("_class_name") if isinstance(told, dict) else None
    if not (isinstance(name, str) and name.endswith(kind)):
        raise DpbenchError(f"{path} is of {name!r}; expected a {kind} of diffusers: only models of pixels are guided")
    return dict(told)
