"""What the gate found, for each reader: a terminal, GitHub Actions, GitLab, programs, tools that read JUnit files."""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpbench.errors import DpbenchError
from dpbench.gate.findings import Comparison
from dpbench.text.shown_text import clean

STYLES = {"error": "bold red", "warning": "yellow", "notice": "green"}


def verdict(result: Comparison) -> str:
    """The outcome in one line."""
    worse = [finding for finding in result.findings if finding.fails]
    compared = f"{len(result.rows)} rows of the baseline, {result.figures} figures compared"
    if not worse:
        return f"passed: nothing got worse in {compared}"
    rows = {row for finding in worse for row in finding.rows}
    findings = f"{len(worse)} finding{'s' if len(worse) > 1 else ''}"
    return f"failed: {findings} in {len(rows)} of {compared}"


def print_comparison(result: Comparison, console: Console) -> None:
    """The verdict, a table of every finding, what fails first, and what else there is to know."""
    outcome = verdict(result)
    console.print(Text(outcome, style="bold green" if result.passed else "bold red"), soft_wrap=True)
    if result.findings:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("finding", no_wrap=True)
        table.add_column("row", overflow="fold")
        table.add_column("baseline [interval] -> candidate", overflow="fold")
        for finding in result.findings:
            kind = Text(finding.kind, style=STYLES[finding.level])
            table.add_row(kind, Text(clean(result.name(finding))), Text(clean(finding.message)))
        console.print(table)
    for note in result.notes:
        console.print(Text(f"note: {clean(note)}", style="yellow"), soft_wrap=True)


def as_json(result: Comparison) -> str:
    """Verdict, findings and notes for programs; each finding with all its rows."""
    findings = [
        {
            "finding": finding.kind,
            "level": finding.level,
            "fails": finding.fails,
            "message": clean(finding.message),
            "rows": [clean(result.layout.said(row)) for row in finding.rows],
        }
        for finding in result.findings
    ]
    counted = {"rows": len(result.rows), "figures": result.figures}
    told = {"verdict": "passed" if result.passed else "failed", "line": verdict(result), **counted}
    return json.dumps(told | {"findings": findings, "notes": [clean(note) for note in result.notes]}, indent=1)


SEVERITIES = {"error": "critical", "warning": "minor", "notice": "info"}


def write_gitlab(result: Comparison, path: Path, *, about: str) -> None:
    """A code quality report, as GitLab shows it beside a merge request; an entry for each finding.

    Args:
        result: what was found.
        path: the file, which `artifacts: reports: codequality` names.
        about: the file of the repository that entries point to: the baseline.
    """
    from dpbench.machine.writing import write_atomically  # as in `write_junit`

    entries = [
        {
            "description": clean(f"{finding.kind}: {result.name(finding)}: {finding.message}"),
            "check_name": f"dpbench: {finding.kind}",
            # the same one in the next run, whatever its figures
            "fingerprint": hashlib.sha256(repr((finding.kind, finding.rows)).encode("utf-8", "replace")).hexdigest(),
            "severity": SEVERITIES[finding.level],
            "location": {"path": clean(about), "lines": {"begin": 1}},
        }
        for finding in result.findings
    ]
    document = json.dumps(entries, indent=1) + "\n"
    write_atomically(path, lambda file: file.write_text(document, encoding="utf-8", newline="\n"))


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def workflow_commands(result: Comparison) -> list[str]:
    """One GitHub workflow command per finding and note."""
    title = _escaped_property("dpbench: note")
    said = [_escaped(f"{clean(result.name(finding))}: {clean(finding.message)}") for finding in result.findings]
    return [
        *(
            f"::{finding.level} title={_escaped_property(f'dpbench: {finding.kind}')}::{text}"
            for finding, text in zip(result.findings, said, strict=True)
        ),
        *(f"::notice title={title}::{_escaped(clean(note))}" for note in result.notes),
    ]


def summary(result: Comparison) -> str:
    """The findings as Markdown, for the summary of a GitHub Actions step."""
    lines = ["## dpbench check", "", _cell(verdict(result)), ""]
    if result.findings:
        lines += ["| finding | row | baseline [interval] -> candidate |", "|---|---|---|"]
        lines += [
            f"| {f'**{f.kind}**' if f.fails else f.kind} | {_cell(result.name(f))} | {_cell(f.message)} |"
            for f in result.findings
        ]
        lines.append("")
    lines += [f"- {_cell(note)}" for note in result.notes]
    return "\n".join(lines).rstrip("\n") + "\n"


def _cell(text: str) -> str:
    escaped = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]])", r"\\\1", escaped)


def append_summary(result: Comparison, path: Path) -> None:
    """Add the Markdown to the step summary, after what other steps wrote."""
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(summary(result))
    except OSError as error:
        raise DpbenchError(
            f"the step summary {path} cannot be written ({error.strerror or error}); "
            "unset GITHUB_STEP_SUMMARY to do without"
        ) from error


def write_junit(result: Comparison, path: Path) -> None:
    """A JUnit file: one test case per row of the baseline, with its failures in it."""
    from dpbench.machine.writing import write_atomically  # it brings torch, which a comparison does not need

    failing = {row for finding in result.findings if finding.fails for row in finding.rows}
    counts = {"tests": str(len(result.rows)), "failures": str(len(failing)), "errors": "0", "skipped": "0"}
    root = ET.Element("testsuites", {"name": "dpbench check", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "dpbench check", **counts})
    for row in result.rows:
        of_row = [finding for finding in result.findings if row in finding.rows]
        said = {"classname": ".".join(row[:3]), "name": result.layout.said(row)}
        names = {key: _xml(clean(text)) for key, text in said.items()} | {"time": "0"}
        case = ET.SubElement(suite, "testcase", names)
        worse = [finding for finding in of_row if finding.fails]
        if worse:
            # one failure element per case: several readers count elements, not cases
            text = "\n".join(clean(f"{finding.kind}: {finding.message}") for finding in worse)
            first = {"type": worse[0].kind, "message": _xml("; ".join(text.splitlines()))}
            ET.SubElement(case, "failure", first).text = _xml(text)
        told = [clean(f"{finding.kind}: {finding.message}") for finding in of_row if not finding.fails]
        if told:
            ET.SubElement(case, "system-out").text = _xml("\n".join(told))
    if result.notes:
        ET.SubElement(suite, "system-out").text = _xml("\n".join(result.notes))
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode", xml_declaration=False)
    document = f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'
    write_atomically(path, lambda file: file.write_text(document, encoding="utf-8", newline="\n"))


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
