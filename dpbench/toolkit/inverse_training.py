"""Training an inverse network on released features: what `decoder` is, and where `rmle` starts from."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.images import Images
from dpbench.contract.plugin import Parameters
from dpbench.machine.devices import autocast, compiled, fuses, place
from dpbench.metrics.fidelity import lpips, ssim_unchecked
from dpbench.models.training import average_weights, one_cycle
from dpbench.service.release import RELEASE_BATCH
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_network import Adversary, FeatureInverse, HeldOut, InverseNetwork, flipped_batches
from dpbench.toolkit.inversion import (
    images_for_statistics,
    initialise,
    pooled,
    pooled_query,
    same_window,
    victim_releases,
    victims_per_batch,
)
from dpbench.toolkit.linear_inverse import MOST_IMAGES, LinearInverse

VERSION = 4
"""Raise it whenever the figures change, with the versions of the attacks that train here."""

STATISTICS_IMAGES = 512
CONVERGED = 0.9
"""A decoder whose loss is not below this share of the mean image's has learned next to nothing: it failed, or there is
nothing to learn. The attacker cannot tell which, so it tries once more at a lower rate."""

LEFT_OUT = 4
"""One in so many auxiliary images is kept from the linear map, to judge it by and to learn what it leaves open."""

POINTS = 40
"""Of the curve that is kept of a training."""

FEWEST_LEFT_OUT = 32
"""With fewer images to judge a linear map by, and to learn from, there is none."""

CLEARLY = 0.95
"""Share of the convolutions' loss that the linear map's must stay below."""

RETRY_RATE = 0.25
"""Share of the learning rate at which a decoder that did not converge starts again."""


class InverseTraining(Parameters):
    """How an inverse network is trained on fresh releases of the auxiliary images; see the attack `decoder`."""

    ids_skip_default = ("l1_weight", "adversarial_weight", "average", "held_out")
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"steps": 0.25, "width": 0.5, "blocks": 0.5},
        "large": {"steps": 2, "width": 1.5, "blocks": 2},
    }

    steps: int = Field(800, ge=1, le=100_000, description="of training, whatever the number of auxiliary images")
    width: int = Field(128, ge=8, le=1024, description="channels at the resolution of the features")
    blocks: int = Field(2, ge=1, le=32, description="residual blocks at each resolution")
    batch_size: int = Field(64, ge=2, le=4096, description="auxiliary images per step")
    learning_rate: float = Field(4e-3, gt=0, le=0.1, description="peak of the one-cycle schedule, AdamW")
    ssim_weight: float = Field(0.2, ge=0, le=10, description="weight of 1 - SSIM beside the L1 distance")
    lpips_weight: float = Field(
        0.0, ge=0, le=10, description="weight of LPIPS; not by default: its weights are not on every machine"
    )
    l1_weight: float = Field(1.0, ge=0, le=10, description="weight of the L1 distance")
    adversarial_weight: float = Field(0.0, ge=0, le=10, description="weight of a critic: sharper, not closer")
    average: float = Field(0.0, ge=0, lt=1, description="decay of the mean of the weights over the steps; 0: the last")
    held_out: float = Field(0.0, ge=0, le=0.5, description="share of images apart: what does best on them is kept")

    @classmethod
    def of(cls, attack: Attack) -> Self:
        """The decoder that an attack trains on its way, by its parameters `decoder_steps` and so on."""
        return cls(**{name: getattr(attack, f"decoder_{name}") for name in ("steps", "width", "blocks", "batch_size")})

    @classmethod
    def budget_of_part(cls, size: str) -> dict[str, float]:
        """The factors of a budget, `small` or `large`, under the names that such an attack gives them."""
        return {f"decoder_{name}": factor for name, factor in cls.budgets[size].items()}

    def within(self, seen: Observation) -> Self:
        """The same training with no more images at once than memory allows."""
        batch = seen.auxiliary.training_batch(self.batch_size)
        if batch < self.batch_size:
            seen.notes["training_batch"] = batch
        return self.model_copy(update={"batch_size": batch})

    def trained(self, seen: Observation) -> nn.Module:
        """The inverse network of this client for pooled releases, in eval mode; what it says of itself is noted.

        Where one linear map from all values to all pixels does better on auxiliary images that it has not seen than
        convolutions do on those they were trained on, it is that map, and a network that refines what it gives.
        """
        releases = victim_releases(seen)
        released = pooled(releases)
        query = pooled_query(seen.granted_query(), len(releases))
        shape = tuple(released.shape[1:])
        identity = {
            "version": VERSION,
            "parameters": self.model_dump(),
            "features": shape,
            "image": seen.image_shape,
            "releases": len(releases),
        }

        def attempt(train_generator: torch.Generator, rate: float) -> dict[str, Tensor]:
            network = self.network(shape, seen.image_shape)
            initialise(network, train_generator)
            place(network, released.device)
            images = seen.auxiliary.images.to(released.device)
            curve: list[Tensor] = []
            final_loss = self._train(network, images, query, rate, train_generator, seen.progress, curve)
            return {**network.state_dict(), "final_loss": final_loss, "curve": torch.stack(curve)}

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            mean_image_loss = self._mean_image_loss(seen)
            state = attempt(train_generator, self.learning_rate)
            retried = not float(state["final_loss"]) < CONVERGED * float(mean_image_loss)
            if retried:
                seen.progress("not converged: once more at a lower rate")
                second = attempt(train_generator, self.learning_rate * RETRY_RATE)
                # by the training loss, which is what the attacker sees; a NaN loses
                if not float(state["final_loss"]) <= float(second["final_loss"]):
                    state = second
            dense, linear_loss = self._dense(seen, shape, query, state["final_loss"], train_generator)
            return {
                **(dense or state),
                "linear_loss": linear_loss,
                "mean_image_loss": mean_image_loss,
                "retried": torch.tensor(float(retried)),
            }

        name, owner = f"decoder-{content_hash(identity)[:16]}", ("decoder", f"v{VERSION}")
        state = dict(seen.remember(name, train, "query", owner=owner))
        for step, loss in state.pop("curve", torch.empty(0, 2)).tolist():
            seen.log(int(step), decoder_loss=round(loss, 4))
        final_loss, mean_image_loss, linear_loss, retried = (
            float(state.pop(name)) for name in ("final_loss", "mean_image_loss", "linear_loss", "retried")
        )
        seen.notes["final_loss"] = round(final_loss, 5)
        seen.notes["mean_image_loss"] = round(mean_image_loss, 5)
        seen.notes["converged"] = final_loss < CONVERGED * mean_image_loss
        if retried:
            seen.notes["retried"] = True
        dense = any(name.startswith("0.") for name in state)  # of a sequence; InverseNetwork has names of its own
        if dense:
            seen.notes["linear_loss"] = round(linear_loss, 5)
        network = self.dense_network(shape, seen.image_shape) if dense else self.network(shape, seen.image_shape)
        network.load_state_dict(state)
        return place(network, released.device).eval().requires_grad_(False)

    def network(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> FeatureInverse:
        """The untrained network for features (N, *feature_shape) and images (N, *image_shape)."""
        return InverseNetwork(feature_shape, image_shape, width=self.width, blocks=self.blocks)

    def dense_network(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> nn.Sequential:
        """A linear map from all values to a small image, and a network that refines it; untrained."""
        linear = LinearInverse(feature_shape, image_shape)
        return nn.Sequential(linear, self.network(linear.small_shape, image_shape))

    def apply(self, network: nn.Module, released: Tensor) -> Tensor:
        """Pooled releases (N, ...) -> images (N,3,H,W) in [0,1]."""
        with torch.no_grad(), autocast(released.device):
            images = torch.cat([network(chunk) for chunk in released.split(self.batch_size)])
        return images.float().clamp(0, 1)

    def _dense(
        self,
        seen: Observation,
        shape: tuple[int, ...],
        query: Callable[[Tensor], Tensor],
        to_beat: Tensor,
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """A dense network where its linear map's loss is clearly below `to_beat`, else nothing; and the map's loss."""
        device = seen.released.device
        if len(seen.auxiliary) < LEFT_OUT * FEWEST_LEFT_OUT:
            return {}, torch.full((), torch.inf, device=device)
        seen.progress("a linear map")
        images = seen.auxiliary.images.to(device)
        order = torch.arange(min(len(images), MOST_IMAGES), device=device)
        held = images[order[::LEFT_OUT][:STATISTICS_IMAGES]]
        rest = order[order % LEFT_OUT != 0].split(RELEASE_BATCH)
        known = (some for chunk in rest for some in (images[chunk], images[chunk].flip(3)))
        network = self.dense_network(shape, seen.image_shape)
        place(network, device)
        linear, refining = network
        assert isinstance(linear, LinearInverse)
        assert isinstance(refining, FeatureInverse)

        loss = partial(self._mean_loss, refining)  # of what is left when small images are only made larger
        linear_loss = linear.fit(query, known, held, loss, CLEARLY * to_beat)
        if not linear_loss < CLEARLY * to_beat:
            return {}, linear_loss
        initialise(refining, generator)
        curve: list[Tensor] = []
        final_loss = self._train(
            refining, held, lambda some: linear(query(some)), self.learning_rate, generator, seen.progress, curve
        )
        return {**network.state_dict(), "final_loss": final_loss, "curve": torch.stack(curve)}, linear_loss

    def _train(
        self,
        network: FeatureInverse,
        images: Images,
        query: Callable[[Tensor], Tensor],
        learning_rate: float,
        generator: torch.Generator,
        progress: Callable[[str], None],
        curve: list[Tensor],
    ) -> Tensor:
        """Trains `network` in place and fills the curve; the mean loss () over its last pass, or of images held out."""
        device = next(network.parameters()).device
        apart = min(round(self.held_out * len(images)), STATISTICS_IMAGES)
        batch = min(self.batch_size, len(images) - apart)
        per_epoch = (len(images) - apart) // batch
        calibration = images[: images_for_statistics(network.feature_shape, least=STATISTICS_IMAGES)]
        at_once = max(batch, RELEASE_BATCH)
        network.standardise(torch.cat([query(chunk) for chunk in calibration.split(at_once)]), calibration)
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2, fused=fuses(device))
        schedule = one_cycle(optimizer, learning_rate, steps=self.steps, rise=0.2)
        adversary = Adversary(generator, device) if self.adversarial_weight else None
        mean = {name: value.detach().clone() for name, value in network.named_parameters()} if self.average else {}
        counted = min(self.steps, per_epoch)
        total = torch.zeros((), device=device)
        drawn = flipped_batches(images, batch, generator, apart=apart)
        held = HeldOut(images[:apart], query, self.apply, partial(self._mean_loss, network)) if apart else None
        apply = compiled(network)
        steps_at_once = at_once // batch  # a query of fewer images is filled up: it would cost as much
        answered: list[tuple[Tensor, Tensor]] = []
        for step in range(self.steps):
            if step % 20 == 0:
                progress(f"step {step}/{self.steps}")
            if not answered:
                ahead = torch.cat(list(islice(drawn, min(steps_at_once, self.steps - step))))
                answered = list(zip(ahead.split(batch), query(ahead).split(batch), strict=True))
            chosen, released = answered.pop(0)
            with autocast(device):
                output = apply(released)
            loss = self._loss(output.float(), chosen, generator)
            if adversary is not None:
                loss = loss + self.adversarial_weight * adversary.judged(output.float(), chosen)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            noted = step % math.ceil(self.steps / POINTS) == 0
            if noted:
                curve.append(torch.stack([torch.full_like(loss, step), loss.detach()]))
            if mean:
                average_weights(mean, network, step, self.average)
            if held is not None and (noted or step == self.steps - 1):
                held.judge(network, mean)
            if step >= self.steps - counted:
                total += loss.detach()
        if held is not None:
            network.load_state_dict(held.state)
            return held.loss
        network.load_state_dict(mean, strict=False)
        return total / counted

    def _mean_image_loss(self, seen: Observation) -> Tensor:
        """The loss () that a network reaches that learned nothing from the features: that of the mean image."""
        images = seen.auxiliary.images[:STATISTICS_IMAGES].to(seen.released.device)
        mean = images.mean(0, keepdim=True)
        chunks = images.split(victims_per_batch(seen))
        losses = [self._loss(mean.expand_as(chunk), chunk) * (len(chunk) / len(images)) for chunk in chunks]
        return torch.stack(losses).sum()

    def _mean_loss(self, network: FeatureInverse, output: Tensor, images: Tensor) -> Tensor:
        """Training loss () of any number of images (N,3,h,w), made as large as what the network gives, few at once."""
        chunks = zip(output.split(RELEASE_BATCH), images.split(RELEASE_BATCH), strict=True)
        losses = [self._loss(network.resize(some), whole) * len(some) for some, whole in chunks]
        return torch.stack(losses).sum() / len(output)

    def _loss(self, output: Tensor, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Training loss () of images (N,3,H,W) against the true ones; `generator` draws the window of large ones."""
        loss = self.l1_weight * functional.l1_loss(output, images)
        # clamp: SSIM and LPIPS are about images in [0, 1]; the L1 distance still pulls values back
        if self.ssim_weight:
            seen, true = same_window(output, images, generator) if generator is not None else (output, images)
            loss = loss + self.ssim_weight * (1 - ssim_unchecked(seen.clamp(0, 1), true).mean())
        if self.lpips_weight:
            loss = loss + self.lpips_weight * lpips(output.clamp(0, 1), images).mean()
        return loss
