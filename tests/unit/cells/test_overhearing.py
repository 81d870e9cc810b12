"""The lowest rung: releases of others, nothing to ask, on both sides of the border."""

from pathlib import Path

import pytest
from parsing import parse_suite
from tiny_suite import unfitted_suite

from dpbench.api import plan as make_plan
from dpbench.running.runner import execute

LISTENER = """
from typing import ClassVar
import torch
from dpbench import Attack

class Listener(Attack):
    name: ClassVar[str] = "listener"
    needs: ClassVar[str] = "{needs}"

    def reconstruct(self, seen, *, generator):
        seen.notes["overheard"] = None if seen.overheard is None else list(seen.overheard.shape)
        seen.notes["granted"] = [n for n in ("query", "client", "server") if getattr(seen, n) is not None]
        return torch.full((len(seen.released), *seen.image_shape), 0.5)
"""


@pytest.mark.parametrize(
    ("tier", "needs", "granted", "overheard"),
    [("observe", "nothing", ["server"], [26, 64, 8, 8]), ("query", "query", ["query", "server"], None)],
)
def test_whoever_may_ask_nothing_holds_the_releases_of_others(tier, needs, granted, overheard, tmp_path: Path) -> None:
    file = tmp_path / "listener.py"
    file.write_text(LISTENER.replace("{needs}", needs))
    text = unfitted_suite(["gaussian"], [f"{file}:Listener"], victims=6, threat_models=[tier])
    suite = parse_suite(text, origin="test")
    (record,) = execute(make_plan(suite, output=tmp_path / "run"), device="cpu")
    assert record.status == "ok", record.error
    assert record.notes["granted"] == granted
    assert record.notes["overheard"] == overheard
    assert record.cell.granted == tier
