"""Defenses that train, fitted on a tiny network; each once, whichever test asks."""

import functools
from typing import Any

from dpbench.contract.defense import ProtectedModel
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import defenses
from dpbench.testing.tiny import CPU, TinyNetwork, pictures

SHORT = {"epochs": 4, "batch_size": 32}
PRIVATE = pictures(256, seed="private")


@functools.cache
def fitted(name: str, layout: str = "maps", **arguments: Any) -> Any:
    defense = configure(defenses()[name], SHORT | arguments)
    model = defense.build(TinyNetwork(layout).split()).eval()
    defense.fit(model, PRIVATE, generator=derive_generator(CPU, "fit"), progress=lambda text: None)
    return model.requires_grad_(False)


def undefended() -> ProtectedModel:
    return ProtectedModel(TinyNetwork().split()).eval().requires_grad_(False)
