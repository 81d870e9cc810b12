"""`dpbench new`: a file to begin with, which runs as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

SUITE = """\
# dpbench run {file}
# What may stand here: dpbench guide suites
name = "{name}"
description = "{name}: say in a line what is asked"
seeds = [0]
threat_models = ["static", "query", "weights"]
victims = 16
budget = "small"
ensemble = "{ensemble}"

[dataset]
name = "leaves"          # or a folder of class folders, torch/NAME, hfds/NAME
image_size = 32
private = 4000
auxiliary = 2000
test = 500

[[backbones]]
name = "resnet10t"
weights = "fit"
epochs = 8
split_points = ["layer1"]

[[defenses]]
name = "none"

[[defenses]]
name = "gaussian"
std = [0.5, 1.0]         # a list makes one setting of each
"""

DEFENSE = '''\
"""dpbench run quick --defense {file}:{cls}."""

from typing import ClassVar

from dpbench import Defense, ProtectedModel
from pydantic import Field


class {cls}Model(ProtectedModel):
    """What the client and the server compute."""

    def __init__(self, split, step):
        super().__init__(split)
        self.step = step

    def transform(self, features, *, generator=None):
        """Features of any shape -> what is released."""
        return (features / self.step).round() * self.step


class {cls}(Defense):
    """Round every feature to a multiple of `step`: change this to your own idea."""

    name: ClassVar[str] = "{name}"
    step: float = Field(0.5, gt=0, le=100, description="distance between two released values")

    def build(self, split):
        """The protected model, before anything is fitted."""
        return {cls}Model(split, self.step)
'''

ATTACK = '''\
"""dpbench run quick --attack {file}:{cls}."""

from typing import ClassVar

import torch
from dpbench import Attack
from pydantic import Field


class {cls}(Attack):
    """The best linear map from released features to pixels: change this to your own idea."""

    name: ClassVar[str] = "{name}"
    needs: ClassVar[str] = "query"
    penalty: float = Field(100.0, gt=0, description="weight of the squared norm")

    def reconstruct(self, seen, *, generator):
        """What the attacker sees -> images (N,3,H,W) in [0,1]; dpbench grades them."""
        images = seen.auxiliary.images.flatten(1)
        features = seen.query(seen.auxiliary.images).flatten(1)
        mean, centre = images.mean(0), features.mean(0)
        kernel = (features - centre) @ (features - centre).T
        weights = torch.linalg.solve(kernel + self.penalty * torch.eye(len(kernel)).to(kernel), images - mean)
        found = (seen.released.flatten(1) - centre) @ (features - centre).T @ weights + mean
        return found.reshape(-1, *seen.image_shape).clamp(0, 1)
'''

METRIC = '''\
"""In a suite: metrics = ["{file}:{cls}"]."""

from typing import ClassVar

from dpbench import Metric


class {cls}(Metric):
    """Mean absolute error of the pixels: change this to your own idea."""

    name: ClassVar[str] = "{name}"
    closer: ClassVar[str] = "lower"
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    def measure(self, images, victims):
        """Reconstructions and victims, both (N,3,H,W) in [0,1] -> one figure for each, (N,)."""
        return (images - victims).abs().flatten(1).mean(1)
'''

KINDS = {"suite": SUITE, "defense": DEFENSE, "attack": ATTACK, "metric": METRIC}

verbs = typer.Typer()


@verbs.command(epilog="Examples:\n\n  dpbench new suite my-suite.toml\n\n  dpbench new defense my_defense.py")
def new(
    kind: Annotated[str, typer.Argument(help="suite, defense, attack or metric.")],
    file: Annotated[
        Path | None, typer.Argument(help="Where it goes.", show_default="my_KIND.py, my_suite.toml")
    ] = None,
) -> None:
    """Write a file to begin with: it runs as it is. An existing file is never overwritten."""
    from dpbench.errors import DpbenchError, unknown
    from dpbench.machine.writing import write_atomically
    from dpbench.text.shown_text import ERROR_LIMIT, clean

    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    ending = ".toml" if kind == "suite" else ".py"
    path = file or Path(f"my_{kind}{ending}")
    if path.suffix != ending:
        raise DpbenchError(f"{path}: a {kind} is a file that ends in {ending}")
    if path.exists():
        raise DpbenchError(f"{path} is there already; give another name")
    text = content(kind, path)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    use = {"suite": f"dpbench run {path}", "metric": f'metrics = ["{path}:{_class(path)}"] in a suite'}
    said = use.get(kind, f"dpbench run quick --{kind} {path}:{_class(path)}")
    print(f"written to {clean(path, ERROR_LIMIT)}; next: {clean(said, ERROR_LIMIT)}")


def content(kind: str, path: Path) -> str:
    """What the file holds; its names follow from that of the file."""
    from dpbench.suite.ensembles import NEWEST

    words = _words(path)
    joint = "_" if kind == "metric" else "-"
    return KINDS[kind].format(file=path.name, name=joint.join(words), cls=_class(path), ensemble=NEWEST)


def _words(path: Path) -> list[str]:
    words = re.findall(r"[a-z0-9]+", path.stem.lower()) or ["mine"]
    return words if words[0][0].isalpha() else ["my", *words]


def _class(path: Path) -> str:
    return "".join(word.capitalize() for word in _words(path))
