"""Files to begin with: jobs for CI services, suites and plug-ins, filled in from `templates/`."""

from __future__ import annotations

import importlib.metadata
import json
import keyword
import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

from dpbench.errors import DpbenchError, unknown

SERVICES = ("github", "gitlab")

KINDS = {"suite": "suite.toml", "defense": "defense.txt", "attack": "attack.txt", "metric": "metric.txt"}
"""What a file can be begun with -> its template."""

LONGEST_METRIC, LONGEST_NAME = 32, 64
"""Characters of a metric's name, and of others."""

CLONE = "pip install ./dpbench"
"""Where nothing is known of its origin: from a clone in the repository, such as a git submodule."""


def job(service: str, suite: str, *, install: str = "") -> str:
    """A job that measures, gates and keeps the report, as YAML.

    Args:
        service: github or gitlab.
        suite: a built-in name or a path, as it is seen from the repository.
        install: a shell command; by default that of the dpbench which is asked.

    Raises:
        DpbenchError: no such service, or a suite or command of several lines.
    """
    if service not in SERVICES:
        raise unknown("service", service, SERVICES)
    commands = {"install": install or install_line(), "run": f"dpbench run {shlex.quote(suite)} --output run"}
    for command in commands.values():
        if not command.isprintable():
            raise DpbenchError(f"{command!r} is no command of one line")
    return _filled(f"{service}.yml", {name: _scalar(command) for name, command in commands.items()})


def _scalar(text: str) -> str:
    """A command as one YAML value: in quotes where it would mean something else."""
    return text if re.fullmatch(r"[A-Za-z][\w ./+=@~-]*", text) else json.dumps(text, ensure_ascii=False)


def install_line() -> str:
    """How a machine that has the repository alone installs this dpbench, from where it was installed here."""
    try:
        origin = json.loads(importlib.metadata.distribution("dpbench").read_text("direct_url.json") or "{}")
        return _from_origin(origin)
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return CLONE


def _from_origin(origin: dict[str, Any]) -> str:
    """Of a pip `direct_url.json`: a repository at its commit; a folder only where it lies below this one."""
    url = str(origin["url"])
    if "vcs_info" in origin:
        info = origin["vcs_info"]
        return f"pip install {info['vcs']}+{url}@{info['commit_id']}"
    folder, here = Path(url.removeprefix("file://")), Path.cwd()
    if url.startswith("file://") and folder.is_relative_to(here):
        place = folder.relative_to(here).as_posix()
        return "pip install ." if place == "." else f"pip install {shlex.quote(f'./{place}')}"
    return CLONE


def begin(kind: str, path: Path) -> str:
    """What a new file holds; its names follow from that of the file.

    Raises:
        DpbenchError: no such kind, another ending, or a file that is there already.
    """
    if kind not in KINDS:
        raise unknown("kind of file", kind, KINDS)
    ending = ".toml" if kind == "suite" else ".py"
    if path.suffix != ending:
        raise DpbenchError(f"{path}: a {kind} is a file that ends in {ending}; give it such a name")
    if path.exists() or path.is_symlink():
        raise DpbenchError(f"{path} is there already and is left as it is; give another name")
    words = _words(path)
    values = {
        "file": re.sub(r"[^\w. -]", "_", path.name),
        "class": class_name(path),
        "name": _name(kind, words),
    }
    if kind == "suite":
        from dpbench.suite.ensembles import NEWEST  # it brings torch

        values["ensemble"] = NEWEST
    return _filled(KINDS[kind], values)


def how_to_try(kind: str, path: Path) -> str:
    """The command, or the line of a suite, that uses a new file."""
    if kind == "suite":
        return shlex.join(["dpbench", "run", str(path)])
    reference = f"{path}:{class_name(path)}"
    if kind == "metric":
        return f"metrics = [{json.dumps(reference)}] in a suite"
    return shlex.join(["dpbench", "run", "quick", f"--{kind}", reference])


def class_name(path: Path) -> str:
    """`my_defense.py` -> `MyDefense`."""
    name = "".join(word.capitalize() for word in _words(path))
    return f"My{name}" if keyword.iskeyword(name) else name  # None, True, False


def _name(kind: str, words: list[str]) -> str:
    """`my-defense`; of a metric, which heads a column, `my_metric`."""
    sign, most = ("_", LONGEST_METRIC) if kind == "metric" else ("-", LONGEST_NAME)
    return sign.join(words)[:most].rstrip(sign)


def _words(path: Path) -> list[str]:
    words = re.findall(r"[a-z0-9]+", path.stem.lower()) or ["mine"]
    return (words if words[0][0].isalpha() else ["my", *words])[:8]


def _filled(template: str, values: dict[str, str]) -> str:
    text = (resources.files("dpbench.cli") / "templates" / template).read_text(encoding="utf-8")
    return re.sub(r"<<(\w+)>>", lambda found: values[found.group(1)], text)
