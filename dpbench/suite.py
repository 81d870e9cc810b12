"""A TOML file that names a grid -> the cells of the grid.

Everything a user can get wrong is refused here, before anything is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import ConfigDict, Field, StringConstraints

from dpbench.ensembles import ENSEMBLES, NEWEST
from dpbench.errors import DpbenchError, unknown
from dpbench.registry import canonical, configure, files_of, find_attack, find_defense, source_of
from dpbench.specs import BackboneSpec, CellSpec, DatasetSpec, JudgeSpec, PluginSpec, ShiftedSpec, Spec
from dpbench.suite_files import PROTOCOLS, explain, parse_toml, suite_text
from dpbench.types import (
    AUXILIARY_DATA,
    THREAT_MODELS,
    UNDEFENDED,
    Attack,
    AuxiliaryData,
    Budget,
    Defense,
    Plugin,
    ServerRole,
    ThreatModel,
    grants,
)

P = TypeVar("P", bound=Plugin)

Headline = Literal["leakage", "ssim", "reid_top1", "identity_top1"]
"""Figures of a board that a suite can be about."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


class BackboneEntry(BackboneSpec):
    """`[[backbones]]`: a backbone and the points to split it at."""

    split_points: list[str | int] = Field(min_length=1, description="module names, or stage indices")

    def spec(self) -> BackboneSpec:
        """The backbone alone."""
        return BackboneSpec(**self.model_dump(exclude={"split_points"}))


class PluginEntry(Spec):
    """`[[defenses]]`: a name and parameters; a list of values makes one setting of each."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    def settings(self) -> list[dict[str, Any]]:
        """Every combination of the listed parameter values."""
        extra = self.model_extra or {}
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
    """The content of a suite file."""

    schema_version: Literal[1] = 1
    protocol: Literal["inference"] = "inference"
    name: Name
    description: str = ""
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    threat_models: list[ThreatModel] = Field(
        ["weights"],
        min_length=1,
        description="static: the attacker prepared on the undefended client; query: the defended client as a "
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
    headline: Headline = Field("leakage", description="the figure that orders the board, and that its pictures show")
    backbones: list[BackboneEntry] = Field(min_length=1)
    defenses: list[PluginEntry] = Field(min_length=1)
    ensemble: str | None = Field(None, description="a pinned ensemble of attacks; [[attacks]] changes or adds some")
    attacks: list[AttackEntry] = Field(default_factory=list)

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


def load_suite(name: str) -> Suite:
    """A built-in suite by name, or a TOML file by path.

    Raises:
        DpbenchError: no such suite or file, a TOML syntax error (with its line), an unknown key (with a
            suggestion), a value that does not fit.
    """
    return parse_suite(suite_text(name), origin=name)


def parse_suite(text: str, *, origin: str) -> Suite:
    """TOML text -> a validated suite; `origin` names it in messages."""
    content = parse_toml(text, origin=origin)
    if content.get("protocol", PROTOCOLS[0]) == PROTOCOLS[1]:
        raise DpbenchError(
            f"{origin} is a suite of the protocol {PROTOCOLS[1]!r}, which has no grid of cells; `dpbench run` and "
            "`dpbench leaderboard` take it, here a suite without that protocol is expected"
        )
    try:
        return Suite.model_validate(content)
    except pydantic.ValidationError as error:
        raise explain(error, origin, _TABLES, Suite) from error


_TABLES: dict[str, type[Spec]] = {
    "dataset": DatasetSpec,
    "shifted": ShiftedSpec,
    "judge": JudgeSpec,
    "backbones": BackboneEntry,
    "defenses": PluginEntry,
    "attacks": AttackEntry,
}


def plan(
    suite: Suite,
    *,
    data_fingerprint: str,
    split_names: dict[str, list[str]],
    shifted_fingerprint: str = "",
    weights_fingerprints: Mapping[str, str] | None = None,
) -> list[CellSpec]:
    """The cells of a suite, in an order that reuses fitted networks.

    An attack runs under `static` if that is listed, and under the weakest of the other listed threat models that
    grants what it needs (a stronger one would show it nothing more). The undefended reference does not change with
    the threat model and is never attacked under `static` beside another. Floors run once, on the undefended reference
    if there is one. Each runs with every kind of auxiliary images that is listed, at the suite's budget. What combines
    others comes last in its setting.

    Args:
        suite: the grid.
        data_fingerprint: what `datasets.fingerprint` gives for `suite.dataset`.
        split_names: backbone name -> resolved module names of its split points.
        shifted_fingerprint: likewise for `suite.shifted`.
        weights_fingerprints: weights file as the suite names it -> what `weights.fingerprint` gives.

    Raises:
        DpbenchError: an unknown attack or defense, a parameter out of range, an attack that needs more than is
            granted, more victims than test images.
    """
    defenses = [(spec, cls) for entry in suite.defenses for spec, cls in plugin_settings(entry, find_defense)]
    attacks = [
        (spec, cls, entry)
        for entry in suite.all_attacks()
        for spec, cls in plugin_settings(entry, find_attack, lambda attack: attack.at_budget(suite.budget))
    ]
    shifted = suite.shifted.dataset(suite.dataset.image_size) if suite.shifted is not None else None
    _refuse_duplicates([(spec,) for spec, _ in defenses], "defense")
    # an attack may come again, granted something else
    _refuse_duplicates(
        [
            (spec, threat_model, auxiliary)
            for spec, _, entry in attacks
            for threat_model in entry.threat_models or suite.threat_models
            for auxiliary in entry.auxiliary or suite.auxiliary
        ],
        "attack",
    )
    attacks.sort(key=lambda planned: planned[1].combines)
    has_reference = any(defense.name == UNDEFENDED for defense, _ in defenses)
    _refuse_settings(suite)
    cells = []
    for seed, backbone in itertools.product(suite.seeds, suite.backbones):
        for split_point, (defense, _) in itertools.product(split_names[backbone.name], defenses):
            alone: list[CellSpec] = []  # of this setting, by attacks that could be combined
            for attack, attack_class, entry in attacks:
                if attack_class.floor and has_reference and defense.name != UNDEFENDED:
                    continue
                victims = entry.victims or suite.victims
                if victims > suite.dataset.test:
                    raise DpbenchError(
                        f"attack {attack.name!r} wants {victims} victims, but dataset.test is {suite.dataset.test}; "
                        "lower victims or raise test"
                    )
                tiers = _threat_models(suite, entry, attack_class, defense)
                for threat_model, auxiliary in itertools.product(tiers, _auxiliary(suite, entry, attack_class)):
                    cell = CellSpec(
                        dataset=suite.dataset,
                        data_fingerprint=data_fingerprint,
                        backbone=backbone.spec(),
                        weights_fingerprint=(weights_fingerprints or {}).get(backbone.weights, ""),
                        split_point=split_point,
                        defense=defense,
                        attack=attack,
                        threat_model=threat_model,
                        shifted=shifted if auxiliary == "shifted" else None,
                        shifted_fingerprint=shifted_fingerprint if auxiliary == "shifted" else "",
                        releases=suite.releases,
                        budget=suite.budget,
                        victims=victims,
                        seed=seed,
                        judge=suite.judge,
                        server=suite.server,
                    )
                    if attack_class.combines:
                        cell = cell.model_copy(update={"combined": _combined(cell, alone)})
                    elif not attack_class.floor:
                        alone.append(cell)
                    cells.append(cell)
    return cells


def _combined(cell: CellSpec, alone: Iterable[CellSpec]) -> tuple[str, ...]:
    """Ids of the cells that were granted no more than `cell`, and attack all its victims."""

    def granted(other: CellSpec) -> tuple[int, int]:
        return THREAT_MODELS.index(other.threat_model), AUXILIARY_DATA.index(other.auxiliary)

    return tuple(
        other.id
        for other in alone
        if other.victims >= cell.victims and all(a <= b for a, b in zip(granted(other), granted(cell), strict=True))
    )


def _refuse_settings(suite: Suite) -> None:
    judge = suite.judge and _architecture(suite.judge.name)
    same = next((entry.name for entry in suite.backbones if _architecture(entry.name) == judge), None)
    if same is not None:
        raise DpbenchError(
            f"[judge] is a {same}, as is the model under attack; a judge shares nothing with that: choose another name"
        )
    if suite.headline == "identity_top1" and not suite.dataset.auxiliary_classes:
        raise DpbenchError(
            f"suite {suite.name!r} has headline = 'identity_top1', which is measured where the attacker has never seen "
            "the victims' classes; set auxiliary_classes in [dataset], or choose another headline"
        )


def _architecture(name: str) -> str:
    return name.split(".")[0]  # without timm's tag of the weights


def _auxiliary(suite: Suite, entry: AttackEntry, attack: type[Attack]) -> list[AuxiliaryData]:
    wanted = entry.auxiliary or suite.auxiliary
    if "shifted" in wanted and suite.shifted is None:
        raise DpbenchError(
            f"suite {suite.name!r} grants shifted auxiliary images but does not say which; add a table [shifted] "
            'with the name of another data set, such as name = "spectra"'
        )
    listed = [auxiliary for auxiliary in AUXILIARY_DATA if auxiliary in wanted]
    return listed[-1:] if attack.floor else listed


def plugin_settings(
    entry: PluginEntry, find: Callable[[str], type[P]], adapt: Callable[[P], P] = lambda plugin: plugin
) -> Iterable[tuple[PluginSpec, type[P]]]:
    """The settings that an entry lists, with all parameters, and the class they configure.

    Args:
        entry: a name and parameters.
        find: the class by its name.
        adapt: changes what was configured, such as to a budget.
    """
    cls = find(entry.name)
    for arguments in entry.settings():
        configured = adapt(configure(cls, arguments))
        yield (
            PluginSpec(
                name=canonical(entry.name),
                source=source_of(cls),
                arguments=configured.model_dump(mode="json"),
                files=files_of(configured),
            ),
            cls,
        )


def _refuse_duplicates(settings: list[tuple[PluginSpec, *tuple[str, ...]]], kind: str) -> None:
    same = [(spec.identity, *granted) for spec, *granted in settings]  # however a file is spelt
    for setting, identified in zip(settings, same, strict=True):
        if same.count(identified) > 1:
            granted = f", granted {' '.join(setting[1:])}" if len(setting) > 1 else ""
            raise DpbenchError(
                f"{kind} {setting[0].name!r} is in the suite twice with the same parameters{granted}; remove one"
            )


def label(cell: CellSpec, *, full: bool = False) -> str:
    """A cell in words: `resnet10t layer1 | gaussian std=0.5 | decoder | weights | seed 0`.

    Parameters at their defaults are left out, and with `full=False` those of the attack altogether.
    """
    defense = in_words(cell.defense, find_defense(cell.defense.name), always=1)
    attack_class = find_attack(cell.attack.name)
    attack = in_words(cell.attack, attack_class, always=0) if full else attack_class.name
    return f"{cell.backbone.name} {cell.split_point} | {defense} | {attack} | {cell.granted} | seed {cell.seed}"


def setting(cell: CellSpec) -> str:
    """What of a cell is there before any attack, in words: `resnet10t layer1 | gaussian std=0.5 | seed 0`."""
    defense = in_words(cell.defense, find_defense(cell.defense.name), always=1)
    return f"{cell.backbone.name} {cell.split_point} | {defense} | seed {cell.seed}"


def in_words(spec: PluginSpec, cls: type[Plugin], *, always: int) -> str:
    """The name and the parameters that are not at their defaults; the first `always` of them in any case."""
    # as arguments are stored: JSON knows no tuples
    defaults = {
        key: list(field.default) if isinstance(field.default, tuple) else field.default
        for key, field in cls.model_fields.items()
    }
    arguments = spec.shown_arguments
    shown = [
        f"{key}={arguments[key]}"
        for index, (key, default) in enumerate(defaults.items())
        if key in spec.arguments and (index < always or spec.arguments[key] != default)
    ]
    return " ".join([cls.name, *shown])


def _threat_models(suite: Suite, entry: AttackEntry, attack: type[Attack], defense: PluginSpec) -> list[ThreatModel]:
    listed = suite.threat_models if entry.threat_models is None else entry.threat_models
    if beyond := [t for t in listed if t not in suite.threat_models]:
        raise DpbenchError(
            f"attack {attack.name!r} lists threat model {beyond[0]!r}, which suite {suite.name!r} does not grant; "
            "add it to the suite's threat_models, or remove it here"
        )
    adaptive: list[ThreatModel] = [t for t in THREAT_MODELS if t in listed and t != "static"]
    if not any(grants(t, attack.needs) for t in listed):
        raise DpbenchError(
            f"attack {attack.name!r} needs {attack.needs!r}, but the suite grants only {', '.join(listed)}; "
            "add a threat model that grants it, or remove the attack"
        )
    chosen = [t for t in adaptive if grants(t, attack.needs)][:1]
    if "static" in listed and (not chosen or not (attack.floor or defense.name == UNDEFENDED)):
        chosen.append("static")
    return chosen


def defense_of(spec: PluginSpec) -> Defense:
    """The configured defense of a cell, a new one each time.

    Raises:
        DpbenchError: its code, or a file that it is given, is not what it was when the run was planned.
    """
    return _unchanged(configure(find_defense(spec.name), spec.arguments), spec)


def attack_of(spec: PluginSpec) -> Attack:
    """The configured attack of a cell, a new one each time.

    Raises:
        DpbenchError: as `defense_of`.
    """
    return _unchanged(configure(find_attack(spec.name), spec.arguments), spec)


def _unchanged(plugin: P, spec: PluginSpec) -> P:
    found = files_of(plugin) if spec.files else {}
    changed = sorted(name for name in {**found, **spec.files} if found.get(name) != spec.files.get(name))
    if changed:
        raise DpbenchError(f"{spec.name}: {', '.join(changed)} changed since the run was planned; run again")
    return plugin


def with_weights(suite: Suite, weights: str) -> Suite:
    """The suite with other weights for its only backbone: a file, or one of `specs.WEIGHTS`.

    Raises:
        DpbenchError: the suite has several backbones.
    """
    if len(suite.backbones) > 1:
        raise DpbenchError(
            f"--weights {weights}: suite {suite.name!r} has {len(suite.backbones)} backbones "
            f"({', '.join(entry.name for entry in suite.backbones)}); write weights = ... under the one it belongs to"
        )
    return suite.model_copy(update={"backbones": [suite.backbones[0].model_copy(update={"weights": weights})]})


def extend(suite: Suite, *, defenses: list[str], attacks: list[str]) -> Suite:
    """The suite with further defenses and attacks, by name or as `path/to/file.py:Name`, at their defaults."""
    return suite.model_copy(
        update={
            "defenses": [*suite.defenses, *(PluginEntry(name=name) for name in defenses)],
            "attacks": [*suite.attacks, *(AttackEntry(name=name) for name in attacks)],
        }
    )
