"""Tolerances of the gate are numbers: with any other it would always say the same."""

import math

import pytest

from dpbench.errors import DpbenchError
from dpbench.gate.findings import Tolerance


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tolerance_is_finite(value):
    with pytest.raises(DpbenchError, match=r"--reid-top1 (nan|inf|-inf): expected a finite number from 0"):
        Tolerance(reid_top1=value)
    assert Tolerance(reid_top1=0.1).reid_top1 == 0.1
