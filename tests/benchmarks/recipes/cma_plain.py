"""GLASS without gradients: CMA-ES on the latent vector of a generator."""

from __future__ import annotations

import numpy as np
import torch
from cmaes import CMA
from dpbench_attacks._gan_networks import Generator
from torch import Tensor

from dpbench.contract.attack import Observation

from .common import one_at_a_time, seed_of


def cma_plain(
    seen: Observation, network: Generator, *, generator: torch.Generator, latent: int, evaluations: int = 20_000
) -> Tensor:
    """Search one z per image with CMA-ES, sigma 0.4, one image at a time: (N,3,H,W) in [0,1].

    Li et al. 2023, "GAN you see me? ..." (GLASS), where no gradients are granted. Differs: the generator is the DCGAN
    that our attack trains, z stands for w. Unknown, and chosen here: the population is that of the package `cmaes`;
    mean squared difference of the features; the search starts at zero; the best z of all is taken.
    """
    query = seen.granted_query()

    @torch.no_grad()
    def invert(released: Tensor) -> Tensor:
        search = CMA(mean=np.zeros(latent), sigma=0.4, seed=seed_of(generator) % 2**31)
        best, lowest = np.zeros(latent), float("inf")
        for _ in range(evaluations // search.population_size):
            asked = np.stack([search.ask() for _ in range(search.population_size)])
            images = network(torch.from_numpy(asked).float().to(released.device))
            losses = (query(images).float() - released).square().flatten(1).mean(1).tolist()
            search.tell(list(zip(asked, losses, strict=True)))
            if min(losses) < lowest:
                best, lowest = asked[int(np.argmin(losses))], min(losses)
        return network(torch.from_numpy(best).float()[None].to(released.device))

    return one_at_a_time(seen, invert)
