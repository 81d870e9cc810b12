"""What `dpbench run` and `dpbench leaderboard` do with suites of this protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpbench.board.caveats import NO_PRIVACY, leakage_lines
from dpbench.errors import DpbenchError, unknown
from dpbench.machine.writing import write_atomically
from dpbench.protocols.sharing.records import SharingRecord, all_records, restore_records, words_of
from dpbench.protocols.sharing.reporting.board import COLUMNS, FLOOR, SUBJECT, build_sharing_board
from dpbench.protocols.sharing.reporting.display import SharingDisplay
from dpbench.protocols.sharing.reporting.plots import write_benefit, write_transfer
from dpbench.protocols.sharing.reporting.row_labels import varied_arguments
from dpbench.protocols.sharing.reporting.transfer import build_transfer, matrices
from dpbench.protocols.sharing.runner import SharingPlan, execute_sharing, make_sharing_plan
from dpbench.protocols.sharing.units import OnShared
from dpbench.records.pictures import lost_and_gone
from dpbench.reporting.plot_style import draw_or_say
from dpbench.text.shown_text import ERROR_LIMIT, clean

PLOTS = ("benefit", "transfer")

TRAINED_ON = {
    "own": "own data only",
    "own-longer": "own, more epochs",
    "clean-images": "+ clean images",
    "clean-features": "+ clean features",
    "defended-features": "+ {}",
    "shuffled-labels": "  labels shuffled, {}",
    "equal-noise": "  noise like {}",
}
"""Condition -> what the table calls it; {} is the defense."""

LEGEND = (
    "top-1 of the receiver after training; gain over its own data only, paired image by image; kept: share of the gain "
    "that clean images give. public, own, query, worst: SSIM of the best attack by one who knows the public head, also "
    "a defense of its own, may query the sender's, has it. leakage: 0 the floor of the picture "
    "metrics (no privacy: see re-id), 1 undefended features. "
    "A low figure means: not broken by these attacks."
)


def run_sharing(
    suite: str,
    *,
    data: str | None,
    output: Path | None,
    device: str,
    only: str | None,
    seed: int | None,
    budget: str | None,
    weights: str | None,
    batch_size: int | None,
    audit: bool,
    defenses: list[str],
    attacks: list[str],
    dry_run: bool,
    console: Console,
) -> int:
    """Run a suite, or what of it is not finished, and show its board; returns the exit status.

    Raises:
        DpbenchError: input that cannot be used; finished units are kept.
    """
    plan = make_sharing_plan(
        suite,
        data=data,
        output=output,
        only=only,
        seed=seed,
        budget=budget,
        weights=weights,
        defenses=defenses,
        attacks=attacks,
    )
    for remark in plan.remarks:
        _say(console, f"note: {remark}")
    if dry_run:
        _print_plan(plan, console)
        return 0
    left = len(plan.units) - len(plan.finished)
    _say(console, f"suite {plan.suite.name}: {left} of {len(plan.units)} parts to run, into {plan.output}")
    with SharingDisplay(console, len(plan.units)) as display:
        records = execute_sharing(plan, device=device, batch_size=batch_size, audit=audit, watcher=display)
    attacked = [record.id for record in records if record.status == "ok" and isinstance(record.unit, OnShared)]
    removed = lost_and_gone(plan.output, restore_records(plan.output, records), attacked)
    stored = all_records([plan.output])
    board, matrix = build_sharing_board(stored), build_transfer(stored)
    written = ["board.csv"]
    plots: dict[str, Callable[[], object]] = {}
    _write_csv(board, plan.output / "board.csv")
    if (board["gain"].notna() & board["ssim"].notna()).any():
        plots["benefit.png"] = lambda: write_benefit(board, plan.output / "benefit.png")
    if matrix["ssim"].notna().any():
        _write_csv(matrix, plan.output / "transfer.csv")
        written.append("transfer.csv")
        plots["transfer.png"] = lambda: write_transfer(matrix, plan.output / "transfer.png")
    print_sharing(board, console)
    print_transfer(matrix, console)
    written += draw_or_say(plots, console)
    return _ending(plan, records, written, removed, console)


def _ending(
    plan: SharingPlan, records: list[SharingRecord], written: list[str], removed: list[str], console: Console
) -> int:
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        line = f"failed: {clean(words_of(record).label)}: {clean(record.error, ERROR_LIMIT)}"
        console.print(line, style="red", markup=False, soft_wrap=True)
    adaptive = ("query", "weights")
    stuck = [r for r in records if r.converged is False and getattr(r.unit, "knowledge", "") in adaptive]
    if stuck:
        line = "not converged, by their own loss; a larger budget may recover more: "
        names = "; ".join(clean(words_of(record).label) for record in stuck)
        console.print(line + names, style="yellow", markup=False, soft_wrap=True)
    missing = {pair for record in records for pair in record.missing_metrics.items() if pair[0] == "lpips"}
    for metric, why in sorted(missing):
        console.print(f"no {metric}: {clean(why)}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for line in removed:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    _say(console, f"{plan.output}: {', '.join(written)}{'' if removed else ', and a picture per attack in pictures/'}")
    return 1 if failed else 0


def _say(console: Console, text: str) -> None:
    console.print(clean(text, ERROR_LIMIT), markup=False, highlight=False, soft_wrap=True)


def _print_plan(plan: SharingPlan, console: Console) -> None:
    for unit in plan.units:
        state = "finished" if unit.id in plan.finished else "to run"
        console.print(f"{state:8}  {clean(unit.label)}", markup=False, highlight=False, soft_wrap=True)
    left = len(plan.units) - len(plan.finished)
    _say(console, f"{len(plan.units)} parts, {left} to run, into {plan.output}")


def write_sharing_board(directories: list[Path], output: Path, plot: str) -> int:
    """Derive a board, a transfer matrix or a picture from records alone; returns how many rows it rests on.

    Args:
        directories: of runs.
        output: ends in .csv or .md for a table, in .png, .pdf or .svg for a picture.
        plot: `benefit` or `transfer`: what a picture shows; with `transfer` a table is the matrix.

    Raises:
        DpbenchError: another plot or ending, or nothing to show.
    """
    if plot not in PLOTS:
        raise unknown("plot of a sharing run", plot, PLOTS)
    records = all_records(directories)
    table = build_transfer(records) if plot == "transfer" else build_sharing_board(records)
    if output.suffix == ".csv":
        _write_csv(table, output)
    elif output.suffix == ".md":
        text = str(_readable(table).to_markdown(index=False, disable_numparse=True)) + "\n"
        if plot != "transfer" and table["leakage"].notna().any():
            text += f"\n{NO_PRIVACY[0].upper()}{NO_PRIVACY[1:]}.\n"
        write_atomically(output, lambda path: path.write_text(text, encoding="utf-8"))
    elif output.suffix in (".png", ".pdf", ".svg"):
        (write_transfer if plot == "transfer" else write_benefit)(table, output)
    else:
        raise DpbenchError(f"{output.name}: a sharing board ends in .csv or .md, its plot in .png, .pdf or .svg")
    return len(table)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    text = str(table.to_csv(index=False, lineterminator="\n"))
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that hold anything, as text."""
    shown = table.loc[:, table.notna().any() & (table != "").any()]
    return shown.astype(object).where(shown.notna(), "").astype(str).map(lambda text: clean(text, ERROR_LIMIT))


def print_sharing(board: pd.DataFrame, console: Console) -> None:
    """One table per network and receiver."""
    assert list(board.columns) == list(COLUMNS)
    for names, rows in board.groupby(list(SUBJECT), sort=False):
        dataset, backbone, split_point, receiver, senders = (clean(name) for name in names)
        console.print()
        title = f", {backbone} split at {split_point}: {receiver} trains on what {senders.replace(' ', ', ')} shared"
        console.print(Text.assemble((dataset, "bold"), title))
        console.print(_table(rows))
        floor = rows[rows["condition"] == FLOOR]["ssim"].dropna()
        if len(floor):
            console.print(Text(f"floor: SSIM {floor.iloc[0]:.2f}", style="dim"))
        for line in leakage_lines(rows):
            console.print(Text(line, style="yellow"))
    if len(board):
        console.print(Text(LEGEND, style="dim"))


def _table(rows: pd.DataFrame) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, show_edge=False)
    table.add_column("trained on")
    columns = {"ssim_public": "public", "ssim_own": "own", "ssim_query": "query", "ssim": "worst"}
    for name in ("top-1", "gain", "kept", *columns.values(), "re-id", "leakage"):
        table.add_column(name, justify="right", style="bold" if name in ("gain", "leakage") else "")
    short = varied_arguments(rows)
    for place, row in rows[rows["condition"] != FLOOR].iterrows():
        table.add_row(
            Text(TRAINED_ON[str(row["condition"])].format(clean(f"{row['defense']} {short[place]}"))),
            _percent(row["accuracy"]),
            "" if pd.isna(row["gain"]) else f"{100 * row['gain']:+.1f}",
            _percent(row["share_kept"], decimals=0),
            *(_figure(row[column]) for column in columns),
            _percent(row["reid_top1"], decimals=0),
            _figure(row["leakage"]),
        )
    return table


def _percent(value: float, decimals: int = 1) -> str:
    return "" if pd.isna(value) else f"{100 * value:.{decimals}f}%"


def _figure(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def print_transfer(transfer: pd.DataFrame, console: Console) -> None:
    """Mean SSIM of attacks prepared on one fit (a row) and judged on another (a column)."""
    for names, matrix in matrices(transfer):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("SSIM, prepared on")
        for fit in matrix["ssim"].columns:
            table.add_column(f"judged on {fit}", justify="right")
        for name, values in matrix["ssim"].iterrows():
            table.add_row(Text(clean(name)), *(_figure(value) for value in values))
        console.print()
        console.print(Text(clean(f"transfer between independent fits: {names}")))
        console.print(table)
