"""Whatever is raised in a command ends as one line on stderr and an exit status; never as a traceback."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from record_factory import make_grid
from tiny_suite import SUITE

from dpbench.board.files import write_board
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.records import store
from dpbench.reporting.table import print_table
from dpbench.text.terminal import make_console, prepare_streams

VERBS = {
    "run": (["run", "smoke"], "dpbench.cli.running.run_suite"),
    "run sharing": (["run", "sharing"], "dpbench.cli.running.run_suite"),
    "list": (["list", "attacks"], "dpbench.cli.listing.listing"),
    "leaderboard": (["leaderboard", "x", "--output", "b.csv"], "dpbench.protocols.known.of_runs"),
    "check": (["check", "a.csv", "--baseline", "b.csv"], "dpbench.gate.check.run_check"),
    "show": (["show", "x"], "dpbench.cli.showing.shown"),
    "doctor": (["doctor"], "dpbench.cli.doctor.examine"),
    "share export": (["share", "export", "quick", "--output", "f"], "dpbench.exchange.exchange.export_features"),
    "share import": (["share", "import", "f", "quick"], "dpbench.exchange.exchange.import_features"),
}


class Strange(BaseException):
    """Of a library that does not derive from Exception."""


class Unsayable(Exception):
    def __str__(self) -> str:
        raise ValueError


TROUBLE: dict[str, tuple[BaseException, int, str]] = {
    "bad input": (DpbenchError("expected this,\ngot that"), 2, "expected this, got that"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "/cache/x"), 2, "/cache/x: No space left on device"),
    "not ours": (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2, "/root/x: Permission denied"),
    "a folder": (IsADirectoryError(errno.EISDIR, "Is a directory", "x.toml"), 2, "x.toml: Is a directory"),
    "no name": (OSError("half way"), 2, "half way"),
    "not UTF-8": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "UnicodeDecodeError"),
    "too deep": (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
    "no memory": (MemoryError(), 2, "memory ran out"),
    "sys.exit(0)": (SystemExit(0), 2, "SystemExit: 0"),
    "sys.exit()": (SystemExit(), 2, "wanted to end dpbench"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "interrupted; what is finished is kept"),
    "kill": (KeyboardInterrupt(signal.SIGTERM), 143, "terminated; what is finished is kept"),
    "a bug": (ZeroDivisionError("one\ntwo"), 2, "ZeroDivisionError: one two (test_endings.py, line"),
    "controls": (ValueError("\x1b[31m\udcff\u202e"), 2, r"ValueError: \x1b[31m\udcff\u202e"),
    "unsayable": (Unsayable(), 2, "its message cannot be shown"),
    "strange": (Strange("x"), 2, "Strange: x"),
    "generator": (GeneratorExit(), 2, "GeneratorExit"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_is_one_line_and_a_status(dpbench, monkeypatch, verb: str, trouble: str) -> None:
    arguments, place = VERBS[verb]
    error, status, words = TROUBLE[trouble]

    def fails(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(place, fails)
    outcome = dpbench(*arguments)
    assert outcome.status == status
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("dpbench: ")
    assert words in lines[0]


@pytest.mark.parametrize("verb", VERBS)
def test_a_reader_who_left_ends_it_quietly(dpbench, monkeypatch, verb: str) -> None:
    arguments, place = VERBS[verb]

    def fails(*given: object, **named: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(place, fails)
    outcome = dpbench(*arguments)
    assert (outcome.status, outcome.err) == (141, "")


@pytest.mark.parametrize("arguments", [["--debug", "list", "x"], ["list", "x", "--debug"]])
def test_debug_shows_the_traceback(dpbench, arguments: list[str]) -> None:
    outcome = dpbench(*arguments)
    assert outcome.status == 2
    assert "Traceback (most recent call last)" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("dpbench: unknown list 'x'")


def test_debug_by_the_environment(dpbench, monkeypatch) -> None:
    monkeypatch.setenv("DPBENCH_DEBUG", "1")
    assert "Traceback" in dpbench("list", "x").err
    monkeypatch.setenv("DPBENCH_DEBUG", "0")
    assert "Traceback" not in dpbench("list", "x").err


def test_statuses_are_in_the_help(dpbench) -> None:
    for arguments in ([], ["run"], ["check"], ["share", "export"], ["share", "import"]):
        assert "Exit status: 0" in " ".join(dpbench(*arguments, "--help").out.split())
    told = " ".join(dpbench("--help").out.split())
    assert all(f"{status} " in told for status in (0, 1, 2, 130, 143))
    assert "--debug" in told


@pytest.fixture(name="boards")
def boards_fixture(tmp_path: Path) -> tuple[Path, Path]:
    """Two, of which the second leaks more: the gate prints a table."""
    write_board(build_board(make_grid(8, split_points=("layer1",))), tmp_path / "before.csv")
    text = (tmp_path / "before.csv").read_text().replace("gaussian", "gau\u03c3\u03c3ian")
    (tmp_path / "after.csv").write_text(text, encoding="utf-8")
    return tmp_path / "before.csv", tmp_path / "after.csv"


def gate(boards: tuple[Path, Path], redirect: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = f'"$0" -m dpbench check "$1" --baseline "$2" {redirect}'
    given = ["bash", "-o", "pipefail", "-c", command, sys.executable, *map(str, boards)]
    return subprocess.run(given, capture_output=True, check=False, env={**os.environ, **variables})


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252", "COLUMNS": "1", "TERM": "dumb"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "abc", "NO_COLOR": "1"},
    ],
)
def test_any_encoding_takes_what_is_printed(boards: tuple[Path, Path], variables: dict[str, str]) -> None:
    done = gate(boards, **variables)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"failed: " in done.stdout or variables.get("COLUMNS") == "1"


@pytest.mark.parametrize(
    ("redirect", "status", "says"),
    [
        (">&-", 1, b""),
        (">/dev/full", 2, b"dpbench: output: No space left on device"),
        (">/dev/full 2>&1", 2, b""),
        ("2>&-", 1, b""),
    ],
)
def test_streams_that_take_nothing(boards: tuple[Path, Path], redirect: str, status: int, says: bytes) -> None:
    done = gate(boards, redirect)
    assert done.returncode == status
    assert done.stderr.startswith(says)
    assert done.stderr.count(b"\n") == bool(says)


def test_a_closed_pipe_is_quiet(boards: tuple[Path, Path]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "dpbench", "check", str(boards[0]), "--baseline", str(boards[1])]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_the_table_of_a_run_in_any_encoding(monkeypatch, encoding: str) -> None:
    """A row that cannot be told from the one above is marked by a character that few encodings have."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print_table(build_board(make_grid(8, split_points=("layer1",))), make_console())
    print("photos/\udce9t\udce9")  # a folder whose name is not UTF-8
    stream.flush()
    text = " ".join(stream.buffer.getvalue().decode(encoding).split())  # type: ignore[attr-defined]
    assert ("\u2248" if encoding == "utf-8" else "~: not to be told") in text
    assert text.endswith("photos/\\udce9t\\udce9")
    assert "?: the attack did not beat the floor" in text


QUITTERS = """
    import sys
    from typing import ClassVar
    import torch
    from dpbench import Attack, Defense, ProtectedModel

    class Exits(Attack):
        '''Ends the process.'''
        name: ClassVar[str] = "exits"
        def reconstruct(self, seen, *, generator):
            sys.exit(0)

    class Impatient(KeyboardInterrupt):
        pass

    class Fitted(Defense):
        '''Raises what derives from no Exception.'''
        name: ClassVar[str] = "fitted"
        def build(self, split):
            raise Impatient("no patience")

    class Closing(ProtectedModel):
        def transform(self, features, *, generator=None):
            raise GeneratorExit

    class Released(Defense):
        '''Raises what closes generators.'''
        name: ClassVar[str] = "released"
        def build(self, split):
            return Closing(split)
"""


def test_plugins_that_want_to_end_the_run_fail_their_cells_alone(dpbench, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SUITE)
    (tmp_path / "quitters.py").write_text(textwrap.dedent(QUITTERS))
    at = tmp_path / "quitters.py"
    added = [f"--attack={at}:Exits", f"--defense={at}:Fitted", f"--defense={at}:Released"]
    outcome = dpbench("run", tmp_path / "tiny.toml", "--output", tmp_path / "run", *added, "--debug")
    assert outcome.status == 1
    found = {
        (r.cell.defense.name.rpartition(":")[2], r.cell.attack.name.rpartition(":")[2]): r
        for r in store.CELLS.all(tmp_path / "run")
    }
    assert {key for key, record in found.items() if record.status == "ok"} == {("none", "mean-image")}
    assert "SystemExit: 0 (quitters.py, line" in str(found["none", "Exits"].error)
    assert "Impatient: no patience (quitters.py, line" in str(found["Fitted", "Exits"].error)
    assert "GeneratorExit" in str(found["Released", "Exits"].error)
    assert outcome.err.count("Traceback (most recent call last)") == len(found) - 1


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "raise SystemExit", "raise GeneratorExit", "exit()"])
def test_a_module_that_wants_to_end_the_run_does_not_import(dpbench, tmp_path: Path, code: str) -> None:
    (tmp_path / "quits.py").write_text(code)
    outcome = dpbench("run", "smoke", f"--defense={tmp_path / 'quits.py'}:X", "--dry-run")
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
    assert "does not import" in outcome.err
