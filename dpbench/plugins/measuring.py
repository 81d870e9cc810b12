"""Metrics that are not dpbench's own, measured in a process that ends with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dpbench.border.host import Guest
from dpbench.border.wire import Message
from dpbench.contract.metric import Metric, MetricFacts, checked_figures
from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError
from dpbench.plugins.configuring import configured_as
from dpbench.plugins.registry import find_metric
from dpbench.plugins.stand_in import StandIn


def facts_of(specs: Sequence[PluginSpec]) -> list[MetricFacts]:
    """How the figures of a cell's own metrics are read."""
    return [find_metric(spec.name).facts() for spec in specs]


def measure(
    specs: Sequence[PluginSpec], images: Tensor, victims: Tensor
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The figures of a cell's own metrics, each in its turn, after dpbench's own: nothing that it does reaches those.

    Args:
        specs: the metrics.
        images: reconstructions (N,3,H,W) in [0,1].
        victims: the true images, the same shape.

    Returns:
        metric -> N figures; metric -> reason, where it failed or broke its contract.
    """
    figures: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for spec in specs:
        metric = configured_as(spec, "metric")
        assert isinstance(metric, Metric)
        facts = metric.facts()
        try:
            found = _measured(metric, images.float(), victims.float())
            figures[facts.name] = checked_figures(found, len(images), facts)
            configured_as(spec, "metric")  # what it read is still what the id says
        except DpbenchError as error:
            figures.pop(facts.name, None)
            missing[facts.name] = str(error)
    return figures, missing


def _measured(metric: Metric, images: Tensor, victims: Tensor) -> object:
    if not isinstance(metric, StandIn):
        with torch.no_grad():
            return metric.measure(images.clone(), victims.clone())
    guest = Guest(f"metric {metric.reference!r}", images.device)
    asked = {"sort": "metric", "reference": metric.reference, "arguments": metric.model_dump(mode="json")}
    try:
        answer = guest.request(Message("measure", asked, {"images": images, "victims": victims}))
    finally:
        guest.close()
    return answer.tensors.get("figures")
