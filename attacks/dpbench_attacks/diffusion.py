"""A diffusion model as the prior: its denoising is guided by how far the release of its image is off."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.plugin import File
from dpbench.contract.threat import Needs
from dpbench.errors import DpbenchError
from dpbench.machine.devices import autocast, place
from dpbench.models.training import average_weights, one_cycle
from dpbench.plugins.registry import register
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import converged, initialise, total_variation, victims_per_batch
from dpbench.toolkit.release_match import ReleaseMatch, study_client
from dpbench.toolkit.view import viewed
from dpbench_attacks._diffusion_models import (
    PIPELINE,
    POINTS,
    Denoiser,
    assert_diffusers,
    linear_alphas,
    pipeline_files,
    read_pipeline,
    small_unet,
)

EMA_DECAY = 0.995
CLIP = 0.02
"""Largest norm of a gradient, of each victim."""

BETAS = (0.9, 0.999)
"""Of the moments of the gradients, as Adam keeps them."""


@register
class GuidedDiffusion(Attack):
    """Denoises from the decoder's image on, each step turned towards the release.

    Lei et al. 2025, "DRAG: data reconstruction attack using guided diffusion", and its variant that starts from an
    inverse network's image (DRAG++): DDIM steps with eta 1, each repeated; the gradient of the feature distance through
    the denoised estimate, clipped, with Adam's moments over all steps, gives the direction into which part of each
    step's noise goes. Differs: in place of Stable Diffusion a small pixel U-Net of `diffusers`, trained on the
    auxiliary images with weights averaged, or the user's own; the distance is that of
    `dpbench.toolkit.release_match`, which whitens and averages over draws, plus TV; the start is what the decoder of
    `decoder` makes; fewer steps; all victims in one batch, each with its own gradient norm; each victim keeps the
    denoised image with the lowest objective, the decoder's among them.

    `pipeline = "folder/model_index.json"` names one that `diffusers` has saved, of pixels and with
    weights as safetensors, for images of this size: no code of it is run, and nothing is fetched.
    """

    name: ClassVar[str] = "diffusion"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://arxiv.org/abs/2509.11724"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"steps": factor, "training_steps": training, "width": width} | InverseTraining.budget_of_part(size)
        for size, factor, training, width in (("small", 0.4, 0.2, 0.5), ("large", 3, 3, 2))
    }

    steps: int = Field(50, ge=1, le=10_000, description="of denoising")
    recurrences: int = Field(2, ge=1, le=100, description="of each step")
    strength: float = Field(0.3, gt=0, le=1, description="share of the times from which it starts; 1: from noise alone")
    guidance: float = Field(0.2, ge=0, le=1, description="share of each step's noise that follows the gradient")
    total_variation: float = Field(0.1, ge=0, le=100, description="weight of TV (mean absolute difference)")
    draws: int = Field(2, ge=1, le=64, description="releases averaged in each step, for stochastic clients")
    pipeline: File | None = Field(
        None, description="model_index.json of a local pipeline of diffusers, or its folder; else a model is trained"
    )
    weights: File | None = Field(None, description="of its `UNet2DModel`, safetensors")
    unet_config: File | None = Field(None, description="its config.json")
    scheduler_config: File | None = Field(None, description="its scheduler's scheduler_config.json")
    training_steps: int = Field(2000, ge=1, le=1_000_000, description="of the model that is trained")
    width: int = Field(
        32, ge=1, le=512, description="its channels at the images' resolution, in eights; twice as many below"
    )
    batch_size: int = Field(32, ge=2, le=1024, description="auxiliary images in each of these steps")
    decoder_steps: int = Field(
        800, ge=1, le=100_000, description="of the decoder that gives the start, as in `decoder`"
    )
    decoder_width: int = Field(128, ge=8, le=1024, description="likewise")
    decoder_blocks: int = Field(2, ge=1, le=32, description="likewise")
    decoder_batch_size: int = Field(64, ge=2, le=4096, description="likewise")

    @model_validator(mode="before")
    @classmethod
    def _pipeline(cls, given: Any) -> Any:
        """`pipeline` stands for the three files in its folder."""
        if not isinstance(given, dict) or not given.get("pipeline"):
            return given
        index, files = pipeline_files(str(given["pipeline"]))
        return files | given | {"pipeline": index}

    def assert_at_hand(self) -> None:
        """`diffusers` is installed, and a model is given whole or not at all.

        Raises:
            DpbenchError: it is not.
        """
        assert_diffusers()
        given = [name for name in PIPELINE if getattr(self, name) is not None]
        if given and len(given) < len(PIPELINE):
            raise DpbenchError(f"{', '.join(given)} without the rest; give all of {', '.join(PIPELINE)}, or `pipeline`")
        if self.weights is not None and self.weights.suffix != ".safetensors":
            raise DpbenchError(f"weights = {self.weights.name!r}; expected a safetensors file")

    def assert_fits(self, image_shape: tuple[int, int, int]) -> None:
        """A model of one's own denoises images of this shape.

        Raises:
            DpbenchError: it does not, or its files are not what is expected.
        """
        self._own_denoiser(image_shape)

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Make the model and the decoder, then denoise from its images on: (N,3,H,W) in [0,1]."""
        self.assert_at_hand()
        seen = viewed(seen)
        seen.granted_client()
        denoiser = self._denoiser(seen)
        match = study_client(seen, draws=self.draws, generator=generator, search=True)
        decoder = InverseTraining.of(self).within(seen)
        start = decoder.apply(decoder.trained(seen), match.released)
        seen.notes["decoder_converged"] = seen.notes["converged"]
        images, first, last = [], [], []
        for chunk in torch.arange(len(start), device=start.device).split(victims_per_batch(seen)):
            found, before, after = self._denoise(denoiser, match, chunk, start[chunk], seen, generator)
            images.append(found)
            first.append(before)
            last.append(after)
        seen.notes["first_feature_loss"] = round(float(torch.cat(first).mean()), 5)
        seen.notes["final_feature_loss"] = round(float(torch.cat(last).mean()), 5)
        seen.notes["converged"] = bool(seen.notes["decoder_converged"]) or (
            converged(torch.cat(first), torch.cat(last), match.residual) and not match.blind
        )
        return torch.cat(images)

    def _denoise(
        self,
        denoiser: Denoiser,
        match: ReleaseMatch,
        victims: Tensor,
        start: Tensor,
        seen: Observation,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From images (M,3,H,W): those found, and the feature distances (M,) of the start and of what was found."""

        def noise() -> Tensor:
            return torch.randn(start.shape, generator=generator, device=generator.device).to(start.device)

        def objective(images: Tensor) -> tuple[Tensor, Tensor]:
            distance = match.distance(images, victims, generator)
            return distance + self.total_variation * total_variation(images), distance

        with torch.no_grad():
            lowest, first = objective(start)
        best, last = start, first
        latest = self.strength * (len(denoiser.alphas) - 1)
        times = [round(latest * (1 - step / self.steps)) for step in range(self.steps)]
        noisy = _mixed(start * 2 - 1, noise(), float(denoiser.alphas[times[0]]))
        moments = (torch.zeros_like(start), torch.zeros_like(start))
        count = 0
        for step, time in enumerate(times):
            if step % 5 == 0:
                seen.progress(f"denoising {step}/{self.steps}")
            if step % math.ceil(self.steps / POINTS) == 0 and not victims[0]:
                seen.log(step, feature_distance=round(float(last.mean()), 4))
            alpha = float(denoiser.alphas[time])
            after = float(denoiser.alphas[times[step + 1]]) if step + 1 < self.steps else 1.0
            for recurrence in range(self.recurrences):
                with torch.enable_grad():
                    noisy = noisy.detach().requires_grad_(True)
                    image, epsilon = denoiser.split(noisy, time)
                    free = image * 0.5 + 0.5
                    # held in [0, 1], with the gradient of what is outside kept
                    images = free + (free.clamp(0, 1) - free).detach()
                    value, distance = objective(images)
                    (gradient,) = torch.autograd.grad(value.sum(), noisy)
                with torch.no_grad():
                    better = value < lowest
                    lowest = torch.where(better, value, lowest)
                    last = torch.where(better, distance, last)
                    best = torch.where(better[:, None, None, None], images, best)
                    count += 1
                    direction = _direction(torch.nan_to_num(gradient), moments, count)
                    noisy = self._stepped(image, epsilon, direction, noise(), alpha, after)
                    if recurrence < self.recurrences - 1:
                        noisy = _mixed(noisy, noise(), alpha / after)
        return best.clamp(0, 1), first, last

    def _stepped(
        self, image: Tensor, epsilon: Tensor, direction: Tensor, noise: Tensor, alpha: float, after: float
    ) -> Tensor:
        """One DDIM step with eta 1 (Song et al. 2021, eq. 12, 16) whose noise is in part the direction of descent."""
        image = image.clamp(-1, 1)
        variance = (1 - after) / (1 - alpha) * (1 - alpha / after) if after < 1 else 0.0
        length = math.sqrt(variance * image[0].numel())
        turned = torch.lerp(math.sqrt(variance) * noise, -length * direction, self.guidance)
        norm = torch.linalg.vector_norm(turned, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        left = math.sqrt(max(0.0, 1 - after - variance))
        stepped: Tensor = math.sqrt(after) * image + left * epsilon + turned * (length / norm)
        return stepped

    def _denoiser(self, seen: Observation) -> Denoiser:
        """The user's model, or one that is trained on the auxiliary images (or remembered)."""
        device = seen.released.device
        given = self._own_denoiser(seen.image_shape)
        if given is not None:
            place(given.network, device).requires_grad_(False)
            return given
        network = small_unet(seen.image_shape, self.width)
        batch = seen.auxiliary.training_batch(self.batch_size)
        identity = [self.training_steps, self.width, batch, seen.image_shape]

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            return self._train(network, seen, batch, train_generator)

        network.load_state_dict(seen.remember(f"diffusion-{content_hash(identity)[:16]}", train, "auxiliary"))
        place(network, device).eval().requires_grad_(False)
        return Denoiser(network, linear_alphas(), "epsilon")

    def _own_denoiser(self, image_shape: tuple[int, int, int]) -> Denoiser | None:
        """The user's model, on the CPU; None where none is given."""
        if self.weights is None or self.unet_config is None or self.scheduler_config is None:
            return None
        return read_pipeline(self.weights, self.unet_config, self.scheduler_config, image_shape)

    def _train(
        self, network: nn.Module, seen: Observation, batch: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Learns to tell noise from auxiliary images (Ho et al. 2020); the averaged weights."""
        device, images = seen.released.device, seen.auxiliary.images
        initialise(network, generator)
        place(network, device).train()
        alphas = linear_alphas().to(device)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-4)
        schedule = one_cycle(optimizer, 1e-3, steps=self.training_steps, rise=0.1)
        average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        for step in range(self.training_steps):
            if step % 20 == 0:
                seen.progress(f"diffusion model step {step}/{self.training_steps}")
            chosen = torch.randint(len(images), (batch,), generator=generator, device=generator.device)
            some = images[chosen.to(images.device)].to(device) * 2 - 1
            flip = torch.rand(batch, 1, 1, 1, generator=generator, device=generator.device) < 0.5
            some = torch.where(flip.to(device), some.flip(3), some)
            times = torch.randint(len(alphas), (batch,), generator=generator, device=generator.device).to(device)
            noise = torch.randn(some.shape, generator=generator, device=generator.device).to(device)
            share = alphas[times][:, None, None, None]
            with torch.enable_grad():
                with autocast(device):
                    told = network(share.sqrt() * some + (1 - share).sqrt() * noise, times).sample
                loss = functional.mse_loss(told.float(), noise)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average_weights(average, network, step, EMA_DECAY)
        return average


def _mixed(image: Tensor, noise: Tensor, share: float) -> Tensor:
    """An image with noise in place of what is not its share of the variance."""
    return math.sqrt(share) * image + math.sqrt(max(0.0, 1 - share)) * noise


def _direction(gradient: Tensor, moments: tuple[Tensor, Tensor], count: int) -> Tensor:
    """The direction (M,3,H,W) of Adam's step, of length 1, from gradients clipped to `CLIP`; moments are updated."""
    norm = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    gradient = gradient * (CLIP / norm.clamp_min(1e-12)).clamp_max(1)
    for moment, beta, value in zip(moments, BETAS, (gradient, gradient.square()), strict=True):
        moment.lerp_(value, 1 - beta)
    mean, spread = (moment / (1 - beta**count) for moment, beta in zip(moments, BETAS, strict=True))
    step = mean / (spread.sqrt() + 1e-8)
    direction: Tensor = step / torch.linalg.vector_norm(step, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    return direction
