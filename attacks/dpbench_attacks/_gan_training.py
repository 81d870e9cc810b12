"""How the small GAN is trained that several attacks search."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.machine.devices import autocast, compiled, fuses, place
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inversion import initialise
from dpbench_attacks._gan_networks import Discriminator, Generator, augment
from dpbench_attacks._gan_search import normal

VERSION = 3
"""Raise it whenever the figures change, with the versions of the attacks that train here."""

EMA_DECAY = 0.995


class GanTraining(BaseModel):
    """Adversarial training on the auxiliary images; its parameters are those of `gan`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training_steps: int
    width: int
    latent: int
    batch_size: int

    @classmethod
    def of(cls, attack: Attack) -> Self:
        """The training that an attack's parameters of the same names describe."""
        return cls(**{name: getattr(attack, name) for name in cls.model_fields})

    def network(self, image_shape: tuple[int, int, int]) -> Generator:
        """The untrained generator for images (N, *image_shape)."""
        return Generator(image_shape, latent=self.latent, width=self.width)

    def trained(self, seen: Observation) -> Generator:
        """The generator, trained on the auxiliary images (or remembered), frozen and in eval mode."""
        network = self.network(seen.image_shape)
        batch = seen.auxiliary.training_batch(self.batch_size)
        identity = [self.training_steps, self.width, self.latent, batch, seen.image_shape]

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            return self._train(network, seen, batch, train_generator)

        name = f"gan-{content_hash(identity)[:16]}"
        network.load_state_dict(seen.remember(name, train, "auxiliary", owner=("gan", f"v{VERSION}")))
        return place(network, seen.released.device).eval().requires_grad_(False)

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
        fused = fuses(device)
        optimizer = torch.optim.Adam(network.parameters(), 5e-4, betas=(0.5, 0.99), fused=fused)
        critic_optimizer = torch.optim.Adam(critic.parameters(), 5e-4, betas=(0.5, 0.99), fused=fused)
        paint, judge = compiled(network.paint), compiled(critic)
        average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        for step in range(self.training_steps):
            if step % 50 == 0:
                seen.progress(f"GAN step {step}/{self.training_steps}")
            chosen = torch.randint(len(seen.auxiliary), (batch,), generator=generator, device=generator.device)
            # shrunk when it is drawn: all of them at once need not fit
            real = network.shrink(seen.auxiliary.images[chosen.to(seen.auxiliary.images.device)].to(device)) * 2 - 1
            z = normal(batch, self.latent, device, generator)

            with autocast(device):
                fake = paint(z)
                both = torch.cat([real, fake.detach().float()])
                scores = judge(augment(both, generator)).float()
            loss = functional.relu(1 - scores[: len(real)]).mean() + functional.relu(1 + scores[len(real) :]).mean()
            critic_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            critic_optimizer.step()

            critic.requires_grad_(False)
            with autocast(device):
                score = judge(augment(fake.float(), generator)).float()
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
