"""The engine's end of a border: a process that holds a plug-in, and what it may ask of the engine."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Mapping

import torch

from dpbench.border import nursery
from dpbench.border.wire import Ended, Message, Wire
from dpbench.errors import DpbenchError, cleaned_trace
from dpbench.machine.memory import total_memory

Handler = Callable[[Message], Message]
"""Answers one request of the plug-in's process."""


class Guest:
    """A fresh process with a plug-in in it.

    Args:
        who: names the plug-in in messages, such as `defense 'mine.py:Mine'`.
        device: where it computes.
    """

    def __init__(self, who: str, device: torch.device) -> None:
        self.who = who
        child = nursery.fresh()
        self._child = child
        self._wire = Wire(child.incoming, child.outgoing, largest=total_memory(torch.device("cpu")))
        self._end = weakref.finalize(self, _end, self._wire, child)
        # not forked from this process, so what it has set must be said
        fields = {
            "device": str(device),
            "threads": torch.get_num_threads(),
            "folder": os.getcwd(),
            "search": sys.path,
        }
        self.request(Message("start", fields))

    def request(self, message: Message, handlers: Mapping[str, Handler] | None = None) -> Message:
        """Ask, answer what it asks meanwhile, and wait for the result.

        Args:
            message: what is asked.
            handlers: kind of a request of the plug-in's -> what answers it. A handler may raise: the plug-in's process
                is told, and what it makes of that comes back as its own error.

        Raises:
            DpbenchError: the plug-in failed; one line that says why.
            MemoryError: memory ran out in its process.
        """
        try:
            self._wire.send(message)
            return self.serve(handlers or {})
        except Ended as error:
            status = self.close()
            raise DpbenchError(f"{self.who}: {error}{_in_words(status)}") from error

    def serve(self, handlers: Mapping[str, Handler], until: str = "result") -> Message:
        """Answer requests until a message of the kind `until` comes."""
        while True:
            message = self._wire.receive()
            if message.kind == until:
                return message
            if message.kind == "error":
                raise self._error(message)
            handler = handlers.get(message.kind)
            if handler is None:
                raise Ended(f"its process asked for {message.kind!r}, which it is not granted")
            if message.kind == "progress":
                handler(message)
                continue
            try:
                answer = handler(message)
            except DpbenchError as error:
                answer = Message("refused", {"text": str(error)})
            self._wire.send(answer)

    def tell(self, message: Message) -> None:
        """Send without waiting for an answer: what follows is read by `serve`."""
        self._wire.send(message)

    def _error(self, message: Message) -> Exception:
        text = str(message.fields.get("text", "gave no reason"))
        if message.fields.get("out_of_memory") is True:
            return MemoryError(text)
        error = DpbenchError(text)
        error.far = cleaned_trace(str(message.fields.get("traceback", "")))
        return error

    def close(self) -> int | None:
        """End the process; its exit status."""
        self._end.detach()
        return _end(self._wire, self._child)


def _end(wire: Wire, child: nursery.Child) -> int | None:
    status = child.kill()
    wire.close()
    return status


def _in_words(status: int | None) -> str:
    if status is None or status == -9:
        return ""
    return f" (signal {-status})" if status < 0 else f" (exit status {status})"
