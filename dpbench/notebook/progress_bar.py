"""A bar of tqdm's that follows a run: on a terminal, or in a notebook."""

from __future__ import annotations

import sys
import warnings
from types import TracebackType
from typing import Any, Self

from dpbench.running.protocol import Plan
from dpbench.running.watching import State
from dpbench.text.shown_text import clean


class ProgressBar:
    """Follows a run; shows how many units are done, and what the running stage does.

    Args:
        plan: what runs.
        shown: whether to; None: where somebody looks, on a terminal or in a notebook.
    """

    def __init__(self, plan: Plan[Any, Any], shown: bool | None) -> None:
        from tqdm.auto import tqdm

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of widgets that a notebook may lack
            self._bar = tqdm(
                total=len(plan.units), unit=plan.protocol.unit, disable=not (looked_at() if shown is None else shown)
            )
        self._protocol = plan.protocol

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def started(self, part: Any) -> None:
        """A unit begins."""
        self._bar.set_description(clean(self._protocol.names_of(part)[0], 60))

    def progress(self, text: str, part: object) -> None:
        """What the running stage does."""
        self._bar.set_postfix_str(clean(text, 60))

    def finished(self, part: Any, state: State, record: Any) -> None:
        """A unit has its record."""
        self._bar.update()


def looked_at() -> bool:
    """Whether somebody looks: standard error is a terminal, or Python runs for a notebook."""
    shell = sys.modules.get("IPython")
    running = shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
    return running or bool(sys.stderr and sys.stderr.isatty())
