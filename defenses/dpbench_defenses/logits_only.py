"""The client does everything and sends its answer."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.plugins.registry import register


@register
class LogitsOnly(Defense):
    """The whole network runs on the client; what is released are its logits, or less, and the server reads them.

    No paper: the honest trivial end of split inference, which every other defense must beat on cost, since its
    accuracy is that of the undefended network (with `label` too) and nothing finer than the answer leaves the
    client. The price is the client's: all multiply-adds, and the weights of the server's half in its hands.

    Even an answer shows what is in the image, and all logits show more than the largest: Yang et al. 2019, "Neural
    network inversion in adversarial setting via background knowledge alignment", train a decoder on them, as the attack
    `decoder` does.
    """

    name: ClassVar[str] = "logits-only"
    version: ClassVar[int] = 1
    only_in: ClassVar[str] = "inference"  # there is nothing left for a partner's tail to learn from
    paper: ClassVar[str] = ""

    form: Literal["logits", "probabilities", "label"] = Field(
        "logits", description="what is sent: logits, probabilities, or the label alone (as one 1 among zeros)"
    )

    def build(self, split: SplitModel) -> ProtectedModel:
        """The model that answers on the client."""
        return AnsweringModel(split, self.form)


class AnsweringModel(ProtectedModel):
    """Releases the network's answers, (N, classes)."""

    def __init__(self, split: SplitModel, form: str) -> None:
        super().__init__(split)
        self.form = form

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> the answer (N, classes)."""
        logits: Tensor = self.split.server_tail(features.float())
        if self.form == "logits":
            return logits.to(features.dtype)
        if self.form == "probabilities":
            return logits.softmax(1).to(features.dtype)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(features.dtype)

    def predict(self, released: Tensor) -> Tensor:
        """The answer as it came."""
        return released
