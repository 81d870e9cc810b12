"""Search a generator of natural images for the one whose released features match."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.devices import autocast, place
from dpbench.inversion import converged, initialise, total_variation, victims_per_batch
from dpbench.registry import register
from dpbench.release_match import ReleaseMatch, study_client
from dpbench.specs import content_hash
from dpbench.types import Attack, Needs, Observation

SMALLEST = 4
LARGEST = 128
EMA_DECAY = 0.995

SEPARATE = 0.5
"""Share of the distance without whitening: a generator paints coarse structure first, which whitening weighs little."""

NOISE_SMOOTHING = 4.0
"""How much more total variation weighs for a release that is all noise."""


@register
class GanInversion(Attack):
    """Restarts in the latent space of a GAN, then refinement of the generator's intermediate features.

    Li et al. 2023, "GAN you see me? Enhanced data reconstruction attacks against split inference" (GLASS), in
    its order: many random z, keep the lowest feature loss, refine z, refine intermediate features, held near where
    they started. Differs: the generator is no pre-trained StyleGAN2 but a small DCGAN (Radford et al. 2016)
    trained on the auxiliary images only, with hinge loss, DiffAugment (Zhao et al. 2020) and averaged weights; all
    victims share one pool of random z, of which each keeps its best few; what is refined are the features before
    the last block of the DCGAN and a correction of its image, under total variation, not the w+ of StyleGAN. The
    client is compared with as in `dpbench.release_match`; further releases of the same victims are pooled.
    """

    name: ClassVar[str] = "gan"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://openreview.net/forum?id=wGZwjRwBzb"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": {
            "training_steps": 0.2,
            "width": 0.5,
            "pool": 0.25,
            "restarts": 0.5,
            "search_steps": 0.25,
            "refine_steps": 0.4,
        },
        "large": {"training_steps": 2, "pool": 4, "restarts": 2, "search_steps": 2, "refine_steps": 3},
    }

    training_steps: int = Field(2000, ge=1, le=1_000_000, description="of the GAN, on the auxiliary images")
    width: int = Field(32, ge=4, le=256, description="channels of the generator at its full resolution")
    latent: int = Field(64, ge=2, le=1024, description="dimensions of z")
    batch_size: int = Field(64, ge=2, le=1024, description="real and generated images per training step")
    pool: int = Field(4096, ge=1, le=1_000_000, description="random z whose releases are compared with every victim")
    restarts: int = Field(4, ge=1, le=256, description="best z of the pool from which each victim is searched")
    search_steps: int = Field(40, ge=0, le=100_000, description="Adam steps on every restart's z")
    refine_steps: int = Field(300, ge=0, le=100_000, description="Adam steps on intermediate features")
    search_learning_rate: float = Field(0.05, gt=0, le=1, description="on z")
    refine_learning_rate: float = Field(0.1, gt=0, le=1, description="on intermediate features")
    nearness: float = Field(
        0.01, ge=0, le=10, description="weight of the squared distance of features from their start"
    )
    total_variation: float = Field(0.7, ge=0, le=100, description="weight of TV while features are refined")
    draws: int = Field(2, ge=1, le=64, description="releases averaged in each step, for stochastic clients")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Train (or remember) the GAN, then search and refine: (N,3,H,W) in [0,1]."""
        match = study_client(seen, draws=self.draws, generator=generator, separate=SEPARATE)
        device = seen.released.device
        network = self.generator_network(seen.image_shape)
        batch = seen.auxiliary.training_batch(self.batch_size)
        identity = [self.training_steps, self.width, self.latent, batch, seen.image_shape]

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            return self._train(network, seen, batch, train_generator)

        network.load_state_dict(seen.remember(f"gan-{content_hash(identity)[:16]}", train, "auxiliary"))
        place(network, device).eval().requires_grad_(False)

        size = victims_per_batch(seen)
        everyone = torch.arange(len(seen.released), device=device)
        starts, first = self._best_of_pool(match, network, everyone, size, generator)
        images, last = [], []
        chunks = everyone.split(size)
        for i, chunk in enumerate(chunks):
            label = f"victims {i + 1}/{len(chunks)}, " if len(chunks) > 1 else ""
            z = self._search(match, network, chunk, starts[chunk], seen, label, size, generator)
            found, distance = self._refine(match, network, chunk, z, seen, label, generator)
            images.append(found)
            last.append(distance)
        seen.notes["first_feature_loss"] = round(float(first.mean()), 5)
        seen.notes["final_feature_loss"] = round(float(torch.cat(last).mean()), 5)
        seen.notes["converged"] = converged(first, torch.cat(last), match.residual)
        return torch.cat(images)

    def generator_network(self, image_shape: tuple[int, int, int]) -> Generator:
        """The untrained generator for images (N, *image_shape)."""
        return Generator(image_shape, latent=self.latent, width=self.width)

    def _train(
        self, network: Generator, seen: Observation, batch: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Adversarial training on the auxiliary images; returns the averaged generator."""
        device = seen.released.device
        critic = Discriminator(network.side, self.width)
        initialise(network, generator)
        initialise(critic, generator)
        place(network, device).train()
        place(critic, device).train()
        fused = device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(network.parameters(), 5e-4, betas=(0.5, 0.99), fused=fused)
        critic_optimizer = torch.optim.Adam(critic.parameters(), 5e-4, betas=(0.5, 0.99), fused=fused)
        average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        for step in range(self.training_steps):
            if step % 50 == 0:
                seen.progress(f"GAN step {step}/{self.training_steps}")
            chosen = torch.randint(len(seen.auxiliary), (batch,), generator=generator, device=generator.device)
            # shrunk when it is drawn: all of them at once need not fit
            real = network.shrink(seen.auxiliary.images[chosen.to(seen.auxiliary.images.device)].to(device)) * 2 - 1
            z = self._noise(batch, device, generator)

            with autocast(device):
                fake = network.paint(z)
                both = torch.cat([real, fake.detach().float()])
                scores = critic(augment(both, generator)).float()
            loss = functional.relu(1 - scores[: len(real)]).mean() + functional.relu(1 + scores[len(real) :]).mean()
            critic_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            critic_optimizer.step()

            critic.requires_grad_(False)
            with autocast(device):
                score = critic(augment(fake.float(), generator)).float()
            optimizer.zero_grad(set_to_none=True)
            (-score.mean()).backward()
            optimizer.step()
            critic.requires_grad_(True)

            decay = min(EMA_DECAY, (step + 1) / (step + 10))
            with torch.no_grad():
                for name, value in network.state_dict().items():
                    if value.is_floating_point():
                        average[name].lerp_(value, 1 - decay)
        return average

    def _noise(self, count: int, device: torch.device, generator: torch.Generator) -> Tensor:
        return torch.randn(count, self.latent, generator=generator, device=generator.device).to(device)

    @torch.no_grad()
    def _best_of_pool(
        self,
        match: ReleaseMatch,
        network: Generator,
        victims: Tensor,
        size: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The z (N, restarts, latent) of the pool nearest to each victim, and the mean distance (N,) of its first z."""
        device = match.released.device
        keep = min(self.restarts, self.pool)
        target = match.standardised(match.released)
        lowest = torch.full((len(victims), keep), torch.inf, device=device)
        kept = torch.zeros(len(victims), keep, self.latent, device=device)
        first = torch.zeros(len(victims), device=device)
        for count in _counts(self.pool, size):
            z = self._noise(count, device, generator)
            release = match.standardised(match.release(network(z), generator))
            # squared distances of all pairs; masks are ignored here: this only ranks the starts
            distance = torch.cdist(target, release).square() / target.shape[1]
            first = first + distance.mean(1) * count / self.pool
            ranked = torch.cat([lowest, distance], 1)
            lowest, chosen = ranked.topk(keep, dim=1, largest=False)
            candidates = torch.cat([kept, z.expand(len(victims), -1, -1)], 1)
            kept = candidates.gather(1, chosen[:, :, None].expand(-1, -1, self.latent))
        return kept, first

    def _search(
        self,
        match: ReleaseMatch,
        network: Generator,
        victims: Tensor,
        starts: Tensor,
        seen: Observation,
        label: str,
        size: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Improve every restart's z for a few steps; (M, restarts, latent) -> the best z of each victim (M, latent)."""
        restarts = starts.shape[1]
        found, lowest = [], []
        for wave in range(restarts):
            seen.progress(f"{label}restart {wave + 1}/{restarts}")
            z = starts[:, wave].clone().requires_grad_(True)
            optimizer = torch.optim.Adam([z], self.search_learning_rate)
            best, value = z.detach().clone(), torch.full((len(victims),), torch.inf, device=z.device)
            for _ in range(self.search_steps + 1):
                with torch.enable_grad():
                    distance = match.distance(network(z), victims, generator)
                    # keeps z where the generator was trained: |z|^2 near its expectation
                    prior = (z.square().mean(1) - 1).square()
                    (gradient,) = torch.autograd.grad((distance + 0.01 * prior).sum(), z)
                better = distance.detach() < value
                value = torch.where(better, distance.detach(), value)
                best = torch.where(better[:, None], z.detach(), best)
                z.grad = torch.nan_to_num(gradient)
                optimizer.step()
            found.append(best)
            lowest.append(value)
        winner = torch.stack(lowest).argmin(0)
        return torch.stack(found)[winner, torch.arange(len(victims), device=winner.device)]

    def _refine(
        self,
        match: ReleaseMatch,
        network: Generator,
        victims: Tensor,
        z: Tensor,
        seen: Observation,
        label: str,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Refine features of the generator: images (M,3,H,W) and their feature distances (M,)."""
        origin = network.first_half(z).detach()
        scale = origin.std((0, 2, 3), keepdim=True).clamp_min(1e-3)
        shift = torch.zeros_like(origin).requires_grad_(True)
        correction = torch.zeros(len(z), *seen.image_shape, device=z.device).requires_grad_(True)
        smoothness = self.total_variation * (1 + NOISE_SMOOTHING * match.noise)
        groups: list[dict[str, Any]] = [
            {"params": [shift]},
            {"params": [correction], "lr": self.refine_learning_rate / 10},
        ]
        optimizer = torch.optim.Adam(
            groups,
            self.refine_learning_rate,
            betas=(0.9, 0.99),
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [self.refine_learning_rate, self.refine_learning_rate / 10],
            total_steps=self.refine_steps + 1,
            pct_start=0.15,
        )
        best = network(z)
        lowest = torch.full((len(z),), torch.inf, device=z.device)
        last = lowest.clone()
        for step in range(self.refine_steps + 1):
            if step % 50 == 0:
                seen.progress(f"{label}refine {step}/{self.refine_steps}")
            with torch.enable_grad():
                images = (network.second_half(origin + scale * shift) + correction).clamp(0, 1)
                distance = match.distance(images, victims, generator)
                near = shift.square().mean((1, 2, 3)) + 10 * correction.square().mean((1, 2, 3))
                objective = distance + self.nearness * near + smoothness * total_variation(images)
                gradients = torch.autograd.grad(objective.sum(), [shift, correction])
            better = objective.detach() < lowest
            lowest = torch.where(better, objective.detach(), lowest)
            best = torch.where(better[:, None, None, None], images.detach(), best)
            last = torch.where(better, distance.detach(), last)
            shift.grad, correction.grad = (torch.nan_to_num(gradient) for gradient in gradients)
            optimizer.step()
            schedule.step()
        return best, last


def _counts(total: int, size: int) -> list[int]:
    return [min(size, total - done) for done in range(0, total, size)]


class Generator(nn.Module):
    """z -> image, in two halves so that the features between them can be refined.

    Args:
        image_shape: (3, H, W) to paint; painted at a power of two up to 128 and resized.
        latent: dimensions of z.
        width: channels at the full resolution; doubles at each halving, up to 8 times.
    """

    def __init__(self, image_shape: tuple[int, int, int], *, latent: int, width: int) -> None:
        super().__init__()
        self.image_size = (image_shape[1], image_shape[2])
        self.side = min(LARGEST, max(16, 2 ** math.ceil(math.log2(max(self.image_size)))))
        levels = int(math.log2(self.side // SMALLEST))
        widths = [width * min(8, 2 ** (levels - level)) for level in range(levels + 1)]
        self.start = nn.Linear(latent, widths[0] * SMALLEST**2)
        blocks: list[nn.Module] = [
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
            for before, after in itertools.pairwise(widths)
        ]
        middle = max(1, levels - 1)
        self.early = nn.Sequential(nn.BatchNorm2d(widths[0]), nn.ReLU(), *blocks[:middle])
        self.late = nn.Sequential(*blocks[middle:], nn.Conv2d(widths[-1], 3, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) -> (N,3,H,W) in [0,1]."""
        images: Tensor = self.second_half(self.first_half(z))
        return images

    def paint(self, z: Tensor) -> Tensor:
        """(N, latent) -> (N,3,side,side) in [-1,1]: what the discriminator sees."""
        painted: Tensor = self.late(self._early(z))
        return painted

    def _early(self, z: Tensor) -> Tensor:
        features: Tensor = self.early(self.start(z).unflatten(1, (-1, SMALLEST, SMALLEST)))
        return features

    def first_half(self, z: Tensor) -> Tensor:
        """(N, latent) -> intermediate features (N,C,side/2,side/2), fp32."""
        with autocast(z.device):
            features = self._early(z)
        return features.float()

    def second_half(self, features: Tensor) -> Tensor:
        """Intermediate features -> (N,3,H,W) in [0,1], fp32."""
        with autocast(features.device):
            painted: Tensor = self.late(features)
        images = painted.float() * 0.5 + 0.5
        if images.shape[2:] == self.image_size:
            return images
        return functional.interpolate(images, self.image_size, mode="bilinear", align_corners=False)

    def shrink(self, images: Tensor) -> Tensor:
        """Images at the resolution that the generator paints."""
        if images.shape[2:] == (self.side, self.side):
            return images
        size = (self.side, self.side)
        return functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


class Discriminator(nn.Module):
    """(N,3,side,side) in [-1,1] -> (N,) scores; strided convolutions."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, after = 3, width
        while side > SMALLEST:
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            before, after, side = after, min(after * 2, width * 8), side // 2
        self.body = nn.Sequential(*layers, nn.Conv2d(before, 1, SMALLEST))

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,side,side) -> (N,)."""
        scores: Tensor = self.body(images).flatten()
        return scores


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Augmentation that gradients pass, for real and generated images alike: flip, brightness, contrast.

    DiffAugment (Zhao et al. 2020). Differs: no translation, no cutout and no saturation.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device).to(images.device)

    images = torch.where(draw(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    images = images + (draw(len(images), 1, 1, 1) - 0.5) * 0.5
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (draw(len(images), 1, 1, 1) + 0.5) + mean
    return images
