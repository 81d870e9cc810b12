"""`dpbench run`: measure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dpbench.cli import completion
from dpbench.text.terminal import make_console

verbs = typer.Typer()


@verbs.command(
    epilog="Examples:\n\n"
    "  dpbench run\n\n"
    "  dpbench run cifar10 --data photos/cifar10\n\n"
    "  dpbench run my_suite.toml --only dpm --seed 1\n\n"
    "  dpbench run quick --budget large --victims 8 --set dataset.test=200\n\n"
    "  dpbench run quick --defense 'gaussian std=[0.5,3.0]' --only gaussian --only none\n\n"
    "  dpbench run quick --backbone resnet18 --split layer2\n\n"
    "  dpbench run quick --weights resnet10t.safetensors\n\n"
    "  dpbench run quick --workers 4 --timeout 3600\n\n"
    "  dpbench run sharing\n\n"
    "  dpbench run quick --defense my_defense.py:MyDefense --dry-run"
)
def run(
    suite: Annotated[
        str,
        typer.Argument(autocompletion=completion.suites, help="A built-in suite (dpbench list suites) or a TOML file."),
    ] = "quick",
    data: Annotated[
        str | None,
        typer.Option(
            help="Overrides the suite's data: a folder of class folders, leaves, spectra, torch/NAME, hfds/NAME."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The run directory.", show_default="dpbench-runs/SUITE")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            autocompletion=completion.cells,
            help="Only cells in whose label this shell pattern occurs. May be repeated: any of them.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the suite's seeds.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="What the attacks may spend: small, standard or large. Overrides the suite's.")
    ] = None,
    shifted: Annotated[
        str | None, typer.Option(help="Overrides the data set of the attacker's shifted images, as --data does.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights of the suite's only backbone: a safetensors file or a PyTorch checkpoint; "
            "or auto, pretrained, fit.",
        ),
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="At most so many images in a network at once; auto: from their size and the device's memory. "
            "Halved when memory runs out.",
        ),
    ] = "auto",
    defense: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME [KEY=VALUE ...]'",
            autocompletion=completion.defenses,
            help="Adds a defense: a name or path/to/file.py:Name, then parameters; a list makes one setting of each "
            "value. May be repeated.",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME [KEY=VALUE ...]'",
            autocompletion=completion.attacks,
            help="Adds an attack, as --defense does. May be repeated.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="'NAME [KEY=VALUE ...]'",
            autocompletion=completion.backbones,
            help="Replaces the suite's backbone by another of timm's, with the settings of the first.",
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Replaces the split points: a module or a stage index. May be repeated."),
    ] = None,
    victims: Annotated[
        int | None, typer.Option(min=1, help="How many test images are attacked, by every attack at most.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other value of the suite, as TOML has it: budget=small, dataset.test=100. May be repeated.",
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Runs every plug-in in processes of its own; those from files and other packages always run so.",
        ),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also send curves and means to tensorboard or wandb. May be repeated."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Cells at once, in a process each; the figures are the same for any number, given the same --threads.",
            show_default="one per GPU, else this process alone",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads that compute in each worker; another number fits other networks.",
            show_default="1 with --workers, else all cores",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds that a cell may take before it is a failed row. Overrides the suite's."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="The Ith of N shares of the suite: for job arrays, in one run directory."),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(help="Where cells are measured: here, processes, ray, or path/to/file.py:Class."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, for --executor ray.", show_default="one on this machine")
    ] = None,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compiles the steps of optimisations (rmle, gan, decoders): pays where cells are long, above all on a "
            "GPU. Sums round in another order.",
        ),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say afterwards where the time went, and write a trace for Perfetto.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, and what it will take by earlier runs, and stop.")
    ] = False,
) -> None:
    """Score defenses against attacks; finished cells are skipped, so the same command goes on after a stop.

    Writes a JSON record and a picture per cell under the run directory; at the end board.csv, tradeoff.png and
    overview.png, budgets.png where it holds several budgets, and depth.png where it holds several split points.
    Exit status: 0 done, 1 some cells failed, 2 unusable input.
    """
    asked = dict(locals())
    from dpbench.machine.cache import default_cache
    from dpbench.records.repeats import Repeats

    console = make_console()
    repeats = Repeats(default_cache(), asked, console)
    # where torch is loaded already nothing is gained
    if not (dry_run or profile or "torch" in sys.modules) and repeats.show():
        raise typer.Exit(0)

    from dpbench.cli.running import run_suite
    from dpbench.executors.executor import Means
    from dpbench.executors.shares import parse_shard
    from dpbench.machine.memory import parse_batch_size
    from dpbench.running.options import Options

    options = Options(
        data=data,
        output=output,
        only=only or [],
        seed=seed,
        shifted=shifted,
        budget=budget,
        weights=weights,
        audit=audit,
        shard=None if shard is None else parse_shard(shard),
        defenses=defense or [],
        attacks=attack or [],
        settings=set_ or [],
        backbone=backbone,
        splits=split or [],
        victims=victims,
    )
    means = Means(
        executor=executor or "",
        workers=workers,
        threads=threads,
        timeout=timeout,
        address=address or "",
        compiled=compile_,
    )
    status = run_suite(
        suite,
        options,
        device=device,
        batch_size=parse_batch_size(batch_size),
        means=means,
        profile=profile,
        dry_run=dry_run,
        console=console,
        trackers=track or [],
        repeats=repeats,
    )
    raise typer.Exit(status)
