"""Drivers in processes of their own, that a test lets run beside each other: copies of one that has loaded torch."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

from parsing import parse_suite

from dpbench.api import plan
from dpbench.executors.executor import Means
from dpbench.running.runner import execute


class Counting:
    """Counts what a driver measured by itself."""

    def __init__(self):
        self.measured = 0

    def started(self, unit):
        self.measured += 1

    def progress(self, text, part):
        pass

    def finished(self, unit, state, record):
        pass


def run(suite, output, watcher=None, **means):
    """The records of a run on the CPU."""
    planned = plan(parse_suite(suite, origin="test"), output=output)
    return execute(planned, device="cpu", watcher=watcher, means=Means(**means))


def drive(suite, output, cache):
    """Run with one worker; the records, how many of them were measured here, and the CPU seconds that took."""
    os.environ["DPBENCH_CACHE"] = str(cache)
    watcher, before = Counting(), time.process_time()
    records = run(suite, output, watcher, workers=1)
    return records, watcher.measured, time.process_time() - before


def several(count, suite, output, cache):
    """What so many drivers give that start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dpbench.executors.worker", "dpbench.running.driving", "dpbench.protocols.known"])
    pools = [ProcessPoolExecutor(1, context) for _ in range(count)]
    try:
        for started in [pool.submit(drive, suite, output, cache) for pool in pools]:
            yield started.result()
    finally:
        for pool in pools:
            pool.shutdown()
