"""Interactive plots as plain data for plotly: what attacks recover against accuracy and depth."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.contract.threat import THREAT_MODELS, UNDEFENDED
from dpbench.records.record import Envelope
from dpbench.report.content import Plot
from dpbench.report.levels import against, number
from dpbench.reporting.plots.marks import COLOURS, INK, SIGNS, symbol_of
from dpbench.text.curves import CURVES, is_figure
from dpbench.text.shown_text import clean
from dpbench.tradeoffs.fronts import front, of_one_leakage

METRICS = {
    "ssim": ("SSIM", 1.0),
    "leakage": ("leakage", 1.0),
    "reid_top1": ("re-identified (%)", 100.0),
    "identity_top1": ("identified by other images (%)", 100.0),
    "label_read": ("label read (%)", 100.0),
}
"""Column -> what an axis calls it, and its scale."""

UP = "up = leaks more"
FRONT = "Pareto front"

Figure = dict[str, Any]
Row = Mapping[Any, Any]
Short = Mapping[tuple[str, str], str]


def escaped(text: object) -> str:
    """Text for plotly, which takes some HTML in it."""
    return html.escape(clean(text), quote=False)


def layout(title: str, x: str, y: str) -> Figure:
    """The frame of a plot; the page adds colours and sizes."""
    return {
        "title": {"text": escaped(title)},
        "xaxis": {"title": {"text": escaped(x)}},
        "yaxis": {"title": {"text": f"{escaped(y)}<br><i>{UP}</i>"}, "rangemode": "tozero"},
    }


def points(
    name: str,
    defense: str,
    rows: Sequence[Mapping[Any, Any]],
    labels: Sequence[str],
    x: tuple[str, float],
    y: tuple[str, float],
    *,
    hollow: bool = False,
    line: bool = False,
) -> Figure:
    """One trace: rows of a board of one defense, with their intervals.

    Args:
        name: in the legend.
        defense: gives colour and marker.
        rows: of a board.
        labels: what hovering over each says first.
        x: a column, and what it is multiplied by.
        y: likewise.
        hollow: a weaker attacker.
        line: whether the points are a curve, in this order.
    """
    colour, symbol = symbol_of(defense)
    texts = [
        f"{escaped(label)}<br>{escaped(METRICS.get(y[0], (y[0], 1))[0])}: {y[1] * number(row, y[0]):.4g}"
        f"<br>{escaped(x[0])}: {x[1] * number(row, x[0]):.4g}<br>{escaped(row.get('status', ''))}"
        for row, label in zip(rows, labels, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers" if line else "markers",
        "name": escaped(name),
        "x": [_value(row, *x) for row in rows],
        "y": [_value(row, *y) for row in rows],
        "error_x": _bars(rows, *x),
        "error_y": _bars(rows, *y),
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": colour,
            "symbol": f"{symbol}-open" if hollow else symbol,
            "size": 14 if symbol == "star" else 10,
            "line": {"width": 2 if hollow else 1, "color": colour if hollow else INK},
        },
        "line": {"color": colour, "width": 1.5, "dash": "dash" if hollow else "solid"},
        "opacity": 0.75 if hollow else 1,
    }


def _value(row: Mapping[Any, Any], column: str, scale: float) -> float | None:
    value = number(row, column)
    return None if value != value else round(scale * value, 6)


def _bars(rows: Sequence[Mapping[Any, Any]], column: str, scale: float) -> Figure:
    ends = [tuple(number(row, f"{column}{end}") for end in ("", "_low", "_high")) for row in rows]
    above = [max(0.0, scale * (high - mean)) if high == high else 0.0 for mean, _, high in ends]
    below = [max(0.0, scale * (mean - low)) if low == low else 0.0 for mean, low, _ in ends]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 2}


def tradeoff(title: str, panel: pd.DataFrame, shown: pd.DataFrame, short: Short) -> Plot | None:
    """What comes back against accuracy, for each metric that was measured, with its Pareto front; None of nothing.

    Args:
        title: data, backbone and split point.
        panel: all rows of it.
        shown: of each setting the worst case of the strongest attacker.
        short: see `dpbench.reporting.selection.short_arguments`.
    """
    shown = shown[shown["accuracy"].notna()]
    metrics = [name for name in METRICS if name in shown and shown[name].notna().any()]
    if not metrics or len(shown) < 2:
        return None
    static = panel[(panel["attack"] == WORST_CASE) & (panel["threat_model"] == "static") & panel["accuracy"].notna()]
    static = static[(static["auxiliary"] == "same") & (static["defense"] != UNDEFENDED)]
    floors: Sequence[Row] = panel[panel["attack"] == FLOOR].to_dict("records")
    # plain rows from here on: pandas takes long over many small tables
    comparable = {
        metric: set(of_one_leakage(shown).index if metric == "leakage" else shown.index) for metric in metrics
    }
    strongest, weaker = list(zip(shown.index, shown.to_dict("records"), strict=True)), static.to_dict("records")
    figures = {}
    for metric in metrics:
        given = [row for place, row in strongest if place in comparable[metric]]
        figures[METRICS[metric][0]] = _tradeoff(title, given, weaker, floors, short, metric)
    front = [_named(row, short) for row in pareto([row for _, row in strongest], metrics[0])]
    about = (
        "Each point is a defense under the strongest attacker: right predicts better, up leaks more; the lower right "
        "corner is best. Bars are 95% intervals. A click on a name in the legend shows or hides it; hollow points are "
        "of an attacker who does not know of the defense. On the Pareto front, where no other setting predicts better "
        f"and leaks less by {METRICS[metrics[0]][0]}: {', '.join(front)}."
    )
    alt = f"Scatter plot of what comes back against accuracy: {title}. Its figures are those of the table above."
    return Plot(f"Accuracy and leak: {title}", about, figures, alt)


def _tradeoff(
    title: str, strongest: Sequence[Row], static: Sequence[Row], floors: Sequence[Row], short: Short, metric: str
) -> Figure:
    label, scale = METRICS[metric]
    x, y = ("accuracy", 100.0), (metric, scale)
    known = [row for row in strongest if not math.isnan(number(row, metric))]
    told = any(row["threat_model"] != "static" for row in known)
    data: list[Figure] = []
    for defense in dict.fromkeys(str(row["defense"]) for row in known):
        legend = "undefended" if defense == UNDEFENDED else defense
        for rows, hollow in ((known, False), (static if told else [], True)):
            own = [row for row in rows if row["defense"] == defense and not math.isnan(number(row, metric))]
            own.sort(key=lambda row: number(row, "accuracy"))
            names = [f"{_named(row, short)}, attacker {against(row)}" for row in own]
            name = f"{legend}, static" if hollow else legend
            trace = points(name, defense, own, names, x, y, hollow=hollow, line=len(own) > 2)
            data += [trace | ({"visible": "legendonly"} if hollow else {})] if own else []
    front = pareto(known, metric)
    line: Figure = {"type": "scatter", "mode": "lines", "name": FRONT, "hoverinfo": "skip"}
    line |= {"x": [_value(row, *x) for row in front], "y": [_value(row, *y) for row in front]}
    data.insert(0, line | {"line": {"color": INK, "width": 1.2, "dash": "dot", "shape": "hv"}})
    figure: Figure = {"data": data, "layout": layout(title, "top-1 accuracy (%)", f"worst-case {label}")}
    heights = [number(row, metric) for row in floors if not math.isnan(number(row, metric))]
    if heights:
        figure["layout"] |= _line_at(scale * max(heights), "floor: the best blind guess")
    return figure


def _line_at(height: float, text: str) -> Figure:
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height}
    note = {"xref": "paper", "x": 0, "y": height, "text": escaped(text), "showarrow": False}
    return {
        "shapes": [line | {"line": {"width": 1, "dash": "dashdot", "color": INK}, "layer": "below"}],
        "annotations": [note | {"xanchor": "left", "yanchor": "bottom", "font": {"size": 11}}],
    }


def pareto(rows: Iterable[Row], metric: str) -> list[Row]:
    """The settings that no other one beats in accuracy and this metric at once, by falling accuracy."""
    given = list(rows)
    return [given[place] for place in front([(-number(row, "accuracy"), number(row, metric)) for row in given])]


def _named(row: Mapping[Any, Any], short: Short) -> str:
    return f"{row['defense']} {short[row['defense'], row['defense_args']]}".strip()


MOST_CELLS = 60
"""So many are drawn at most."""


def curves(records: Iterable[Envelope]) -> Plot | None:
    """What attacks logged step by step, one figure for each name; None where none did.

    Other notes that are lists of numbers are curves too.
    """
    traces: dict[str, list[Figure]] = {}
    for record in records:
        logged = record.notes.get(CURVES)
        given = {**(logged if isinstance(logged, dict) else {}), **record.notes}
        for name, values in given.items():
            steps = _steps(values)
            if len(steps) < 2 or len(traces.setdefault(str(name), [])) >= MOST_CELLS:
                continue
            colour, _ = symbol_of(record.named.defense.split(" ")[0])
            label = escaped(f"{record.named.defense or UNDEFENDED}, {record.named.attack}")
            x, y = zip(*steps, strict=True)
            trace = {
                "type": "scatter",
                "mode": "lines",
                "name": label,
                "x": x,
                "y": y,
                "text": escaped(record.named.label),
            }
            trace |= {"hovertemplate": "%{text}<br>step %{x}: %{y:.4g}<extra></extra>"}
            traces[str(name)].append(trace | {"line": {"color": colour, "width": 1.5}})
    figures = {
        clean(name): {
            "data": drawn,
            "layout": {
                "title": {"text": escaped(name)},
                "xaxis": {"title": {"text": "step"}},
                "yaxis": {"title": {"text": escaped(name)}},
            },
        }
        for name, drawn in traces.items()
        if drawn
    }
    if not figures:
        return None
    about = f"What attacks logged of themselves, step by step; of each quantity at most {MOST_CELLS} cells."
    return Plot("Attacks, step by step", about, figures, "What attacks logged, against their steps.")


def _steps(values: object) -> list[tuple[float, float]]:
    """Step and figure, as a note holds them: plain numbers, or pairs; nothing of anything else."""
    if not isinstance(values, list):
        return []
    pairs = [
        value if isinstance(value, list) and len(value) == 2 else [place, value] for place, value in enumerate(values)
    ]
    numbers = (is_figure(one) for pair in pairs for one in pair)
    return [(float(step), float(value)) for step, value in pairs] if all(numbers) else []


def depth(rows: pd.DataFrame, shares: Mapping[tuple[str, str, str], float]) -> Plot | None:
    """What undefended backbones leak against how deep they are cut; None for fewer than two depths of a backbone.

    Args:
        rows: worst cases of undefended backbones.
        shares: data set, backbone, split point -> share of the work that the client does.
    """
    rows = rows[(rows["defense"] == UNDEFENDED) & (rows["attack"] == WORST_CASE) & (rows["auxiliary"] == "same")]
    places = zip(rows["dataset"], rows["backbone"], rows["split_point"], strict=True)
    rows = rows.assign(depth=[shares.get(place, float("nan")) for place in places])
    rows = rows[rows["depth"].notna()]
    rows = rows.assign(strength=rows["threat_model"].map(THREAT_MODELS.index)).sort_values(["strength", "depth"])
    rows = rows.drop_duplicates(["dataset", "backbone", "split_point", "seed"], keep="last")
    if rows.groupby(["dataset", "backbone"])["depth"].nunique().max() in (0, 1) or rows.empty:
        return None
    figures = {}
    for metric in ("ssim", "reid_top1"):
        label, scale = METRICS[metric]
        if metric not in rows or rows[metric].isna().all():
            continue
        data = []
        given = rows[rows[metric].notna()]
        for place, (names, own) in enumerate(given.groupby(["dataset", "backbone"], sort=False)):
            listed = own.sort_values("depth").to_dict("records")
            labels = [f"{row['backbone']} split at {row['split_point']} ({row['dataset']})" for row in listed]
            trace = points(" ".join(map(str, names)), "", listed, labels, ("depth", 100.0), (metric, scale), line=True)
            colour = COLOURS[place % len(COLOURS)]
            trace["line"]["color"] = trace["marker"]["color"] = colour
            trace["marker"] |= {"symbol": list(SIGNS.values())[place % len(SIGNS)], "size": 10}
            data.append(trace)
        subject = ", ".join(dict.fromkeys(given["dataset"]))
        title = f"undefended networks on {subject}"
        figures[label] = {
            "data": data,
            "layout": layout(title, "share of the network's work that the client does (%)", f"worst-case {label}"),
        }
    about = "How much of an undefended network's input comes back from its features, by how deep it is cut."
    return Plot("Depth: which split point leaks", about, figures, "What comes back against the depth of the cut.")
