"""What a sender hands over: means of groups, mixtures of fits, and controls that change what they name alone."""

import numpy as np
import pytest
import torch
from sharing_records import trained
from tiny_network import some, split_net

from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.protocols.sharing.benefit import Benefit
from dpbench.protocols.sharing.pipeline import Mixing, Several, groups_of, mean_of_groups, mixed_release
from dpbench.service.release import Release, release_bits


def test_groups_of_a_class_share_their_mean():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 0])
    groups = groups_of(labels, 2, torch.Generator().manual_seed(0))
    assert sorted(len(group) for group in groups) == [2, 3, 3]
    assert sorted(torch.cat(groups).tolist()) == list(range(8))
    assert all(len(labels[group].unique()) == 1 for group in groups)
    features = torch.rand(8, 3, 2)
    means = mean_of_groups(features, groups)
    for group in groups:
        torch.testing.assert_close(means[group], features[group].mean(0).expand(len(group), 3, 2))
    with pytest.raises(DpbenchError, match="class 1 has 3 images, but 4 of a class are to be shared as one"):
        groups_of(labels, 4, torch.Generator())


@pytest.mark.parametrize(("together", "values", "bits"), [(1, 5, 3), (2, 9, 2), (4, 17, 1.25)])
def test_a_mean_has_more_levels_and_is_sent_once_for_its_group(together, values, bits):
    """Means of k numbers out of 0, 1, .. 4 are 4 k + 1 different ones."""
    labels = torch.zeros(400, dtype=torch.int64)
    features = torch.randint(0, 5, (400, 64), generator=torch.Generator().manual_seed(0)).float()
    before = Release((features,), labels, release_bits(features), features.dtype)
    groups = groups_of(labels, together, torch.Generator().manual_seed(0))
    mixed = mixed_release(before, groups, together)
    assert len(mixed.features[0].unique()) == values
    assert (mixed.bits, mixed.images) == (bits * 64, together)


def test_means_of_what_has_no_levels_are_floats():
    features = torch.rand(32, 16, generator=torch.Generator().manual_seed(0))
    groups = groups_of(torch.zeros(32, dtype=torch.int64), 2, torch.Generator().manual_seed(0))
    half = Release((features,), torch.zeros(32), 16 * 16, torch.float16)
    mixed = mixed_release(half, groups, 2)
    assert (mixed.bits, mixed.dtype) == (16 * 32 / 2, torch.float32)


def test_an_attacker_of_means_makes_means_of_its_own():
    split, known, images = split_net(), some(200, seed=4), some(6, seed=5).images
    mixing = Mixing(ProtectedModel(split), known, 3, generator=torch.Generator())
    with torch.no_grad():
        own, bank = split.client_head(images), split.client_head(known.images)
        classes = split.server_tail(own).argmax(1)
        mixed = mixing.release(images, generator=torch.Generator().manual_seed(0))
        other = mixing.release(images, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(mixed, other)
    for row, (one, label) in enumerate(zip(own, classes, strict=True)):
        alike = bank[known.labels == label]
        rest = (3 * mixed[row] - one)[None] - alike  # what the other partner must be, for each first one
        off = torch.cdist(rest.flatten(1), alike.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        assert off.min() < 1e-4


class Constant(ProtectedModel):
    """Releases one number."""

    def __init__(self, split, value):
        super().__init__(split)
        self.value = value

    def release(self, images, *, generator=None):
        noise = torch.rand(len(images), 2, generator=generator)
        return self.value + images.mean(dim=(1, 2, 3))[:, None] + 0 * noise


def test_a_mixture_answers_each_image_with_one_of_its_fits():
    split, images = split_net(), some(64, seed=0).images
    models = [Constant(split, value) for value in (0.0, 10.0, 20.0)]
    released = Several(models).release(images, generator=torch.Generator().manual_seed(0))
    each = torch.stack([model.release(images) for model in models])
    equal = (released == each).all(dim=2)
    assert (equal.sum(dim=0) == 1).all()
    assert (equal.sum(dim=1) > 8).all()  # all occur, none nearly always
    again = Several(models).release(images, generator=torch.Generator().manual_seed(0))
    other = Several(models).release(images, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again, released)
    assert not torch.equal(other, released)
    assert Several(models).release(images[:1]).shape == (1, 2)


class Channel:
    """Stands in for the pipeline: a sender's features, clean and defended."""

    device = torch.device("cpu")
    world = None

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.clean = torch.randn(200, 3, 4, 4, generator=generator)
        self.defended = self.clean + 0.7 * torch.rand(self.clean.shape, generator=generator)
        self.labels = torch.arange(10).repeat(20)

    def shared(self, sender, defense, progress):
        return (self.clean if defense.name == "none" else self.defended), self.labels


def handed_over(condition):
    channel = Channel()
    unit = trained(condition, None, defense="dpm", error="").unit
    return channel, Benefit(channel)._shared(unit, ["hospital"], lambda text: None)


def test_controls_change_what_they_name_and_nothing_else():
    channel, clean = handed_over("clean-features")
    assert torch.equal(clean.features, channel.clean)
    channel, defended = handed_over("defended-features")
    assert torch.equal(defended.features, channel.defended)
    assert torch.equal(defended.labels, channel.labels)

    channel, shuffled = handed_over("shuffled-labels")
    assert torch.equal(shuffled.features, channel.defended)
    assert torch.equal(shuffled.labels.sort().values, channel.labels.sort().values)
    assert (shuffled.labels == channel.labels).float().mean() < 0.3  # a tenth by chance

    channel, noisy = handed_over("equal-noise")
    assert torch.equal(noisy.labels, channel.labels)
    noise, change = noisy.features - channel.clean, channel.defended - channel.clean
    assert noise.square().mean().item() == pytest.approx(change.square().mean().item(), rel=0.05)
    assert abs(np.corrcoef(noise.flatten(), change.flatten())[0, 1]) < 0.05
    assert abs(noise.mean()) < 0.05  # of the power alone: what shifts all features alike is not copied
    assert handed_over("own")[1] is None
