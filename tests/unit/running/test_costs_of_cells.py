"""Cost and link of real cells: defenses apart and here, attackers of every tier, a defense that cannot be watched."""

from pathlib import Path

import pytest
from parsing import parse_suite
from tiny_suite import UNFITTED

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

SUITE = """
name = "costs"
victims = 6
threat_models = {tiers}
{unfitted}[[defenses]]
name = "none"
{defenses}
[[attacks]]
name = "{attack}"
"""


@pytest.fixture
def measure(tmp_path: Path):
    """Records of a suite with some defenses of the file, by defense and threat model."""

    def run(*defenses: str, tiers: str = '["query"]', needs: str = "query", audit: bool = False):
        (tmp_path / "own.py").write_text(DEFENSES)
        (tmp_path / "grey.py").write_text(ATTACK.replace("{needs}", needs))
        tables = "".join(
            f'[[defenses]]\nname = "{name if name.islower() else f"{tmp_path}/own.py:{name}"}"\n' for name in defenses
        )
        attack = f"{tmp_path}/grey.py:Grey"
        text = SUITE.format(tiers=tiers, unfitted=UNFITTED, defenses=tables, attack=attack)
        plan = make_plan(parse_suite(text, origin="test"), output=tmp_path / f"run {audit}")
        records = execute(plan, device="cpu", audit=audit)
        assert {record.status for record in records} == {"ok"}, [record.error for record in records]
        return {(r.cell.defense.name.rpartition(":")[2], r.cell.threat_model): r for r in records}

    return run


def linked(record: Record) -> int:
    assert record.link is not None
    assert len(record.link.rank) == 6
    assert record.link.candidates == 32 + 64
    return sum(rank == 0 for rank in record.link.rank)


def test_a_defense_in_a_process_of_its_own_is_counted_there(measure):
    found = measure("Own", "Everything", "Shy")
    none, own, everything, shy = (found[name, "query"] for name in ("none", "Own", "Everything", "Shy"))
    assert none.cost.added_multiply_adds == none.cost.added_parameters == 0
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
    assert [linked(record) for record in (none, own, everything, shy)] == [6] * 4


def test_each_attacker_compares_what_it_may_ask_for(measure):
    found = measure("Own", "gaussian", tiers='["static", "query"]')
    assert linked(found["Own", "query"]) == 6
    assert linked(found["Own", "static"]) < 6  # what a convolution left at random makes of features is no features
    assert found["gaussian", "query"].cost.added_multiply_adds == 0
    assert linked(found["gaussian", "query"]) == 6


def test_whoever_may_ask_nothing_compares_nothing(measure):
    found = measure("gaussian", tiers='["observe"]', needs="nothing")
    assert found["gaussian", "observe"].link is None
    assert found["gaussian", "observe"].cost is not None


def test_an_audit_counts_the_same(measure):
    here, apart = (measure("gaussian", audit=audit)["gaussian", "query"] for audit in (False, True))
    assert here.cost == apart.cost
    assert here.link == apart.link
    assert here.released == apart.released
