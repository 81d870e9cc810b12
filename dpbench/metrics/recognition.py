"""Does a reconstruction give its victim away, apart from how it looks? Two or three figures per victim.

Linkage: is the true image the nearest of the test gallery? Identity, where the attacker has seen none of the classes:
is the nearest of the private images, none of which is the victim, of its class? Semantics: does an independent
classifier, the judge, read the victim's label? The judge is the evaluator's own, of another architecture than the model
under attack: fitted on the labelled private images with another seed or, where the model under attack came with a
classifier for these very classes, another pre-trained network. No attack and no defense ever sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.contract.images import Images, LabelledImages
from dpbench.machine.cache import State
from dpbench.machine.devices import place
from dpbench.machine.memory import LARGEST_BATCH, room
from dpbench.machine.randomness import seeded
from dpbench.models import backbones, training, weights
from dpbench.models.spec import BackboneSpec

VERSION = 1
"""Raise it whenever the judge's recipe changes: it belongs in the key of every cached judge."""


# resnet14t: 6 epochs on 4,000 leaves images take 40 s of one core and read 85% of the test images (resnet10t, 8
# epochs: 87%); regnetx_002, ese_vovnet19b_slim_dw, dla46_c, gernet_s and resnet18 stay at or below 52% in that time
JUDGE = BackboneSpec(name="resnet14t", weights="fit", epochs=6)


SECOND_JUDGE = BackboneSpec(name="resnet10t", weights="fit", epochs=8)


PRETRAINED_JUDGES = ("resnet50", "convnext_tiny", "mobilenetv2_100", "tf_efficientnet_lite0")
"""The first of another architecture whose weights are on this machine reads labels for a pre-trained backbone."""


JUDGE_SIDE = 64
"""Larger images are averaged down to this side in pixels for a judge that is fitted here: at 224 that would take half
an hour. Pre-trained judges see them as they are."""


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
    """How many other classes have an enrolled image at least as near as the victim's class has; 0 is identified.

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
    return (~(nearest < own - TIE)).sum(dim=1) - 1


def _directions(images: Tensor) -> Tensor:
    """(N,3,H,W) -> (N, 3*H*W), of mean 0 and length 1; zeros for a constant image."""
    centred = images.float().flatten(1)
    centred = centred - centred.mean(dim=1, keepdim=True)
    shows_nothing = centred.abs().amax(dim=1, keepdim=True) <= CONSTANT  # what is left of it is rounding
    return F.normalize(centred.masked_fill(shows_nothing, 0.0), dim=1)


def judge_spec(backbone_name: str) -> BackboneSpec:
    """The judge of a backbone under attack: never of the same architecture."""
    return SECOND_JUDGE if backbone_name.split(".")[0] == JUDGE.name else JUDGE


def pretrained_judge_spec(backbone_name: str, classes: int) -> BackboneSpec | None:
    """The judge of a backbone that came with a classifier for these classes; None where no weights are at hand."""
    for name in PRETRAINED_JUDGES:
        spec = BackboneSpec(name=name)  # "auto": nothing is downloaded for a judge
        if name != backbone_name.split(".")[0] and weights.choose(spec).classes == classes:
            return spec
    return None


def load_judge(spec: BackboneSpec, *, image_size: int, names: Sequence[str]) -> State:
    """The weights of a judge from `pretrained_judge_spec`, for `make_judge`."""
    network, _ = weights.create(spec, weights.choose(spec), image_size=image_size, classes=len(names), names=names)
    return dict(network.state_dict())


def fit_judge(
    spec: BackboneSpec,
    private: LabelledImages,
    *,
    image_size: int,
    classes: int,
    generator: torch.Generator,
    device: torch.device,
    progress: Callable[[str], None],
) -> State:
    """Fit a judge on the labelled private images, from scratch.

    Args:
        spec: from `judge_spec`.
        private: the defender's training images.
        image_size: side in pixels.
        classes: number of logits.
        generator: the only source of randomness, on `device`.
        device: where it is fitted.
        progress: shows "epoch 2/6".

    Returns:
        The weights, for `make_judge`.
    """
    private = private.to(device)
    seed = int(torch.randint(2**62, (1,), generator=generator, device=device).item())
    with seeded(seed, device):  # timm initialises layers from the global generator
        network = _network(spec, image_size, classes, device)
        training.fit_classifier(
            _judge(network, _side(spec, image_size)),
            private,
            epochs=spec.epochs,
            learning_rate=spec.learning_rate,
            generator=generator,
            progress=progress,
        )
    return dict(network.state_dict())


def make_judge(
    spec: BackboneSpec, state: State, *, image_size: int, classes: int, device: torch.device
) -> nn.Sequential:
    """The judge with weights of `fit_judge` or `load_judge`: (N,3,H,W) in [0,1] -> logits (N, classes).

    Frozen and in eval mode; scaling down and normalisation are inside.
    """
    with seeded(0, device):  # the weights drawn here are overwritten, and nobody else's draws may move
        network = _network(spec, image_size, classes, device)
    network.load_state_dict(state)
    return _judge(network, _side(spec, image_size)).eval().requires_grad_(False)


class _Shrink(nn.Module):
    """(N,3,H,W) with H = W -> at most `side` pixels a side, by averaging areas."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] <= self.side:
            return images
        return F.interpolate(images, size=self.side, mode="area")


def _side(spec: BackboneSpec, image_size: int) -> int:
    return min(image_size, JUDGE_SIDE) if spec.weights == "fit" else image_size


def _network(spec: BackboneSpec, image_size: int, classes: int, device: torch.device) -> nn.Module:
    side = _side(spec, image_size)
    return place(backbones.create_backbone(spec, image_size=side, classes=classes), device)


def _judge(network: nn.Module, side: int) -> nn.Sequential:
    device = next(network.parameters()).device
    return nn.Sequential(_Shrink(side), backbones.normalisation(network).to(device), network)


def labels_read(judge: nn.Module, images: Images, labels: Tensor, batch_size: int = 256) -> list[bool]:
    """Per image: is the judge's first guess the label?

    Args:
        judge: what `make_judge` returned, in eval mode.
        images: (N,3,H,W) in [0,1].
        labels: (N,) int64.
        batch_size: images read at once; the answers do not depend on it.
    """
    with torch.no_grad():  # and no autocast: in bf16, near ties would depend on the batch
        guesses = torch.cat([judge(batch.float()).argmax(dim=1) for batch in images.split(batch_size)])
    answers: list[bool] = (guesses == labels.to(guesses.device)).tolist()
    return answers


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
