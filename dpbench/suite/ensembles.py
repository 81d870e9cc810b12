"""Pinned ensembles of attacks: what "worst case" means, under a name that does not change its meaning.

An ensemble pins the version of each attack; a new version of any is a new ensemble. Budgets scale all of them. Floors
are known by what the built-in attacks say of themselves: a plug-in that calls itself a floor sets no scale.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from importlib import resources

from dpbench.contract.attack import Attack
from dpbench.contract.threat import ThreatModel, grants
from dpbench.suite.words import built_in

ENSEMBLES: dict[str, dict[str, int]] = tomllib.loads((resources.files("dpbench.suite") / "ensembles.toml").read_text())
"""Name -> attack -> its version; the newest is the last."""

NEWEST = list(ENSEMBLES)[-1]


def floors() -> list[str]:
    """Names of the attacks that only set the zero of the scale; whether they took part does not name an ensemble."""
    return sorted(name for name in built_in(Attack) if is_floor(name))


def is_floor(name: str) -> bool:
    """Whether an attack of this name only sets the zero of the scale."""
    attack = built_in(Attack).get(name)
    return attack is not None and attack.floor


def is_blind(name: str) -> bool:
    """Whether it is a floor that does not even look at the released features: anyone can output it."""
    attack = built_in(Attack).get(name)
    return attack is not None and attack.floor and attack.blind


def _reached(name: str, threat_model: ThreatModel) -> bool:
    """Whether a pinned attack can run under a threat model: a black box does not reach those that need weights."""
    attack = built_in(Attack).get(name)
    return attack is None or grants(threat_model, attack.needs)


def ensemble_label(attacks: Mapping[str, str], *, threat_model: ThreatModel, weaker: Collection[str] = ()) -> str:
    """What to call the worst case over some attacks.

    Args:
        attacks: name -> source (`v2`) of the attacks that took part with all that is granted, without floors.
        threat_model: what is granted; a pinned attack that it does not reach is not asked for.
        weaker: names of attacks that took part with less than is granted only.

    Returns:
        `ensemble-v1` if all its attacks that are reachable took part, in the pinned versions; `ensemble-v1 + ridge`
        with others beside them; else the attacks by name. Where two ensembles ask for the same, the older names it:
        what was published keeps its name.
    """
    asked: dict[str, dict[str, str]] = {}
    for name, pinned in ENSEMBLES.items():
        wanted = {
            attack: f"v{version}"
            for attack, version in pinned.items()
            if not is_floor(attack) and _reached(attack, threat_model)
        }
        if wanted and wanted not in asked.values():
            asked[name] = wanted
    for name, wanted in reversed(asked.items()):
        if all(attacks.get(attack) == source for attack, source in wanted.items()):
            further = sorted({*attacks, *weaker} - set(ENSEMBLES[name]))
            return " + ".join([name, *further])
    return ", ".join(sorted({*attacks, *weaker}))
