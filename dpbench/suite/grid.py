"""From a suite to its cells: every pairing that the threat models allow."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.spec import PluginSpec
from dpbench.contract.threat import AUXILIARY_DATA, THREAT_MODELS, UNDEFENDED, AuxiliaryData, ThreatModel, grants
from dpbench.errors import DpbenchError
from dpbench.metrics.table import BUILT_IN
from dpbench.models.spec import BackboneSpec
from dpbench.plugins.configuring import P, configure
from dpbench.plugins.registry import canonical, find_attack, find_defense, find_metric
from dpbench.plugins.sources import files_of, source_of
from dpbench.suite.cell import CellSpec
from dpbench.suite.ensembles import is_floor
from dpbench.suite.suite import AttackEntry, PluginEntry, Suite
from dpbench.text.hashing import content_hash


def plan(
    suite: Suite,
    *,
    data_fingerprint: str,
    split_names: Sequence[Sequence[str]],
    shifted_fingerprint: str = "",
    weights_fingerprints: Mapping[str, str] | None = None,
) -> list[CellSpec]:
    """The cells of a suite, in an order that reuses fitted networks.

    An attack runs under `static` if that is listed, and under the weakest of the other listed threat models that
    grants what it needs (a stronger one would show it nothing more; where that is `observe`, `static` would not
    either). The undefended reference does not change with the threat model and is never attacked under `static` beside
    another. Floors run once, on the undefended reference if there is one. Each runs with every kind of auxiliary images
    that is listed, at the suite's budget. What combines others comes last in its setting.

    Args:
        suite: the grid.
        data_fingerprint: what `datasets.fingerprint` gives for `suite.dataset`.
        split_names: resolved module names of the split points of each of the suite's backbones.
        shifted_fingerprint: likewise for `suite.shifted`.
        weights_fingerprints: weights file as the suite names it -> what `weights.fingerprint` gives.

    Raises:
        DpbenchError: an unknown attack or defense, a parameter out of range, an attack that needs more than is
            granted, more victims than test images.
    """
    defenses = [(spec, cls) for entry in suite.defenses for spec, cls in plugin_settings(entry, find_defense)]
    for spec, cls in defenses:
        assert_belongs(spec, cls, "inference")
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
    metrics = own_metrics(suite.metrics)
    cells = []
    entries = list(zip(suite.backbones, split_names, strict=True))
    _refuse_twice([(backbone.spec(), point) for backbone, points in entries for point in points])
    for seed, (backbone, points) in itertools.product(suite.seeds, entries):
        for split_point, (defense, _) in itertools.product(points, defenses):
            alone: list[CellSpec] = []  # of this setting, by attacks that could be combined
            for attack, attack_class, entry in attacks:
                if is_floor(attack.name) and has_reference and defense.name != UNDEFENDED:
                    continue
                victims = entry.victims or suite.victims
                if victims > suite.dataset.test:
                    raise DpbenchError(
                        f"attack {attack.name!r} wants {victims} victims, but dataset.test is {suite.dataset.test}; "
                        "lower victims or raise test"
                    )
                tiers = _threat_models(suite, entry, attack_class, defense)
                for threat_model, auxiliary in itertools.product(tiers, _auxiliary(suite, entry)):
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
                        metrics=metrics,
                    )
                    if attack_class.combines:
                        cell = cell.model_copy(update={"combined": _combined(cell, alone)})
                    elif not is_floor(attack.name):
                        alone.append(cell)
                    cells.append(cell)
    return cells


def own_metrics(names: Sequence[str]) -> tuple[PluginSpec, ...]:
    """The metrics that a suite asks for beside dpbench's own, at their defaults.

    Raises:
        DpbenchError: an unknown one, one that is measured anyway, or two of one name.
    """
    found: dict[str, PluginSpec] = {}
    for name in names:
        if name in BUILT_IN:
            raise DpbenchError(f"metric {name!r} is measured of every reconstruction; leave it out of `metrics`")
        for spec, cls in plugin_settings(PluginEntry(name=name), find_metric):
            column = cls.facts().name
            if column in found:
                raise DpbenchError(f"two metrics are called {column!r}: {found[column].name} and {name}; rename one")
            found[column] = spec
    return tuple(found.values())


def _refuse_twice(splits: list[tuple[BackboneSpec, str]]) -> None:
    counted = Counter((backbone.model_dump_json(), point) for backbone, point in splits)
    for backbone, point in splits:
        if counted[backbone.model_dump_json(), point] > 1:
            raise DpbenchError(
                f"backbone {backbone.name!r} is in the suite twice with the same settings and split point {point!r}; "
                "remove one"
            )


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


def _auxiliary(suite: Suite, entry: AttackEntry) -> list[AuxiliaryData]:
    wanted = entry.auxiliary or suite.auxiliary
    if "shifted" in wanted and suite.shifted is None:
        raise DpbenchError(
            f"suite {suite.name!r} grants shifted auxiliary images but does not say which; add a table [shifted] "
            'with the name of another data set, such as name = "spectra"'
        )
    listed = [auxiliary for auxiliary in AUXILIARY_DATA if auxiliary in wanted]
    return listed[-1:] if is_floor(entry.name) else listed


def assert_belongs(spec: PluginSpec, cls: type[Defense], protocol: str, *, public_images: bool = False) -> None:
    """Refuse a defense that means nothing in suites of a protocol.

    Raises:
        DpbenchError: it is for another protocol alone, or is to be fitted on public images where there are none.
    """
    if cls.only_in not in ("", protocol):
        raise DpbenchError(
            f"defense {cls.name!r} is for suites of the protocol {cls.only_in!r} alone, this one has {protocol!r}; "
            "remove it"
        )
    if spec.fits_on_public and not public_images:
        raise DpbenchError(
            f"defense {cls.name!r} has fit_on = 'public', but suites of the protocol {protocol!r} have no public "
            "images, as those of 'sharing' do; set fit_on = 'private'"
        )


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
    same = [content_hash([spec.identity, *granted]) for spec, *granted in settings]  # however a file is spelt
    counted = Counter(same)
    for setting, identified in zip(settings, same, strict=True):
        if counted[identified] > 1:
            granted = f", granted {' '.join(setting[1:])}" if len(setting) > 1 else ""
            raise DpbenchError(
                f"{kind} {setting[0].name!r} is in the suite twice with the same parameters{granted}; remove one"
            )


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
    same = is_floor(entry.name) or defense.name == UNDEFENDED or chosen == ["observe"]
    if "static" in listed and not (chosen and same):
        chosen.append("static")
    return chosen
