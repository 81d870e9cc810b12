"""The client, the victims, what each attacker may see of them, and what ours got."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from dpbench_attacks._diffusion_models import Denoiser, linear_alphas, small_unet
from dpbench_attacks._gan_training import GanTraining
from torch import Tensor, nn

from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Attack, Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.contract.images import LabelledImages
from dpbench.data.datasets import load_parts
from dpbench.data.spec import DatasetSpec
from dpbench.machine import cache, devices
from dpbench.machine.randomness import derive_generator, seeded
from dpbench.models import backbones, splitting, training
from dpbench.models.spec import BackboneSpec
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import attacks
from dpbench.text.hashing import content_hash

FULL = os.environ.get("DPBENCH_RECIPES") == "full"
CPU = torch.device("cpu")
BACKBONE = BackboneSpec(name="resnet10t", weights="fit", epochs=8)
DATASET = DatasetSpec(name="leaves", image_size=32, private=4000, auxiliary=2500, test=500)
SHAPE = (3, 32, 32)
FEW = 8
"""Noise tensors that `FewNoises` draws from."""

REDUCED: dict[str, dict[str, Any]] = {
    "gan": {"training_steps": 300},
    "gan-progressive": {"training_steps": 300},
    "gan-cma": {"training_steps": 300},
    "dip": {"steps": 1000},
}
"""Without `full`: the generator that both sides share learns less, and a search takes as many steps as the recipe's."""

SMALL = ("diffusion", "decoder-tokens", "flow", "fora", "reorder", "mixture", "fuse")
"""Without `full` these are measured at the budget `small`."""


Access = Literal["client", "undefended client", "releases"]


class Noisy(ProtectedModel):
    """Adds noise as large as the features."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + features.std() * torch.randn(features.shape, generator=generator)


class FewNoises(ProtectedModel):
    """Adds one of a few fixed tensors, twice as large as the features, drawn anew for each image."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        known = torch.randn(FEW, *features.shape[1:], generator=derive_generator(CPU, "few noises"))
        return features + 2.0 * known[torch.randint(FEW, (len(features),), generator=generator)]


class Turned(ProtectedModel):
    """Mixes the channels by one orthogonal matrix."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        drawn = torch.randn(features.shape[1], features.shape[1], generator=derive_generator(CPU, "turned"))
        return (features.movedim(1, -1) @ torch.linalg.qr(drawn).Q).movedim(-1, 1)


class Shuffled(ProtectedModel):
    """Permutes the positions of each image's features."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        order = torch.rand(len(features), features[0, 0].numel(), generator=generator).argsort(1)
        rows = features.flatten(2)
        return rows.gather(2, order[:, None].expand_as(rows)).view_as(features)


class Setting:
    """A client fitted on private images, and attackers with the same auxiliary images and victims."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = load_parts(DATASET, cache=folder / "datasets")
        with seeded(0, CPU):
            model = devices.place(self._empty_backbone(), CPU)
            model.load_state_dict(self._kept("client", lambda: self._fitted(model)))
            self.split = self._split(model)
            # UnSplit knows the architecture only
            self.untrained_head = devices.place(self._split(self._empty_backbone()).client_head, CPU)
        self.remembered: dict[str, tuple[dict[str, Tensor], float]] = {}
        self.priors: dict[str, dict[str, Tensor]] = {}
        self.owed_seconds = 0.0
        self._ours: dict[str, tuple[Tensor, float]] = {}

    def _kept(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is made once and used by both sides."""
        key = content_hash([name, DATASET.model_dump(), BACKBONE.model_dump()])
        return cache.remember(self.folder, "recipes", key, make)

    def _fitted(self, model: nn.Module) -> dict[str, Tensor]:
        training.fit_classifier(
            nn.Sequential(backbones.normalisation(model), model),
            self.parts.private,
            epochs=BACKBONE.epochs,
            learning_rate=BACKBONE.learning_rate,
            generator=derive_generator(CPU, "fit"),
            progress=lambda text: None,
        )
        return dict(model.state_dict())

    def _empty_backbone(self) -> nn.Module:
        return backbones.create_backbone(BACKBONE, image_size=SHAPE[1], classes=len(self.parts.classes))

    def _split(self, model: nn.Module):
        classes = len(self.parts.classes)
        return splitting.split_model(model, "layer1", image_shape=SHAPE, classes=classes, name=BACKBONE.name)

    def victims(self, count: int) -> Tensor:
        return self.parts.test.images[:count].contiguous(memory_format=torch.channels_last)

    def observe(
        self, victims: int, kind: type[ProtectedModel] = ProtectedModel, access: Access = "client"
    ) -> Observation:
        """What an attacker sees: releases of the victims, and a client; of others too where there is none."""
        draws = derive_generator(CPU, "queries")

        def asked(client: ProtectedModel, images: Tensor) -> Tensor:
            with torch.no_grad():
                return torch.cat([client.release(batch, generator=draws) for batch in images.split(64)])

        def made(kind: type[ProtectedModel]) -> ProtectedModel:
            return devices.place(kind(self.split), CPU).eval().requires_grad_(False)

        defended, auxiliary = made(kind), self.parts.auxiliary
        client = made(ProtectedModel) if access == "undefended client" else defended
        blind = access == "releases"
        return Observation(
            released=asked(defended, self.victims(victims)).float(),
            image_shape=SHAPE,
            auxiliary=LabelledImages(auxiliary.images.contiguous(memory_format=torch.channels_last), auxiliary.labels),
            query=None if blind else lambda images: asked(client, images),
            client=None if blind else WhiteBox(client),
            overheard=asked(defended, self.parts.test.images[victims:]) if blind else None,
            adaptive=access != "undefended client",
            remember=lambda name, train, depends_on, *, owner=None: self._remember(
                f"{name}-{kind.__name__}-{access}" if depends_on == "query" else name, train, depends_on
            ),
        )

    def _remember(self, name: str, train: Callable[..., dict[str, Tensor]], depends_on: str):
        started = time.process_time()

        def make() -> dict[str, Tensor]:
            return train(derive_generator(CPU, name, depends_on))

        if depends_on == "auxiliary":
            state = self.priors[name] = self._kept(name, make)
            self.owed_seconds -= time.process_time() - started
            return state
        if name in self.remembered:
            state, seconds = self.remembered[name]
            self.owed_seconds += seconds
            return state
        state = make()
        self.remembered[name] = state, time.process_time() - started
        return state

    def configured(self, name: str, arguments: dict[str, Any]) -> Attack:
        """Our attack, as it is measured."""
        attack = configure(attacks()[name], arguments | ({} if FULL else REDUCED.get(name, {})))
        return attack if FULL or name not in SMALL else attack.at_budget("small")

    def ours(
        self, name: str, victims: int, kind: type[ProtectedModel], access: Access = "client", **arguments: Any
    ) -> tuple[Tensor, float]:
        """Images and seconds. What is trained for a client counts wherever it is used, a shared prior for no side."""
        key = f"{name} {arguments} {kind.__name__} {access} {victims}"
        if key not in self._ours:
            started, owed = time.process_time(), self.owed_seconds
            seen = self.observe(victims, kind, access)
            images = self.configured(name, arguments).reconstruct(seen, generator=derive_generator(CPU, "ours", name))
            seconds = time.process_time() - started + (self.owed_seconds - owed)
            self._ours[key] = images, seconds
        return self._ours[key]

    def generator_network(self) -> dict[str, Any]:
        """The GAN that ours trains on the auxiliary images: for GLASS."""
        training = GanTraining.of(self.configured("gan", {}))
        return {"network": training.trained(self.observe(2)), "latent": training.latent}

    def denoiser(self, victims: int) -> dict[str, Any]:
        """The diffusion model that ours trained: for DRAG."""
        self.ours("diffusion", victims, ProtectedModel)
        network = small_unet(SHAPE, self.configured("diffusion", {}).width)
        network.load_state_dict(next(kept for name, kept in self.priors.items() if name.startswith("diffusion-")))
        placed = devices.place(network, CPU).eval().requires_grad_(False)
        return {"denoiser": Denoiser(placed, linear_alphas(), "epsilon")}
