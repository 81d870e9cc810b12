"""Search a generator of natural images for the one whose released features match."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.attack import Observation
from dpbench.plugins.registry import register
from dpbench.toolkit.release_match import study_client
from dpbench.toolkit.view import viewed
from dpbench_attacks._gan_networks import Generator
from dpbench_attacks._gan_search import SEPARATE, PriorSearch
from dpbench_attacks._gan_training import VERSION, GanTraining


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
    version: ClassVar[int] = VERSION
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
        return self.search(match, GanTraining.of(self).trained(seen), seen, generator)

    def generator_network(self, image_shape: tuple[int, int, int]) -> Generator:
        """The untrained generator for images (N, *image_shape)."""
        return GanTraining.of(self).network(image_shape)
