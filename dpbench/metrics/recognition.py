"""Does a reconstruction give its victim away, apart from how it looks? Two or three figures per victim.

Linkage: is the true image the nearest of the test gallery? Identity, where the attacker has seen none of the classes:
is the nearest of the private images, none of which is the victim, of its class? Semantics: does an independent
classifier, the judge (see `dpbench.metrics.judge`), read the victim's label?
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.contract.images import Images, LabelledImages
from dpbench.machine.memory import LARGEST_BATCH, room
from dpbench.metrics.judge import labels_read

TIE = 1e-6
"""Similarities this close are the same: their order is float noise, and noise recognises nobody."""

CONSTANT = 1e-5
"""An image that nowhere departs from its mean by more shows nothing; fp32 means are exact to about 1e-6."""


def reidentification_ranks(
    reconstructions: Tensor, gallery: Images, truth: Tensor, batch_size: int = 64, gallery_size: int | None = None
) -> Tensor:
    """How many other gallery images are at least as near as the true one; 0 is re-identified.

    Nearness is the normalised cross-correlation of the pixels, so brightness and contrast hide nothing. Ties count
    against the attacker: a constant reconstruction, as near to all as to its victim, has rank M - 1.

    Args:
        reconstructions: (N,3,H,W) in [0,1].
        gallery: (M,3,H,W) in [0,1].
        truth: (N,) int64, the place of each victim in the gallery.
        batch_size: victims compared at once.
        gallery_size: images of the gallery compared at once; all by default.

    Returns:
        (N,) int64 in 0..M-1.
    """
    truth = truth.to(reconstructions.device)
    own = torch.full((len(truth),), torch.nan, device=truth.device)
    ranks = torch.full((len(truth),), -1, dtype=torch.int64, device=truth.device)
    # two passes, since the true image may be in any part of the gallery
    for counting in (False, True):
        first = 0
        for images in gallery.split(gallery_size or len(gallery)):
            directions = _directions(images)
            for places in torch.arange(len(truth), device=truth.device).split(batch_size):
                similarity = _directions(reconstructions[places]) @ directions.T
                here = (truth[places] >= first) & (truth[places] < first + len(images))
                if counting:
                    # "not farther" rather than "nearer": a NaN then counts against the attacker
                    ranks[places] += (~(similarity < own[places, None] - TIE)).sum(dim=1)
                else:
                    own[places[here]] = similarity[here, truth[places[here]] - first]
            first += len(images)
    return ranks


def identity_ranks(
    reconstructions: Tensor,
    labels: Tensor,
    enrolled: LabelledImages,
    batch_size: int = 64,
    gallery_size: int | None = None,
) -> Tensor:
    """How many other enrolled classes have an image at least as near as the victim's class has; 0 is identified.

    Closed-set identification as biometrics has it: the enrolled images are *other* pictures of the same people.
    Nearness and ties are those of `reidentification_ranks`.

    Args:
        reconstructions: (N,3,H,W) in [0,1].
        labels: (N,) int64, the class of each victim.
        enrolled: M images of the K classes, none of them a victim.
        batch_size: victims compared at once.
        gallery_size: enrolled images compared at once; all by default.

    Returns:
        (N,) int64 in 0..K-1; K - 1 where a victim's class has no enrolled image.
    """
    device = reconstructions.device
    labels, of_enrolled = labels.to(device), enrolled.labels.to(device)
    classes = int(torch.cat([of_enrolled, labels]).max()) + 1
    nearest = torch.full((len(labels), classes), -torch.inf, device=device)
    first = 0
    for images in enrolled.images.split(gallery_size or len(enrolled)):
        directions = _directions(images.to(device))
        shown = of_enrolled[first : first + len(images)]
        first += len(images)
        for places in torch.arange(len(labels), device=device).split(batch_size):
            similarity = _directions(reconstructions[places]) @ directions.T
            among = shown.expand(len(places), -1)
            nearest[places] = nearest[places].scatter_reduce(1, among, similarity, "amax")
    own = nearest.gather(1, labels[:, None])
    # of the enrolled classes alone: numbers between theirs may stand for nobody
    return (~(nearest[:, of_enrolled.unique()] < own - TIE)).sum(dim=1) - 1


def _directions(images: Tensor) -> Tensor:
    """(N,3,H,W) -> (N, 3*H*W), of mean 0 and length 1; zeros for a constant image."""
    centred = images.float().flatten(1)
    centred = centred - centred.mean(dim=1, keepdim=True)
    shows_nothing = centred.abs().amax(dim=1, keepdim=True) <= CONSTANT  # what is left of it is rounding
    return F.normalize(centred.masked_fill(shows_nothing, 0.0), dim=1)


def recognise(
    reconstructions: Tensor,
    gallery: LabelledImages,
    victims: int,
    judge: nn.Module,
    judge_name: str,
    judge_accuracy: float,
    enrolled: LabelledImages | None = None,
) -> Recognition:
    """Linkage and semantics of the reconstructions of one cell.

    Args:
        reconstructions: (victims,3,H,W) in [0,1].
        gallery: the test images; the first ones are the victims. `gallery.batch_size` bounds what the judge reads.
        victims: how many.
        judge: what `make_judge` returned.
        judge_name: of its architecture.
        judge_accuracy: its top-1 on the whole gallery: what perfect reconstructions would give.
        enrolled: other images of the victims' classes, where it is asked which class a reconstruction shows.
    """
    at_once = max(64, room(reconstructions.device) // (4 * reconstructions[0].numel()))
    identities = None
    if enrolled is not None:
        of_victims = gallery.labels[:victims]
        identities = identity_ranks(reconstructions, of_victims, enrolled, gallery_size=at_once).tolist()
    ranks = reidentification_ranks(reconstructions, gallery.images, torch.arange(victims), gallery_size=at_once)
    return Recognition(
        reid_rank=ranks.tolist(),
        gallery=len(gallery),
        identity_rank=identities,
        identities=None if enrolled is None else len(enrolled.labels.unique()),
        label_read=labels_read(
            judge, reconstructions, gallery.labels[:victims], min(LARGEST_BATCH, gallery.batch_size)
        ),
        judge=judge_name,
        judge_accuracy=judge_accuracy,
    )


class Recognition(BaseModel):
    """Whether a reconstruction gives the victim away, apart from how it looks."""

    model_config = ConfigDict(extra="forbid")

    reid_rank: list[int] = Field(description="per victim: how many other test images are at least as near (0: none)")
    gallery: int = Field(description="test images that were compared; chance of rank 0 is one in so many")
    label_read: list[bool] = Field(description="per victim: does the judge read its true label?")
    identity_rank: list[int] | None = Field(
        None,
        description="per victim: how many other classes have a private image at least as near as its own class has "
        "(0: none); where the attacker has seen none of these classes",
    )
    identities: int | None = Field(None, description="classes that were compared; chance of rank 0 is one in so many")
    judge: str = Field(description="the independently trained classifier")
    judge_accuracy: float = Field(description="its top-1 on the true test images")
