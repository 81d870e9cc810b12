"""A release that depends on the other images of its batch is refused."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.errors import DpbenchError
from dpbench.service.same_release import assert_same_in_other_batches


class Batchwise(ProtectedModel):
    """A release that may depend on the batch."""

    name: ClassVar[str] = "batchwise"

    def __init__(self, how):
        super().__init__(SplitModel(nn.Identity(), nn.Identity(), split_point="x", image_shape=(3, 8, 8), classes=2))
        self.how = how

    def transform(self, features, *, generator=None):
        noise = torch.randn(features.shape, generator=generator)
        return {
            "alone": features + noise,
            "plain": features,
            "centred": features - features.mean(0),
            "noisier": features + noise * (1 if len(features) == 64 else 3),
            "large": features if len(features) > 50 else features * 0,
            "mask": features * (noise > 0),
        }[self.how]


@pytest.mark.parametrize("how", ["alone", "plain", "mask"])
def test_releases_that_look_at_one_image_each_pass(how):
    assert_same_in_other_batches(Batchwise(how), torch.rand(64, 3, 8, 8), seed=5)


@pytest.mark.parametrize("how", ["centred", "noisier", "large"])
def test_releases_that_depend_on_the_batch_are_refused(how):
    with pytest.raises(DpbenchError, match="releases something else in batches of"):
        assert_same_in_other_batches(Batchwise(how), torch.rand(64, 3, 8, 8), seed=5)
