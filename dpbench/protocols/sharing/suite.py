"""A suite of the protocol `sharing`: who has which images, what is shared under which defense, who trains on it."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, model_validator

from dpbench.contract.spec import Seed, Spec
from dpbench.contract.threat import Budget
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.protocols.sharing.reporting.columns import KNOWLEDGE, Knowledge
from dpbench.suite.cell import JudgeSpec
from dpbench.suite.suite import BackboneEntry, Name, PluginEntry

Condition = Literal[
    "own",
    "own-longer",
    "clean-images",
    "clean-features",
    "sender-tail",
    "soft-labels",
    "defended-features",
    "shuffled-labels",
    "equal-noise",
]
"""What the receiver trains on; see dpbench/guide/sharing-features.md."""

CONDITIONS: tuple[Condition, ...] = get_args(Condition)
"""All of them, in the order of the board."""

RIVALS: tuple[Condition, ...] = ("sender-tail", "soft-labels")
"""What a sender can give instead of features; measured where a suite lists them."""

DEFAULTS: dict[str, Any] = tomllib.loads((resources.files("dpbench.protocols.sharing") / "defaults.toml").read_text())
"""Plug-ins that a suite takes which names none."""

ALONE: tuple[Condition, ...] = ("own", "own-longer")
"""Conditions without a partner."""


class Owner(Spec):
    """Who has how many private images, of which classes."""

    name: Name
    images: int = Field(ge=0, description="private images")
    alpha: float | None = Field(
        None, gt=0, le=1e6, description="class skew: proportions from Dirichlet(alpha); by default those of the data"
    )


class EntitySpec(Owner):
    """`[[entities]]`: an owner of images, and what it applies before it shares."""

    defense: PluginEntry | None = Field(None, description="what it always applies, instead of the suite's [[defenses]]")


class Refinement(Spec):
    """`[refinement]`: how the receiver trains the server tail; all conditions take the same optimiser steps."""

    steps: int = Field(300, ge=1, le=1_000_000, description="of AdamW")
    batch_size: int = Field(64, ge=2, le=4096, description="own images per step, and as many shared ones beside them")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="peak of the one-cycle schedule")
    adapter: bool = Field(False, description="a linear map of the channels in front of the tail, for shared features")
    own_features: Literal["clean", "defended"] = Field(
        "clean", description="what the receiver's own images go through, in training and in its test"
    )


class SharingAttack(PluginEntry):
    """`[[attacks]]`: an attack, on how many shared images, and how much the receiver knows."""

    victims: int | None = Field(None, ge=1, description="overrides the suite's number for this attack")
    knowledge: list[Knowledge] | None = Field(None, min_length=1, description="overrides the suite's list")


class Controls(Spec):
    """`[controls]`: for which defenses labels are shuffled, and noise of the same power is shared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    defenses: list[str] = Field(default_factory=lambda: list(DEFAULTS["controls"]), description="names of [[defenses]]")


class Transfer(Spec):
    """`[transfer]`: attackers prepared on one fit of a defense, judged on another, and on all but one."""

    defense: PluginEntry
    attack: PluginEntry = PluginEntry(name=DEFAULTS["transfer"])
    fits: int = Field(3, ge=2, le=32, description="independent fits of the defense; the first is the one shared")


class SharingSuite(Spec):
    """The content of a suite file with `protocol = "sharing"`."""

    schema_version: Literal[1] = 1
    protocol: Literal["sharing"]
    name: Name
    description: str = ""
    seeds: list[Seed] = Field([0, 1, 2], min_length=1)
    leakage_seeds: list[Seed] | None = Field(
        None, description="seeds in which the shared features are attacked; by default all"
    )
    budget: Budget = Field("small", description="what the attacks may spend")
    victims: int = Field(64, ge=1, description="shared images that the attacks reconstruct")
    dataset: DatasetSpec = Field(
        DatasetSpec(), description="private: divided among the entities; auxiliary: the public images; test: the task"
    )
    data: str = Field("", description="what a data set that is not there is, and how to get it; added to the error")
    timeout: float | None = Field(None, gt=0, description="seconds that a unit may take; part of no id")
    public_images: bool = Field(True, description="whether the attacker has the public images beside its own")
    judge: JudgeSpec | None = None
    backbone: BackboneEntry = Field(description="fitted on the public images, or pre-trained; one split point")
    entities: list[EntitySpec] = Field(min_length=1)
    receivers: list[str] = Field(min_length=1, description="entities that train on what all others share")
    conditions: list[Condition] = Field([one for one in CONDITIONS if one not in RIVALS], min_length=1)
    controls: Controls = Controls()
    refinement: Refinement = Refinement()
    defenses: list[PluginEntry] = Field(default_factory=list)
    knowledge: list[Knowledge] = Field(list(KNOWLEDGE), min_length=1, description="what the attacker knows")
    attacks: list[SharingAttack] = Field(default_factory=list)
    transfer: Transfer | None = None
    metrics: list[str] = Field(
        default_factory=list, description="metrics of your own, as path/to/file.py:Name, measured beside dpbench's"
    )

    @model_validator(mode="after")
    def _agrees(self) -> SharingSuite:
        names = [entity.name for entity in self.entities]
        problem = (
            _of_entities(self, names)
            or _of_partners(self, names)
            or (
                len(self.backbone.split_points) > 1
                and f"backbone.split_points has {len(self.backbone.split_points)} entries; entities share the features "
                "of one split point: keep one"
            )
            or (
                self.dataset.auxiliary_classes > 0
                and f"dataset.auxiliary_classes is {self.dataset.auxiliary_classes}, but the auxiliary images are the "
                "public ones, on which the network learns the classes of the task; leave it out"
            )
            or _of_seeds(self)
        )
        if problem:
            raise _Disagrees(problem)
        return self


class _Disagrees(DpbenchError, ValueError):
    """Parts of a suite that do not fit each other."""


def _of_entities(suite: SharingSuite, names: list[str]) -> str:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return f"entity {twice!r} is there twice; give each a name of its own"
    empty = next((entity.name for entity in suite.entities if not entity.images), None)
    if empty is not None:
        return f"entity {empty!r} has no data (images = 0); give it images, or remove it"
    wanted = sum(entity.images for entity in suite.entities)
    if wanted > suite.dataset.private:
        return (
            f"the entities together want {wanted} private images, but dataset.private is {suite.dataset.private}; "
            "raise it, or lower the images of an entity"
        )
    unknown = next((name for name in suite.receivers if name not in names), None)
    if unknown is not None:
        return f"receiver {unknown!r} is no entity; the entities are {', '.join(names)}"
    return ""


def _of_partners(suite: SharingSuite, names: list[str]) -> str:
    shared = [condition for condition in suite.conditions if condition not in ALONE]
    if shared and len(names) < 2:
        return (
            f"condition {shared[0]!r} needs a partner, but {names[0]!r} is the only entity; add one to [[entities]], "
            f"or keep the conditions {', '.join(ALONE)}"
        )
    if (suite.attacks or suite.transfer) and len(names) < 2:
        return f"attacks need features that a partner shared, but {names[0]!r} is the only entity; add another"
    if "own" not in suite.conditions:
        return "conditions lacks 'own', which all others are compared with; add it"
    return ""


def _of_seeds(suite: SharingSuite) -> str:
    beyond = next((seed for seed in suite.leakage_seeds or [] if seed not in suite.seeds), None)
    return f"leakage_seeds has {beyond}, which is not in seeds; add it there" if beyond is not None else ""
