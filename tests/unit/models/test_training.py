import pytest
import torch
from torch import nn

from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.machine.devices import fast_dtype
from dpbench.models import training


class Linear(nn.Linear):
    """Images -> logits; remembers whether it ran in 16 bits."""

    def __init__(self, size):
        super().__init__(3 * size * size, 4)
        self.fast = set()

    def forward(self, images):
        self.fast.add(torch.is_autocast_enabled("cpu"))
        return super().forward(images.flatten(1))


def fit(size, learning_rate=1e-3):
    generator = torch.Generator().manual_seed(0)
    images = LabelledImages(torch.rand(32, 3, size, size, generator=generator), torch.arange(32) % 4)
    model = Linear(size)
    training.fit_classifier(
        model,
        images,
        epochs=2,
        learning_rate=learning_rate,
        generator=generator,
        progress=lambda text: None,
        batch_size=16,
    )
    return model


def test_small_images_are_trained_on_in_fp32():
    assert fit(16).fast == {False}
    assert fit(31).fast == {False}
    assert fit(32).fast == {fast_dtype("cpu") is not None}
    assert training.recipe(31) != training.recipe(32) == training.recipe(224)


def test_a_training_that_diverged_is_an_error_and_no_network():
    with pytest.raises(DpbenchError, match=r"not finite; lower learning_rate = 1e\+38"):
        fit(16, learning_rate=1e38)
