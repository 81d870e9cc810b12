"""Messages between processes: a JSON object and named tensors. Nothing that is read can run code."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dpbench.errors import DpbenchError

_SIZES = struct.Struct("<QQ")
LARGEST_TEXT = 1 << 26
"""Bytes of JSON in one message, at most."""


class Ended(DpbenchError):
    """The process at the other end is gone, or says what nobody understands."""


@dataclass(frozen=True)
class Message:
    """What crosses the border.

    Attributes:
        kind: what is asked or answered, such as `release`.
        fields: JSON values.
        tensors: by name, on the CPU.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Wire:
    """Sends and receives messages over two binary streams.

    Args:
        incoming: read from.
        outgoing: written to.
        largest: bytes of tensors in one message, at most: who is at the other end may claim any size.
    """

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, *, largest: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._largest = largest

    def send(self, message: Message) -> None:
        """Write a message.

        Raises:
            Ended: nobody reads it.
        """
        layouts = {name: _layout(tensor) for name, tensor in message.tensors.items()}
        packed = {
            name: tensor.detach().cpu().permute(layouts[name] or tuple(range(tensor.ndim))).contiguous()
            for name, tensor in message.tensors.items()
        }
        # clones where memory is shared: safetensors refuses it
        seen: set[int] = set()
        for name, tensor in packed.items():
            if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
                packed[name] = tensor.clone()
            seen.add(tensor.untyped_storage().data_ptr())
        text = json.dumps({"kind": message.kind, "fields": message.fields, "layouts": layouts}).encode()
        blob = safetensors.torch.save(packed) if packed else b""
        try:
            self._outgoing.write(_SIZES.pack(len(text), len(blob)))
            self._outgoing.write(text)
            self._outgoing.write(blob)
            self._outgoing.flush()
        except (OSError, ValueError) as error:
            raise Ended("its process ended") from error

    def receive(self) -> Message:
        """The next message.

        Raises:
            Ended: there is none, or it is no message.
        """
        text_size, blob_size = _SIZES.unpack(self._exactly(_SIZES.size))
        if text_size > LARGEST_TEXT or blob_size > self._largest:
            raise Ended(f"its process sent a message of {text_size + blob_size} bytes, which nobody expects")
        text = self._exactly(text_size)
        blob = self._exactly(blob_size)
        try:
            content = json.loads(text)
            kind, fields, layouts = content["kind"], content["fields"], content["layouts"]
            loaded = safetensors.torch.load(blob) if blob else {}
            tensors = {name: _laid_out(tensor, layouts[name]) for name, tensor in loaded.items()}
            if not (isinstance(kind, str) and isinstance(fields, dict)):
                raise TypeError("kind and fields")
        except (ValueError, KeyError, TypeError, RuntimeError, RecursionError, safetensors.SafetensorError) as error:
            raise Ended(f"its process sent what is no message ({type(error).__name__})") from error
        return Message(kind, fields, tensors)

    def _exactly(self, count: int) -> bytes:
        try:
            content = self._incoming.read(count)
        except (OSError, ValueError) as error:
            raise Ended("its process ended") from error
        if len(content) != count:
            raise Ended("its process ended")
        return content

    def close(self) -> None:
        """Close both streams; the other side reads an end."""
        for stream in (self._outgoing, self._incoming):
            try:
                stream.close()
            except OSError:
                pass  # what was not sent reaches nobody


def _layout(tensor: Tensor) -> list[int] | None:
    """The order of axes in memory, where a tensor (N,C,H,W) lies channels last; None for the usual order.

    Kernels differ in the last digit by how a tensor lies, so what crosses comes to lie as it did.
    """
    if tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return [0, 2, 3, 1]
    return None


def _laid_out(tensor: Tensor, layout: list[int] | None) -> Tensor:
    return tensor.permute(0, 3, 1, 2) if layout == [0, 2, 3, 1] and tensor.ndim == 4 else tensor
