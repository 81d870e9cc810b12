"""The protocols by name, by the suite that is given, and by what lies in a run directory."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from dpbench.contract.spec import Spec
from dpbench.errors import DpbenchError, reason, unknown
from dpbench.machine import plugin_files
from dpbench.protocols.boards import KINDS
from dpbench.protocols.inference.protocol import Inference
from dpbench.protocols.sharing.protocol import Sharing
from dpbench.records.archive import ENDING, head_of, is_archive
from dpbench.running.protocol import Protocol
from dpbench.suite.files import beside, is_file, parse_toml, suite_text, validated
from dpbench.text.shown_text import clean

AnyProtocol = Protocol[Any, Any]

GROUP = "dpbench.protocols"
"""Entry points of installed packages: each names a class derived from `Protocol`."""

_PROTOCOLS: dict[str, AnyProtocol] = {}


def register_protocol(protocol: AnyProtocol) -> AnyProtocol:
    """Make a protocol known by its name.

    A protocol is part of the engine: it sees private images and makes figures, so its code must be trusted.

    Raises:
        DpbenchError: another one has its name, or its folder of records.
    """
    for other in _PROTOCOLS.values():
        if type(other) is type(protocol):
            continue
        if protocol.name == other.name:
            raise DpbenchError(f"the protocol {protocol.name!r} is registered twice")
        if protocol.store.folder == other.store.folder:
            raise DpbenchError(
                f"the protocols {protocol.name!r} and {other.name!r} keep their records in one folder, "
                f"{protocol.store.folder!r}"
            )
    _PROTOCOLS[protocol.name] = protocol
    if protocol.boards not in KINDS:
        KINDS.append(protocol.boards)
    return protocol


def load_protocol(reference: str) -> AnyProtocol:
    """Make the protocol in `path/to/file.py:Name` known. Its code runs in this process: name only what you trust.

    Raises:
        DpbenchError: no such file or class, or it does not import.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not file.endswith(".py") or not path.is_file():
        raise DpbenchError(f"protocol {reference!r}: expected path/to/file.py:Name of a file that is there")
    try:
        found = getattr(plugin_files.load(path), name, None)
        if not (isinstance(found, type) and issubclass(found, Protocol)):
            raise DpbenchError(f"{path.name} has no class {name!r} derived from Protocol")
        return register_protocol(found())
    except Exception as error:  # whatever a module raises when it is imported
        raise DpbenchError(f"protocol {reference!r} cannot be used: {reason(error)}") from error


def _load_installed() -> None:
    """Make the protocols of installed packages known, once; importing this module does it."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            register_protocol(entry.load()())
        except Exception as error:
            raise DpbenchError(
                f"protocol {entry.name!r} ({entry.value}) cannot be used: {reason(error)}; "
                "fix or uninstall the package that provides it"
            ) from error


DEFAULT = register_protocol(Inference())
"""The protocol of suites that name none."""

register_protocol(Sharing())

_load_installed()


def loaded(suite: str | Path | Spec) -> tuple[AnyProtocol, Any]:
    """A suite with its protocol.

    Args:
        suite: a built-in name, a path of a TOML file, or what such a file holds.

    Raises:
        DpbenchError: no such suite, a protocol that there is not, a TOML syntax error (with its line), an unknown key
            (with a suggestion), a value that does not fit.
    """
    if isinstance(suite, str | Path):
        suite = str(suite)
        content = parse_toml(suite_text(suite), origin=suite)
        if is_file(suite):
            content = beside(content, Path(suite).parent)
        name = str(content.get("protocol", DEFAULT.name))
        if name not in _PROTOCOLS:
            raise unknown(f"protocol in {suite}:", name, _PROTOCOLS)
        return _PROTOCOLS[name], validated(_PROTOCOLS[name].suite, content, origin=suite)
    for protocol in _PROTOCOLS.values():
        if isinstance(suite, protocol.suite):
            return protocol, suite
    raise DpbenchError(f"a suite is a name, a path or a Suite, not {type(suite).__name__}")


def of_run(run_dir: Path) -> AnyProtocol:
    """The protocol whose records a run directory, or a file of records, holds.

    Raises:
        DpbenchError: it is none.
    """
    for protocol in _PROTOCOLS.values():
        if protocol.store.holds(run_dir):
            return protocol
    if is_archive(run_dir):
        raise DpbenchError(
            f"{run_dir} holds records of a protocol that is not known here, of the folder "
            f"{clean(head_of(run_dir).folder)!r}; make it known with `dpbench --protocol FILE:NAME`"
        )
    if run_dir.is_file():
        raise DpbenchError(f"{run_dir} is not a run directory, nor a file of records ({ENDING}); give one of the two")
    folders = " nor ".join(repr(protocol.store.folder) for protocol in _PROTOCOLS.values())
    raise DpbenchError(
        f"{run_dir} is not a run directory: it has neither a folder {folders}; expected what "
        "`dpbench run --output DIR` wrote"
    )


def of_runs(run_dirs: list[Path]) -> AnyProtocol:
    """The protocol whose records all of these run directories hold.

    Raises:
        DpbenchError: one is no run directory, or they are of several protocols.
    """
    found = [of_run(run_dir) for run_dir in run_dirs]
    for run_dir, protocol in zip(run_dirs, found, strict=True):
        if protocol is not found[0]:
            raise DpbenchError(
                f"{run_dirs[0]} is a run of the protocol {found[0].name!r}, {run_dir} of {protocol.name!r}; give one "
                "kind at a time"
            )
    return found[0]
