"""What the command line, a script or a notebook changes of a suite before it is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpbench.suite.suite import PluginEntry


@dataclass(frozen=True)
class Options:
    """What is changed of a suite; by default nothing.

    Attributes:
        data: overrides the suite's data set.
        output: the run directory; by default `dpbench-runs/NAME`.
        only: keeps units that this shell pattern, or any of several, picks, see `dpbench.suite.overrides.matches_any`.
        seed: overrides the suite's seeds.
        shifted: overrides the data set of the shifted auxiliary images.
        budget: small, standard or large: overrides what the attacks may spend.
        weights: overrides those of the suite's only backbone: a file, auto, pretrained or fit.
        audit: every plug-in runs in processes of its own; only what was measured so counts as finished.
        shard: (I, N): the Ith of N shares of the suite, from 1; see `dpbench.executors.shares`.
        defenses: further ones: a name, then parameters, see `dpbench.suite.overrides.entry`; or entries of a suite.
        attacks: likewise.
        settings: `KEY=VALUE` of the suite, see `dpbench.suite.overrides.changed`, as for those below.
        backbone: replaces the suite's.
        splits: replace its split points.
        victims: how many.
    """

    data: str | None = None
    output: Path | str | None = None
    only: str | Sequence[str] | None = None
    seed: int | None = None
    shifted: str | None = None
    budget: str | None = None
    weights: str | None = None
    audit: bool = False
    shard: tuple[int, int] | None = None
    defenses: Sequence[str | PluginEntry] = ()
    attacks: Sequence[str | PluginEntry] = ()
    settings: Sequence[str] = ()
    backbone: str | None = None
    splits: Sequence[str] = ()
    victims: int | None = None

    @property
    def patterns(self) -> list[str]:
        """Of `only`; none keeps everything."""
        return [self.only] if isinstance(self.only, str) else list(self.only or [])
