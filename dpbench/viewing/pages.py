"""The pages of `dpbench view`: a list of runs, one that is followed, two side by side. Nothing in them is fetched."""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpbench.errors import DpbenchError
from dpbench.records.record import Envelope
from dpbench.records.store import picture_path
from dpbench.report.content import Report
from dpbench.report.page import page, style, template
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.viewing.comparing import compare
from dpbench.viewing.reports import report_of
from dpbench.viewing.runs import Reader, Run, find, mark_of, newest

REFRESH_S = 5
"""A page on a run that goes on loads itself again so often."""

KEPT = 8
"""Reports that are kept: making one of a thousand cells takes seconds."""


class Unfound(DpbenchError):
    """There is no such page, run or picture."""


class Unfitting(DpbenchError):
    """What is asked for is there, and does not go together."""


class Pages:
    """Makes pages of the runs in a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reader = Reader()
        self._listed: dict[str, Run] = {}
        self._reports: dict[tuple[Any, ...], Report] = {}
        self._lock = threading.Lock()
        self._made: dict[str, Callable[[Mapping[str, str]], tuple[str, bytes]]] = {
            "/": self._index,
            "/follow": self._follow,
            "/report": self._report,
            "/picture": self._picture,
            "/compare": self._compare,
        }

    def answer(self, path: str, query: Mapping[str, str]) -> tuple[str, bytes]:
        """The kind of content, and the content.

        Raises:
            Unfound: no such page, run or picture. Names are looked up among those that are there: none becomes a path.
            DpbenchError: a record that cannot be read.
        """
        made = self._made.get(path)
        if made is None:
            raise Unfound(f"no page {path}")
        return made(query)

    def _runs(self) -> dict[str, Run]:
        self._listed = find(self._root)
        return self._listed

    def _run(self, query: Mapping[str, str], key: str = "run") -> Run:
        runs, name = self._runs(), query.get(key, "")
        # a form sends back what it shows
        found = runs.get(name) or next((run for run in runs.values() if clean(run.name, ERROR_LIMIT) == name), None)
        if found is None:
            raise Unfound(f"no run {name!r} here")
        return found

    def _index(self, query: Mapping[str, str]) -> tuple[str, bytes]:
        runs = sorted(self._runs().values(), key=lambda run: run.changed, reverse=True)
        refresh = 6 * REFRESH_S if any(run.going for run in runs) else 0
        return _html("index.html", title="Runs", home=True, refresh=refresh, runs=runs, folder=str(self._root))

    def _follow(self, query: Mapping[str, str]) -> tuple[str, bytes]:
        run = self._run(query)
        records, wrong = self._reader.records(run)
        last = newest(records)
        return _html(
            "follow.html",
            title=run.name,
            refresh=REFRESH_S if run.going and "still" not in query else 0,
            run=run,
            records=last,
            ok=sum(record.status == "ok" for record in records),
            failed=[record for record in records if record.status == "failed"][:50],
            pictures={record.id for record in last if picture_path(run.folder, record.id).is_file()},
            told=lambda record: _told(run, record),
            wrong=wrong,
        )

    def _report(self, query: Mapping[str, str]) -> tuple[str, bytes]:
        return "text/html; charset=utf-8", page(self._report_of(self._run(query))).encode("utf-8")

    def _picture(self, query: Mapping[str, str]) -> tuple[str, bytes]:
        unit = query.get("unit", "")
        # a page shows many: the folder is not looked through again for each
        run = self._listed.get(query.get("run", ""))
        if run is None or unit not in {file.stem for file in run.files}:
            run = self._run(query)
        path = picture_path(run.folder, unit)
        inside = path.resolve().is_relative_to(self._root.resolve())
        if unit not in {file.stem for file in run.files} or not inside or not path.is_file():
            raise Unfound("no such picture")
        content = path.read_bytes()
        if not content.startswith(b"\x89PNG\r\n\x1a\n"):
            raise Unfound("that is no picture")
        return "image/png", content

    def _compare(self, query: Mapping[str, str]) -> tuple[str, bytes]:
        one, other = self._run(query, "one"), self._run(query, "other")
        if one.protocol is not other.protocol:
            raise Unfitting(
                f"{one.name} is a run of the protocol {one.protocol.name!r}, {other.name} of {other.protocol.name!r}: "
                "there is nothing to compare"
            )
        first, second = self._report_of(one), self._report_of(other)
        return _html(
            "compare.html",
            title="Two runs side by side",
            refresh=0,
            one=one.name,
            other=other.name,
            first=first,
            second=second,
            found=compare(first, second),
        )

    def _report_of(self, run: Run) -> Report:
        """Made again where something changed; one at a time."""
        with self._lock:
            mark = mark_of(run)
            if mark not in self._reports:
                records, wrong = self._reader.records(run)
                if wrong:
                    raise DpbenchError(wrong[0])
                newest_ones = run.protocol.newest(records)
                if not newest_ones:
                    raise DpbenchError(f"{run.name} holds no record yet")
                board = run.protocol.board(newest_ones)
                self._reports[mark] = report_of(run.protocol, newest_ones, board, run.folder)
                for old in list(self._reports)[:-KEPT]:
                    del self._reports[old]
            return self._reports[mark]


def _html(name: str, **values: Any) -> tuple[str, bytes]:
    given = {"home": False, "style": style(), "link": link, "ago": _ago, **values}
    return "text/html; charset=utf-8", template("dpbench.viewing", name).render(given).encode("utf-8", "replace")


def message(title: str, text: str) -> tuple[str, bytes]:
    """A page that says why there is no other, and leads back to the list."""
    return _html("message.html", title=title, refresh=0, text=text)


def link(page_name: str, **query: str) -> str:
    """The address of a page."""
    return f"/{page_name}?{urllib.parse.urlencode(query, errors='surrogateescape')}"  # names of folders are bytes


def _told(run: Run, record: Envelope) -> str:
    return "failed" if record.status == "failed" else str(run.protocol.progress_of(record))


def _ago(run: Run) -> str:
    """When a run was last written to: `40 s ago`."""
    seconds = max(0.0, time.time() - run.changed)
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
