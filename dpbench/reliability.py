"""An attack that gets nothing from the undefended model says nothing about a defense."""

from __future__ import annotations

from collections.abc import Sequence

from dpbench.cells import Cell, grouped
from dpbench.figures import LOWER_IS_CLOSER, Figures, common
from dpbench.leakage import CALIBRATED
from dpbench.row_names import arguments_text
from dpbench.worst_cases import Scope, figures

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
    """Whether its mean is clearly above that of the best floor, in any metric."""
    victims = common([attack, *floors])
    if not victims:
        return False
    attack, floors = attack.on(victims), [floor.on(victims) for floor in floors]
    for metric, margin in CALIBRATED.items():
        known = [floor.values[metric].mean() for floor in floors if metric in floor.values]
        if metric in attack.values and known:
            sign = -1 if metric in LOWER_IS_CLOSER else 1
            if sign * attack.values[metric].mean() - max(sign * mean for mean in known) > margin:
                return True
    return False
