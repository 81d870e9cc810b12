"""Which cells make up a worst case, a floor, and the undefended reference.

All within one dataset, backbone, split point and seed. The rules are in leaderboards/README.md, under Protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dpbench.cells import Cell, Tier, grouped
from dpbench.ensembles import BLIND_FLOORS, ensemble_label
from dpbench.figures import Figures, worst_case
from dpbench.row_names import short_name
from dpbench.types import AUXILIARY_DATA, THREAT_MODELS, UNDEFENDED


class Scope:
    """The cells that are judged against one floor and one undefended model."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)
        self.reference = [cell for cell in cells if cell.name.defense == UNDEFENDED]
        self.floors = _strongest([cell for cell in self.reference if cell.floor]) or _strongest(
            [cell for cell in cells if cell.floor]
        )
        self.blind_floors = [cell for cell in self.floors if cell.attack in BLIND_FLOORS]
        self.floor = worst_case(figures(self.floors))
        self._undefended: dict[frozenset[str] | None, Figures | None] = {}

    def settings(self) -> list[list[Cell]]:
        """The cells of each defense setting."""
        return list(grouped(self.cells, lambda cell: cell.name.setting).values())

    def members(self, setting: Sequence[Cell], tier: Tier) -> list[Cell]:
        """The worst case of a setting: its attacks with no more than is granted, and the floors anyone can output."""
        own = [cell for cell in setting if tier.includes(cell.tier)]
        attacks = [cell for cell in own if not cell.floor]
        seeing = _strongest([cell for cell in own if cell.floor and cell.attack not in BLIND_FLOORS])
        return attacks + seeing + self.blind_floors

    def undefended(self, attacks: Collection[str] | None = None) -> Figures | None:
        """The worst case of the undefended model under the strongest attacker.

        Args:
            attacks: only these take part, with floors; by default all.
        """
        key = None if attacks is None else frozenset(attacks)
        if key not in self._undefended:
            seeing = [cell for cell in self.floors if cell in self.reference and cell not in self.blind_floors]
            taken = [cell for cell in self.reference if not cell.floor] + seeing + self.blind_floors
            taken = [cell for cell in taken if cell.ok and (key is None or cell.attack in key)]
            real = any(not cell.floor for cell in taken)  # floors alone are no reference
            self._undefended[key] = worst_case(figures(taken)) if real else None
        return self._undefended[key]


def figures(cells: Sequence[Cell]) -> list[Figures]:
    """Of those that finished."""
    return [cell.figures for cell in cells if cell.figures is not None]


def tiers_of(setting: Sequence[Cell]) -> list[Tier]:
    """Those of its attacks, of its floors where it has no others, and all their grants together; weakest first.

    Together they are the headline: an attacker with weights and several releases can do what either alone allows.
    """
    present = {cell.tier for cell in [cell for cell in setting if not cell.floor] or setting}
    most = [max(grants) for grants in zip(*(tier.strength for tier in present), strict=True)]
    together = Tier(THREAT_MODELS[most[0]], AUXILIARY_DATA[most[1]], most[2])
    return sorted(present | {together}, key=lambda tier: tier.strength)


def _strongest(floors: Sequence[Cell]) -> list[Cell]:
    """One cell per floor, with the most images and releases: more draws of one guess would raise the zero."""
    ranked = sorted(floors, key=lambda cell: (cell.ok, *cell.tier.strength[1:], cell.budget_rank, cell.record.id))
    return list({cell.name.attack: cell for cell in ranked}.values())


def outcome(members: Sequence[Cell], unreliable: Mapping[str, str]) -> tuple[Figures | None, str, str]:
    """Worst case, status and what to say of it; `unreliable` maps ids of cells to reasons."""
    failed = sorted({cell.name.attack for cell in members if not cell.ok})
    note = f"failed: {', '.join(failed)}"
    finished = [cell for cell in ([cell for cell in members if not cell.floor] or members) if cell.ok]
    if not finished:
        return None, "failed", f"no attack finished; {note}"
    found = worst_case(figures(members))
    if found is None or not found.victims:
        return None, "failed", "the attacks have no victim in common"
    if all(cell.record.id in unreliable for cell in finished):
        reasons = sorted({unreliable[cell.record.id] for cell in finished})
        return found, "unreliable", "; ".join([f"every attack {' or '.join(reasons)}", *([note] if failed else [])])
    if failed:
        return found, "incomplete", f"{note}; with them it could only leak more"
    return found, "ok", ""


def ensemble_of(members: Sequence[Cell], tier: Tier) -> str:
    """What the worst case over these is called."""
    granted: dict[str, str] = {}
    weaker = set()
    for cell in members:
        if not cell.ok or cell.floor:
            continue
        name = short_name(cell.attack)
        # a static attack in an adaptive worst case counts, but is not the attack that the ensemble means
        adaptive = (cell.tier.threat_model == "static") == (tier.threat_model == "static")
        if adaptive and cell.tier[1:] == tier[1:]:
            granted[name] = cell.record.cell.attack.source
        else:
            weaker.add(name)
    return ensemble_label(granted, threat_model=tier.threat_model, weaker=weaker)
