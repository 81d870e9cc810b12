"""What the engine tells the process of a plug-in, and how it answers what that process asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dpbench.border.wire import Message
from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.images import LabelledImages
from dpbench.contract.plugin import Plugin
from dpbench.errors import DpbenchError
from dpbench.plugins.registry import sort_of
from dpbench.plugins.sources import brings_code
from dpbench.plugins.stand_in import StandIn, asked_apart
from dpbench.service.fitting import Recipe


def who(plugin: Plugin) -> str:
    """A plug-in in words, for the process that holds it: `defense 'dpm'`."""
    return f"{sort_of(type(plugin))} {plugin.reference if isinstance(plugin, StandIn) else plugin.name!r}"


def named(plugin: Plugin) -> dict[str, Any]:
    """Fields of a message that names a plug-in and its parameters."""
    return {
        "sort": sort_of(type(plugin)),
        "reference": plugin.reference if isinstance(plugin, StandIn) else plugin.name,
        "arguments": plugin.model_dump(mode="json"),
    }


def told(recipe: Recipe, defense: Defense) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of a message that says what a protected model is made of."""
    about = {
        "key": recipe.key,
        "backbone": recipe.backbone.model_dump(mode="json"),
        "image_size": recipe.image_size,
        "classes": recipe.classes,
        "split_point": recipe.split_point,
    }
    return named(defense) | {"recipe": about}, {f"state.{name}": value for name, value in recipe.state.items()}


def shown(name: str, images: LabelledImages) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Labelled images as fields and tensors; those that do not fit in memory are read when they are asked for."""
    tensors = {f"{name}.labels": images.labels}
    if isinstance(images.images, Tensor):
        tensors[f"{name}.images"] = images.images
    return {"image_shape": list(images.images.shape[1:]), "batch_size": images.batch_size}, tensors


def reads(known: dict[str, LabelledImages]) -> Callable[[Message], Message]:
    """Answers a process that asks for some of the images that it was shown, by the name they were shown under."""

    def read(message: Message) -> Message:
        images = known[message.fields["name"]].images
        chosen = message.tensors["chosen"].long()
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(images):
            raise DpbenchError("there are no such images")
        return Message("images", {}, {"images": images[chosen.to(images.device)]})

    return read


def shows(progress: Callable[[str], None]) -> Callable[[Message], Message]:
    """Passes on how far a process says that it is."""

    def show(message: Message) -> Message:
        progress(str(message.fields.get("text", ""))[:200])
        return message

    return show


def assert_ready(plugin: Plugin, image_shape: tuple[int, int, int] | None) -> None:
    """Ask a plug-in, where its code runs, whether what it needs is at hand and suits images of this shape.

    Args:
        plugin: configured.
        image_shape: (3, H, W) of the images; None where there are none.

    Raises:
        DpbenchError: what it says is missing, or does not fit.
    """
    if isinstance(plugin, StandIn) or brings_code(plugin):
        asked_apart(**named(plugin), at_hand=True, image_shape=image_shape)
        return
    plugin.assert_at_hand()
    if isinstance(plugin, Attack) and image_shape is not None:
        plugin.assert_fits(image_shape)
