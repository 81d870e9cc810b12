"""What a plug-in may touch in its own process, by the audit events of Python (PEP 578).

It reads what its cells are identified by: the files that its code names or that it is given, hashed before a run. One
whose path is put together while it runs is not known then, and that it was edited would go unnoticed. And a defense
that serves leaves no trace outside its process.
"""

from __future__ import annotations

import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dpbench.errors import DpbenchError

SYSTEM = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr", "/System")
"""Where the operating system keeps its own."""

CACHES = ("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "MPLCONFIGDIR")
"""Variables that name the folders of downloads, which are kept by their content or version."""


class Reading:
    """Watches what this process opens, from now on: it cannot be told to stop."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self._hashed: set[str] = set()
        self._written: set[str] = set()
        self._nobodys = _places([*_installed(), *_caches(), *SYSTEM])
        _wrap_native_readers()
        sys.addaudithook(self._heard)

    def permit(self, hashed: Iterable[Path]) -> None:
        """These files, or all files of these folders, are part of what identifies the plug-in."""
        self._hashed.update(os.path.realpath(path) for path in hashed)

    def check(self) -> None:
        """Raises: a file was opened that is not hashed, whatever became of the error that the plug-in got then."""
        if self.refused:
            raise DpbenchError(_refusal(sorted(self.refused)[0]))

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if _writes(*arguments[1:3]):
            self._written.add(path)
        elif not self._known(path) and os.path.isfile(path):
            self.refused.add(path)
            raise DpbenchError(_refusal(path))

    def _known(self, path: str) -> bool:
        if path.endswith(".pyc"):
            path = _source_of(path)
        known = self._hashed | self._nobodys | self._written
        return any(place in known for place in (path, *map(str, Path(path).parents)))


def _source_of(compiled: str) -> str:
    try:
        return importlib.util.source_from_cache(compiled)
    except ValueError:
        return compiled


FORBIDDEN = (
    *("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "os.mkdir"),
    *("os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime", "os.chmod", "os.chown"),
    *(
        "os.setxattr",
        "os.putenv",
        "shutil.",
        "tempfile.",
        "mmap.",
        "ctypes.",
        "sqlite3.",
        "urllib.",
        "http.",
        "ftplib.",
        "smtplib.",
    ),
)
"""Audit events (PEP 578) by which a client could hand something to a server past the border."""


SHARING = ("_posixshmem", "multiprocessing.shared_memory")
"""Modules through which processes share memory, without an audit event of their own."""


def keep_to_itself() -> None:
    """Refuse, from here on, whatever would leave this process past the border: writing files, opening connections."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and _writes(*arguments[1:3])
        shares = event == "import" and arguments[0] in SHARING
        if writes or shares or event.startswith(FORBIDDEN):
            raise DpbenchError(
                f"the defense wanted to leave a trace outside its process ({event}); a release must depend on the "
                "image and its generator alone, and a prediction on the release"
            )

    sys.addaudithook(refuse)


def _refusal(path: str) -> str:
    return (
        f"it reads {path}, which neither its code names nor a parameter gives, so that nothing would tell when it has "
        "changed; write its name in the code, or make it a parameter of the type dpbench.File"
    )


def _places(paths: Iterable[str]) -> frozenset[str]:
    roots = {os.path.realpath(path) for path in paths if path}
    return frozenset(roots - {os.path.abspath(os.sep)})


def _installed() -> list[str]:
    ours = [str(Path(module.__file__ or "").parent) for name, module in list(sys.modules.items()) if _is_ours(name)]
    return [*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, *site.getsitepackages(), *ours]


def _is_ours(name: str) -> bool:
    return name in ("dpbench", "dpbench_attacks", "dpbench_defenses") and sys.modules[name].__file__ is not None


def _caches() -> list[str]:
    named = [os.environ[name] for name in CACHES if os.environ.get(name)]
    try:
        hidden = [str(path) for path in Path.home().iterdir() if path.name.startswith(".") and path.is_dir()]
    except (OSError, RuntimeError):
        hidden = []
    return [*named, *hidden]


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str) and set(mode) & set("wax+"):
        return True
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND))


def _wrap_native_readers() -> None:
    """Readers that are not Python's own tell it too when they open a file."""
    import safetensors
    import safetensors.torch
    import torch

    for module, name in ((safetensors, "safe_open"), (safetensors.torch, "safe_open"), (torch.jit, "load")):
        native = getattr(module, name)
        if not hasattr(native, "__wrapped__"):
            setattr(module, name, _telling(native))


def _telling(native: Callable[..., Any]) -> Callable[..., Any]:
    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str | bytes | os.PathLike):
            sys.audit("open", os.fspath(file), "rb", 0)
        return native(file, *arguments, **options)

    opened.__wrapped__ = native  # type: ignore[attr-defined]
    return opened
