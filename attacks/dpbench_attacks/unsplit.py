"""Neither images nor a client to ask, only its architecture: image and substitute are fitted in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.errors import DpbenchError
from dpbench.machine.devices import place
from dpbench.machine.randomness import seeded
from dpbench.models.backbones import create_backbone, split_points
from dpbench.models.spec import BackboneSpec
from dpbench.models.splitting import cut, split_model, trace_backbone
from dpbench.plugins.registry import register
from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.inversion import (
    channel_axis,
    initialise,
    pooled,
    total_variation,
    victim_releases,
    victims_per_batch,
)
from dpbench.toolkit.standardising import Standardising
from dpbench.toolkit.view import unasked
from dpbench_attacks._substitute import Substitute, mmd

SIDE = 8
"""Pixels a side at which images are told to look like the attacker's own."""

FEW = 4
"""Of so many images, the mean is still one of them."""

Points = dict[tuple[int, ...], str]
"""Shape of the features of an image -> the first split point of the client's architecture that gives such."""

CONVERGED = 0.2
"""Share of the first feature distance below which a substitute explains what was released."""


@register
class UnSplit(Attack):
    """An image and a substitute client at once: some steps on the one, some on the other, until both explain a release.

    Erdogan et al. 2022, "UnSplit: data-oblivious model inversion, model stealing, and label inference attacks against
    split learning": MSE of the features, TV and l2 on the image, Adam with AMSGrad, the client's architecture with
    fresh weights. `architecture = "resnet10t:layer1"` names it, a timm model and its split point; of a model alone,
    `"resnet10t"`, the first stage is taken that gives features of the released shape, which whoever holds a release
    sees; where nothing is known, a small convolutional network stands in. Differs: one substitute for all victims, who
    share a client, and releases of others that were heard besides; they are standardised; larger steps, and fewer; TV
    is the l1 norm; images start at the mean of the attacker's own plus what varies most in the features from place to
    place, which is brightness behind shallow splits, and have their colours and contrast, for which a substitute would
    make up; of several substitutes, and of an image and its negative, which explain a release as well, those count
    that look most like the attacker's own (MMD of 8x8 pixels, Gretton et al. 2012). Whoever holds the server's half
    looks at what it computes: where the release has not the shape of the client's features, the first that has is
    explained in its place, and where the server undoes an order, what is smooth from place to place.

    It fails beyond shallow splits, as its authors say: a deep substitute explains any release by any image. Nothing it
    sees says whether that happened; `converged` says that the release is explained, not that the image is right.
    """

    name: ClassVar[str] = "unsplit"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://arxiv.org/abs/2108.09033"
    needs: ClassVar[Needs] = "nothing"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"rounds": 0.4},
        "large": {"rounds": 5, "substitutes": 2},
    }

    architecture: str = Field("", description='of the client: "resnet10t:layer1", or "resnet10t" alone')
    rounds: int = Field(8, ge=1, le=100_000, description="of steps on the images, then on the substitute")
    image_steps: int = Field(20, ge=1, le=10_000, description="Adam steps on the images in each round")
    model_steps: int = Field(20, ge=1, le=10_000, description="likewise on the substitute")
    image_learning_rate: float = Field(0.02, gt=0, le=1, description="of the images")
    model_learning_rate: float = Field(2e-3, gt=0, le=0.1, description="of the substitute")
    total_variation: float = Field(0.3, ge=0, le=100, description="weight of TV (mean absolute difference)")
    nearness: float = Field(0.3, ge=0, le=100, description="weight of the squared distance from the start")
    substitutes: int = Field(3, ge=1, le=64, description="that are tried, from other weights each")
    heard: int = Field(16, ge=0, le=4096, description="releases of others that are explained beside the victims'")

    def assert_fits(self, image_shape: tuple[int, int, int]) -> None:
        """The architecture is one of timm's, takes images of this shape, and can be split there.

        Raises:
            DpbenchError: it is not, does not, or cannot.
        """
        if self.architecture:
            next(self._stages(image_shape), None)  # one will do

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Fit images and substitutes in turn: (N,3,H,W) in [0,1]."""
        victims = pooled(victim_releases(seen))
        # so many at once, and no more: all share a substitute, and none of the victims may be left out
        room = max(0, min(self.heard, victims_per_batch(seen) - len(victims)))
        others = seen.overheard[:room] if seen.overheard is not None else victims[:0]
        released = torch.cat([victims, pooled([others])]) if len(others) else victims
        points = self._points(seen)
        if seen.server is not None:
            size = (seen.image_shape[1], seen.image_shape[2])
            view, seen.notes["view"] = unasked(seen.server, released, points or [tuple(released.shape[1:])], size)
            with torch.no_grad():
                released = view.of(seen.server, released)
        standardising = Standardising(tuple(released.shape[1:]), channel_axis(tuple(released.shape)))
        place(standardising, released.device).fit(released)
        target = standardising(released)
        target = target / target.std().clamp_min(1e-6)
        known = seen.auxiliary.images[:256].to(released.device)
        mean = known.mean(0, keepdim=True)
        best, lowest, kept = mean.expand(len(released), -1, -1, -1), float("inf"), (1.0, 1.0)
        start = dominant(target, tuple(mean.shape[2:]))
        for attempt in range(self.substitutes):
            network = self._substitute(tuple(released.shape[1:]), points, seen, generator)
            label = f"substitute {attempt + 1}/{self.substitutes}"
            found, first, last = self._fit(network, target, mean, start, colours(known - mean), seen, label)
            for images in (found, (2 * mean - found).clamp(0, 1)):
                unlike = float(mmd(contrast(images - mean), contrast(known - mean)))
                if unlike < lowest:
                    best, lowest, kept = images, unlike, (first, last)
        seen.notes["first_feature_loss"], seen.notes["final_feature_loss"] = (round(value, 5) for value in kept)
        seen.notes["converged"] = kept[1] < CONVERGED * kept[0]
        return best[: len(victims)].clone()

    def _fit(
        self,
        network: nn.Module,
        target: Tensor,
        mean: Tensor,
        start: Tensor,
        colours: Tensor,
        seen: Observation,
        label: str,
    ) -> tuple[Tensor, float, float]:
        """Images (N,3,H,W) in [0,1] whose features through the fitted network are the target; first and last loss."""
        axis = torch.linalg.eigh(colours.cpu()).eigenvectors[:, -1].to(colours)  # of most variance: brightness
        start = start * axis[:, None, None]
        free = start.clone().requires_grad_(True)
        image_optimizer = torch.optim.Adam([free], self.image_learning_rate, amsgrad=True)
        model_optimizer = torch.optim.Adam(network.parameters(), self.model_learning_rate, amsgrad=True)
        with torch.no_grad():
            first = last = float((network(mean.expand(len(target), -1, -1, -1)) - target).square().mean())
        for number in range(self.rounds):
            seen.progress(f"{label}, round {number}/{self.rounds}")
            for step in range(self.image_steps + self.model_steps):
                # the substitute first: images would leave a start that it does not know yet
                of_images = step >= self.model_steps
                if step in (0, self.model_steps):
                    network.requires_grad_(not of_images)
                with torch.enable_grad():
                    images = (mean + torch.einsum("ij,njhw->nihw", colours, free)).clamp(0, 1)
                    distance = (network(images if of_images else images.detach()) - target).square().flatten(1).mean(1)
                    near = (free - start).square().mean((1, 2, 3))
                    loss = distance + self.total_variation * total_variation(images) + self.nearness * near
                    optimizer = image_optimizer if of_images else model_optimizer
                    optimizer.zero_grad(set_to_none=True)
                    loss.sum().backward() if of_images else distance.mean().backward()
                optimizer.step()
            last = float(distance.detach().mean())
            if label.startswith("substitute 1/"):
                seen.log(number, feature_distance=round(last, 4))
        return images.detach().nan_to_num(0.5), first, last

    def _substitute(
        self, shape: tuple[int, ...], points: Points, seen: Observation, generator: torch.Generator
    ) -> nn.Module:
        """A network of images to standardised releases, with fresh weights.

        Raises:
            DpbenchError: the architecture gives features of another shape.
        """
        device = seen.released.device
        if not self.architecture:
            network = Substitute(shape, seen.image_shape).network
        elif shape in points:
            seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
            with seeded(seed, device):
                network = self._client(seen.image_shape, points[shape])
        else:
            raise DpbenchError(
                f"architecture = {self.architecture!r} gives features {', '.join(map(str, points))}, what was released "
                f"is {shape}; name the client's architecture and split point, or leave `architecture` empty"
            )
        initialise(network, generator)
        return place(network, device).eval()

    def _points(self, seen: Observation) -> Points:
        """Where `architecture` may be split; nothing where none is given. Whoever draws numbers later draws the same.

        Raises:
            DpbenchError: see `_stages`.
        """
        points: Points = {}
        with seeded(0, seen.released.device):
            for shape, point in self._stages(seen.image_shape) if self.architecture else ():
                points.setdefault(shape, point)
        return points

    def _stages(self, image_shape: tuple[int, int, int]) -> Iterator[tuple[tuple[int, ...], str]]:
        """The split point that is named, or each stage that is one, shallow to deep, and the shape of features there.

        Raises:
            DpbenchError: it is no timm model for images of this shape, or is not split where it says.
        """
        spec, named = self._architecture()
        model = create_backbone(spec, image_size=image_shape[1], classes=2)
        traced = trace_backbone(model, image_shape, name=spec.name)
        for point in [named] if named else split_points(model):
            try:
                client = cut(model, traced, point, classes=2, name=spec.name).client_head
            except DpbenchError:
                if named:
                    raise
                continue  # a stage that is no place to split
            with torch.no_grad():
                yield tuple(client(torch.zeros(2, *image_shape)).shape[1:]), point

    def _client(self, image_shape: tuple[int, int, int], point: str) -> nn.Module:
        """The client's half of `architecture`, untrained: images (N, *image_shape) -> features."""
        spec, _ = self._architecture()
        model = create_backbone(spec, image_size=image_shape[1], classes=2)
        return split_model(model, point, image_shape=image_shape, classes=2, name=spec.name).client_head

    def _architecture(self) -> tuple[BackboneSpec, str]:
        """The model of `architecture`, and its split point, "" where none is named.

        Raises:
            DpbenchError: it names no timm model.
        """
        name, colon, point = self.architecture.rpartition(":")
        if not colon:
            name, point = point, ""
        spec = BackboneSpec(name=name) if name else None
        if spec is None or spec.own or (colon and not point):
            raise DpbenchError(
                f"architecture = {self.architecture!r}; expected a timm model and its split point, such as "
                '"resnet10t:layer1", or the model alone'
            )
        return spec, point


def dominant(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """What varies most in features (N, ...) from place to place, of unit variance, (N,1,*size); 0 without a grid."""
    grid = features_on_grid(features, (size[0], size[1]))
    if grid is None:
        return torch.zeros(len(features), 1, *size, device=features.device)
    centred = grid - grid.mean((0, 2, 3), keepdim=True)
    rows = centred.cpu().double().movedim(1, -1).flatten(0, -2)
    direction = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -1].to(features)
    shown = torch.einsum("nchw,c->nhw", centred, direction)[:, None]
    if len(shown) > FEW:  # what all have in common is in the mean image
        shown = shown - shown.mean(0, keepdim=True)
    shown = functional.interpolate(shown, (size[0], size[1]), mode="bilinear", align_corners=False)
    return shown / shown.std().clamp_min(1e-6)


def colours(deviations: Tensor) -> Tensor:
    """The matrix (3,3) that gives independent channels of unit variance the colours of deviations (N,3,H,W)."""
    rows = deviations.cpu().double().movedim(1, -1).flatten(0, -2)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    size = values.clamp_min(1e-4 * float(values.max())).clamp_min(1e-12).sqrt()
    made: Tensor = (vectors @ torch.diag(size) @ vectors.T).to(deviations)
    return made


def contrast(deviations: Tensor) -> Tensor:
    """Deviations from a mean (N,3,H,W) at 8x8 pixels, of unit variance: a faint image may be right too."""
    small: Tensor = functional.adaptive_avg_pool2d(deviations, SIDE)
    return small / small.std().clamp_min(1e-6)
