"""`dpbench advise` and `attack`: where to split a network, and what features from elsewhere give away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpbench.text.terminal import make_console, working

verbs = typer.Typer()


@verbs.command(
    epilog="Examples:\n\n  dpbench advise resnet10t\n\n  dpbench advise vit_small_patch14_dinov2 --data photos\n\n"
    "  dpbench advise my_net.py:build --weights my_net.pth --at stem --at body --output advice"
)
def advise(
    backbone: Annotated[str, typer.Argument(help="A timm model, or path/to/my_net.py:build.")],
    data: Annotated[str, typer.Option(help="A folder of class folders, leaves, spectra, torch/NAME, hfds/NAME.")] = (
        "leaves"
    ),
    weights: Annotated[str, typer.Option(help="auto, pretrained, fit, or a FILE.")] = "auto",
    head: Annotated[str, typer.Option(help="auto, classifier, probe or knn.")] = "auto",
    image_size: Annotated[
        int | None,
        typer.Option(min=16, max=512, help="Side in pixels.", show_default="what pre-trained weights want, else 32"),
    ] = None,
    images: Annotated[
        int, typer.Option(min=48, help="That attackers and probes are taught by; of slow networks fewer are used.")
    ] = 1000,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT_POINT", help="Only this cut. May be repeated.", show_default="the stages"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws images and attackers.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="A folder for advice.csv and advice.png.")] = None,
) -> None:
    """Where to split? A table of cuts in about a minute: client work, bits sent, what a probe still reads, what leaks.

    Undefended. Leakage is the SSIM of two quick attacks, ridge regression in closed form and a small decoder. Exit
    status: 0 done, 2 unusable input.
    """
    from dpbench.answers.advising import advise as look
    from dpbench.answers.shown import print_advice, write_advice
    from dpbench.errors import unknown

    heads = ("auto", "classifier", "probe", "knn")
    if head not in heads:
        raise unknown("head", head, heads)
    console = make_console()
    with working(console) as progress:
        found = look(
            backbone,
            data=data,
            weights=weights,
            head=head,  # type: ignore[arg-type]
            image_size=image_size,
            images=images,
            split_points=at,
            device=device,
            seed=seed,
            progress=progress,
        )
    print_advice(found, console)
    for path in write_advice(found, output) if output is not None else ():
        console.print(f"written to {path}", markup=False, highlight=False, soft_wrap=True)


@verbs.command(
    epilog="Examples:\n\n  dpbench attack features.safetensors --images photos\n\n"
    "  dpbench attack mine.npz --images mine --victims theirs.npz --output attacked\n\n"
    "  dpbench attack int8.safetensors --images photos --scale 0.02 --zero-point 3"
)
def attack(
    features: Annotated[
        Path, typer.Argument(help="Features of the attacker's own images: safetensors or .npz, array `features`.")
    ],
    images: Annotated[Path, typer.Option(help="The folder of these images, in the order of their paths.")],
    victims: Annotated[
        Path | None,
        typer.Option(help="Features to reconstruct, likewise.", show_default="one in four of the pairs"),
    ] = None,
    victim_images: Annotated[Path | None, typer.Option(help="The folder of their images, to score by.")] = None,
    image_size: Annotated[int, typer.Option(min=16, max=512, help="Side in pixels.")] = 64,
    scale: Annotated[float | None, typer.Option(help="Integers q mean scale * (q - zero point).")] = None,
    zero_point: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Of teaching the decoder.")] = 800,
    width: Annotated[int, typer.Option(min=8, max=1024, help="Channels of the decoder.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Draws the decoder, and which pairs are victims.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="A folder for attack.png and attack.csv.")] = None,
) -> None:
    """What do features give away that came from a device? No network is needed: pairs of features and images teach.

    Floors, ridge regression in closed form and a decoder run; a line says what could not. Exit status: 0 done, 2
    unusable input.
    """
    from dpbench.answers.attacking import attack_features
    from dpbench.answers.report import print_attacked, write_attacked

    console = make_console()
    with working(console) as progress:
        found = attack_features(
            features,
            images,
            victims=victims,
            victim_images=victim_images,
            image_size=image_size,
            scale=scale,
            zero_point=zero_point,
            steps=steps,
            width=width,
            seed=seed,
            device=device,
            progress=progress,
        )
    print_attacked(found, console)
    for path in write_attacked(found, output) if output is not None else ():
        console.print(f"written to {path}", markup=False, highlight=False, soft_wrap=True)
