"""Images that a plug-in is lent: they must come back as they were given, for they are everybody's.

A copy of all of them would take their memory twice, so they are compared instead; everything smaller is copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dpbench.contract.images import Images, LabelledImages
from dpbench.errors import DpbenchError

AT_ONCE = 256
"""Images that are brought from an accelerator at once to be compared."""


class Lent:
    """Labelled images in the hands of a plug-in.

    Args:
        images: what is lent.
        who: for the message, such as "defense 'dpm'".
        method: of the plug-in, which receives them.
        spoilt: called where they were changed, before the error: forgets them.
    """

    def __init__(self, images: LabelledImages, who: str, method: str, spoilt: Callable[[], None]) -> None:
        self._lent = images.images
        self._before = _digest(images.images)
        self._who = who
        self._method = method
        self._spoilt = spoilt
        # another tensor on the same numbers: nor can a plug-in resize or replace what others hold
        view = images.images.detach() if isinstance(images.images, Tensor) else images.images.narrow(0, 0, len(images))
        self.images = replace(images, images=view, labels=images.labels.clone())

    def check(self) -> None:
        """Compare them with what they were.

        Raises:
            DpbenchError: the plug-in changed them.
        """
        if _is_gone(self._lent) or _digest(self._lent) != self._before:
            self._spoilt()
            raise DpbenchError(
                f"{self._who} changed the images it was given, in {self._method}; they are everybody's: work on a copy"
            )


def _is_gone(images: Images) -> bool:
    """Whether their memory was given back, which torch refuses on the CPU."""
    return isinstance(images, Tensor) and images.untyped_storage().nbytes() < images.numel() * images.element_size()


def _digest(images: Images) -> str:
    """Of the values of a tensor; images in a file are read anew whenever they are used."""
    if not isinstance(images, Tensor):
        return ""
    digest = hashlib.sha256()
    for chunk in images.split(AT_ONCE):
        # in the order in which they lie in memory: no copy
        laid = chunk.permute(0, 2, 3, 1) if chunk.is_contiguous(memory_format=torch.channels_last) else chunk
        digest.update(laid.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
