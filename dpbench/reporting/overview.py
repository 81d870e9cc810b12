"""One picture of a run: the same few victims, and below them what the strongest attack recovers per defense."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.columns import headline_of
from dpbench.contract.threat import THREAT_MODELS, UNDEFENDED
from dpbench.data.images import Pixels
from dpbench.errors import DpbenchError, unknown
from dpbench.records.pictures import pixels_of, reconstructions_path, write_rows
from dpbench.reporting.selection import headline, short_arguments

SHARES = {"reid_top1": "re-identified", "identity_top1": "identified"}
"""Headlines that are shares of the victims, in words."""


def write_overview(
    run_dir: Path,
    board: pd.DataFrame,
    path: Path,
    *,
    split_point: str | None = None,
    threat_model: str | None = None,
    defenses: Collection[str] | None = None,
    columns: int = 8,
) -> None:
    """A PNG: victims on top, then a row per defense setting with its strongest attack.

    That is the one of the highest mean SSIM, or first by the share that the board is about, if it is about one.

    Args:
        run_dir: holds the reconstructions that the board's cells name.
        board: of that run.
        path: where the picture goes.
        split_point: which one; by default the first of the board.
        threat_model: which one; by default the strongest.
        defenses: only these, as `gaussian` or `gaussian noise_std=1.0`; by default all.
        columns: how many victims.

    Raises:
        DpbenchError: an unknown split point or threat model, or no reconstructions to show.
    """
    panel = _one_panel(board, split_point)
    tier = headline(panel) if threat_model is None else threat_model
    if tier not in set(panel["threat_model"]):
        raise unknown("threat model", tier, set(panel["threat_model"]))
    cells = panel[(panel["cell"] != "") & panel["status"].isin(["ok", "unreliable"]) & panel["ssim"].notna()]
    # what a weaker attacker can do the stronger one can too; the static one holds another client, apart from them.
    # The undefended reference is the same for all
    weaker = THREAT_MODELS[: [str(t) for t in THREAT_MODELS].index(tier) + 1]
    granted = [threat for threat in weaker if (threat == "static") == (tier == "static")]
    cells = cells[cells["threat_model"].isin(granted) | (cells["defense"] == UNDEFENDED)]
    short = short_arguments(panel)
    share = [column for column in SHARES if column == headline_of(panel)]
    falling = [*(False for _ in share), False, True]
    chosen = []
    for names, setting in _in_order(cells):
        if defenses is not None and " ".join(names).strip() not in defenses and names[0] not in defenses:
            continue
        best: Any = setting.sort_values([*share, "ssim", "attack"], ascending=falling, kind="stable").iloc[0]
        accuracy = "" if pd.isna(best["accuracy"]) else f", top-1 {best['accuracy']:.0%}"
        known = "".join(f", {SHARES[column]} {best[column]:.0%}" for column in share if not pd.isna(best[column]))
        note = f"{best['attack']}: SSIM {best['ssim']:.2f}{known}{accuracy}"
        chosen.append((f"{names[0]} {short[names]}".strip(), note, str(best["cell"])))
    dataset, backbone, split = (str(panel.iloc[0][name]) for name in ("dataset", "backbone", "split_point"))
    title = f"{dataset}, {backbone} split at {split}: the strongest attack per defense ({tier} threat model)"
    write_comparison(run_dir, chosen, path, title=title, columns=columns)


def write_comparison(
    run_dir: Path, chosen: Sequence[tuple[str, str, str]], path: Path, *, title: str = "", columns: int = 8
) -> None:
    """A PNG: victims on top, then a row per attack, in the order given.

    Args:
        run_dir: holds the reconstructions.
        chosen: label, note, and name of the record, of attacks on the same victims.
        path: where the picture goes.
        title: above it.
        columns: how many victims.

    Raises:
        DpbenchError: no reconstructions to show, or attacks on different victims.
    """
    rows: list[tuple[str, str, Pixels]] = []
    victims: Pixels | None = None
    for label, note, name in chosen:
        loaded = _load(run_dir, name)
        if loaded is None:
            continue
        own, reconstructions = (images[:columns] for images in loaded)
        victims = own if victims is None or len(own) > len(victims) else victims
        shared = min(len(own), len(victims))
        if own.shape[1:] != victims.shape[1:] or (own[:shared] != victims[:shared]).any():
            raise DpbenchError(f"{name} has other victims than those above it; cannot compare")
        rows.append((label, note, reconstructions))
    if victims is None:
        raise DpbenchError(
            f"{run_dir} holds no reconstructions of these; expected files such as "
            f"{reconstructions_path(Path('DIR'), 'CELL')}, which `dpbench run` writes"
        )
    write_rows(path, [("victims", "", victims), *rows], title=title)


def _one_panel(board: pd.DataFrame, split_point: str | None) -> pd.DataFrame:
    if board.empty:
        raise DpbenchError("the board is empty; run a suite first")
    if split_point is not None:
        if split_point not in set(board["split_point"]):
            raise unknown("split point", split_point, set(board["split_point"]))
        board = board[board["split_point"] == split_point]
    names = ["dataset", "backbone", "split_point", "seed"]
    measured = board[board["origin"] == "measured"] if (board["origin"] == "measured").any() else board
    return measured[(measured[names] == measured[names].iloc[0]).all(axis=1)]


def _in_order(cells: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Undefended first, then the strengths of one defense together, each in the order of the board."""
    settings = [
        ((str(names[0]), str(names[1])), rows) for names, rows in cells.groupby(["defense", "defense_args"], sort=False)
    ]
    seen = list(dict.fromkeys(names[0] for names, _ in settings))
    return sorted(settings, key=lambda item: (item[0][0] != UNDEFENDED, seen.index(item[0][0])))


def _load(run_dir: Path, name: str) -> tuple[Pixels, Pixels] | None:
    """Victims and reconstructions of an attack; None where the run kept none."""
    from dpbench.cells.kept_images import load_images

    path = reconstructions_path(run_dir, name)
    if not path.is_file():
        return None
    victims, reconstructions = load_images(path)
    return pixels_of(victims), pixels_of(reconstructions)
