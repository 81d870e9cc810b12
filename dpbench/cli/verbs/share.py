"""`dpbench share`: the command line of sharing. Heavy imports happen inside the verbs, as in `dpbench.cli.app`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpbench.text.terminal import make_console, working

if TYPE_CHECKING:
    from rich.console import Console

    from dpbench.exchange.exchange import Received

share = typer.Typer(
    name="share",
    help="Features as entities share them: write those of private images to a file, check what came.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Data = Annotated[str | None, typer.Option(help="Overrides the suite's data, as in `dpbench run`.")]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Weights of the suite's only backbone; sender and receiver need the same."),
]
Seed = Annotated[int | None, typer.Option(help="Overrides the suite's seeds.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@share.command(
    epilog="Examples:\n\n"
    "  dpbench share export quick --only 'gaussian std=1.0' --output shared.safetensors\n\n"
    "  dpbench share export cifar10 --data photos/cifar10 --weights resnet10t.safetensors "
    "--only 'layer1 | dpm strength=5.0' --output shared.safetensors"
)
def export(
    suite: Annotated[str, typer.Argument(help="A built-in suite (dpbench list suites) or a TOML file.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; never one that is there.")],
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="A shell pattern that occurs in exactly one 'BACKBONE SPLIT_POINT | DEFENSE | seed N' of the suite; "
            "without a match they are listed.",
        ),
    ] = None,
    data: Data = None,
    weights: Weights = None,
    seed: Seed = None,
    device: Device = "auto",
    release_seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Draws the noise of the defense, the same each time: for tests only, who knows it can subtract the "
            "noise. By default the noise comes from the operating system's entropy.",
        ),
    ] = None,
) -> None:
    """Release a suite's private images behind one defense, and write features and labels to a file for a partner.

    Backbone and defense are fitted, or taken from the cache, as `dpbench run` does. The file names the defense and
    never holds its parameters or weights. Every further export of a stochastic defense shows the receiver the same
    images under other noise, which averages out. Exit status: 0 done, 2 unusable input, and no file is written.
    """
    from dpbench.contract.threat import UNDEFENDED
    from dpbench.exchange.exchange import export_features

    console = make_console()
    with working(console) as progress:
        header = export_features(
            suite,
            output,
            only=only,
            data=data,
            weights=weights,
            seed=seed,
            device=device,
            release_seed=release_seed,
            progress=progress,
        )
    console.print(
        f"{output}: {header.count} images, features {header.shape} each, behind {header.defense}; "
        f"{header.backbone} cut at {header.split_point}, weights {header.weights_hash}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if header.defense == UNDEFENDED:
        console.print("not defended: whoever has this file can reconstruct the images", style="yellow", soft_wrap=True)
    if release_seed is not None:
        console.print(
            "for tests only: whoever learns the release seed can subtract the noise", style="yellow", soft_wrap=True
        )


@share.command(
    "import",
    epilog="Examples:\n\n"
    "  dpbench share import shared.safetensors quick\n\n"
    "  dpbench share import shared.safetensors my_suite.toml --only 'resnet18 layer2'",
)
def import_(
    file: Annotated[Path, typer.Argument(help="What `dpbench share export` wrote.")],
    suite: Annotated[str, typer.Argument(help="The receiver's: a built-in suite or a TOML file.")],
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="A shell pattern that occurs in exactly one 'BACKBONE SPLIT_POINT | none | seed N' of the suite.",
        ),
    ] = None,
    data: Data = None,
    weights: Weights = None,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Check a file of shared features against the public network of a suite, and show whether they fit it.

    Shows what the file says, and the top-1 of the suite's own, undefended server tail on the features. Nothing is
    written. Exit status: 0 it fits, 2 it is damaged, of another network, or the input is unusable.
    """
    from dpbench.exchange.exchange import import_features

    console = make_console()
    with working(console) as progress:
        received = import_features(
            file,
            suite,
            only=only,
            data=data,
            weights=weights,
            seed=seed,
            device=device,
            progress=progress,
        )
    _print(received, console)


def _print(received: Received, console: Console) -> None:
    """What the file says, and whether its features fit."""
    import json

    from rich.table import Table
    from rich.text import Text

    from dpbench.text.shown_text import clean

    header, features = received.shared.header, received.shared.features
    top1 = float(received.correct.float().mean())
    rows = {
        "backbone": f"{header.backbone}{' ' + json.dumps(header.backbone_args) if header.backbone_args else ''}",
        "weights": header.weights_hash,
        "image size": f"{header.image_size} x {header.image_size} pixels",
        "split point": header.split_point,
        "features": f"{header.shape} {header.layout}, {str(features.dtype).removeprefix('torch.')}",
        **({"packed": "; ".join(map(str, header.packed))} if header.packed else {}),
        "classes": f"{header.classes}: {_some(header.class_names)}" if header.class_names else str(header.classes),
        "defense": f"{header.defense} v{header.defense_version}",
        "images": str(header.count),
        "digest": header.digest[:16],
        "top-1 of your undefended server tail": f"{top1:.1%} (chance {1 / header.classes:.1%})",
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(clean(value)))  # no markup: the words are the sender's
    console.print(table)


def _some(names: tuple[str, ...], shown: int = 10) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
