"""`dpbench fetch`: what a suite needs, for a machine without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

verbs = typer.Typer()

PLACES = {"DPBENCH_CACHE": "cache", "HF_HOME": "huggingface", "TORCH_HOME": "torch"}
"""Environment variables by which dpbench, timm and torch keep what they get -> their folder in the output."""


@verbs.command(
    epilog="Examples:\n\n  dpbench fetch cifar10 --output for-the-cluster\n\n"
    "  source for-the-cluster/env.sh; dpbench run cifar10"
)
def fetch(
    suite: Annotated[str, typer.Argument(help="A built-in suite (dpbench list suites) or a TOML file.")],
    output: Annotated[Path, typer.Option(help="The folder.")],
    data: Annotated[str | None, typer.Option(help="Overrides the suite's data, as of dpbench run.")] = None,
    shifted: Annotated[str | None, typer.Option(help="Overrides the data set of the shifted images.")] = None,
    weights: Annotated[str | None, typer.Option(help="Of the suite's only backbone, as of dpbench run.")] = None,
) -> None:
    """Gather the images and weights that a suite needs into one folder, to be copied to a machine without a network.

    Nothing is fitted. Images that are folders of your own, and packages, must be on that machine too.
    """
    # read when the libraries are loaded
    os.environ.update({name: str(output.resolve() / place) for name, place in PLACES.items()})
    from dpbench.protocols.fetching import fetch as gather
    from dpbench.running.protocol import Options

    options = Options(data=data, shifted=shifted, weights=weights)
    count = gather(suite, options, output, lambda text: print(text, file=sys.stderr))
    print(f"{output} holds what {count} parts of {suite} need; there: source {output / 'env.sh'}")
