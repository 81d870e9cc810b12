"""A yes or no by limits of one's own: does what was measured stay within them?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

import pandas as pd

from dpbench.board.columns import CELL_LAYOUT, KEY, WORST_CASE, Layout
from dpbench.contract.threat import THREAT_MODELS, UNDEFENDED
from dpbench.errors import DpbenchError, unknown
from dpbench.gate.findings import Limit
from dpbench.text.shown_text import clean

Values: TypeAlias = Mapping[Any, Any]

BY = {
    "interval": "the worse end of its 95% interval must stay within",
    "mean": "its mean must stay within, whatever its interval",
}
"""What of a figure is held against its limit."""

ONLY_ATTACKS = ("ssim_public", "ssim_own", "ssim_query", "ssim_weights")
"""Columns of a sharing board that attacks alone fill, guesses never."""

SHORT = 24
"""The parameters of a defense's only setting are shown up to this many characters."""


@dataclass(frozen=True)
class Judged:
    """One figure of one setting beside its limit, against one attacker or, where it is the same, several.

    Attributes:
        setting: `layer1, gaussian std=1.0`.
        attackers: against whom, as on boards, the strongest first; of a sharing board empty.
        figure: the column.
        mean: None where there is no figure to rely on.
        at_worst: what was held against the limit: an end of the interval, or the mean.
        limit: the most, or the least, allowed.
        holds: whether it stays within; a figure that is not there does not.
        said: in words.
        excess: by how much it is beyond.
    """

    setting: str
    attackers: tuple[str, ...]
    figure: str
    mean: float | None
    at_worst: float | None
    limit: float
    holds: bool
    said: str
    excess: float


@dataclass(frozen=True)
class Verdict:
    """Yes or no, and why.

    Attributes:
        judged: every figure; those beyond their limits come first, the furthest of them at the head.
        settings: how many were judged.
        by: what was held against the limits.
        notes: what else a reader should know, a line each.
        unfinished: what of the run is not measured yet, in words: then the answer is no.
    """

    judged: list[Judged]
    settings: int
    by: str
    notes: list[str]
    unfinished: str = ""

    @property
    def beyond(self) -> list[Judged]:
        """The figures that do not stay within their limits."""
        return [one for one in self.judged if not one.holds]

    @property
    def answer(self) -> Literal["YES", "NO"]:
        """Whether everything was measured, and all figures stay within their limits."""
        return "NO" if self.beyond or self.unfinished else "YES"

    @property
    def line(self) -> str:
        """`NO: layer1, gaussian std=1.0: re-identified 100%, limit 10%`."""
        if self.beyond:
            first, more = self.beyond[0], len(self.beyond) - 1
            return clean(f"NO: {first.setting}: {first.said}") + (f"; and {more} more" if more else "")
        if self.unfinished:
            return f"NO: {self.unfinished}; the same `dpbench run` goes on"
        figures = len({one.figure for one in self.judged})
        what = f"{self.settings} setting{'s stay' if self.settings > 1 else ' stays'} within"
        how = "whole 95% intervals" if self.by == "interval" else "means alone"
        return f"YES: {what} {figures} limit{'s' if figures > 1 else ''}, {how}"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        judged = [{k: v for k, v in asdict(one).items() if k != "excess"} for one in self.judged]
        return {"verdict": self.answer, "line": self.line, "by": self.by, "judged": judged, "notes": self.notes}


def judge(
    board: pd.DataFrame,
    layout: Layout,
    allowed: Sequence[Limit],
    *,
    defense: str = "*",
    by: str = "interval",
    unfinished: str = "",
) -> Verdict:
    """Judge every worst case of every defended setting.

    A figure that is not there is beyond its limit: nothing passes because it was not measured. Where an attack failed,
    is not calibrated, or none but guesses was made, what leaks counts as not measured. Undefended models are left
    aside, unless there is nothing else or `defense` names them; rows over all seeds stand for those of one.

    Args:
        board: of cells or of a sharing suite.
        layout: how it names its rows.
        allowed: the limits.
        defense: a shell pattern on the name of the defense, or on the name with its parameters as shown or all of them.
        by: see `BY`.
        unfinished: what of the run is not measured yet, in words; a worst case without it may be too low.

    Raises:
        DpbenchError: there is nothing to judge.
    """
    if by not in BY:
        raise unknown("way to judge", by, BY)
    rows = _worst_cases(board, layout)
    named = [(row, _named(row, rows)) for row in rows]
    picked = [(row, name) for row, name in named if _is_picked(row, name, defense)]
    if not picked:
        known = f"its defenses: {', '.join(sorted({name for _, name in named}))}" if rows else "it has no worst case"
        raise DpbenchError(f"nothing to judge: no setting matches {clean(repr(defense))}; {clean(known)}")
    defended = [(row, name) for row, name in picked if row["defense"] != UNDEFENDED]
    chosen = defended if defense == "*" and defended else picked
    place = _places([row for row, _ in chosen])
    judged = [
        _judged(row, clean(f"{place(row)}, {name}"), limit, by, layout) for row, name in chosen for limit in allowed
    ]
    judged = _per_setting(sorted(judged, key=lambda one: (one.holds, one.mean is None, -one.excess)))
    settings = {(place(row), str(row["defense"]), str(row["defense_args"])) for row, _ in chosen}
    left = [unfinished] if unfinished and any(not one.holds for one in judged) else []  # else the verdict says it
    return Verdict(judged, len(settings), by, left + _notes(picked, chosen), unfinished)


def _per_setting(judged: Sequence[Judged]) -> list[Judged]:
    """Of each figure of a setting the worst, with all attackers that are beyond the limit beside it."""
    first: dict[tuple[str, str], Judged] = {}
    for one in judged:
        known = first.setdefault((one.setting, one.figure), one)
        if known is not one and one.holds == known.holds:
            attackers = dict.fromkeys((*known.attackers, *one.attackers))
            first[one.setting, one.figure] = replace(known, attackers=tuple(attackers))
    return list(first.values())


def _worst_cases(board: pd.DataFrame, layout: Layout) -> list[Values]:
    if layout is CELL_LAYOUT:
        rows = board[board["attack"] == WORST_CASE]
        rows = rows[rows["origin"] != "claimed"] if "origin" in rows else rows  # nobody measured these here
        named = [column for column in KEY if column not in ("attack", "seed", "budget")]
        named += ["server"] if "server" in rows else []
        same = rows.groupby(named, dropna=False)["seed"]
        together = same.transform(lambda seeds: (seeds.astype(str) == "all").any()).astype(bool)
        rows = rows[~together | (rows["seed"].astype(str) == "all")]
    elif "condition" in layout.key:
        rows = board[board["condition"] == "defended-features"]
    else:
        raise DpbenchError(
            "limits are held against boards of cells and of sharing suites; `dpbench check` takes others"
        )
    return list(rows.assign(defense_args=rows["defense_args"].fillna("")).to_dict("records"))


def _named(row: Values, rows: Sequence[Values]) -> str:
    """A setting by what tells it from others of its defense."""
    texts = {str(one["defense_args"]) for one in rows if one["defense"] == row["defense"]}
    own = str(row["defense_args"])
    if len(texts) == 1:
        return f"{row['defense']} {own if len(own) <= SHORT else ''}".strip()
    shared = set.intersection(*(set(text.split()) for text in texts))
    return f"{row['defense']} {' '.join(part for part in own.split() if part not in shared)}".strip()


def _is_picked(row: Values, name: str, pattern: str) -> bool:
    names = str(row["defense"]), name, f"{row['defense']} {row['defense_args']}".strip()
    return any(fnmatchcase(one, pattern) for one in names)


def _places(rows: Sequence[Values]) -> Any:
    """Says where a row was measured: the split point, and before it what of the rest differs."""
    differing = [column for column in ("dataset", "backbone") if len({str(row[column]) for row in rows}) > 1]
    parts = [*differing, "split_point"]
    seeds = len({str(row.get("seed")) for row in rows}) > 1
    senders = "senders" in rows[0] and len({(row["receiver"], row["senders"]) for row in rows}) > 1

    def said(row: Values) -> str:
        text = " ".join(str(row[column]) for column in parts)
        text += f", {row['receiver']} trains on {row['senders']}" if senders else ""
        return text + (f", seed {row['seed']}" if seeds else "")

    return said


def _judged(row: Values, setting: str, limit: Limit, by: str, layout: Layout) -> Judged:
    figure = limit.figure
    why = _unreliable(row, layout) if figure.leaks else ""
    mean = math.nan if why else _number(row, figure.column)
    end = _number(row, f"{figure.column}_{'low' if figure.least else 'high'}")
    # a sharing board has figures without an interval, and rounding may leave a mean a digit outside its own
    at_worst = mean if by == "mean" or math.isnan(end) else (min if figure.least else max)(mean, end)
    if math.isnan(mean):
        said = f"{figure.said} not measured{f' ({why})' if why else ''}"
    elif limit.excess(mean) > 0 or limit.excess(at_worst) <= 0:
        said = f"{figure.said} {limit.shown(mean)}"
    else:
        said = f"{figure.said} {limit.shown(mean)}, by its interval perhaps {limit.shown(at_worst)}"
    excess = limit.excess(mean if math.isnan(mean) else at_worst)
    return Judged(
        setting=setting,
        attackers=_attacker(row) if figure.leaks else (),
        figure=figure.column,
        mean=None if math.isnan(mean) else mean,
        at_worst=None if math.isnan(mean) else at_worst,
        limit=limit.value,
        holds=excess <= 0,
        said=f"{said}, limit {limit.text}",
        excess=excess,
    )


def _unreliable(row: Values, layout: Layout) -> str:
    """Why what leaks in a row is not to be relied on; empty where it is."""
    status = str(row.get("status"))
    if status != "ok":
        return {"incomplete": "an attack failed", "unreliable": "attacks not calibrated"}.get(status, clean(status))
    if layout is CELL_LAYOUT:
        took_part = bool(_ensemble(row))
    else:
        took_part = any(not math.isnan(_number(row, column)) for column in ONLY_ATTACKS)
    return "" if took_part else "no attack but guesses"


def _ensemble(row: Values) -> str:
    """Over which attacks a worst case of cells is; empty where none took part."""
    value = row.get("ensemble")
    return value.strip() if isinstance(value, str) else ""


def _number(row: Values, column: str) -> float:
    value = row.get(column)
    return math.nan if value is None or pd.isna(value) else float(value)


def _attacker(row: Values) -> tuple[str, ...]:
    if "threat_model" not in row:
        return ()
    parts = [str(row["threat_model"]), *(["shifted"] if row["auxiliary"] == "shifted" else [])]
    parts += [f"releases={row['releases']}"] if str(row["releases"]) != "1" else []
    server = row.get("server")
    return (" ".join([*parts, *([f"server={server}"] if isinstance(server, str) and server else [])]),)


def _notes(picked: Sequence[tuple[Values, str]], chosen: Sequence[tuple[Values, str]]) -> list[str]:
    notes = []
    if len(chosen) < len(picked):
        notes.append(f"the undefended model is the reference, and is not judged; --defense {UNDEFENDED} judges it")
    elif all(row["defense"] == UNDEFENDED for row, _ in chosen):
        notes.append("no defense was measured: the undefended model is judged")
    others = sorted({_ensemble(row) for row, _ in chosen} - {""})
    if others and not any(name.startswith("ensemble-") for name in others):
        notes.append(f"no pinned ensemble took part in full; the worst case is over {clean('; '.join(others))}")
    return notes + _weaker(chosen)


def _weaker(chosen: Sequence[tuple[Values, str]]) -> list[str]:
    """Settings that were attacked by weaker attackers alone than others, or all, where none was strong."""
    granted: dict[str, list[int]] = {}
    for row, name in chosen:
        if row.get("threat_model") in THREAT_MODELS:
            rank = THREAT_MODELS.index(row["threat_model"])
            granted.setdefault(f"{row['split_point']}, {name}", []).append(rank)
    ranks = {name: max(found) for name, found in granted.items()}
    strongest = max(ranks.values(), default=0)
    if ranks and strongest < len(THREAT_MODELS) - 1:
        had = THREAT_MODELS[strongest]
        return [f"no attacker that is granted {THREAT_MODELS[-1]!r} was tried; the strongest had {had!r}"]
    return [
        f"{clean(name)} was attacked with {THREAT_MODELS[rank]!r} at most, others with {THREAT_MODELS[strongest]!r}"
        for name, rank in ranks.items()
        if rank < strongest
    ]
