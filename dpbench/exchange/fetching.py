"""What suites need from elsewhere, data and weights, gathered into one folder for a machine without a network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from dpbench.errors import DpbenchError
from dpbench.machine.cache import default_cache
from dpbench.machine.devices import choose_device
from dpbench.machine.writing import write_atomically
from dpbench.protocols.known import loaded
from dpbench.running.options import Options
from dpbench.running.runner import make_plan

HUB_FILE = re.compile(r"(?P<named>[0-9a-f]{64}|[0-9a-f]{40})")
"""A file of a hub's cache is called by its hash: SHA-256, or, of small ones, that of git."""

TORCH_FILE = re.compile(r".+-(?P<named>[0-9a-f]{8,64})\.[A-Za-z0-9.]+")
"""A file that torch downloads has the start of its SHA-256 in its name."""

SETTINGS = """\
# source this before `dpbench run`: data and weights are those beside this file
here=$(cd "$(dirname "${BASH_SOURCE:-$0}")" && pwd)
export DPBENCH_CACHE="$here/cache" HF_HOME="$here/huggingface" TORCH_HOME="$here/torch" HF_HUB_OFFLINE=1
"""


def fetch(suite: str, options: Options, folder: Path, progress: Callable[[str], None]) -> int:
    """Decode or download the images of every unit, and read its weights; nothing is fitted. Gives how many units.

    Args:
        suite: a built-in name or a path of a TOML file.
        options: what is changed of it.
        folder: gets a file of settings, `env.sh`; the cache and those of timm and torch lie in it already.
        progress: shows a short text.

    Raises:
        DpbenchError: anything in the suite that cannot be run, or had, or that came otherwise than it was sent.
    """
    protocol, chosen = loaded(suite)
    plan = make_plan(protocol, chosen, options)
    lab = protocol.lab(choose_device("cpu"), default_cache(), None, audit=False)
    for unit in plan.units:
        try:
            lab.fetch(unit, progress)
        except Exception:
            assert_whole(folder)  # says why, where that is why
            raise
    assert_whole(folder)
    write_atomically(folder / "env.sh", lambda path: path.write_text(SETTINGS, encoding="utf-8"))
    return len(plan.units)


def assert_whole(folder: Path) -> None:
    """Look whether what was downloaded into a folder has the content that its name says.

    Raises:
        DpbenchError: some has not; it was removed.
    """
    broken = [path for path, digest in _downloaded(folder) if not _hash_of(path, digest).startswith(digest)]
    said = ", ".join(f"{path.relative_to(folder)} ({size_of(path) / 1e6:.1f} MB)" for path in broken)
    for path in broken:
        path.unlink()
    if broken:
        raise DpbenchError(
            f"what was downloaded is cut short or altered: {said} has another hash than its name says, and was "
            "removed; run the same command again"
        )


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files in a folder; what links name is counted once."""
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())


def _downloaded(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that are called by their hashes, and these."""
    for pattern, name in (("huggingface/hub/*/blobs/*", HUB_FILE), ("torch/hub/checkpoints/*", TORCH_FILE)):
        for path in sorted(folder.glob(pattern)):
            found = name.fullmatch(path.name)
            if found and path.is_file():
                yield path, found["named"]


def _hash_of(path: Path, like: str) -> str:
    """In hex, of the kind that has so many digits."""
    begun = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if len(like) == 40 else hashlib.sha256()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: begun).hexdigest()
