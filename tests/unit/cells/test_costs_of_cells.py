"""Cost and link of real cells: defenses of all sorts, attackers of every tier, a defense that cannot be watched."""

from pathlib import Path

import pytest
from parsing import parse_suite
from tiny_suite import unfitted_suite

from dpbench.api import plan as make_plan
from dpbench.records.record import Record
from dpbench.running.runner import execute

DEFENSES = """
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from dpbench import Defense, ProtectedModel

class Model(ProtectedModel):
    def __init__(self, split):
        super().__init__(split)
        self.own = nn.Conv2d(64, 64, 1)

    def transform(self, features, *, generator=None):
        return self.own(features)

class Own(Defense):
    name = "own"

    def build(self, split):
        return Model(split)

class Shy(Defense):
    name = "shy"

    def build(self, split):
        class Unwatched(ProtectedModel):
            def transform(self, features, *, generator=None):
                if _get_current_dispatch_mode() is not None:
                    raise ValueError("not while somebody looks")
                return 2 * features

        return Unwatched(split)

class Everything(Defense):
    name = "everything"

    def build(self, split):
        class Client(ProtectedModel):
            def transform(self, features, *, generator=None):
                return self.split.server_tail(features)

            def predict(self, released):
                return released

        return Client(split)
"""

ATTACK = """
from typing import ClassVar
import torch
from dpbench import Attack

class Grey(Attack):
    name: ClassVar[str] = "grey"
    needs: ClassVar[str] = "{needs}"

    def reconstruct(self, seen, *, generator):
        return torch.full((len(seen.released), *seen.image_shape), 0.5)
"""


@pytest.fixture
def measure(tmp_path: Path, vouched):
    """Records of a suite with some defenses of the file, by defense and threat model."""

    def run(*defenses: str, tiers: list[str], needs: str):
        (tmp_path / "own.py").write_text(DEFENSES)
        (tmp_path / "grey.py").write_text(ATTACK.replace("{needs}", needs))
        named = [name if name.islower() else f"{tmp_path}/own.py:{name}" for name in defenses]
        attacks = [f"{tmp_path}/grey.py:Grey"]
        text = unfitted_suite(["none", *named], attacks, victims=6, threat_models=tiers)
        records = execute(make_plan(parse_suite(text, origin="test"), output=tmp_path / "run"), device="cpu")
        assert {record.status for record in records} == {"ok"}, [record.error for record in records]
        return {(r.cell.defense.name.rpartition(":")[2], r.cell.threat_model): r for r in records}

    return run


def linked(record: Record) -> int:
    assert record.link is not None
    assert len(record.link.rank) == 6
    assert record.link.candidates == 32 + 64
    return sum(rank == 0 for rank in record.link.rank)


def test_records_say_what_the_client_costs_and_whom_it_names(measure):
    found = measure("Own", "Everything", "Shy", "gaussian", tiers=["static", "query"], needs="query")
    none, own, everything, shy, gaussian = (
        found[name, "query"] for name in ("none", "Own", "Everything", "Shy", "gaussian")
    )
    assert none.cost.added_multiply_adds == none.cost.added_parameters == gaussian.cost.added_multiply_adds == 0
    assert none.cost.multiply_adds > 10**6
    assert own.cost.added_multiply_adds == 64 * 64 * 64
    assert own.cost.added_parameters == 64 * 64 + 64
    assert own.cost.multiply_adds == none.cost.multiply_adds + own.cost.added_multiply_adds
    assert own.released["client_share"] > none.released["client_share"]
    assert everything.released["client_share"] == 1
    assert everything.cost.coded_bits <= everything.release_bits < none.release_bits
    assert min(none.client_ms, own.client_ms, everything.client_ms) > 0
    assert shy.cost is shy.client_ms is None
    assert "client_share" not in shy.released
    assert "not while somebody looks" in shy.missing_metrics["cost"]
    assert [linked(record) for record in (none, own, everything, shy, gaussian)] == [6] * 5
    static = found["Own", "static"]
    assert linked(static) < 6  # what a convolution left at random makes of features is no features
    assert static.cost == own.cost
    assert found["Everything", "static"].link is None  # logits are not compared with features


def test_whoever_may_ask_nothing_compares_nothing(measure):
    found = measure("gaussian", tiers=["observe"], needs="nothing")
    assert found["gaussian", "observe"].link is None
    assert found["gaussian", "observe"].cost is not None
