"""What suites need from elsewhere, data and weights, gathered into one folder for a machine without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dpbench.machine.cache import default_cache
from dpbench.machine.devices import choose_device
from dpbench.machine.writing import write_atomically
from dpbench.protocols.known import loaded
from dpbench.running.options import Options
from dpbench.running.runner import make_plan

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
        DpbenchError: anything in the suite that cannot be run, or had.
    """
    protocol, chosen = loaded(suite)
    plan = make_plan(protocol, chosen, options)
    lab = protocol.lab(choose_device("cpu"), default_cache(), None, audit=False)
    for unit in plan.units:
        lab.fetch(unit, progress)
    write_atomically(folder / "env.sh", lambda path: path.write_text(SETTINGS, encoding="utf-8"))
    return len(plan.units)
