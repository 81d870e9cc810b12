"""Search a generator of natural images for the one whose released features match."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.devices import autocast, place
from dpbench.plugins.registry import register
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inversion import initialise
from dpbench.toolkit.release_match import study_client
from dpbench.toolkit.view import viewed
from dpbench_attacks._gan_networks import Discriminator, Generator, augment
from dpbench_attacks._gan_search import SEPARATE, PriorSearch, normal

EMA_DECAY = 0.995


@register
class GanInversion(PriorSearch):
    """Restarts in the latent space of a GAN, then refinement of the generator's intermediate features.

    Li et al. 2023, "GAN you see me? Enhanced data reconstruction attacks against split inference" (GLASS), in
    its order: many random z, keep the lowest feature loss, refine z, refine intermediate features, held near where
    they started. Differs: the generator is no pre-trained StyleGAN2 but a small DCGAN (Radford et al. 2016)
    trained on the auxiliary images only, with hinge loss, DiffAugment (Zhao et al. 2020) and averaged weights; all
    victims share one pool of random z, of which each keeps its best few; what is refined are the features before
    the last block of the DCGAN and a correction of its image, under total variation, not the w+ of StyleGAN. The
    client is compared with as in `dpbench.toolkit.release_match`; further releases of the same victims are pooled.
    """

    name: ClassVar[str] = "gan"
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "https://openreview.net/forum?id=wGZwjRwBzb"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": PriorSearch.budgets["small"] | {"training_steps": 0.2, "width": 0.5},
        "large": PriorSearch.budgets["large"] | {"training_steps": 2},
    }

    training_steps: int = Field(2000, ge=1, le=1_000_000, description="of the GAN, on the auxiliary images")
    width: int = Field(32, ge=4, le=256, description="channels of the generator at its full resolution")
    latent: int = Field(64, ge=2, le=1024, description="dimensions of z")
    batch_size: int = Field(64, ge=2, le=1024, description="real and generated images per training step")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Train (or remember) the GAN, then search and refine: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        match = study_client(seen, draws=self.draws, generator=generator, separate=SEPARATE)
        return self.search(match, self.trained(seen), seen, generator)

    def trained(self, seen: Observation) -> Generator:
        """The generator, trained on the auxiliary images (or remembered), in eval mode."""
        network = self.generator_network(seen.image_shape)
        batch = seen.auxiliary.training_batch(self.batch_size)
        identity = [self.training_steps, self.width, self.latent, batch, seen.image_shape]

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            return self._train(network, seen, batch, train_generator)

        name = f"gan-{content_hash(identity)[:16]}"
        owner = (type(self).name, f"v{type(self).version}")
        network.load_state_dict(seen.remember(name, train, "auxiliary", owner=owner))
        return place(network, seen.released.device).eval().requires_grad_(False)

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
            z = normal(batch, self.latent, device, generator)

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
