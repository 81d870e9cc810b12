"""Every check of an executor bites: a planted one for each way to break a rule."""

import threading
from concurrent.futures import Future

import pytest

from dpbench.errors import DpbenchError
from dpbench.executors.executor import Lost
from dpbench.executors.known import Here
from dpbench.executors.processes import Processes
from dpbench.testing import ContractError, check_executor, executors


@pytest.mark.parametrize("cls", [Here, Processes])
def test_those_of_dpbench_keep_the_contract(cls):
    check_executor(cls)


class Nameless(Here):
    """Has no name."""

    name = ""


class Undocumented(Here):
    __doc__ = None


class Nowhere(Here):
    """Takes no task."""

    def __init__(self, job, means):
        super().__init__(job, means)
        self.places = 0


class Direct(Here):
    """Gives no future."""

    def submit(self, task):
        return super().submit(task).result()


class Deaf(Here):
    """Forgets what a task came to."""

    def submit(self, task):
        super().submit(task)
        done = Future()
        done.set_result(None)
        return done


class Silent(Here):
    """Takes an error for an answer."""

    def submit(self, task):
        future = super().submit(task)
        if future.exception() is None:
            return future
        done = Future()
        done.set_result({})
        return done


class Vague(Here):
    """Loses what an error says."""

    def submit(self, task):
        future = super().submit(task)
        if future.exception() is not None:
            future = Future()
            future.set_exception(Lost("something"))
        return future


class Slow(Here):
    """Never answers."""

    def submit(self, task):
        return Future()


class Lasting(Here):
    """Says that it works elsewhere, and leaves a task going."""

    def submit(self, task):
        done = Future()
        if task.unit[0] == "process":
            done.set_result(1)
        elif task.unit[0] == "sleep":
            done.set_running_or_notify_cancel()
        else:
            return super().submit(task)
        return done


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Nameless, "has no name"),
        (Undocumented, "has no docstring"),
        (Nowhere, "0 places"),
        (Direct, r"no concurrent\.futures\.Future"),
        (Deaf, r"gave \[None\]"),
        (Silent, r"its future gave \{\}"),
        (Vague, "its future 'something'"),
        (Slow, "gave no answer"),
        (Lasting, "left a task going"),
    ],
)
def test_what_breaks_a_rule_is_named(cls, words, monkeypatch):
    monkeypatch.setattr(executors, "SOON", 0.2)
    with pytest.raises(ContractError, match=words):
        check_executor(cls)


def test_what_is_no_executor_is_refused():
    with pytest.raises(DpbenchError, match="is no executor"):
        check_executor(threading.Thread)
