"""A TOML file that names a grid -> the cells of the grid.

Everything a user can get wrong is refused here, before anything is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from dpbench.contract.spec import PLUS, Seed, Spec
from dpbench.contract.threat import AuxiliaryData, Budget, ServerRole, ThreatModel
from dpbench.data.spec import DatasetSpec, ShiftedSpec
from dpbench.errors import DpbenchError, unknown
from dpbench.models.spec import BackboneSpec
from dpbench.plugins.registry import find_attack
from dpbench.suite.cell import JudgeSpec
from dpbench.suite.ensembles import ENSEMBLES, NEWEST
from dpbench.suite.files import validated
from dpbench.suite.overrides import entry

Headline = Literal["leakage", "ssim", "reid_top1", "identity_top1"]
"""Figures of a board that a suite can be about."""

E = TypeVar("E", bound="PluginEntry")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


PluginName = Annotated[str, BeforeValidator(lambda name: PLUS.join(name) if _are_names(name) else name)]


def _are_names(given: Any) -> bool:
    return isinstance(given, list | tuple) and len(given) > 0 and all(isinstance(name, str) for name in given)


class BackboneEntry(BackboneSpec):
    """`[[backbones]]`: a backbone and the points to split it at."""

    split_points: list[str | int] = Field(min_length=1, description="module names, or stage indices")

    def spec(self) -> BackboneSpec:
        """The backbone alone."""
        return BackboneSpec(**self.model_dump(exclude={"split_points"}))


class PluginEntry(Spec):
    """`[[defenses]]`: a name and parameters; a list of values makes one setting of each.

    A list of names is defenses that follow each other: `["dpm", "gaussian"]`, which is `dpm + gaussian`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: PluginName

    def settings(self) -> list[dict[str, Any]]:
        """Every combination of the listed parameter values.

        Raises:
            DpbenchError: an empty list, which would be no combination at all.
        """
        extra = self.model_extra or {}
        if empty := [key for key, value in extra.items() if isinstance(value, list) and not value]:
            raise DpbenchError(
                f"{self.name}: {empty[0]} = [] is an empty list, so that nothing would run; "
                "list at least one value, or remove it"
            )
        values = [value if isinstance(value, list) else [value] for value in extra.values()]
        return [dict(zip(extra, combination, strict=True)) for combination in itertools.product(*values)]


class AttackEntry(PluginEntry):
    """`[[attacks]]`: as a defense, and on how many victims, granted what, with which auxiliary images."""

    victims: int | None = Field(None, ge=1, description="overrides the suite's number for this attack")
    threat_models: list[ThreatModel] | None = Field(
        None, min_length=1, description="the suite's under which this attack runs; all of them by default"
    )
    auxiliary: list[AuxiliaryData] | None = Field(None, min_length=1, description="overrides the suite's list")


class Suite(Spec):
    """The content of a suite file: what `dpbench.run` takes, too.

    >>> suite = dpbench.Suite(
    ...     name="mine",
    ...     backbones=[{"name": "resnet10t", "split_points": ["layer1"]}],
    ...     defenses=[{"name": "none"}, {"name": "gaussian", "std": [0.5, 1.0]}],
    ...     ensemble="ensemble-v1.1",
    ... )
    >>> suite.victims
    64
    """

    schema_version: Literal[1] = 1
    protocol: str = Field("", description="what is asked of the defenses; by default what leaks in inference")
    name: Name
    description: str = ""
    seeds: list[Seed] = Field([0], min_length=1)
    threat_models: list[ThreatModel] = Field(
        ["weights"],
        min_length=1,
        description="observe: the attacker sees releases and may ask nothing; static: it prepared on the undefended "
        "client; query: the defended client as a "
        "black box; weights: the defended client itself",
    )
    server: ServerRole = Field(
        "attacker",
        description="who holds the server's half: attacker: it sees all that the server computes from a release; "
        "trusted: it listens on the wire alone",
    )
    auxiliary: list[AuxiliaryData] = Field(
        ["same"], min_length=1, description="same: images like the victims'; shifted: those of [shifted]"
    )
    shifted: ShiftedSpec | None = None
    releases: int = Field(1, ge=1, le=1024, description="of each victim, all of which the attacker sees")
    budget: Budget = Field("standard", description="what the attacks may spend")
    victims: int = Field(64, ge=1, description="test images that the attacks reconstruct")
    dataset: DatasetSpec = DatasetSpec()
    data: str = Field("", description="what a data set that is not there is, and how to get it; added to the error")
    judge: JudgeSpec | None = Field(None, description="reads labels from reconstructions; by default a small ResNet")
    timeout: float | None = Field(None, gt=0, description="seconds that a cell may take; part of no id")
    headline: Headline = Field("leakage", description="the figure that orders the board, and that its pictures show")
    backbones: list[BackboneEntry] = Field(min_length=1)
    defenses: list[PluginEntry] = Field(min_length=1)
    ensemble: str | None = Field(None, description="a pinned ensemble of attacks; [[attacks]] changes or adds some")
    attacks: list[AttackEntry] = Field(default_factory=list)
    metrics: list[str] = Field(
        default_factory=list, description="metrics of your own, as path/to/file.py:Name, measured beside dpbench's"
    )

    @property
    def grants_shifted(self) -> bool:
        """Whether any attack gets auxiliary images of another data set."""
        return any("shifted" in (entry.auxiliary or self.auxiliary) for entry in self.all_attacks())

    def all_attacks(self) -> list[AttackEntry]:
        """Those of the ensemble, as [[attacks]] changes them, and the others of [[attacks]].

        Raises:
            DpbenchError: no attack at all, an unknown ensemble, or one that pins other versions than these.
        """
        names = [entry.name for entry in self.attacks]
        if self.ensemble is not None and self.ensemble not in ENSEMBLES:
            raise unknown("ensemble", self.ensemble, ENSEMBLES)
        pinned = ENSEMBLES[self.ensemble] if self.ensemble is not None else {}
        for name, version in pinned.items():
            if find_attack(name).version != version:
                raise DpbenchError(
                    f"{self.ensemble} pins {name!r} at version {version}, this dpbench has version "
                    f"{find_attack(name).version}; use a newer ensemble, or the dpbench that it was made with"
                )
        if not pinned and not self.attacks:
            raise DpbenchError(f"suite {self.name!r} names no attack; add [[attacks]], or ensemble = {NEWEST!r}")
        return [*(AttackEntry(name=name) for name in pinned if name not in names), *self.attacks]


def with_weights(suite: Suite, weights: str) -> Suite:
    """The suite with other weights for its only backbone: a file, or one of `dpbench.models.spec.WEIGHTS`.

    Raises:
        DpbenchError: the suite has several backbones.
    """
    if len(suite.backbones) > 1:
        raise DpbenchError(
            f"--weights {weights}: suite {suite.name!r} has {len(suite.backbones)} backbones "
            f"({', '.join(entry.name for entry in suite.backbones)}); write weights = ... under the one it belongs to"
        )
    return suite.model_copy(update={"backbones": [suite.backbones[0].model_copy(update={"weights": weights})]})


def extend(suite: Suite, *, defenses: Sequence[str | PluginEntry], attacks: Sequence[str | PluginEntry]) -> Suite:
    """The suite with further defenses and attacks: a name or `path/to/file.py:Name`, then parameters, see `entry`."""
    return suite.model_copy(
        update={
            "defenses": [*suite.defenses, *entries(PluginEntry, defenses, "--defense")],
            "attacks": [*suite.attacks, *entries(AttackEntry, attacks, "--attack")],
        }
    )


def entries(kind: type[E], given: Sequence[str | PluginEntry], option: str) -> list[E]:
    """What a command line names, or entries of another kind with the same parameters, as tables of a suite.

    Raises:
        DpbenchError: a text that is no name with parameters.
    """
    return [
        validated(kind, entry(one, option), origin=f"{option} {one!r}")
        if isinstance(one, str)
        else kind.model_validate(one.model_dump())
        for one in given
    ]
