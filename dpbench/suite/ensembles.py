"""Pinned ensembles of attacks: what "worst case" means, under a name that does not change its meaning.

An ensemble pins the version of each attack; a new version of any is a new ensemble. Budgets scale all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

ENSEMBLES: dict[str, dict[str, int]] = {
    "ensemble-v1": {
        "mean-image": 1,
        "random-image": 1,
        "class-mean": 1,
        "nearest-auxiliary": 1,
        "decoder": 3,
        "rmle": 3,
        "gan": 2,
    },
    "ensemble-v1.1": {
        "mean-image": 1,
        "random-image": 1,
        "class-mean": 1,
        "nearest-auxiliary": 1,
        "decoder": 4,
        "rmle": 4,
        "gan": 3,
    },
}
"""Name -> attack -> its version."""

NEWEST = list(ENSEMBLES)[-1]


BLIND_FLOORS = ("mean-image", "random-image")
"""Floors that do not even look at the released features: anyone can output them against any defense."""

FLOORS = (*BLIND_FLOORS, "class-mean", "nearest-auxiliary")
"""Attacks that only set the zero of the scale; whether they took part does not name an ensemble."""

NEEDS_WEIGHTS = ("rmle", "gan")
"""Attacks that a black box does not reach."""


def ensemble_label(attacks: Mapping[str, str], *, threat_model: str, weaker: Collection[str] = ()) -> str:
    """What to call the worst case over some attacks.

    Args:
        attacks: name -> source (`v2`) of the attacks that took part with all that is granted, without floors.
        threat_model: what is granted; a pinned attack that it does not reach is not asked for.
        weaker: names of attacks that took part with less than is granted only.

    Returns:
        `ensemble-v1` if all its attacks that are reachable took part, in the pinned versions; `ensemble-v1 + ridge`
        with others beside them; else the attacks by name.
    """
    for name, pinned in reversed(ENSEMBLES.items()):
        wanted = {
            attack: f"v{version}"
            for attack, version in pinned.items()
            if attack not in FLOORS and not (threat_model == "query" and attack in NEEDS_WEIGHTS)
        }
        if wanted and all(attacks.get(attack) == source for attack, source in wanted.items()):
            further = sorted({*attacks, *weaker} - set(pinned))
            return " + ".join([name, *further])
    return ", ".join(sorted({*attacks, *weaker}))
