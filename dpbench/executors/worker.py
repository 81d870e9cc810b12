"""The life of one worker process. Nothing heavy is imported before the process is set up."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any

import psutil

from dpbench.errors import DpbenchError, debug, reason


def live(line: Any, environment: dict[str, str]) -> None:
    """Carry out tasks until the driver hangs up.

    Args:
        line: the process's end of a pipe: the pickled job comes first, then tasks; see `processes`.
        environment: variables that are set before anything heavy is imported.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the driver, which ends its workers; and what is started here ends with it
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    os.environ.update(environment)
    try:
        work = pickle.loads(line.recv_bytes()).start()
        _say(line, "ready", None)
        while True:
            task = pickle.loads(line.recv_bytes())
            _say(line, *_attempted(work, task, lambda text: _say(line, "progress", text)))
    except (EOFError, OSError):
        return


def _attempted(work: Callable[..., Any], task: Any, progress: Callable[[str], None]) -> tuple[str, Any]:
    try:
        return "done", work(task, progress)
    except DpbenchError as error:
        return "raised", error
    except BaseException as error:
        debug(error)
        return "raised", reason(error)


def _say(line: Any, kind: str, content: Any) -> None:
    line.send((kind, content, psutil.Process().memory_info().rss))


def _end_with_the_driver() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        kill(os.getpid())


def kill(pid: int | None) -> None:
    """End a worker and everything in its session, whatever they do."""
    if pid is None:
        return
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
    except OSError:
        pass  # it is gone, or has not come as far as a session of its own
