"""Which cells make up a worst case, a floor, and the undefended reference.

All within one dataset, backbone, split point and seed. The rules are in
dpbench/guide/how-it-is-measured.md, under Protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dpbench.board.cells import Cell, Figures, Tier, common, grouped, worst_case
from dpbench.board.leakage import Scale, scale_of
from dpbench.contract.threat import UNDEFENDED
from dpbench.metrics.table import CALIBRATED, LOWER_IS_CLOSER
from dpbench.suite.ensembles import ensemble_label, is_blind
from dpbench.suite.names import arguments_text


class Scope:
    """The cells that are judged against one floor and one undefended model."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)
        self._settings = grouped(self.cells, lambda cell: cell.name.setting)
        self.reference = [cell for cell in cells if cell.name.defense == UNDEFENDED]
        self.floors = _strongest([cell for cell in self.reference if cell.floor]) or _strongest(
            [cell for cell in cells if cell.floor]
        )
        self.blind_floors = [cell for cell in self.floors if is_blind(cell.attack)]
        self.scale = self._scale()
        self._scales: dict[str, Scale | None] = {}

    def settings(self) -> list[list[Cell]]:
        """The cells of each defense setting."""
        return list(self._settings.values())

    def members(self, setting: Sequence[Cell], tier: Tier) -> list[Cell]:
        """The worst case of a setting: its attacks with no more than is granted, and the floors anyone can output.

        Of floors that see the features every run counts: whoever is granted more could have done the weaker one too.
        """
        own = [cell for cell in setting if tier.includes(cell.tier)]
        attacks = [cell for cell in own if not cell.floor]
        seeing = [cell for cell in own if cell.floor and not is_blind(cell.attack)]
        return attacks + seeing + self.blind_floors

    def scale_of(self, cell: Cell) -> Scale | None:
        """The scale for all rows of the cell's setting: on the victims and by the metrics that its attacks share."""
        setting = cell.name.setting
        if setting not in self._scales:
            peers = figures(self._settings[setting])
            self._scales[setting] = self.scale.among(peers) if self.scale is not None else None
        return self._scales[setting]

    def _scale(self) -> Scale | None:
        """From the floor to the undefended model under the strongest attacker: one for the whole scope."""
        attacks = figures([cell for cell in self.reference if not cell.floor])
        if not attacks:
            return None  # floors alone are no reference
        members = self.members(self.reference, tiers_of(self.reference)[-1])
        return scale_of(worst_case(figures(self.floors)), worst_case(figures(members)), attacks)


def figures(cells: Sequence[Cell]) -> list[Figures]:
    """The figures of those of these cells that finished."""
    return [cell.figures for cell in cells if cell.figures is not None]


def tiers_of(setting: Sequence[Cell]) -> list[Tier]:
    """Tiers of a setting's attacks (of its floors, if it has no others), then all their grants together; weakest first.

    Together they are the headline: an attacker with weights and several releases can do what either alone allows.
    """
    present = {cell.tier for cell in [cell for cell in setting if not cell.floor] or setting}
    return sorted(present | {Tier.together(present)}, key=lambda tier: tier.strength)


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


def none_converged(members: Sequence[Cell]) -> bool:
    """Whether every attack that finished says that it did not converge."""
    finished = [cell for cell in members if cell.ok and not cell.floor]
    return bool(finished) and all(cell.record.converged is False for cell in finished)


def ensemble_of(members: Sequence[Cell], tier: Tier) -> str:
    """The name of the ensemble that these cells form under a tier; see `ensemble_label`."""
    granted: dict[str, str] = {}
    weaker = set()
    for cell in members:
        if not cell.ok or cell.floor:
            continue
        # a static attack in an adaptive worst case counts, but is not the attack that the ensemble means
        adaptive = (cell.tier.threat_model == "static") == (tier.threat_model == "static")
        if adaptive and cell.tier[1:] == tier[1:]:
            granted[cell.attack] = cell.record.cell.attack.source
        else:
            weaker.add(cell.attack)
    return ensemble_label(granted, threat_model=tier.threat_model, weaker=weaker)


NO_BETTER = "did not beat the floor on the undefended model"


def unreliable_cells(scope: Scope) -> dict[str, str]:
    """Cell id -> why it says nothing, for attacks that were tried on the undefended model and are not calibrated."""
    reasons = {}
    tried = grouped([cell for cell in scope.reference if not cell.floor], _same_attack)
    for cell in scope.cells:
        if not cell.floor and cell.ok and _same_attack(cell) in tried:
            found = [_reason(reference, scope) for reference in tried[_same_attack(cell)]]
            if all(found):
                reasons[cell.record.id] = str(found[0])
    return reasons


def _same_attack(cell: Cell) -> tuple[str, ...]:
    spec = cell.record.cell
    attack = cell.attack, spec.attack.source, arguments_text(spec.attack.shown_arguments)
    return *attack, spec.auxiliary, spec.shifted_fingerprint, spec.budget


def _reason(reference: Cell, scope: Scope) -> str | None:
    """Why an attack on the undefended model is not calibrated; None if it is, or if there is no floor to tell."""
    if reference.figures is None:
        return "failed on the undefended model"
    if reference.record.converged is False:
        return "did not converge on the undefended model"
    floors = figures(scope.floors)
    return NO_BETTER if floors and not _beats(reference.figures, floors) else None


def _beats(attack: Figures, floors: Sequence[Figures]) -> bool:
    """Whether an attack's mean is clearly closer to the victims than that of the best floor, in any metric."""
    victims = common([attack, *floors])
    if not victims:
        return False
    attack, floors = attack.restrict_to(victims), [floor.restrict_to(victims) for floor in floors]
    for metric, margin in CALIBRATED.items():
        known = [floor.values[metric].mean() for floor in floors if metric in floor.values]
        if metric in attack.values and known:
            sign = -1 if metric in LOWER_IS_CLOSER else 1
            if sign * attack.values[metric].mean() - max(sign * mean for mean in known) > margin:
                return True
    return False
