"""The diffusion models that an attack is guided by: a small one to train, or one from a folder of `diffusers`."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError, reason
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

PIPELINE = {
    "weights": "unet/diffusion_pytorch_model.safetensors",
    "unet_config": "unet/config.json",
    "scheduler_config": "scheduler/scheduler_config.json",
}
"""What is read of a pipeline's folder."""

PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""What a model may predict: the noise, the image, or the velocity of Salimans & Ho 2022."""


def assert_diffusers() -> None:
    """The package `diffusers` is installed, and what is used of it can be imported.

    Raises:
        DpbenchError: it is not, or cannot.
    """
    try:
        package = importlib.import_module("diffusers")
        _ = package.UNet2DModel, package.DDIMScheduler  # it imports them only now
    except Exception as error:  # a package that lacks another raises what it likes
        raise DpbenchError(
            f"the package diffusers is needed and cannot be imported ({reason(error)}); run "
            "`pip install diffusers`, or leave the attack out"
        ) from error


@dataclass(frozen=True)
class Denoiser:
    """A diffusion model of images, scaled to [-1,1].

    Attributes:
        network: noisy images and times -> what it predicts, as `diffusers` gives it.
        alphas: cumulative products, (times,): the share of the image's variance at each time.
        predicts: one of `PREDICTIONS`.
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


def pipeline_files(given: str) -> tuple[str, dict[str, str]]:
    """The model_index.json of a pipeline that is given by it or by its folder, and the files of `PIPELINE`.

    Raises:
        DpbenchError: one of them is not there.
    """
    index = Path(given).expanduser()
    index = index / "model_index.json" if index.is_dir() else index
    files = {name: index.parent / file for name, file in PIPELINE.items()}
    lacks = [PIPELINE[name] for name, path in files.items() if not path.is_file()]
    if index.is_file() and lacks:
        raise DpbenchError(
            f"{index.parent} lacks {', '.join(lacks)}; expected what a pipeline of pixels writes by `save_pretrained`"
        )
    return str(index), {name: str(path) for name, path in files.items()}


def read_pipeline(weights: Path, config: Path, scheduler: Path, image_shape: tuple[int, int, int]) -> Denoiser:
    """The pixel model of a pipeline's folder, on the CPU and in eval mode; its code, if any, is not looked at.

    Raises:
        DpbenchError: it is no `UNet2DModel` of three channels, is for images of another size, does not denoise, or its
            files are damaged.
    """
    from diffusers import DDIMScheduler, UNet2DModel

    told = read_config(config, "UNet2DModel")
    size = told.get("sample_size")
    sides = tuple(size) if isinstance(size, list) else (size, size)
    channels = told.get("in_channels", 3), told.get("out_channels", 3)
    if sides != image_shape[1:] or channels != (3, 3):
        raise DpbenchError(
            f"the diffusion model of {config} takes {channels[0]} channels and paints {channels[1]}, of {size} pixels; "
            f"expected 3 and 3, of {list(image_shape[1:])}: take one like that, or none, to train one"
        )
    try:
        network: nn.Module = UNet2DModel.from_config(told)
        schedule = DDIMScheduler.from_config(read_config(scheduler, "Scheduler"))
        alphas, predicts = schedule.alphas_cumprod.float(), str(schedule.config.prediction_type)
    except DpbenchError:
        raise
    except Exception as error:
        raise DpbenchError(
            f"the diffusion model of {config} and {scheduler.name} cannot be made ({reason(error)}); copy the folder "
            "again, or save it with the diffusers that are installed"
        ) from error
    if predicts not in PREDICTIONS:
        raise DpbenchError(f"{scheduler} has prediction_type = {predicts!r}; expected one of {', '.join(PREDICTIONS)}")
    if not (len(alphas) > 1 and bool(((alphas > 0) & (alphas < 1)).all()) and bool((alphas.diff() <= 0).all())):
        raise DpbenchError(f"{scheduler} has no schedule in which noise grows from next to nothing; copy it again")
    state = read_checkpoint(weights).state
    wrong = misfit(state, network)
    if wrong:
        raise DpbenchError(f"{weights} does not fit {config}: {wrong}")
    network.load_state_dict(state)
    denoiser = Denoiser(network.eval(), alphas, predicts)
    _assert_denoises(denoiser, image_shape, weights)
    return denoiser


@torch.no_grad()
def _assert_denoises(denoiser: Denoiser, image_shape: tuple[int, int, int], weights: Path) -> None:
    try:
        image, _ = denoiser.split(torch.zeros(1, *image_shape), len(denoiser.alphas) // 2)
    except Exception as error:
        raise DpbenchError(
            f"the diffusion model of {weights} fails on an image {image_shape} ({reason(error)}); expected one that is "
            "given noisy images and a time, and nothing else"
        ) from error
    if not bool(image.isfinite().all()):
        raise DpbenchError(f"the diffusion model of {weights} gives values that are not finite; copy it again")


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
