"""A report as one HTML file: everything inlined, nothing fetched, whatever a stranger wrote escaped."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from dpbench import __version__
from dpbench.machine.writing import write_atomically
from dpbench.report.content import Cell, Column, Line, Report, Table
from dpbench.report.glossary import explained
from dpbench.text.shown_text import ERROR_LIMIT, clean

SECTIONS = {
    "answer": "Answer",
    "pictures": "What comes back",
    "figures": "Figures",
    "attackers": "Who attacked",
    "plots": "Plots",
    "steps": "Step by step",
    "glossary": "Glossary",
    "untested": "Not tested",
    "more": "To check it",
}

ANSWERS_SHOWN = 3
"""So many places are answered at once; the others are folded."""

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {scripts}; base-uri 'none'; "
    "form-action 'none'"
)
"""What the browser allows: the two scripts of this page by their hashes, and no request to anywhere."""


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        DpbenchError: the disk does not take it.
    """
    text = page(report)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))


def page(report: Report) -> str:
    """The page as HTML."""
    script = _own("page.js")
    hashes = [_hash(script)]
    packed = ""
    if report.plots:
        bundle, packed = plotly()
        hashes.append(bundle)
    given = {"pictures": report.galleries, "plots": report.plots, "steps": report.films, "attackers": report.attackers}
    return template("dpbench.report", "page.html").render(
        report=report,
        policy=POLICY.format(scripts=" ".join(f"'{one}'" for one in hashes)),
        style=style(),
        labels=_labels("main", report.table.columns) + _labels("cells", report.cells.columns),
        main_rows=_rows(report.table, headed=True),
        cell_rows=_rows(report.cells, headed=False),
        script=script,
        shown_answers=ANSWERS_SHOWN,
        sections=[(anchor, title) for anchor, title in SECTIONS.items() if given.get(anchor, True)],
        glossary=explained(report.terms),
        figures=[dict(plot.figures) for plot in report.plots],
        packed=packed,
        version=__version__,
    )


@functools.cache
def template(package: str, name: str) -> jinja2.Template:
    """A template of a package, which may use the parts of this one; whatever it shows is escaped and cleaned."""
    loaders = [jinja2.PackageLoader(place, ".") for place in (package, "dpbench.report")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=False,
    )
    return environment.get_template(name)


def _shown(value: Any) -> Any:
    """What a stranger wrote loses what is not seen, or changes how the rest is seen; our own markup stays."""
    if isinstance(value, str) and not isinstance(value, Markup) and not value.startswith("data:image/"):
        return clean(value, ERROR_LIMIT)
    return value


@functools.cache
def _own(name: str) -> str:
    return (resources.files("dpbench.report") / name).read_text(encoding="utf-8")


def style() -> str:
    """How pages look."""
    return _own("page.css")


def _rows(table: Table, *, headed: bool) -> Markup:
    """The body of a table; `headed`: the first value names its row. A board of 1,000 cells has 100,000 values."""
    return Markup("\n".join(_row(line, table.columns, headed=headed) for line in table.lines))


def _row(line: Line, columns: Sequence[Column], *, headed: bool) -> str:
    values = [_value(cell, "", numeric=column.numeric) for cell, column in zip(line.cells, columns, strict=True)]
    group = f' data-group="{_safe(line.group)}"' if line.group else ""
    if headed and values:
        first = line.cells[0]
        sign = _value(first, _sign(line), numeric=columns[0].numeric).removeprefix("<td")
        values[0] = f"<th scope=row{sign}"
    return f"<tr{group}>{''.join(values)}</tr>"  # HTML closes values by itself


def _sign(line: Line) -> str:
    if not line.marker:
        return ""
    colour = "" if line.colour == "ink" else f' style="color:{_safe(line.colour)}"'
    return f'<span class="sign" aria-hidden="true"{colour}>{_safe(line.marker)}</span> '


def _value(cell: Cell, before: str, *, numeric: bool) -> str:
    order = "" if cell.order is None or cell.order != cell.order else repr(float(cell.order))
    if numeric and order and _reads_as(cell.text) == cell.order:
        order = ""  # the page reads it
    data = f' data-order="{order}"' if order else ""
    about = f' title="{_safe(cell.about)}"' if cell.about else ""
    text = f'<span class="level {_safe(cell.mark)}">{_safe(cell.text)}</span>' if cell.mark else _safe(cell.text)
    return f"<td{data}{about}>{before}{text}"


def _reads_as(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII) else None


@functools.lru_cache(maxsize=1 << 16)
def _safe(text: str) -> str:
    return str(escape(clean(text, ERROR_LIMIT)))


def _labels(table: str, columns: Sequence[Column]) -> str:
    """How columns stand, which are shown at first, and what a value is called where a table is no table any more."""
    return _places(table, columns) + _titles(table, columns)


def _places(table: str, columns: Sequence[Column]) -> str:
    figures = _at(f"#{table} td", [at for at, one in enumerate(columns, 1) if one.numeric])
    more = [at for at, one in enumerate(columns, 1) if not one.main]
    wide = "screen and (min-width: 42.01rem)" + (", print" if table == "main" else "")
    rules = [f"@media {wide} {{ {figures} {{ text-align: right; white-space: nowrap; }} }}"] if figures else []
    if more:
        rules.append(f"{_at(f'#{table}:not(.all) tr > *', more)} {{ display: none; }}")
        rules.append(f"@media print {{ {_at(f'#{table} tr > *', more)} {{ display: none !important; }} }}")
    return "\n".join([*rules, ""])


def _at(selector: str, places: Sequence[int]) -> str:
    """The selector at these places, a part for each run of them: browsers try every part on every value."""
    first = [at for at in places if at - 1 not in places]
    last = [at for at in places if at + 1 not in places]
    runs = zip(first, last, strict=True)
    return ", ".join(f"{selector}:nth-child(n+{start}):nth-child(-n+{end})" for start, end in runs)


def _titles(table: str, columns: Sequence[Column]) -> str:
    """What a value is called where a table is no table any more: on a narrow screen, and in print."""
    rules = []
    for place, column in enumerate(columns, 1):
        title = re.sub(r"[^\w ?%.,-]", "", column.title)  # it stands in a string of CSS
        rules.append(f'#{table} td:nth-child({place})::before {{ content: "{title} "; }}')
    narrow = "\n".join(rules)
    screen = f"@media screen and (max-width: 42rem) {{\n{narrow}\n}}"
    return f"{screen}\n@media print {{\n{narrow}\n}}\n" if table == "cells" else f"{screen}\n"


@functools.cache
def plotly() -> tuple[str, str]:
    """The library that draws: its hash for the policy, and its text, packed: 2 MB in place of 4.8."""
    content = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    packed = gzip.compress(content, compresslevel=6, mtime=0)
    return _hash(content.decode("utf-8")), base64.b64encode(packed).decode("ascii")


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}"
