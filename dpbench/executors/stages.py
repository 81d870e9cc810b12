"""Wall time and peak memory of each stage of a cell."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psutil
import torch

MIB = 2**20


class Stages:
    """Measures named stages: `with stages("attack"): ...`.

    Attributes:
        seconds: wall time per stage.
        peak_memory_mb: MiB per stage: memory of the process, sampled 20 times a second; on CUDA, what
            torch allocated on the device at most.
        peak_bytes: the largest of them; None before the first stage.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peak_memory_mb: dict[str, float] = {}
        self.peak_bytes: int | None = None

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure one stage; entered twice, times add up and peaks are the larger."""
        started = time.perf_counter()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        with _sampled_memory() as peak:
            try:
                yield
            finally:
                if cuda:
                    torch.cuda.synchronize(self.device)
                    peak[0] = torch.cuda.max_memory_allocated(self.device)
                elapsed = time.perf_counter() - started
                self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 3)
                self.peak_bytes = max(self.peak_bytes or 0, int(peak[0]))
                peak_mb = round(peak[0] / MIB, 1)
                self.peak_memory_mb[name] = max(self.peak_memory_mb.get(name, 0.0), peak_mb)


@contextlib.contextmanager
def _sampled_memory() -> Iterator[list[float]]:
    """A one-element list that follows the largest resident memory of this process, in bytes."""
    process = psutil.Process()
    peak = [float(process.memory_info().rss)]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], float(process.memory_info().rss))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak[0] = max(peak[0], float(process.memory_info().rss))
