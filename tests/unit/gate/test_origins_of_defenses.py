"""A record says in which process a defense ran; those of others may not run where figures are made."""

import pytest
from record_factory import make_record

from dpbench.protocols.inference.consistency import contradictions


def complaints(defense: str) -> list[str]:
    return [message for _, message in contradictions([make_record(defense=defense)]) if "defense" in message]


@pytest.mark.parametrize("defense", ["gaussian", "topk + gaussian", "topk + dpm + gaussian"])
def test_dpbenchs_own_may_run_where_figures_are_made(defense):
    assert complaints(defense) == []


@pytest.mark.parametrize("defense", ["mine.py:Mine", "topk + mine.py:Mine", "scaled", "scaled + gaussian"])
def test_those_of_others_may_not(defense):
    assert complaints(defense) == [
        f"its defense {defense!r} is none of dpbench's and ran where figures are made; run it again"
    ]
