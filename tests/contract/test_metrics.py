"""Every metric keeps the contract, and the checks find each rule broken."""

from typing import ClassVar

import pytest
import torch

from dpbench.contract.metric import Metric, MetricFacts
from dpbench.errors import DpbenchError
from dpbench.metrics.table import BUILT_IN, Lpips, Mse, Ssim
from dpbench.plugins.registry import metrics
from dpbench.testing import ContractError, check_metric, checks_for

CHECKS = [check for cls in metrics().values() for check in checks_for(cls)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.who} {check.__name__}")
def test_every_metric_keeps_the_contract(check):
    check()


def test_dpbench_s_own_are_registered_as_any_other():
    assert {name: metrics()[name] for name in BUILT_IN} == BUILT_IN


class Fine(Metric):
    """Mean absolute error."""

    name: ClassVar[str] = "absolute"
    closer: ClassVar[str] = "lower"
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    def measure(self, images, victims):
        return (images - victims).abs().mean(dim=(1, 2, 3))


def test_a_fine_one_passes():
    check_metric(Fine)
    check_metric(Fine())


def planted(**changes):
    return type("Planted", (Fine,), {"__doc__": "Broken.", "name": "absolute", **changes})


def nan(self, images, victims):
    return Fine.measure(self, images, victims) * float("nan")


def one_for_all(self, images, victims):
    return (images - victims).abs().mean()


def of_the_batch(self, images, victims):
    return (images - victims.mean(0)).abs().mean(dim=(1, 2, 3))


def drawn(self, images, victims):
    return Fine.measure(self, images, victims) * (0.5 + torch.rand(()) / 2)


def in_place(self, images, victims):
    return images.sub_(victims).abs().mean(dim=(1, 2, 3))


def doubled(self, images, victims):
    return 40 * Fine.measure(self, images, victims)


def refused(self, images, victims):
    raise DpbenchError("not for these")


BROKEN = {
    "no docstring": ({"__doc__": None}, "has no docstring"),
    "a name that heads another column": ({"name": "accuracy"}, "boards have"),
    "a name of dpbench's": ({"name": "ssim"}, "boards have"),
    "a name that belongs to a figure": ({"name": "edge_low"}, "ends as columns"),
    "a name that is no column": ({"name": "Edge SSIM"}, "name"),
    "no direction": ({"closer": "up"}, "closer"),
    "no range": ({"low": 1.0, "high": 1.0}, "not below"),
    "a negative tolerance": ({"tolerance": -1.0}, "tolerance"),
    "NaN": ({"measure": nan}, "nan for image 0; expected a finite number"),
    "one figure for all": ({"measure": one_for_all}, r"the shape \(\) for 4 images"),
    "not a tensor": ({"measure": lambda self, images, victims: [0.0] * len(images)}, "returned list"),
    "whole numbers": ({"measure": lambda self, images, victims: torch.zeros(len(images)).long()}, "torch.int64"),
    "out of its range": ({"measure": doubled}, "between 0 and 1"),
    "of the batch": ({"measure": of_the_batch}, "alone; reduce over the dimensions of the image"),
    "drawn": ({"measure": drawn}, "alone|other figures the second time"),
    "in place": ({"measure": in_place}, "changes the images"),
    "the other way round": ({"closer": "higher"}, "turn the direction"),
    "no figure at all": ({"measure": refused}, "not for these"),
    "something raised": ({"measure": lambda self, images, victims: 1 / 0}, "ZeroDivisionError"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_found_in_a_line(what):
    changes, message = BROKEN[what]
    with pytest.raises(ContractError, match=message) as found:
        check_metric(planted(**changes))
    assert "\n" not in str(found.value)


def test_what_is_no_metric_is_refused():
    with pytest.raises(DpbenchError, match="not a subclass of"):
        check_metric(dict)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", [Fine, Ssim, Mse, Lpips])
def test_a_board_says_how_a_metric_is_read_and_reads_it_again(metric):
    facts = metric.facts()
    assert MetricFacts.parse(facts.text) == facts


@pytest.mark.parametrize(
    "text",
    ["", "a:higher", "a:higher:4:0.1:0:1:2", "a:up:4:0.1::", "A:higher:4:0.1::", "a:higher:9:0.1::", "a:lower:4:nan::"],
)
def test_what_says_nothing_of_a_metric_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        MetricFacts.parse(text)
