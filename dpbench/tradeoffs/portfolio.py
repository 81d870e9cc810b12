"""Which attacks are worth running: where one alone is the worst case, what it adds to the others, and what it costs.

Attacks are compared setting by setting, victim by victim, by SSIM and by LPIPS. Attackers who hold another client than
the defended one (`static`) take no part; floors do, as what anyone can output.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dpbench.board.cells import Cell, Tier, cells_of, common, grouped, worst_case
from dpbench.board.comparisons import EXACT
from dpbench.board.worst_cases import Scope, figures
from dpbench.contract.threat import THREAT_MODELS, UNDEFENDED, ThreatModel
from dpbench.errors import DpbenchError
from dpbench.metrics.intervals import Floats, bounds, mean_interval, resampled_means
from dpbench.metrics.table import LOWER_IS_CLOSER
from dpbench.records.record import Record
from dpbench.suite.ensembles import ENSEMBLES
from dpbench.suite.names import RowName, arguments_text, varying
from dpbench.text.shown_text import clean

LEAST_SSIM = -1.0
"""What an attack that did not finish gets."""

JUDGED = ("ssim", "lpips")
"""By what an attack can be the worst case: structure, and what is seen. Ranks, gains and pairs are by the first."""


@dataclass(frozen=True)
class Contest:
    """The attacks on one defense setting with no more than one rung of the threat ladder grants, by one metric.

    Attributes:
        setting: the defense, in words.
        rung: the threat model.
        victims: those that all attacks share.
        scores: attack -> how close it comes per victim, (N,); higher is closer, so LPIPS has its sign turned.
        floor: the best guess per victim, (N,); None where no floor ran.
        echoes: attacks that found nothing to do here, and give the very images of another: no rivals of that one.
        metric: one of `JUDGED`.
    """

    setting: str
    rung: ThreatModel
    victims: tuple[str, ...]
    scores: Mapping[str, Floats]
    floor: Floats | None
    echoes: frozenset[str] = frozenset()
    metric: str = JUDGED[0]

    def best(self, attacks: Iterable[str]) -> Floats | None:
        """Per victim the best of some attacks and of the floors; None of nothing."""
        known = [self.scores[attack] for attack in attacks if attack in self.scores]
        known += [] if self.floor is None else [self.floor]
        return np.maximum.reduce(known) if known else None

    def beyond_others(self, attack: str) -> Floats | None:
        """By how much an attack exceeds the best of all others, per victim; None where it has no rival."""
        others = self.best(other for other in self.scores if other != attack and other not in self.echoes)
        return None if others is None else self.scores[attack] - others

    def is_alone(self, attack: str) -> bool:
        """Whether an attack alone is the worst case beyond chance."""
        beyond = self.beyond_others(attack)
        return attack not in self.echoes and beyond is not None and mean_interval(beyond)[1] > EXACT

    def ranks(self) -> dict[str, float]:
        """Place of each attack by its mean, 1 for the closest; equal ones share the mean of their places."""
        places = rankdata([-round(float(scores.mean()), 9) for scores in self.scores.values()])
        return dict(zip(self.scores, map(float, places), strict=True))


@dataclass(frozen=True)
class Pair:
    """The two attacks that come nearest to the worst case of all, and by how much SSIM they miss it."""

    rung: ThreatModel
    attacks: tuple[str, ...]
    missing: float

    @property
    def line(self) -> str:
        """In words."""
        both = " and ".join(clean(attack) for attack in self.attacks)
        return f"granted {self.rung}: run {both}; their worst case is {self.missing:.3f} SSIM below that of all"


@dataclass(frozen=True)
class Portfolio:
    """What each attack is worth, a row each, the best rank first; and which two to run on each rung."""

    table: pd.DataFrame
    pairs: tuple[Pair, ...]


def portfolio(records: Sequence[Record]) -> Portfolio:
    """What each attack of some records is worth.

    Returns:
        Columns of its table: `attack`, `needs` (the weakest threat model under which it ran), `settings` (that it was
        tried on), `mean_rank` by SSIM, `ssim`, `lpips` (NaN where no attack has it), `alone` (settings in which it
        alone is the worst case beyond chance, by SSIM or by LPIPS), `gain` (SSIM that it adds to the worst case of
        the others, mean over settings) with its 95% interval over victims, `seconds_per_image` of the attack, without
        what an earlier one had trained for both, and `earns_on` (settings in which it is alone so among attackers who
        are granted no more than it, with `(LPIPS)` where by that metric only).

    Raises:
        DpbenchError: no two attacks on one setting have finished.
    """
    cells = [cell for cell in cells_of(records) if cell.tier.threat_model != "static"]
    shown = _attack_names(cells)
    contests = _contests(cells, shown)
    if not any(len(contest.scores) > 1 for contest in contests):
        raise DpbenchError("--portfolio: expected runs in which two attacks or more finished on one defense setting")
    own = grouped([cell for cell in cells if cell.ok and not cell.floor], lambda cell: shown[cell])
    rows = [_row(str(attack), tried, contests) for attack, tried in own.items()]
    table = pd.DataFrame(rows).sort_values(["mean_rank", "attack"], kind="stable", ignore_index=True)
    ranked = [contest for contest in contests if contest.metric == JUDGED[0]]
    rungs = sorted({contest.rung for contest in ranked}, key=THREAT_MODELS.index)
    pairs = [nearest_pair([contest for contest in ranked if contest.rung == rung]) for rung in rungs]
    return Portfolio(table, tuple(pair for pair in pairs if pair is not None))


def nearest_pair(contests: Sequence[Contest]) -> Pair | None:
    """The two attacks whose worst case misses the least of that of all, mean over settings; None without any attack."""
    attacks = sorted({attack for contest in contests for attack in contest.scores})
    if not attacks:
        return None
    missing = {some: _missing(contests, some) for some in itertools.combinations(attacks, min(2, len(attacks)))}
    chosen = min(missing, key=lambda some: (round(missing[some], 9), some))
    return Pair(contests[0].rung, chosen, missing[chosen])


def _missing(contests: Sequence[Contest], attacks: Sequence[str]) -> float:
    """SSIM between the worst case of some attacks and that of all, mean over victims and settings."""
    gaps = []
    for contest in contests:
        everything, found = contest.best(contest.scores), contest.best(attacks)
        if everything is not None:
            gaps.append(float((everything - (LEAST_SSIM if found is None else found)).mean()))
    return float(np.mean(gaps))


def _contests(cells: Sequence[Cell], shown: Mapping[Cell, str]) -> list[Contest]:
    """Of each setting and each rung on which an attack of it ran, one by each metric that all of them have."""
    names = _setting_names([cell.name for cell in cells])
    contests = []
    for group in grouped(cells, lambda cell: cell.name.group).values():
        scope = Scope(group)
        for setting in scope.settings():
            tiers = {cell.tier for cell in setting if not cell.floor and cell.ok}
            for rung in {tier.threat_model for tier in tiers}:
                granted = [
                    tier for tier in tiers if THREAT_MODELS.index(tier.threat_model) <= THREAT_MODELS.index(rung)
                ]
                members = [cell for cell in scope.members(setting, Tier.together(granted)) if cell.ok]
                contests += _by_each_metric(names[setting[0].name], rung, members, shown)
    return contests


def _by_each_metric(
    setting: str, rung: ThreatModel, members: Sequence[Cell], shown: Mapping[Cell, str]
) -> list[Contest]:
    """Nothing where the members have no victim, or no SSIM, in common."""
    victims = common(figures(members))
    by_attack = grouped(members, lambda cell: "" if cell.floor else shown[cell])
    closest = {str(attack): worst_case(figures(own)) for attack, own in by_attack.items()}
    scores: dict[str, dict[str, Floats]] = {}
    for metric in JUDGED:
        sign = -1.0 if metric in LOWER_IS_CLOSER else 1.0
        found = {
            attack: sign * best.restrict_to(victims).values[metric]
            for attack, best in closest.items()
            if best is not None and metric in best.values
        }
        if victims and len(found) == len(closest):
            scores[metric] = found
    if JUDGED[0] not in scores:
        return []
    floors = {metric: found.pop("", None) for metric, found in scores.items()}
    echoes = _echoes(scores)
    return [Contest(setting, rung, victims, found, floors[metric], echoes, metric) for metric, found in scores.items()]


def _echoes(scores: Mapping[str, Mapping[str, Floats]]) -> frozenset[str]:
    """Attacks with all figures of another for every victim: of such twins the one that is pinned first is no echo."""
    pinned = list(dict.fromkeys(attack for ensemble in ENSEMBLES.values() for attack in ensemble))
    attacks = scores[JUDGED[0]]
    order = sorted(attacks, key=lambda attack: (pinned.index(attack) if attack in pinned else len(pinned), attack))
    own: list[str] = []
    for attack in order:
        if all(any(np.abs(found[attack] - found[other]).max() > EXACT for found in scores.values()) for other in own):
            own.append(attack)
    return frozenset(attacks) - frozenset(own)


def _row(attack: str, cells: Sequence[Cell], contests: Sequence[Contest]) -> dict[str, object]:
    entered = [contest for contest in contests if attack in contest.scores]
    needs = min((cell.tier.threat_model for cell in cells), key=THREAT_MODELS.index)
    whole = [
        max(same, key=lambda contest: THREAT_MODELS.index(contest.rung))
        for same in grouped(entered, lambda contest: (contest.setting, contest.metric)).values()
    ]
    by_ssim, by_lpips = ([contest for contest in whole if contest.metric == metric] for metric in JUDGED)
    earns = _alone_by(attack, [contest for contest in entered if contest.rung == needs])
    gain, low, high = _gain(attack, by_ssim)
    spent = [cell.record.seconds.get("attack", np.nan) / len(cell.record.victims) for cell in cells]
    return {
        "attack": attack,
        "needs": needs,
        "settings": len(by_ssim),
        "mean_rank": _mean([contest.ranks()[attack] for contest in by_ssim]),
        "ssim": _mean([float(contest.scores[attack].mean()) for contest in by_ssim]),
        "lpips": _mean([-float(contest.scores[attack].mean()) for contest in by_lpips]),
        "alone": len(_alone_by(attack, whole)),
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        "seconds_per_image": _mean([one for one in spent if one == one]),
        "earns_on": "; ".join(
            setting if JUDGED[0] in earns[setting] else f"{setting} (LPIPS)"
            for setting in sorted(earns, key=lambda setting: (setting.split()[0] != UNDEFENDED, setting))
        ),
    }


def _alone_by(attack: str, contests: Sequence[Contest]) -> dict[str, set[str]]:
    """Setting -> the metrics by which an attack alone is the worst case there; nothing of settings where it is not."""
    found: dict[str, set[str]] = {}
    for contest in contests:
        if contest.is_alone(attack):
            found.setdefault(contest.setting, set()).add(contest.metric)
    return found


def _gain(attack: str, contests: Sequence[Contest]) -> tuple[float, float, float]:
    """SSIM that an attack adds to the worst case of the others, with its 95% interval over victims."""
    beyond = [(contest.victims, contest.beyond_others(attack)) for contest in contests]
    added = [(victims, np.maximum(values, 0)[:, None]) for victims, values in beyond if values is not None]
    if not added:
        return np.nan, np.nan, np.nan
    drawn = np.mean([means[:, 0] for means in resampled_means(added)], axis=0)
    mean = float(np.mean([values.mean() for _, values in added]))
    low, high = bounds(drawn, mean, len({victim for victims, _ in added for victim in victims}))
    return mean, max(0.0, low), high


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else np.nan


def _attack_names(cells: Sequence[Cell]) -> dict[Cell, str]:
    """What an attack is called: by its name alone, where no setting was attacked by two variants of it."""
    alike = grouped(cells, lambda cell: (cell.name.group, cell.name.setting, cell.tier, cell.attack))
    several = {cell.attack for same in alike.values() if len({cell.name.attack for cell in same}) > 1 for cell in same}
    return {cell: cell.name.attack if cell.attack in several else cell.attack for cell in cells}


def _setting_names(names: Sequence[RowName]) -> dict[RowName, str]:
    """A defense with the parameters that tell its settings apart; with its place where there are several."""
    places = {name: dict(zip(("dataset", "backbone", "split", "seed"), name.group, strict=True)) for name in names}
    told = _telling_apart(list(places.values()))
    found = {}
    for defense, same in grouped(names, lambda name: name.defense).items():
        peers = [dict(name.arguments) for name in same]
        differ = varying(peers)
        for name, own in zip(same, peers, strict=True):
            place = ", ".join(f"seed {name.seed}" if key == "seed" else places[name][key] for key in told)
            words = f"{defense} {arguments_text({key: own[key] for key in differ if key in own})}".strip()
            found[name] = f"{words} ({place})" if place else words
    return found


def _telling_apart(places: Sequence[Mapping[str, str]]) -> list[str]:
    """As few keys as tell the places apart: without a split point where each network has its own."""

    def told(keys: Sequence[str]) -> int:
        return len({tuple(place[key] for key in keys) for place in places})

    needed = list(places[0]) if places else []
    for key in reversed(needed):
        others = [other for other in needed if other != key]
        needed = others if told(others) == told(needed) else needed
    return needed
