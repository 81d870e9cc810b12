"""What a metric is: how close a reconstruction is to its victim, one figure per image, and how to read the figure."""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from dpbench.contract.plugin import Plugin
from dpbench.errors import DpbenchError

if TYPE_CHECKING:
    from torch import Tensor

Closer = Literal["higher", "lower"]
"""Which direction of a metric means: the reconstruction is closer to its victim."""

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=32)]
"""Heads a column of boards."""

ENDS = ("_low", "_high", "_spread")
"""How a board names what belongs to a figure: no metric's own name ends so."""


class MetricFacts(BaseModel):
    """How the figures of a metric are read: all that a record or a board must know of it without its code."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: MetricName
    closer: Closer = "higher"
    decimals: int = Field(4, ge=0, le=8, description="of its mean on a board")
    tolerance: float = Field(0.02, ge=0, description="how much closer the gate lets the mean come")
    low: float | None = Field(None, description="the least figure there can be")
    high: float | None = Field(None, description="the greatest")

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest figure; infinite where there is no bound."""
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )

    @property
    def text(self) -> str:
        """As a board's column `metrics` has it: `edge_ssim:higher:4:0.02:-1.0:1.0`."""
        ends = ("" if end is None else repr(end) for end in (self.low, self.high))
        return ":".join((self.name, self.closer, str(self.decimals), repr(self.tolerance), *ends))

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `text` says.

        Raises:
            ValueError: it is no such text.
        """
        parts = text.split(":")
        if len(parts) != len(cls.model_fields):
            raise ValueError(f"{text[:60]!r} does not say how a metric is read")
        given = {key: part for key, part in zip(cls.model_fields, parts, strict=True) if part}
        return cls.model_validate(given)


class Metric(Plugin, abc.ABC):
    """How close reconstructions are to their victims, one figure per image. `name` heads its column on boards.

    >>> class LargestError(dpbench.Metric):
    ...     name = "largest_error"
    ...     closer = "lower"
    ...     low, high = 0.0, 1.0
    ...
    ...     def measure(self, images, victims):
    ...         return (images - victims).abs().amax((1, 2, 3))
    >>> LargestError().measure(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8))
    tensor([1., 1.])
    """

    closer: ClassVar[Closer] = "higher"
    """`lower` for distances and errors: the gate and the worst case go by it."""
    decimals: ClassVar[int] = 4
    """Of its mean on a board."""
    tolerance: ClassVar[float] = 0.02
    """How much closer the mean may come before the gate fails."""
    low: ClassVar[float] = -math.inf
    """The least figure there can be: what lies below is refused."""
    high: ClassVar[float] = math.inf
    """The greatest."""
    margin: ClassVar[float | None] = None
    """Of dpbench's own: how far above the floor an attack must be for it to take part in leakage; None: never."""
    rounding: ClassVar[float] = 0.01
    """Of dpbench's own: how far 8 bits per value move a figure; `dpbench verify` allows for it."""
    label: ClassVar[str] = ""
    """What people call it; the name by default."""

    @abc.abstractmethod
    def measure(self, images: Tensor, victims: Tensor) -> Tensor:
        """One figure for each pair.

        Args:
            images: reconstructions (N,3,H,W), float32 in [0,1].
            victims: the true images, the same shape.

        Returns:
            (N,) floating, finite, between `low` and `high`. No figure may depend on the other images of the batch.

        Raises:
            DpbenchError: there is no such figure for these images; says why. The column then stays empty.
        """

    @classmethod
    def facts(cls) -> MetricFacts:
        """How its figures are read.

        Raises:
            DpbenchError: it does not say so in a way that a board can hold.
        """
        try:
            facts = MetricFacts(
                name=cls.name,
                closer=cls.closer,
                decimals=cls.decimals,
                tolerance=cls.tolerance,
                low=None if cls.low == -math.inf else cls.low,
                high=None if cls.high == math.inf else cls.high,
            )
        except ValueError as error:  # pydantic's too
            first = error.errors()[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
            where = ".".join(str(part) for part in first["loc"])
            raise DpbenchError(f"metric {cls.__name__}: {where}: {first['msg']}") from error
        if facts.name.endswith(ENDS):
            raise DpbenchError(
                f"metric {cls.__name__}: its name {facts.name!r} ends as columns of boards do that belong to a "
                f"figure ({', '.join(ENDS)}); choose another"
            )
        if not facts.range[0] < facts.range[1]:
            raise DpbenchError(f"metric {cls.__name__}: low = {cls.low} is not below high = {cls.high}")
        return facts


def checked_figures(figures: object, count: int, facts: MetricFacts) -> list[float]:
    """The figures of a metric as numbers.

    Raises:
        DpbenchError: no floating tensor, another shape than (count,), a figure that is not finite or out of range.
    """
    import torch

    if not isinstance(figures, torch.Tensor) or not figures.is_floating_point():
        came = f"a tensor of {figures.dtype}" if isinstance(figures, torch.Tensor) else type(figures).__name__
        raise DpbenchError(f"metric {facts.name!r} returned {came}; expected a floating tensor, one figure per image")
    if figures.shape != (count,):
        raise DpbenchError(
            f"metric {facts.name!r} returned the shape {tuple(figures.shape)} for {count} images; expected ({count},)"
        )
    numbers: list[float] = figures.detach().cpu().double().tolist()
    low, high = facts.range
    for place, number in enumerate(numbers):
        if not math.isfinite(number):
            raise DpbenchError(f"metric {facts.name!r} is {number} for image {place}; expected a finite number")
        if not low <= number <= high:
            raise DpbenchError(
                f"metric {facts.name!r} is {number:.6g} for image {place}; by its own word it lies between {low:g} and "
                f"{high:g}"
            )
    return numbers
