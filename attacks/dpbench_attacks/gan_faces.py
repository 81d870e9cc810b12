"""Search a pre-trained generator of faces for the one whose released features match."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.attack import Observation
from dpbench.machine.devices import place
from dpbench.models.carriers import FACE_GAN, checked_file
from dpbench.plugins.registry import register
from dpbench.toolkit.release_match import study_client
from dpbench.toolkit.view import viewed
from dpbench_attacks._gan_networks import FaceGenerator, all_grey, trained_on_faces
from dpbench_attacks._gan_search import SEPARATE, PriorSearch


@register
class FaceGanInversion(PriorSearch):
    """The search of `gan` with a generator that was trained on many faces, none of them the attacker's or a victim's.

    A DCGAN (Radford et al. 2016) for 64x64 pixels, pre-trained on photographs of faces and taken as it is from a
    package, `FACE_GAN` of `dpbench.models.carriers`: this attacker knows that the victims are faces, and needs no
    data to learn what those look like. The search is that of `gan`: Li et al. 2023 (GLASS), with the differences
    named there. What is refined are the features before the last two blocks, (128,16,16), and a correction of the
    image. Where all of the attacker's own images are grey, so are its reconstructions. Other sizes than 64 are
    resized.
    """

    name: ClassVar[str] = "gan-faces"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://arxiv.org/abs/1511.06434"

    # by trial on faces that were no victims: features so early in the generator take larger steps and more smoothing
    refine_learning_rate: float = Field(0.2, gt=0, le=1, description="on intermediate features")
    total_variation: float = Field(2.0, ge=0, le=100, description="weight of TV while features are refined")

    def assert_at_hand(self) -> None:
        """The package with the generator's weights is installed."""
        checked_file(FACE_GAN)

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Search and refine: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        match = study_client(seen, draws=self.draws, generator=generator, separate=SEPARATE)
        network = self.generator_network(seen.image_shape, grey=all_grey(seen.auxiliary))
        place(network, seen.released.device).eval().requires_grad_(False)
        return self.search(match, network, seen, generator)

    def generator_network(self, image_shape: tuple[int, int, int], *, grey: bool) -> FaceGenerator:
        """The trained generator for images (N, *image_shape).

        Raises:
            DpbenchError: its weights are not at hand.
        """
        return trained_on_faces(image_shape, grey=grey)
