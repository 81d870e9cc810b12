"""A finished run that is asked for again: what its end showed, as long as nothing has changed that it rests on.

Planning needs torch and every plug-in, which takes seconds; to see that nothing has changed takes none of them. What
was shown is kept in the cache folder under a hash of the command, beside a hash of the state of everything that decides
what the command does: the code of dpbench and its plug-ins, which packages are installed, files and folders that the
suite names, and every file of the run. Where anything differs, the run is planned as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpbench.machine.writing import Unwritable, write_atomically
from dpbench.text.hashing import content_hash

if TYPE_CHECKING:
    from rich.console import Console

CODE = ("dpbench", "dpbench_attacks", "dpbench_defenses")

READ = 1 << 20
"""Files of a run up to so many bytes are compared by content, such as records; others by size and time."""


class Repeats:
    """What finished runs showed.

    Args:
        cache: the cache folder.
        asked: the command: its options by name.
        console: on which it shows; the width decides how tables are laid out.

    Attributes:
        path: where the answer to this command lies, by what the suite says now: a run takes hours, and files change.
    """

    def __init__(self, cache: Path, asked: Mapping[str, Any], console: Console) -> None:
        self.console = console
        self._code = _code()
        options = {name: str(value) for name, value in asked.items()}
        own = {name: value for name, value in os.environ.items() if name.startswith("DPBENCH_")}
        shown = [console.width, console.is_terminal, str(console.color_system), console.encoding]
        key = content_hash([options, own, _text(options.get("suite", "")), shown, os.getcwd(), sys.version])
        self.path = cache / "finished" / f"{key[:40]}.json"

    def keep(self, output: Path, inputs: Sequence[Path], shown: str, rests_on: tuple[Path, str]) -> None:
        """Remember what a run showed that is finished, if nothing it rests on has changed meanwhile.

        Args:
            output: the run directory.
            inputs: files and folders that decide what the run is.
            shown: text, with the colours of a terminal.
            rests_on: the folder of records, and its `content_of` before they were read: another run may write there.
        """
        folder, names = str(output.resolve()), [str(path.resolve()) for path in inputs]
        with contextlib.suppress(OSError, RecursionError, Unwritable):  # it is planned again then
            state = state_of(folder, names)  # first: what is written after this differs from it
            if _code() == self._code and content_of(rests_on[0]) == rests_on[1]:
                told = {"output": folder, "inputs": names, "state": state, "shown": shown}
                write_atomically(self.path, lambda path: path.write_text(json.dumps(told), encoding="utf-8"))

    def show(self) -> bool:
        """Show it again; False, and nothing is shown, where there is none or something has changed."""
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            output, inputs, shown = str(told["output"]), [str(name) for name in told["inputs"]], str(told["shown"])
            if told["state"] != state_of(output, inputs):
                return False
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False
        from rich.text import Text

        # as text with styles: nothing else of what is stored reaches the terminal
        lines = [Text.from_ansi(line) for line in shown.splitlines()]
        if not all(line.plain.isprintable() for line in lines):
            return False
        for line in lines:
            self.console.print(line, soft_wrap=True, highlight=False)
        return True


def state_of(output: str, inputs: Iterable[str]) -> str:
    """A hash of everything that decides what a command does to a run that is finished.

    Args:
        output: the run directory.
        inputs: files and folders.
    """
    digest = hashlib.sha256(_code().encode())
    for given in inputs:
        for path, seen in _below(given):
            digest.update(f"{path} {seen}\n".encode(errors="replace"))
    for path, seen in _below(output):
        digest.update(f"{path} {seen}\n".encode(errors="replace"))
        if path.endswith(".json") and seen[0] <= READ:
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()


def _code() -> str:
    """A hash of dpbench's files by size and time, and of the folders from which Python imports."""
    digest = hashlib.sha256()
    here = ("", os.getcwd())  # where a run's own folder may appear
    for place in sys.path:  # a package that is installed or removed changes its folder
        digest.update(f"{place} {0 if place in here else _changed(place)}\n".encode(errors="replace"))
    for name in CODE:
        found = importlib.util.find_spec(name)
        for folder in (found.submodule_search_locations or []) if found is not None else []:
            for path, seen in _below(folder, skipped="__pycache__"):
                digest.update(f"{path} {seen}\n".encode(errors="replace"))
    return digest.hexdigest()


def _text(suite: str) -> str:
    """Of a suite that is a file; a built-in one is part of the code."""
    try:
        return Path(suite).read_text("utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def content_of(folder: Path) -> str:
    """A hash of what lies in a folder; empty where it cannot be read."""
    digest = hashlib.sha256()
    try:
        for path, _ in _below(str(folder)):
            digest.update(f"{path}\n".encode(errors="replace"))
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    except OSError:
        return ""
    return digest.hexdigest()


def _changed(place: str) -> int:
    try:
        return os.stat(place).st_mtime_ns
    except OSError:
        return 0


def _below(root: str, skipped: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every file of a folder, or the file itself, with its size and the times at which it was changed; by name."""
    if not os.path.isdir(root):
        there = os.stat(root)
        yield root, (there.st_size, there.st_mtime_ns, there.st_ctime_ns)
        return
    with os.scandir(root) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir():
            if entry.name != skipped:
                yield from _below(entry.path, skipped)
        else:
            there = entry.stat()
            yield entry.path, (there.st_size, there.st_mtime_ns, there.st_ctime_ns)
