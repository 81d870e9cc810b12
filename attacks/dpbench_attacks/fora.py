"""No access to the client at all: a substitute that releases what cannot be told from the victims' features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation, Server
from dpbench.contract.threat import Needs
from dpbench.machine.devices import place
from dpbench.plugins.registry import register
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import channel_axis, initialise, pooled, victim_releases
from dpbench_attacks._substitute import WIDTH, Substitute, mmd

PENALTY = 10.0

CONVERGED = 0.5
"""Share of its first MMD below which a substitute has learned something."""


@register
class FeatureOrientedReconstruction(Attack):
    """A substitute client, fitted to the distribution of what is released, and a decoder that is trained on it.

    Xu et al. 2024, "A stealthy wrongdoer: feature-oriented reconstruction attack against split learning" (FORA):
    images of the attacker's own go through a substitute whose features a critic cannot tell from released ones, and
    whose multi-kernel MMD to them is small; a decoder learns to invert the substitute. No query is asked and no image
    is known whose features are released. Differs: the substitute is a small convolutional network of no client's
    architecture, with noise of a learned size for each channel; hinge loss and a gradient penalty in place of
    Wasserstein's; the decoder is that of `decoder`, trained when the substitute stands; where the attacker holds the
    server's half, the server must also read the labels of the attacker's images from what the substitute releases
    (Gao & Zhang 2023, "PCAT", which trains a pseudo-client so), and see the statistics that it sees of released
    features.
    """

    name: ClassVar[str] = "fora"
    paper: ClassVar[str] = "https://arxiv.org/abs/2405.04115"
    needs: ClassVar[Needs] = "nothing"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"steps": steps} | InverseTraining.budget_of_part(size) for size, steps in (("small", 0.4), ("large", 4))
    }

    steps: int = Field(2500, ge=1, le=1_000_000, description="of the substitute")
    learning_rate: float = Field(1e-3, gt=0, le=0.1, description="of the substitute, Adam; falls to 0")
    critic_learning_rate: float = Field(4e-4, gt=0, le=0.1, description="likewise of the critic")
    batch_size: int = Field(64, ge=4, le=4096, description="images, and releases, per step")
    mmd_weight: float = Field(0.8, ge=0, le=1, description="weight of MMD; that of the critic is the rest of 1")
    label_weight: float = Field(1.0, ge=0, le=100, description="weight of the labels that the server reads")
    decoder_steps: int = Field(800, ge=1, le=100_000, description="of the decoder, as in `decoder`")
    decoder_width: int = Field(128, ge=8, le=1024, description="likewise")
    decoder_blocks: int = Field(2, ge=1, le=32, description="likewise")
    decoder_batch_size: int = Field(64, ge=2, le=4096, description="likewise")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Fit the substitute and its decoder, then decode: (N,3,H,W) in [0,1]."""
        releases = victim_releases(seen)
        released = pooled(releases)
        heard = torch.cat([released, *([pooled([seen.overheard])] if seen.overheard is not None else [])])
        batch = min(self.batch_size, seen.auxiliary.training_batch(self.batch_size))
        own = self.model_dump(exclude={name for name in type(self).model_fields if name.startswith("decoder")})
        # of releases that are pooled, it counts whose: others were heard once
        pooling = [len(released)] if len(releases) > 1 else []
        known = [own, batch, tuple(heard.shape), seen.image_shape, seen.server is not None, *pooling]
        identity = content_hash(known)[:16]
        substitute = Substitute(tuple(heard.shape[1:]), seen.image_shape)

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            before, after = self._fit(substitute, heard, seen, batch, train_generator)
            return {**substitute.state_dict(), "before": before, "after": after}

        state = dict(seen.remember(f"substitute-{identity}", train, "query"))
        before, after = float(state.pop("before")), float(state.pop("after"))
        substitute.load_state_dict(state)
        place(substitute, heard.device).eval().requires_grad_(False)
        decoder = InverseTraining.of(self).within(seen)
        network = decoder.trained(_through(substitute, seen, identity))
        seen.notes["first_mmd"], seen.notes["final_mmd"] = round(before, 5), round(after, 5)
        seen.notes["converged"] = bool(seen.notes["converged"]) and after < CONVERGED * before
        return decoder.apply(network, released)

    def _fit(
        self, substitute: Substitute, heard: Tensor, seen: Observation, batch: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Trains the substitute in place; its MMD to what was heard before and after, each ()."""
        device = heard.device
        critic = Critic(tuple(heard.shape[1:]), seen.image_shape)
        for network in (substitute, critic):
            initialise(network, generator)
            place(network, device).train()
        substitute.standardising.fit(heard)
        real = substitute.standardising(heard)
        images, labels = seen.auxiliary.images, seen.auxiliary.labels
        reader = _Reader(seen.server, heard.to(seen.released.dtype), batch) if seen.server is not None else None
        optimizer = torch.optim.Adam(substitute.parameters(), self.learning_rate, betas=(0.5, 0.99))
        critic_optimizer = torch.optim.Adam(critic.parameters(), self.critic_learning_rate, betas=(0.5, 0.99))
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(one, lambda step: 1 - step / self.steps)
            for one in (optimizer, critic_optimizer)
        ]

        def some(count: int) -> Tensor:
            return torch.randint(count, (batch,), generator=generator, device=generator.device)

        def distance() -> Tensor:
            with torch.no_grad():
                false = substitute.units(images[: 4 * batch].to(device), generator)
                return mmd(false, real[: 4 * batch])

        before = distance()
        for step in range(self.steps):
            if step % 20 == 0:
                seen.progress(f"substitute step {step}/{self.steps}")
            chosen, others = some(len(labels)), real[some(len(real)).to(device)]
            with torch.enable_grad():
                false = substitute.units(images[chosen.to(images.device)].to(device), generator)
                loss = critic_loss(critic, others, false.detach())
                critic_optimizer.zero_grad(set_to_none=True)
                loss.backward()
                critic_optimizer.step()
                critic.requires_grad_(False)  # it is followed, not trained
                fooled = -critic(false).mean()
                loss = (1 - self.mmd_weight) * fooled + self.mmd_weight * mmd(false, others)
                if reader is not None and self.label_weight:
                    release = substitute.standardising.restored(false).to(seen.released.dtype)
                    loss = loss + self.label_weight * reader(release, labels[chosen.to(labels.device)].to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                critic.requires_grad_(True)
            nn.utils.clip_grad_norm_(substitute.parameters(), 1.0)
            optimizer.step()
            for schedule in schedules:
                schedule.step()
        substitute.eval()
        return before, distance()


class Critic(nn.Module):
    """Standardised releases (N, ...) -> scores (N,): convolutions where they lie on a grid, else dense layers."""

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_size = (image_shape[1], image_shape[2])
        grid = features_on_grid(torch.empty(1, *feature_shape, device="meta"), self.image_size)
        layers: list[nn.Module] = []
        if grid is None:
            layers += [nn.Flatten(), nn.Linear(math.prod(feature_shape), 4 * WIDTH), nn.LeakyReLU(0.2)]
            layers += [nn.Linear(4 * WIDTH, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1)]
        else:
            layers += [nn.Conv2d(grid.shape[1], WIDTH, 3, padding=1), nn.LeakyReLU(0.2)]
            for stride in (1, 2):
                layers += [nn.Conv2d(WIDTH, WIDTH, 3, stride, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(WIDTH, 1, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, units: Tensor) -> Tensor:
        """(N, ...) -> (N,): the mean score of all positions."""
        grid = features_on_grid(units, self.image_size)
        scores: Tensor = self.body(units if grid is None else grid).flatten(1).mean(1)
        return scores


class _Reader:
    """What the server makes of a substitute's releases, compared with what it makes of those that were heard."""

    def __init__(self, server: Server, heard: Tensor, batch: int) -> None:
        self.server = server
        with torch.no_grad():
            self.known = [_moments(tap) for tap in server.activations(heard[: 4 * batch])]

    def __call__(self, release: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the labels, where the server knows them, and how far moments are apart, ()."""
        taps = self.server.activations(release)
        apart = [
            ((mean - true_mean) / true_std).square().mean() + (std / true_std).log().square().mean()
            for (mean, std), (true_mean, true_std) in zip(map(_moments, taps), self.known, strict=True)
        ]
        loss = torch.stack(apart).mean()
        if int(labels.max()) < taps[-1].shape[1]:
            loss = loss + functional.cross_entropy(taps[-1].float(), labels)
        return loss


def _moments(tap: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std per channel of what the server computes from some releases, (C,) each."""
    rows = tap.float().movedim(channel_axis(tuple(tap.shape)) if tap.ndim > 1 else 0, -1).flatten(0, -2)
    std = rows.std(0, correction=0)
    return rows.mean(0), std + 0.05 * std.detach().mean() + 1e-6


def _through(substitute: Substitute, seen: Observation, identity: str) -> Observation:
    """The same observation with the substitute as the client that answers queries."""
    draws = [torch.Generator(seen.released.device)]

    @torch.no_grad()
    def query(images: Tensor) -> Tensor:
        return substitute.standardising.restored(substitute.units(images, draws[0])).float()

    def remember(
        name: str,
        train: Callable[[torch.Generator], dict[str, Tensor]],
        depends_on: Literal["auxiliary", "query"],
        *,
        owner: tuple[str, str] | None = None,
    ) -> dict[str, Tensor]:
        def begin(generator: torch.Generator) -> dict[str, Tensor]:
            draws[0] = generator
            return train(generator)

        # a substitute's decoder: neither that of `decoder` nor another's
        return seen.remember(f"{name}-of-{identity}", begin, depends_on)

    return replace(seen, query=query, again=(), remember=remember)


def critic_loss(critic: Critic, real: Tensor, false: Tensor) -> Tensor:
    """Hinge loss of a critic, and the squared length of its gradient between the two (Gulrajani et al. 2017), ()."""
    loss = functional.relu(1 - critic(real)).mean() + functional.relu(1 + critic(false)).mean()
    between = torch.lerp(real, false, 0.5).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return loss + PENALTY * gradient.square().flatten(1).sum(1).mean()
