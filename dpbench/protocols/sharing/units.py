"""What a sharing suite consists of: trainings, attacks on what was shared, and transfers; each has a record."""

from __future__ import annotations

import abc
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec, Spec
from dpbench.contract.threat import UNDEFENDED, Budget, ThreatModel
from dpbench.data.spec import DatasetSpec
from dpbench.models.spec import BackboneSpec
from dpbench.plugins.registry import find_attack, find_defense
from dpbench.protocols.sharing.reporting.columns import Knowledge
from dpbench.protocols.sharing.suite import Condition, Owner, Refinement
from dpbench.suite.cell import CellSpec, JudgeSpec
from dpbench.suite.names import short_name
from dpbench.suite.words import Words, defaults_of, in_words
from dpbench.text.hashing import content_hash

THREAT_MODEL_OF: dict[Knowledge, ThreatModel] = {
    "public": "static",
    "own": "static",
    "query": "query",
    "weights": "weights",
}
"""Knowledge of a sender's defense -> what it grants an attack."""

Describe = Callable[[PluginSpec, type[Plugin]], str]
"""A defense or attack -> what it is called: `plugin_text` of one's own, `words_of_plugin` of a stranger's record."""

NONE = PluginSpec(name=UNDEFENDED)


class WorldSpec(Spec):
    """Whose images are whose, and the public network that all start from."""

    dataset: DatasetSpec
    data_fingerprint: str = Field(description="identifies the images, wherever the folder lies")
    owners: list[Owner]
    backbone: BackboneSpec
    weights_fingerprint: str = ""
    split_point: str
    judge: JudgeSpec | None = None
    public_images: bool = True
    seed: int

    @property
    def identity(self) -> dict[str, Any]:
        """As JSON, without the places of files."""
        spec = self.model_dump(mode="json")
        spec["dataset"].pop("name")
        spec["dataset"].pop("arguments", None)
        spec["backbone"] = self.backbone.identity(spec.pop("weights_fingerprint"))
        return spec

    def cell(self, owner: str = "", attacker: str = "", **settings: Any) -> EntityCell:
        """What `dpbench.cells.pipeline` is told of an owner's images and of who attacks them; see `EntityCell`.

        Without further settings: nothing is defended, and nothing attacked.
        """
        nothing = {"defense": NONE, "attack": NONE, "threat_model": "static", "victims": 1}
        shared: list[Any] = [self.data_fingerprint, self.seed]
        if owner or attacker:  # the public network and the judge do not depend on who owns what
            shared += [[one.model_dump(mode="json") for one in self.owners], self.public_images]
        return EntityCell(
            dataset=self.dataset,
            data_fingerprint=content_hash([*shared, owner, attacker])[:40],
            owner_fingerprint=content_hash([*shared, owner])[:40],
            backbone=self.backbone,
            weights_fingerprint=self.weights_fingerprint,
            split_point=self.split_point,
            judge=self.judge,
            seed=self.seed,
            owner=owner,
            attacker=attacker,
            **(nothing | settings),
        )


class EntityCell(CellSpec):
    """A cell whose victims are images that an entity shared, and whose attacker is another entity."""

    owner: str = Field(description="whose private images are released; empty: the public images")
    owner_fingerprint: str = Field(description="identifies those images")
    attacker: str = Field(description="whose private images are the auxiliary ones; empty: nobody's")
    fit: int = Field(0, ge=0, description="which of several independent fits of the defense")
    knowledge: Knowledge = "public"
    prepared_on: list[int] | None = Field(None, description="fits of the owner's defense that the attacker may query")


class Unit(Spec, abc.ABC):
    """What training, attack and transfer have in common."""

    world: WorldSpec
    receiver: str

    @abc.abstractmethod
    def words(self, describe: Describe | None = None) -> list[str]:
        """What tells it apart, for labels and file names; without `describe` by `plugin_text`."""

    @abc.abstractmethod
    def words_by(self, describe: Describe) -> Words:
        """What it is called, for records; `describe` is asked for the words of each defense and attack."""

    @property
    def named(self) -> Words:
        """What it is called, by its plug-ins as they are now."""
        return self.words_by(plugin_text)

    @property
    def label(self) -> str:
        """In words: `train | clinic | defended-features | dpm strength=1.0 | seed 0`."""
        return self.named.label

    def _label(self, words: list[str]) -> str:
        return " | ".join([*words, f"seed {self.world.seed}"])

    @property
    def id(self) -> str:
        """A readable, file-safe name that ends in a hash of everything that affects the result."""
        stem = "-".join(re.sub(r"[^A-Za-z0-9_.=]+", "_", word)[:40] for word in self.words())
        return f"{stem}-s{self.world.seed}-{self.identity}"

    @property
    def identity(self) -> str:
        """The end of the id: a hash of everything that affects the result. No plug-in is imported for it."""
        spec = {**self.model_dump(mode="json"), **self._plugins(), "world": self.world.identity}
        return content_hash(spec)[:10]

    def _plugins(self) -> dict[str, Any]:
        """The fields that hold plug-ins, as JSON without the places of files."""
        names = ("applied", "defense", "attack", "metrics")
        return {name: _identified(getattr(self, name)) for name in names if getattr(self, name, None)}

    @property
    def version_free_id(self) -> str:
        """As `identity`, without the versions of its plug-ins and their files: equal before and after they change."""
        return content_hash(_unversioned({**self.model_dump(mode="json"), "world": self.world.identity}))


def _identified(value: Any) -> Any:
    if isinstance(value, tuple):
        return [spec.identity for spec in value]
    return {name: spec.identity for name, spec in value.items()} if isinstance(value, dict) else value.identity


def _unversioned(spec: Any) -> Any:
    """JSON without what identifies the code of plug-ins and their files."""
    if isinstance(spec, dict):
        return {name: _unversioned(value) for name, value in spec.items() if name not in ("source", "files")}
    return [_unversioned(value) for value in spec] if isinstance(spec, list) else spec


class Training(Unit):
    """The receiver trains its server tail under one condition."""

    kind: Literal["training"] = "training"
    condition: Condition
    applied: dict[str, PluginSpec] = Field(
        default_factory=dict, description="entity -> its defense, of senders and receiver; empty where none is applied"
    )
    refinement: Refinement

    @property
    def own_defense(self) -> PluginSpec | None:
        """What the receiver's own images go through, if anything."""
        return self.applied.get(self.receiver) if self.refinement.own_features == "defended" else None

    def _setting(self, describe: Describe) -> str:
        """The senders' defenses, in words; empty where none is applied."""
        given = [describe(spec, Defense) for entity, spec in self.applied.items() if entity != self.receiver]
        return " + ".join(dict.fromkeys(given))

    def words(self, describe: Describe | None = None) -> list[str]:
        """Receiver, condition, defense."""
        setting = self._setting(describe or plugin_text)
        return ["train", self.receiver, self.condition, *([setting] if setting else [])]

    def words_by(self, describe: Describe) -> Words:
        """See `Unit`; nothing is attacked."""
        label = self._label(self.words(describe))
        return Words(label=label, full=label, defense=self._setting(describe), attack="")


class OnShared(Unit):
    """An attack of the receiver on what a sender shared."""

    ids_skip_default = ("metrics",)

    sender: str
    defense: PluginSpec
    attack: PluginSpec
    victims: int = Field(ge=1)
    budget: Budget
    metrics: tuple[PluginSpec, ...] = Field((), description="what is measured beside dpbench's own metrics")

    def _cell(self, knowledge: Knowledge, **settings: Any) -> EntityCell:
        return self.world.cell(
            self.sender,
            self.receiver,
            defense=self.defense,
            attack=self.attack,
            threat_model=THREAT_MODEL_OF[knowledge],
            knowledge=knowledge,
            victims=self.victims,
            budget=self.budget,
            metrics=self.metrics,
            **settings,
        )

    def words_by(self, describe: Describe) -> Words:
        """See `Unit`."""
        return Words(
            label=self._label(self.words(describe)),
            full=self._label(self._full_words(describe)),
            defense=describe(self.defense, Defense),
            attack=short_name(self.attack.name),
        )

    @abc.abstractmethod
    def _full_words(self, describe: Describe) -> list[str]:
        """As `words`, with the parameters of the attack, and its budget."""

    @abc.abstractmethod
    def cell(self) -> EntityCell:
        """The cell that `dpbench.cells.pipeline` measures for it."""


class Attacked(OnShared):
    """The receiver attacks what a sender shared with it."""

    kind: Literal["attack"] = "attack"
    knowledge: Knowledge

    def words(self, describe: Describe | None = None) -> list[str]:
        """Who attacks whom, how, knowing what."""
        return [*self._shared(describe or plugin_text), short_name(self.attack.name), self.knowledge]

    def _full_words(self, describe: Describe) -> list[str]:
        return [*self._shared(describe), describe(self.attack, Attack), f"{self.knowledge} {self.budget}"]

    def _shared(self, describe: Describe) -> list[str]:
        return ["attack", f"{self.receiver} on {self.sender}", describe(self.defense, Defense)]

    def cell(self) -> EntityCell:
        """The cell that `dpbench.cells.pipeline` measures for it."""
        return self._cell(self.knowledge)


class Transferred(OnShared):
    """An attack prepared on some fits of a defense, judged on another (or the same)."""

    kind: Literal["transfer"] = "transfer"
    prepared_on: list[int] = Field(min_length=1, description="fits that the attacker could query")
    judged_on: int = Field(ge=0, description="the fit that released the victims' features")

    @property
    def fits(self) -> str:
        """From which fits to which: `1+2 to 0`."""
        return f"{'+'.join(map(str, self.prepared_on))} to {self.judged_on}"

    def words(self, describe: Describe | None = None) -> list[str]:
        """Sender, defense, and from which fits to which."""
        return ["transfer", self.sender, (describe or plugin_text)(self.defense, Defense), self.fits]

    def _full_words(self, describe: Describe) -> list[str]:
        return [*self.words(describe), describe(self.attack, Attack), f"query {self.budget}"]

    def cell(self) -> EntityCell:
        """The cell that `dpbench.cells.pipeline` measures for it."""
        return self._cell("query", fit=self.judged_on, prepared_on=self.prepared_on)


AnyUnit = Annotated[Training | Attacked | Transferred, Field(discriminator="kind")]


def plugin_text(spec: PluginSpec, kind: type[Plugin]) -> str:
    """A plug-in, its parameters that are not at their defaults, and the first of a defense: `gaussian std=1.0`."""
    found: type[Plugin] = find_defense(spec.name) if kind is Defense else find_attack(spec.name)
    return in_words(spec, found.name, defaults_of(found), always=1 if kind is Defense else 0)
