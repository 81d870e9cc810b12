"""What the live display shows while several units run at once."""

import io
from types import SimpleNamespace

import pytest
from record_factory import make_record
from rich.console import Console

from dpbench.protocols.known import DEFAULT
from dpbench.reporting.display import Display


@pytest.fixture
def units():
    return [make_record(attack=attack).cell for attack in ("decoder", "rmle", "gan")]


def shown(display) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(display._render())
    return console.file.getvalue()


@pytest.fixture
def display(units):
    return Display(Console(file=io.StringIO()), SimpleNamespace(protocol=DEFAULT, units=units))


def test_each_running_unit_has_its_stage(display, units):
    display.progress("fitting backbone", units[2])
    display.started(units[0])
    display.started(units[1])
    display.progress("step 3", units[0])
    display.progress("step 7", units[1])
    lines = [line.strip() for line in shown(display).splitlines()]
    labels = [display._label(unit) for unit in units]
    assert lines[1:] == [labels[0], "step 3 (0:00)", labels[1], "step 7 (0:00)", "fitting backbone (0:00)"]
    display.progress("", units[2])
    display.finished(units[0], "ok", make_record(attack="decoder"))
    assert [line.strip() for line in shown(display).splitlines()[2:]] == [labels[1], "step 7 (0:00)"]


def test_the_time_left_counts_with_as_many_at_once(display, units):
    record = make_record(attack="decoder").model_copy(update={"seconds": {"attack": 8.0}})
    display.started(units[0])
    display.started(units[1])
    assert display.seconds_left() is None
    display.finished(units[0], "ok", record)
    assert display.seconds_left() == 8.0  # two are left, of which two run at once
