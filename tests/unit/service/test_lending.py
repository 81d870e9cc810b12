"""What a plug-in is lent comes back as it was, or the plug-in fails by name."""

import pytest
import torch

from dpbench.border.lending import Lent
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError


@pytest.fixture
def owned():
    images = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return LabelledImages(images.contiguous(memory_format=torch.channels_last), torch.arange(10))


CHANGES = {
    "in place": lambda images: images.mul_(2),
    "data": lambda images: images.data[3, 0, 0, 0].add_(1e-6),
    "numpy": lambda images: images.numpy().__setitem__(0, 0),
    "flipped": lambda images: images.copy_(images.flip(3).clone()),
    "shuffled": lambda images: images.copy_(images.flip(0).clone()),
    "storage": lambda images: images.untyped_storage().fill_(0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_are_noticed_and_forgotten(owned, change):
    forgotten = []
    lent = Lent(owned, "defense 'x'", "fit", lambda: forgotten.append(True))
    CHANGES[change](lent.images.images)
    with pytest.raises(DpbenchError, match="defense 'x' changed the images it was given, in fit"):
        lent.check()
    assert forgotten


def test_what_changes_nothing_of_the_owners_is_allowed(owned):
    before = owned.images.clone()
    lent = Lent(owned, "attack 'x'", "reconstruct", pytest.fail)
    lent.images.labels.zero_()
    lent.images.images.requires_grad_(True).sum().backward()
    lent.images.images.data = torch.zeros(1)
    lent.check()
    assert torch.equal(owned.images, before)
    assert not owned.images.requires_grad
    assert owned.labels.tolist() == list(range(10))
