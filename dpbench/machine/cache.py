"""Fitted networks kept as safetensors under a content hash of what they depend on, with their provenance as JSON.

A damaged or foreign file is not an error: it is made again. Damaged is what does not have the content that it had when
it was written, down to the last bit.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from dpbench.errors import DpbenchError, reason
from dpbench.machine.locks import Lock, SharedLock, held
from dpbench.machine.writing import Unwritable, put_whole, write_atomically

if TYPE_CHECKING:  # torch is imported where tensors are read: to look into the folder needs none
    from torch import Tensor

State = dict[str, "Tensor"]


PLACE = "DPBENCH_CACHE"
"""The environment variable that says where the cache is: a folder, or a URL that machines share."""


def default_cache() -> Path:
    """`$DPBENCH_CACHE`, else the user's cache folder; in there what this machine has of a URL."""
    chosen, of_user = os.environ.get(PLACE), Path(platformdirs.user_cache_dir("dpbench"))
    if chosen and "://" in chosen:
        return of_user / "shared" / hashlib.sha256(chosen.encode()).hexdigest()[:16]
    return Path(chosen).expanduser() if chosen else of_user


@functools.cache
def _file_system(url: str) -> tuple[Any, str]:
    """What reads and writes files below a URL, and the folder that it names.

    Raises:
        DpbenchError: it is no such URL, or the package for its kind is not installed.
    """
    import fsspec

    try:
        files, folder = fsspec.core.url_to_fs(url)
    except Exception as error:  # whatever a file system raises
        raise DpbenchError(
            f"${PLACE} {url!r} cannot be used: {reason(error)}; expected a folder, or a URL that fsspec opens, "
            "such as s3://bucket/folder"
        ) from error
    return files, folder.rstrip("/")


def _shared(path: Path) -> Iterator[tuple[Any, str, Path]]:
    """File system, name and local path of an artefact and of its provenance, where the cache is a URL."""
    url = os.environ.get(PLACE, "")
    if "://" in url and path.is_relative_to(default_cache()):
        files, folder = _file_system(url)
        for one in (path, path.with_suffix(".json")):
            yield files, f"{folder}/{one.relative_to(default_cache()).as_posix()}", one


def _fetch(path: Path, progress: Callable[[str], None]) -> None:
    """Get an artefact that another machine has made; it is checked by hash when it is read."""
    for files, name, here in _shared(path):
        try:
            if files.exists(name):
                write_atomically(here, functools.partial(files.get_file, name))
        except Unwritable:
            raise
        except Exception as error:
            progress(f"{name} cannot be read: {reason(error)}")


def _fetched(path: Path, progress: Callable[[str], None]) -> State | None:
    """What another machine has made; None where the cache is no URL, or it is not there, or damaged."""
    if not any(True for _ in _shared(path)):
        return None
    _fetch(path, progress)
    return _read(path, progress)


def _share(path: Path, progress: Callable[[str], None]) -> None:
    """Give an artefact to the other machines; where that fails they make it themselves."""
    for files, name, here in _shared(path):
        try:
            put_whole(files, here, name)
        except Exception as error:
            progress(f"{name} cannot be written: {reason(error)}")


@contextlib.contextmanager
def _held_everywhere(path: Path, kind: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold an artefact's lock between machines, where the cache is a URL and its file system lets one."""
    waiting = functools.partial(progress, f"waiting for {kind}, which another machine makes")
    with contextlib.ExitStack() as stack:
        for files, name, _ in itertools.islice(_shared(path), 1):
            try:
                files.makedirs(name.rpartition("/")[0], exist_ok=True)
                stack.enter_context(held(SharedLock(files, f"{name}.lock"), waiting, poll=SHARED_POLL_SECONDS))
            except Exception as error:  # whatever a file system raises: then it may be made twice
                progress(f"{name}.lock cannot be had: {reason(error)}")
        yield


def remember(
    cache: Path,
    kind: str,
    key: str,
    make: Callable[[], State],
    progress: Callable[[str], None] = lambda text: None,
    about: Mapping[str, Any] | None = None,
) -> State:
    """The tensors stored under `kind` and `key`, or what `make` returns, stored for the next time.

    Args:
        cache: the cache folder.
        kind: a word for people who look into the folder, such as "backbone".
        key: content hash of everything the tensors depend on.
        make: called when they are not there, or damaged.
        progress: told of a damaged file.
        about: what the key is made of, as JSON, for people who look into the folder.

    Returns:
        The tensors on the CPU.
    """
    path = cache / re.sub(r"[^A-Za-z0-9_-]+", "_", kind) / f"{key[:40]}.safetensors"
    stored = _read(path, progress)
    if stored is not None:
        return stored
    lock = path.with_suffix(".lock")
    with held(lock, lambda: progress(f"waiting for {kind}, which another process makes")):
        stored = _read(path, lambda text: None)
        stored = _fetched(path, progress) if stored is None else stored
        if stored is None:
            with _held_everywhere(path, kind, progress):
                stored = _fetched(path, lambda text: None)  # made by another machine in the meantime
                if stored is None:
                    stored = _made(path, make, about)
                    _share(path, progress)
        return stored


def _made(path: Path, make: Callable[[], State], about: Mapping[str, Any] | None) -> State:
    import safetensors.torch

    from dpbench.machine.environment import versions

    began = time.monotonic()
    # clones: safetensors refuses tensors that share memory
    state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in make().items()}
    written = {"content": _content(state)}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(state, temporary, metadata=written))
    told = {
        **written,
        "seconds": round(time.monotonic() - began, 2),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dpbench": versions()["dpbench"],
        "about": about or {},
    }
    text = json.dumps(told, indent=1, default=str) + "\n"
    write_atomically(path.with_suffix(".json"), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return state


def _read(path: Path, progress: Callable[[str], None]) -> State | None:
    """The tensors of a file; None if it is not there, or they are not those that were written."""
    import safetensors

    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get("content")
            state: State = {name: file.get_tensor(name) for name in file.keys()}
        if written == _content(state):
            with contextlib.suppress(OSError):
                os.utime(path)  # in use: what is not goes first
            return state
    except (safetensors.SafetensorError, OSError):
        pass  # cut short
    progress(f"{path} is damaged, or of an older dpbench; made again")
    return None


def state_hash(state: State) -> str:
    """SHA-256 in hex of the tensors' names and bytes."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _content(state: State) -> str:
    """SHA-256 in hex of the tensors' names, bytes, shapes and types."""
    layout = {name: [str(value.dtype), list(value.shape)] for name, value in state.items()}
    return hashlib.sha256(json.dumps([state_hash(state), layout], sort_keys=True).encode()).hexdigest()


SHARED_POLL_SECONDS = 2.0
"""So often it is looked whether another machine has made what it has locked."""

LIMIT = "DPBENCH_CACHE_SIZE"
"""The environment variable that says how large the cache may be after a run, such as `20GB`; without it, any size."""


@dataclass(frozen=True)
class Kept:
    """One artefact of the cache: decoded images, or what was fitted.

    Attributes:
        path: of the safetensors file.
        size: in bytes.
        used: when it was last read or written, seconds since 1970.
        told: its provenance; empty for images, and for what an older dpbench made.
    """

    path: Path
    size: int
    used: float
    told: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The folder that it lies in: `backbones`."""
        return self.path.parent.name

    def sound(self) -> bool | None:
        """Whether it has the content with which it was written; None for images, which are checked when they are read.

        What it was made from is not asked again.
        """
        return None if self.kind == "datasets" else _read(self.path, lambda text: None) is not None

    def remove(self) -> bool:
        """Remove it and its provenance; False where it stays, as somebody makes it just now, or the disk keeps it."""
        lock = Lock(self.path.with_suffix(".lock"))
        if not lock.take():
            return False
        for path in (self.path, self.path.with_suffix(".json")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()
        return not self.path.exists()


def kept(cache: Path) -> Iterator[Kept]:
    """What lies in a cache, least recently used first."""
    found = []
    for path in cache.glob("*/*.safetensors"):
        if path.name.startswith("."):
            continue
        with contextlib.suppress(OSError):
            there = path.stat()
            found.append(Kept(path, there.st_size, there.st_mtime, _told(path.with_suffix(".json"))))
    return iter(sorted(found, key=lambda one: (one.used, one.path)))


def _told(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def prune(cache: Path, *, size: int | None = None, unused_since: float | None = None) -> list[Kept]:
    """Remove the least recently used artefacts until the rest is small and fresh enough; returns what was removed.

    Args:
        cache: the folder.
        size: bytes that may stay.
        unused_since: what was last used before this time, seconds since 1970, goes.
    """
    everything = list(kept(cache))
    total = sum(one.size for one in everything)
    removed = []
    for one in everything:
        if not (size is not None and total > size) and not (unused_since is not None and one.used < unused_since):
            continue
        if one.remove():
            total -= one.size
            removed.append(one)
    return removed
