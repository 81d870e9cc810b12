"""What was measured of the cuts of a network, and which of them no other one beats."""

from __future__ import annotations

from dataclasses import dataclass

from dpbench.answers.cuts import Cost


@dataclass(frozen=True)
class Cut:
    """One cut of a network: where it is, what it costs the client, and what comes back.

    Attributes:
        split_point: a module.
        cost: of the client.
        probe: accuracy of a linear probe on what crosses.
        ssim: of the reconstructions, the better of both attacks for each victim, with the ends of its 95% interval.
        by_attack: mean SSIM of each attack.
        front: no other cut leaks less for no more client multiply-adds and bits.
    """

    split_point: str
    cost: Cost
    probe: float
    ssim: tuple[float, float, float]
    by_attack: dict[str, float]
    front: bool = False


@dataclass(frozen=True)
class Advice:
    """What was measured of a network.

    Attributes:
        backbone: its name.
        weights: where its weights came from.
        data: the name of the images.
        image_size: side in pixels.
        images: that attackers and probes were taught by.
        victims: that were reconstructed.
        accuracy: of the unsplit network.
        floor: SSIM of the mean of the attacker's images.
        cuts: from shallow to deep.
        left_out: why other split points have no row.
        seconds: that it took.
    """

    backbone: str
    weights: str
    data: str
    image_size: int
    images: int
    victims: int
    accuracy: float
    floor: float
    cuts: tuple[Cut, ...]
    left_out: tuple[str, ...]
    seconds: float


def marked(cuts: list[Cut]) -> list[Cut]:
    """The cuts, from cheap to expensive; on the front are those that none beats in leak, multiply-adds and bits.

    Multiply-adds that are not counted are none: of programs, whose only cut is the one that there is.
    """

    def figures(cut: Cut) -> tuple[float, ...]:
        return cut.ssim[0], cut.cost.multiply_adds or 0, cut.cost.bits

    def beaten(cut: Cut) -> bool:
        mine = figures(cut)
        return any(
            all(theirs <= own for theirs, own in zip(figures(other), mine, strict=True)) and figures(other) != mine
            for other in cuts
        )

    ordered = sorted(cuts, key=lambda cut: cut.cost.multiply_adds or 0)
    return [Cut(**{**vars(cut), "front": not beaten(cut)}) for cut in ordered]
