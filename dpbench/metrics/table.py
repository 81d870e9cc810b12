"""The table of dpbench's own metrics: what each is called, how its figures are read, and what computes it.

Reading it brings no torch: boards are read by it. A metric of one's own is a plug-in, and has no row here.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, ClassVar

from dpbench.contract.metric import Closer, Metric
from dpbench.errors import DpbenchError

if TYPE_CHECKING:
    from torch import Tensor


class OwnMetric(Metric, abc.ABC):
    """A metric of dpbench's own: the function of its name in `dpbench.metrics.fidelity`."""

    def measure(self, images: Tensor, victims: Tensor) -> Tensor:
        """See `dpbench.metrics.fidelity`."""
        from dpbench.metrics import fidelity

        figures: Tensor = getattr(fidelity, self.name)(images, victims)
        return figures


class Mse(OwnMetric):
    """Mean squared error; lower is closer."""

    name: ClassVar[str] = "mse"
    label: ClassVar[str] = "MSE"
    closer: ClassVar[Closer] = "lower"
    decimals: ClassVar[int] = 6
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0


class PsnrDb(OwnMetric):
    """Peak signal-to-noise ratio in dB with peak 1.0, at most 80."""

    name: ClassVar[str] = "psnr_db"
    label: ClassVar[str] = "PSNR"
    decimals: ClassVar[int] = 3
    tolerance: ClassVar[float] = 0.5
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 100.0
    margin: ClassVar[float | None] = 0.2


class Ssim(OwnMetric):
    """Structural similarity: luminance, contrast and structure in windows of 11 pixels."""

    name: ClassVar[str] = "ssim"
    label: ClassVar[str] = "SSIM"
    low: ClassVar[float] = -1.0
    high: ClassVar[float] = 1.0
    margin: ClassVar[float | None] = 0.02
    paper: ClassVar[str] = "Wang et al. 2004, Image quality assessment"


class MsSsim(OwnMetric):
    """SSIM at five scales, for images of 161 pixels or more; in records, not on boards."""

    name: ClassVar[str] = "ms_ssim"
    label: ClassVar[str] = "MS-SSIM"
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0
    paper: ClassVar[str] = "Wang et al. 2003, Multi-scale structural similarity"


class Lpips(OwnMetric):
    """Learned perceptual distance; lower is closer. It needs AlexNet's weights, and images of 32 pixels or more."""

    name: ClassVar[str] = "lpips"
    label: ClassVar[str] = "LPIPS"
    closer: ClassVar[Closer] = "lower"
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 10.0
    margin: ClassVar[float | None] = 0.02
    rounding: ClassVar[float] = 0.03
    paper: ClassVar[str] = "Zhang et al. 2018, The unreasonable effectiveness of deep features"


BUILT_IN: dict[str, type[Metric]] = {metric.name: metric for metric in (Mse, PsnrDb, Ssim, MsSsim, Lpips)}
"""Every metric that is measured of every reconstruction, in the order of records."""

ON_BOARDS: tuple[str, ...] = ("ssim", "psnr_db", "lpips", "mse")
"""Those with a column on every board, in its order."""

IN_RECORDS: tuple[str, ...] = tuple(name for name in BUILT_IN if name in ON_BOARDS)
"""The same, in the order of records."""

CALIBRATED: dict[str, float] = {name: margin for name in ON_BOARDS if (margin := BUILT_IN[name].margin) is not None}
"""Those that make up leakage -> how far above the floor an attack on the undefended model must be for one to count."""

LOWER_IS_CLOSER: tuple[str, ...] = tuple(name for name, metric in BUILT_IN.items() if metric.closer == "lower")

RANGES: dict[str, tuple[float, float]] = {name: (metric.low, metric.high) for name, metric in BUILT_IN.items()}
"""Least and greatest figure on images in [0, 1]; any other metric's is finite."""


def label_of(name: str) -> str:
    """`SSIM` for `ssim`; of a metric that is not dpbench's its name."""
    return BUILT_IN[name].label if name in BUILT_IN else name


def range_of(name: str) -> tuple[float, float]:
    """See `RANGES`."""
    return RANGES.get(name, (-math.inf, math.inf))


def assert_can_be(number: float, low: float, high: float, said: str, *, whole: bool = False) -> None:
    """Refuse a figure that is not finite or outside its range, and a count that is no whole number.

    Raises:
        DpbenchError: it begins with `said`, which names the figure and where it stands.
    """
    if math.isfinite(number) and low <= number <= high and not (whole and number != round(number)):
        return
    bounds = f" between {low:g} and {high:g}" if math.isfinite(high) else f" at least {low:g}"
    expected = bounds if math.isfinite(low) else ", finite"
    kind = "a whole number" if whole else "a number"
    raise DpbenchError(f"{said}, which it cannot be; expected {kind}{expected}")
