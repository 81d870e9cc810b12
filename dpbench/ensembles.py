"""Pinned ensembles of attacks: what "worst case" means, under a name that does not change its meaning.

An ensemble pins the version of each attack; a new version of any is a new ensemble. Budgets scale all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

ENSEMBLES: dict[str, dict[str, int]] = {
    "ensemble-v1": {
        "mean-image": 1,
        "random-image": 1,
        "class-mean": 1,
        "nearest-auxiliary": 1,
        "decoder": 2,
        "rmle": 2,
        "gan": 2,
    },
}
"""Name -> attack -> its version."""

NEWEST = list(ENSEMBLES)[-1]


def ensemble_label(attacks: Mapping[str, str], *, reachable: set[str]) -> str:
    """What to call the worst case over some attacks.

    Args:
        attacks: name -> source (`v2`) of the attacks that took part, without floors.
        reachable: names of the attacks that the threat model allows at all.

    Returns:
        `ensemble-v1` if all its attacks that are reachable took part, in the pinned versions; `ensemble-v1 + ridge`
        with others beside them; else the attacks by name.
    """
    for name, pinned in reversed(ENSEMBLES.items()):
        wanted = {attack: f"v{version}" for attack, version in pinned.items() if attack in reachable}
        if wanted and all(attacks.get(attack) == source for attack, source in wanted.items()):
            further = sorted(set(attacks) - set(wanted))
            return " + ".join([name, *further])
    return ", ".join(sorted(attacks))
