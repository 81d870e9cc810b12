"""What a fit may leave where: parameters and buffers travel, anything else is refused in a line that names it."""

import pydantic
import pytest
import torch
from torch import nn

from dpbench.contract.defense import Defense, ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.service import fitting
from dpbench.testing.tiny import CPU, TinyNetwork, pictures

HISTORY = []


class Model(ProtectedModel):
    def __init__(self, split):
        super().__init__(split)
        self.seen = []
        self.found = {"mean": 0.0}
        self.scale = 1.0
        self.layer = nn.Identity()
        self.register_buffer("mean", torch.zeros(1))
        self.weight = nn.Parameter(torch.ones(1))

    def transform(self, features, *, generator=None):
        learned = self.mean.mean() + sum(self.state_dict().get("more", torch.zeros(1)))
        return features * self.scale * self.weight + learned


class Fitted(Defense):
    """Does what `FITS` says."""

    name = "fitted"
    what: str = "nothing"
    _kept: float = pydantic.PrivateAttr(1.0)

    def build(self, split):
        return Model(split)

    def fit(self, model, private, *, generator, progress):
        FITS[self.what](self, model)


def _replaced(defense, model):
    model.layer = nn.Tanh()


def _new_buffer(defense, model):
    model.register_buffer("more", torch.full((2,), 3.0))


def _resized(defense, model):
    model.mean = torch.full((5,), 2.0)


FITS = {
    "list": lambda defense, model: model.seen.append(3.0),
    "dict": lambda defense, model: model.found.update(mean=3.0),
    "float": lambda defense, model: setattr(model, "scale", 3.0),
    "tensor": lambda defense, model: setattr(model, "other", torch.ones(1)),
    "private": lambda defense, model: setattr(defense, "_kept", 3.0),
    "frozen": lambda defense, model: setattr(defense, "what", "else"),
    "global": lambda defense, model: HISTORY.append(3.0),
    "submodule": _replaced,
    "new submodule": lambda defense, model: setattr(model, "extra", nn.Linear(2, 2)),
    "removed": lambda defense, model: delattr(model, "mean"),
    "buffer": lambda defense, model: model.mean.fill_(3.0),
    "parameter": lambda defense, model: model.weight.data.fill_(3.0),
    "new buffer": _new_buffer,
    "resized buffer": _resized,
    "nothing": lambda defense, model: None,
}


def fit(what):
    return fitting.fit(TinyNetwork(), lambda: Fitted(what=what), pictures(20, seed="private"), CPU, lambda text: None)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("list", "fit left 'seen' outside parameters and buffers"),
        ("dict", "fit left 'found' outside parameters and buffers"),
        ("float", "fit left 'scale' outside parameters and buffers"),
        ("tensor", "fit left 'other' outside parameters and buffers"),
        ("private", "fit left '_kept' of the defense itself outside parameters and buffers"),
        ("global", "fit left the global 'HISTORY' of test_fitting.py outside parameters and buffers"),
        ("submodule", "fit replaced or removed the submodule 'layer'"),
        ("new submodule", "fit added the submodule 'extra'"),
        ("removed", "fit removed 'mean'"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(what, words):
    with pytest.raises(DpbenchError, match=f"^defense 'fitted': {words}") as caught:
        fit(what)
    assert "\n" not in str(caught.value)


def test_a_defense_is_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        fit("frozen")


@pytest.mark.parametrize(
    ("what", "learned"),
    [
        ("buffer", {"mean"}),
        ("parameter", {"weight"}),
        ("new buffer", {"more"}),
        ("resized buffer", {"mean"}),
        ("nothing", set()),
    ],
)
def test_parameters_and_buffers_travel(what, learned):
    state, model = fit(what)
    assert state.keys() == learned
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value)
    again = fitting.assemble(TinyNetwork(), Fitted(), state, CPU)
    images = pictures(4, seed="test").images
    assert torch.equal(model.release(images), again.release(images))
