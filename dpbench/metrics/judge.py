"""The judge: an independent classifier that reads labels from reconstructions.

It is the evaluator's own, of another architecture than the model under attack: fitted on the labelled private images
with another seed or, where the model under attack came with a classifier for these very classes, another pre-trained
network. No attack and no defense ever sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.contract.images import Images, LabelledImages
from dpbench.machine.cache import State
from dpbench.machine.devices import place
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
