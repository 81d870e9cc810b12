"""What one may hold, and hand in wrongly: networks of any number of classes, and one line for what is no such thing."""

import pytest
import torch
from torch import nn

import dpbench as package
from dpbench.errors import DpbenchError
from dpbench.models.backbones import create_backbone
from dpbench.models.weights import choose, create
from dpbench.notebook.given_network import given_network


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4, classes, bias=False))

    def forward(self, images):
        return self.head(self.stem(images).relu().mean((2, 3)))


@pytest.mark.parametrize("classes", [2, 5])
def test_a_network_keeps_its_weights_whatever_the_number_of_its_classes(classes):
    network = Net(classes)
    with given_network(network, "stem", fit=False, epochs=1) as entry:
        spec = entry.spec()
        for others in (2, 3):  # as a plan looks at it, which knows nothing of classes
            assert create_backbone(spec, image_size=16, classes=others)(torch.rand(1, 3, 16, 16)).shape == (1, others)
        made, fits = create(spec, choose(spec), image_size=16, classes=classes)
        assert fits
        assert torch.equal(made.head[1].weight, network.head[1].weight)
        anew, fits = create(spec, choose(spec), image_size=16, classes=classes + 1)
        assert (fits, anew.head[1].out_features) == (False, classes + 1)
        assert torch.equal(anew.stem.weight, network.stem.weight)


IMAGES = (torch.rand(40, 3, 16, 16), torch.arange(40) % 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backbone": 3}, "backbone is int; expected a name of timm's, or a torch.nn.Module"),
        ({"backbone": Net}, "backbone is the class Net; expected"),
        ({"victims": 0}, "victims = 0; expected a whole number, 1 or more"),
        ({"victims": "8"}, "victims = '8'; expected"),
        ({"seed": -1}, "evaluate: "),
        ({"budget": "huge"}, "evaluate: budget"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(given, said):
    held = {"backbone": Net(2), "split": "stem", "images": IMAGES, "attacks": ["decoder"], "victims": 2}
    with pytest.raises(DpbenchError) as raised:
        package.evaluate("gaussian", **(held | given))
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
