"""A sharing suite -> its units, in an order that reuses fitted networks. Everything a user can get wrong is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from dpbench.cells.prepare import undefended_spec
from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.spec import PluginSpec
from dpbench.contract.threat import UNDEFENDED, grants
from dpbench.errors import DpbenchError
from dpbench.plugins.registry import find_attack, find_defense
from dpbench.protocols.sharing.reporting.columns import KNOWLEDGE, Knowledge
from dpbench.protocols.sharing.suite import RIVALS, Condition, SharingAttack, SharingSuite
from dpbench.protocols.sharing.units import (
    THREAT_MODEL_OF,
    Attacked,
    EntityCell,
    OnShared,
    Training,
    Transferred,
    Unit,
    WorldSpec,
    plugin_text,
)
from dpbench.suite.ensembles import is_floor
from dpbench.suite.grid import assert_belongs, own_metrics, plugin_settings
from dpbench.suite.suite import PluginEntry


def plan_sharing(
    suite: SharingSuite, *, data_fingerprint: str, split_point: str, weights_fingerprint: str = ""
) -> list[Unit]:
    """The units of a suite.

    Args:
        suite: what is asked.
        data_fingerprint: what `datasets.fingerprint` gives for `suite.dataset`.
        split_point: the resolved module name.
        weights_fingerprint: of the backbone's weights file, if there is one.

    Raises:
        DpbenchError: an unknown attack, defense or metric, a parameter out of range, more victims than a sender has
            images.
    """
    settings = [setting for entry in suite.defenses for setting in _settings(entry)]
    twice = next((setting for setting in settings if settings.count(setting) > 1), None)
    for name in suite.controls.defenses:
        find_defense(name)  # a control for a misspelt name would be left out in silence
    if twice is not None:
        raise DpbenchError(f"defense {twice.name!r} is in the suite twice with the same parameters; remove one")
    if not settings and any(entity.defense is not None for entity in suite.entities):
        settings = [undefended_spec()]  # of those that name none
    units: list[Unit] = []
    for seed in suite.seeds:
        world = WorldSpec(
            dataset=suite.dataset,
            data_fingerprint=data_fingerprint,
            owners=[{"name": e.name, "images": e.images, "alpha": e.alpha} for e in suite.entities],
            backbone=suite.backbone.spec(),
            weights_fingerprint=weights_fingerprint,
            split_point=split_point,
            judge=suite.judge,
            public_images=suite.public_images,
            seed=seed,
        )
        attacked = seed in (suite.seeds if suite.leakage_seeds is None else suite.leakage_seeds)
        for receiver in suite.receivers:
            units += _trainings_alone(suite, world, receiver)
            for setting in (None, *settings):
                units += _with(suite, world, receiver, setting, attacked)
            if attacked:
                units += _transfers(suite, world, receiver)
    metrics = own_metrics(suite.metrics)
    if metrics:
        units = [unit.model_copy(update={"metrics": metrics}) if isinstance(unit, OnShared) else unit for unit in units]
    return list({unit.id: unit for unit in units}.values())


def shared_in(unit: Unit, *, undefended: bool) -> dict[str, EntityCell]:
    """In words -> the cell of each entity that shares under a defense in a unit; or that of the public network."""
    world = unit.world
    if undefended:
        return {f"public | seed {world.seed}": world.cell()}
    shared = {unit.sender: unit.defense} if isinstance(unit, OnShared) else {}
    shared |= unit.applied if isinstance(unit, Training) else {}
    return {
        f"{entity} | {plugin_text(defense, Defense)} | seed {world.seed}": world.cell(entity, defense=defense)
        for entity, defense in shared.items()
        if entity != unit.receiver
    }


def _trainings_alone(suite: SharingSuite, world: WorldSpec, receiver: str) -> list[Unit]:
    conditions: tuple[Condition, ...] = ("own", "own-longer", "clean-images", "clean-features", *RIVALS)
    return [
        Training(world=world, receiver=receiver, condition=condition, refinement=suite.refinement)
        for condition in conditions
        if condition in suite.conditions
    ]


def _with(
    suite: SharingSuite, world: WorldSpec, receiver: str, setting: PluginSpec | None, attacked: bool
) -> Iterable[Unit]:
    """Training on what all others share under a setting of the suite's defenses, and the attacks on it.

    `None` is the undefended reference: it is attacked, and training on it is the condition `clean-features`.
    """
    applied = _applied(suite, setting)
    sent = {entity: spec for entity, spec in applied.items() if entity != receiver}
    defended = any(spec.name != UNDEFENDED for spec in sent.values())
    if defended:
        teaches = not any(spec.only_attacked for spec in sent.values())
        conditions: list[Condition] = ["defended-features"] if teaches else []
        if teaches and any(spec.name in suite.controls.defenses for spec in sent.values()):
            conditions += ["shuffled-labels", "equal-noise"]
        for condition in conditions:
            if condition in suite.conditions:
                yield Training(
                    world=world,
                    receiver=receiver,
                    condition=condition,
                    applied=applied,
                    refinement=suite.refinement,
                )
    if attacked and (setting is None or defended):
        for sender, defense in sent.items():
            yield from _attacks(suite, world, receiver, sender, defense)


def _applied(suite: SharingSuite, setting: PluginSpec | None) -> dict[str, PluginSpec]:
    """Entity -> what it applies: its own defense where it names one, else the setting."""
    applied = {}
    for entity in suite.entities:
        if setting is None:
            applied[entity.name] = undefended_spec()
        elif entity.defense is None:
            applied[entity.name] = setting
        else:
            applied[entity.name] = _single(entity.defense, f"entity {entity.name!r}")
    return applied


def _single(entry: PluginEntry, where: str) -> PluginSpec:
    found = _settings(entry)
    if len(found) > 1:
        raise DpbenchError(f"{where}: defense {entry.name!r} lists several settings; expected one: give single values")
    return found[0]


def _settings(entry: PluginEntry) -> list[PluginSpec]:
    """The settings that an entry of a defense lists."""
    found = list(plugin_settings(entry, find_defense))
    for setting, cls in found:
        assert_belongs(setting, cls, "sharing", public_images=True)
    return [setting for setting, _ in found]


def _attacks(
    suite: SharingSuite, world: WorldSpec, receiver: str, sender: str, defense: PluginSpec
) -> Iterable[Attacked]:
    for entry in suite.attacks:
        for attack, attack_class in _configured(suite, entry):
            victims = _victims(suite, entry.victims, sender, attack.name)
            for knowledge in _knowledge(suite, entry, attack_class, defense):
                yield Attacked(
                    world=world,
                    receiver=receiver,
                    sender=sender,
                    defense=defense,
                    attack=attack,
                    knowledge=knowledge,
                    victims=victims,
                    budget=suite.budget,
                )


def _configured(suite: SharingSuite, entry: SharingAttack) -> Iterable[tuple[PluginSpec, type[Attack]]]:
    return plugin_settings(entry, find_attack, lambda attack: attack.at_budget(suite.budget))


def _victims(suite: SharingSuite, wanted: int | None, sender: str, attack: str) -> int:
    has = next(entity.images for entity in suite.entities if entity.name == sender)
    victims = wanted or suite.victims
    if victims > has:
        raise DpbenchError(
            f"attack {attack!r} wants {victims} victims, but entity {sender!r} shares {has} images; lower victims, or "
            "give it more images"
        )
    return victims


def _knowledge(suite: SharingSuite, entry: SharingAttack, attack: type[Attack], defense: PluginSpec) -> list[Knowledge]:
    """Floors and the undefended reference are measured once.

    Of the tiers that know the sender's defense, the weakest that grants what the attack needs: a stronger one would
    show it nothing more.
    """
    wanted = entry.knowledge or suite.knowledge
    listed = [knowledge for knowledge in KNOWLEDGE if knowledge in wanted]
    adaptive: list[Knowledge] = [k for k in listed if k in ("query", "weights")]
    fitting = [k for k in adaptive if grants(THREAT_MODEL_OF[k], attack.needs)][:1]
    if defense.name == UNDEFENDED:
        # everyone knows the public head: what is granted makes no difference
        return ["public"]
    if is_floor(entry.name):
        return []
    granted = [k for k in listed if k in ("public", "own")] + fitting
    if not granted:  # it would count in the undefended reference, and against no defense
        raise DpbenchError(
            f"attack {entry.name!r} needs {attack.needs!r}, but the knowledge listed for it is {', '.join(listed)}; "
            "add one that grants it to `knowledge`, or remove the attack"
        )
    return granted


def _transfers(suite: SharingSuite, world: WorldSpec, receiver: str) -> Iterable[Transferred]:
    if suite.transfer is None:
        return
    defense = _single(suite.transfer.defense, "[transfer]")
    entry = SharingAttack.model_validate(suite.transfer.attack.model_dump())
    attack, attack_class = next(iter(_configured(suite, entry)))
    if attack_class.needs != "query":
        raise DpbenchError(
            f"[transfer]: attack {attack.name!r} needs {attack_class.needs!r}; expected one that is prepared by "
            "queries, such as 'decoder'"
        )
    fits = range(suite.transfer.fits)
    sender = next(entity.name for entity in suite.entities if entity.name != receiver)
    shared = {
        "world": world,
        "receiver": receiver,
        "sender": sender,
        "defense": defense,
        "attack": attack,
        "victims": _victims(suite, entry.victims, sender, attack.name),
        "budget": suite.budget,
    }
    for prepared, judged in itertools.product(fits, fits):
        yield Transferred.model_validate({**shared, "prepared_on": [prepared], "judged_on": judged})
    if len(fits) > 2:
        for judged in fits:
            others = [fit for fit in fits if fit != judged]
            yield Transferred.model_validate({**shared, "prepared_on": others, "judged_on": judged})
