"""What a table or plot shows of a board: rows of the strongest attackers, and settings by what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dpbench.board.caveats import leakage_lines, linked_line, recognised_line
from dpbench.board.columns import FLOOR, WORST_CASE, arguments_of
from dpbench.contract.threat import AUXILIARY_DATA, BUDGETS, THREAT_MODELS
from dpbench.suite.ensembles import floors
from dpbench.suite.names import arguments_text, varying

SHORT = 20
"""Parameters of a defense's only setting are shown up to this many characters: the board has them all."""

RECOGNITION = {"identified": "identity_top1", "re-id": "reid_top1", "link": "link_top1", "label read": "label_read"}

PANEL = ("dataset", "backbone", "split_point", "seed")


def headline(panel: pd.DataFrame) -> str:
    """The strongest threat model among these rows."""
    present = set(panel["threat_model"])
    return [threat_model for threat_model in THREAT_MODELS if threat_model in present][-1]


def server_of(rows: pd.DataFrame) -> pd.Series[str]:
    """Who holds the server's half in each row: `trusted`, or empty for the attacker."""
    return rows["server"] if "server" in rows else pd.Series("", index=rows.index)


def strongest(rows: pd.DataFrame) -> pd.DataFrame:
    """The row, of several that differ in grants and budget, with the most of both; empty where there are none."""
    return rows.iloc[_by_grants(rows)].tail(1)


def _by_grants(rows: pd.DataFrame, **first: pd.Series[bool]) -> list[int]:
    """Places of the rows, by what their attackers are granted, least first; `first`: what counts before all else."""
    ranks = {
        **first,
        "threat": rows["threat_model"].map(THREAT_MODELS.index),
        "images_of": rows["auxiliary"].map(AUXILIARY_DATA.index),
        "releases": rows["releases"],
        "holds_server": server_of(rows) == "",
        "spent": rows["budget"].map(BUDGETS.index),
    }
    numbered = pd.DataFrame({name: rank.to_numpy() for name, rank in ranks.items()})
    return list(numbered.sort_values(list(ranks), kind="stable").index)


def main_attacker(panel: pd.DataFrame) -> tuple[str, str, str]:
    """Threat model, images and server of the strongest attacker: what the columns without more words are about."""
    worst = panel[panel["attack"] == WORST_CASE]
    threat_model = headline(worst if len(worst) else panel)
    granted = worst[worst["threat_model"] == threat_model]
    images = "same" if (granted["auxiliary"] == "same").any() else "shifted"
    server = server_of(granted)
    return threat_model, images, "trusted" if len(granted) and (server == "trusted").all() else ""


def caveat_lines(panel: pd.DataFrame) -> list[str]:
    """What leakage in the table is made of where that has to be said, and who is re-identified in spite of it."""
    shown = panel[of_attacker(panel, main_attacker(panel)) & (panel["attack"] == WORST_CASE)]
    called = short_arguments(panel)
    named = recognised_line(panel, called), linked_line(panel, called)
    return [*leakage_lines(shown, called), *filter(None, named)]


def of_attacker(rows: pd.DataFrame, tier: tuple[str, str, str]) -> pd.Series[bool]:
    """Which rows are of the attacker of this threat model, these images and this server."""
    return (rows["threat_model"] == tier[0]) & (rows["auxiliary"] == tier[1]) & (server_of(rows) == tier[2])


def headlines(panel: pd.DataFrame) -> pd.DataFrame:
    """The worst case of each setting under the strongest attacker that is common, else under its own strongest."""
    worst = panel[panel["attack"] == WORST_CASE]
    if worst.empty:
        return worst
    settings = list(zip(worst["defense"], worst["defense_args"], strict=True))
    last = {settings[place]: place for place in _by_grants(worst, common=of_attacker(worst, main_attacker(panel)))}
    return worst.iloc[[last[one] for one in dict.fromkeys(settings)]]


def short_arguments(panel: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(Defense, `defense_args`) -> parameters that tell it from its namesakes; of an only one all, where few."""
    settings = list(panel[["defense", "defense_args"]].drop_duplicates().itertuples(index=False, name=None))
    known = arguments_of(panel)
    peers: dict[str, list[Mapping[Any, str]]] = {}
    for defense, text in settings:
        peers.setdefault(defense, []).append(known.get(text, {}))
    varied = {defense: varying(given) for defense, given in peers.items()}
    shown = {}
    for defense, text in settings:
        own = known.get(text)
        if len(peers[defense]) == 1:
            shown[defense, text] = text if len(text) <= SHORT else ""
        elif own is None:
            shown[defense, text] = text
        else:
            shown[defense, text] = arguments_text({name: own[name] for name in varied[defense] if name in own})
    return shown


def attack_order(cells: pd.DataFrame) -> list[str]:
    """Weakest first: the strongest attack comes out beside the worst case.

    By the best mean SSIM over the settings, so that a failed cell does not move an attack.
    """
    best = cells.groupby("attack")["ssim"].max().fillna(2.0)
    return [str(name) for name in best.sort_index().sort_values(kind="stable").index]


def floors_among(panel: pd.DataFrame) -> list[str]:
    """The floors among the attacks: a line below the table, since they ran on the undefended reference alone."""
    return [str(attack) for attack in panel["attack"].unique() if str(attack).partition(" ")[0] in (FLOOR, *floors())]
