"""The one-line builders of the guide, each run as it stands there; transformers by a stand-in, torchvision itself."""

import collections
import re
import sys
import types
from importlib import resources

import pytest
import torch
import torchvision
from torch import nn

from dpbench.models import splitting
from dpbench.models.adapters import builder, encoder
from dpbench.models.spec import BackboneSpec

PAGE = (resources.files("dpbench") / "guide" / "your-network.md").read_text(encoding="utf-8")
LINES = re.findall(r"^def build\(.*\): return (.*?) {2,}#", PAGE, flags=re.MULTILINE)
CLASSES, SIZE = 4, 32


class Outcome(collections.OrderedDict):
    """As transformers give it: by key and by attribute."""

    def __getattr__(self, name):
        return self[name]


class Tower(nn.Module):
    """A vision model of transformers, small."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Conv2d(3, 8, 8, stride=8)
        self.layer = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    @classmethod
    def from_pretrained(cls, name):
        assert name == "facebook/dinov2-small"
        return cls()

    def forward(self, pixel_values=None, output_hidden_states=None):
        tokens = self.embeddings(pixel_values).flatten(2).transpose(1, 2)
        for layer in self.layer:
            tokens = layer(tokens).relu()
        return Outcome(last_hidden_state=tokens, pooler_output=tokens[:, 0])


def split_of(folder, line, point):
    """The line as a file, its head, and the network cut at a point."""
    library, arguments = line.split(".")[0], "classes" if "classes" in line else ""
    (folder / "my_net.py").write_text(f"import {library}\n\ndef build({arguments}): return {line}\n")
    spec = BackboneSpec(name=f"{folder}/my_net.py:build")
    head = encoder.head_of(spec, image_size=SIZE, classes=CLASSES)
    spec = spec.model_copy(update={"head": head, "files": builder.files_of(spec)})
    network = encoder.create_network(spec, image_size=SIZE, classes=CLASSES)
    return head, splitting.split_model(network, point, image_shape=(3, SIZE, SIZE), classes=CLASSES, name="x")


def test_there_are_lines():
    assert len(LINES) == 3
    assert {line.split(".")[0] for line in LINES} == {"torchvision", "transformers"}


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("torchvision")])
def test_the_lines_for_torchvision_without_its_downloads(line, tmp_path, monkeypatch):
    for name in ("kaiming_normal_", "kaiming_uniform_", "uniform_"):  # drawing millions of weights takes seconds
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: nn.init.zeros_(tensor))
    made = torchvision.models.resnet50().state_dict() if "weights=" in line else {}
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: made)
    head, split = split_of(tmp_path, line, "features.1" if "mobilenet" in line else "layer1")
    assert head == ("auto" if "classes" in line else "probe")
    assert split(torch.rand(2, 3, SIZE, SIZE)).shape == (2, CLASSES)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("transformers")])
def test_the_line_for_transformers_with_a_stand_in_for_it(line, tmp_path, monkeypatch):
    stand_in = types.ModuleType("transformers")
    stand_in.AutoModel = Tower
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    head, split = split_of(tmp_path, line, "layer.0")
    assert head == "probe"
    images = torch.rand(2, 3, SIZE, SIZE)
    assert split.client_head(images).shape == (2, 16, 8)
    assert split(images).shape == (2, CLASSES)
