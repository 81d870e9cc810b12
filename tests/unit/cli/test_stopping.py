"""Signals that stop a command: once, twice, and where a library swallows them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dpbench.cli.endings import GO_ON


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_signals_end_it_as_ctrl_c_does(dpbench, monkeypatch, name: str, status: int) -> None:
    number = getattr(signal, name)
    ignored = signal.getsignal(number)  # in the background, under nohup
    before = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    signal.signal(number, before)
    try:
        monkeypatch.setattr("dpbench.cli.listing.listing", lambda *given: os.kill(os.getpid(), number))
        outcome = dpbench("list", "attacks")
        assert outcome.status == status
        assert len(outcome.err.splitlines()) == 1
        assert signal.getsignal(number) == before
    finally:
        signal.signal(number, ignored)


def test_an_interrupt_that_a_library_swallows_is_what_ended_it(dpbench, monkeypatch) -> None:
    def half_loaded(*given: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise RecursionError("maximum recursion depth exceeded") from None

    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr("dpbench.cli.listing.listing", half_loaded)
        outcome = dpbench("list", "attacks")
        assert (outcome.status, outcome.err) == (130, f"dpbench: interrupted; {GO_ON}\n")
        monkeypatch.undo()
        assert dpbench("list", "x").err.startswith("dpbench: unknown list 'x'")
    finally:
        signal.signal(signal.SIGINT, ignored)


TIDYING = """
import sys, time
from dpbench.cli import app, listing

def tidying(*given):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("tidying", flush=True)
        time.sleep(float(sys.argv.pop()))
        print("tidy", flush=True)

listing.listing = tidying
app.main()
"""


def interrupted_twice(tidies: float, after: float) -> tuple[int, str, str]:
    """Two signals, so many seconds apart, at a command that takes so long to tidy up."""
    command = [sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler){TIDYING}"]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "list", "attacks", str(tidies)], **given) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "tidying\n"
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_one_ctrl_c_that_comes_twice_is_one() -> None:
    assert interrupted_twice(0.5, 0.0) == (130, "tidy\n", f"dpbench: interrupted; {GO_ON}\n")


def test_a_second_ctrl_c_ends_it_where_it_stands() -> None:
    assert interrupted_twice(60, 1.2) == (130, "", f"dpbench: stopped at once; {GO_ON}\n")
