"""Entries that others hand in: does what they say of themselves belong to their records?"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpbench.errors import DpbenchError
from dpbench.protocols.known import loaded
from dpbench.records.record import Envelope
from dpbench.suite.files import parse_toml, suite_text
from dpbench.text.shown_text import clean

FILE = "provenance.toml"

ASKED = {
    "who": "names, or a team, and how to reach them",
    "when": "the day of the run, 2026-01-31",
    "commit": "of dpbench",
    "command": "what was typed",
    "machine": "processor, accelerator, memory",
    "licence": "of the records and of code that comes with them",
}
"""Key -> what it says."""

DAY = datetime.timedelta(days=1)


def is_entry(folder: Path) -> bool:
    """Whether somebody hands it in: a run directory that says where it comes from."""
    return (folder / FILE).is_file()


def contradictions_of(entry: Path, records: Sequence[Envelope], remarks: list[str]) -> Iterator[str]:
    """What an entry says of itself that is missing, or that its records do not bear out.

    Args:
        entry: a folder with `provenance.toml`, a suite, and the records of a run.
        records: those that can be read.
        remarks: takes what could not be looked at, a line each.
    """
    try:
        told = parse_toml(suite_text(str(entry / FILE)), origin=FILE)
    except DpbenchError as error:
        yield str(error)
        return
    for key, meaning in ASKED.items():
        if not str(told.get(key, "")).strip():
            yield f"does not say {key}: {meaning}"
    if unknown := sorted(set(told) - set(ASKED)):
        yield f"has keys that mean nothing here: {', '.join(map(clean, unknown))}; expected {', '.join(ASKED)}"
    yield from _when(told.get("when"), [record.created for record in records])
    yield from _commit(str(told.get("commit", "")).strip(), records, remarks)
    yield from _suite(entry, records)


def _when(told: Any, created: Sequence[str]) -> Iterator[str]:
    if told in (None, ""):
        return
    try:
        day = told if isinstance(told, datetime.date) else datetime.date.fromisoformat(str(told))
    except ValueError:
        yield f"says when = {clean(told)!r}; expected a day, 2026-01-31"
        return
    days = sorted(datetime.datetime.fromisoformat(one).date() for one in created if one)
    day = day.date() if isinstance(day, datetime.datetime) else day
    if days and not days[0] - DAY <= day <= days[-1] + DAY:
        yield f"says that the run was on {day}, its records are of {days[0]} to {days[-1]}"


def _commit(told: str, records: Sequence[Envelope], remarks: list[str]) -> Iterator[str]:
    known = {str(found) for record in records if (found := record.environment.get("commit"))}
    if told and not known:
        remarks.append(f"{FILE}: no record names its commit (dpbench was installed): {clean(told)!r} is taken as told")
    wrong = sorted(one for one in known if told and not one.removesuffix("+").startswith(told.removesuffix("+")))
    if wrong:
        yield f"says commit {clean(told)!r}, its records are of {', '.join(clean(one[:12]) for one in wrong)}"
    if edited := sorted(one[:12] for one in known if one.endswith("+")):
        remarks.append(f"{FILE}: records of {', '.join(map(clean, edited))}: the checkout had changes of its own")


def _suite(entry: Path, records: Sequence[Envelope]) -> Iterator[str]:
    files = sorted(path for path in entry.glob("*.toml") if path.name != FILE)
    if len(files) != 1:
        yield f"lies beside {len(files)} suites; expected one .toml file that was run"
        return
    try:
        _, suite = loaded(str(files[0]))
    except DpbenchError as error:
        yield str(error)
        return
    others = sorted({record.suite for record in records} - {suite.name})
    if others:
        yield f"lies beside the suite {suite.name!r}, its records are of {', '.join(map(clean, others))}"
