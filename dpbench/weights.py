"""Where a backbone's weights come from: timm's pre-trained ones when they are at hand, else fitted here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import timm
import torch

from dpbench.errors import DpbenchError
from dpbench.specs import BackboneSpec


@dataclass(frozen=True)
class WeightsSource:
    """The weights that a backbone starts from.

    Attributes:
        label: "fitted", or "pretrained:" and timm's tag; goes into records and cache keys.
        pretrained: whether timm loads weights.
        classes: number of classes the pre-trained classifier has; 0 when there are no pre-trained weights.
    """

    label: str
    pretrained: bool = False
    classes: int = 0


def choose(spec: BackboneSpec) -> WeightsSource:
    """Decide by `spec.weights`; `auto` takes pre-trained weights only if they are already on this machine.

    Raises:
        DpbenchError: pre-trained weights were asked for, and timm has none for this model.
    """
    config = timm.get_pretrained_cfg(spec.name, allow_unregistered=True) if spec.weights != "fit" else None
    there = config is not None and config.has_weights
    if spec.weights == "pretrained" and not there:
        similar = timm.list_models(spec.name.split(".")[0] + "*", pretrained=True)[:5]
        raise DpbenchError(
            f"timm has no pre-trained weights for {spec.name!r}; "
            f'use weights = "fit", or one of {", ".join(similar) or "(none)"}'
        )
    if config is not None and there and (spec.weights == "pretrained" or _at_hand(config)):
        tag = f".{config.tag}" if config.tag else ""
        return WeightsSource(f"pretrained:{config.architecture or spec.name}{tag}", True, config.num_classes)
    return WeightsSource("fitted")


def _at_hand(config: timm.models.PretrainedCfg) -> bool:
    if config.file and Path(config.file).is_file():
        return True
    if config.url and (Path(torch.hub.get_dir()) / "checkpoints" / config.url.rsplit("/", 1)[-1]).is_file():
        return True
    if not config.hf_hub_id:
        return False
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (huggingface_hub.try_to_load_from_cache(config.hf_hub_id, name) for name in names)
    return any(isinstance(path, str) for path in found)
