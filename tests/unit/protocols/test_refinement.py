"""A tail refined on what others share: what it learns, what it leaves alone, and that it comes out again."""

import copy

import pytest
import torch
from tiny_network import Client, some, split_net
from torch import nn

from dpbench.protocols.sharing.benefit import _mean_of
from dpbench.protocols.sharing.refinement import ChannelMap, Shared, Tail, refine
from dpbench.protocols.sharing.suite import Refinement


def refined(shared=None, *, longer=False, seed=0, client=None, split=None, **settings):
    split = split or split_net()
    return refine(
        split,
        client or Client(split),
        some(12, seed=1),
        shared,
        Refinement(**({"steps": 3, "batch_size": 4, "learning_rate": 0.01} | settings)),
        longer=longer,
        channel_dim=1,
        seed=seed,
        generator=torch.Generator().manual_seed(seed),
        of_shared=torch.Generator().manual_seed(seed + 100),
        progress=lambda text: None,
    )


def shared_features(count=20):
    given = some(count, seed=2)
    with torch.no_grad():
        return Shared(labels=given.labels, features=split_net().client_head(given.images))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("adapter", [False, True])
def test_refinement_trains_a_copy_of_the_tail_and_keeps_the_statistics_of_batch_norm(adapter):
    split = split_net()
    before = copy.deepcopy(state(split))
    tail = refined(shared_features(), split=split, adapter=adapter)
    assert all(torch.equal(value, before[name]) for name, value in split.state_dict().items())
    learned, public = state(tail.tail), state(split.server_tail)
    for name in public:
        kept = any(part in name for part in ("running_", "num_batches"))
        assert torch.equal(learned[name], public[name]) == kept, name
    assert not tail.training
    assert not any(value.requires_grad for value in tail.parameters())


def test_refinement_is_repeatable_and_its_seed_matters():
    first, again, other = (refined(shared_features(), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in again.state_dict().items())
    assert not torch.equal(other.tail[-1].weight, first.tail[-1].weight)


def test_labels_may_be_shares_of_each_class():
    given = some(20, seed=2)
    shares = torch.nn.functional.one_hot(given.labels, 3).float()
    hard, soft, other = (
        refined(Shared(labels=labels, images=given.images)) for labels in (given.labels, shares, shares.flip(1))
    )
    for name, value in hard.state_dict().items():
        torch.testing.assert_close(soft.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other.tail[-1].weight, hard.tail[-1].weight, atol=1e-3)


def test_the_mean_of_tails_has_the_mean_of_their_weights():
    one, other = refined(seed=0), refined(seed=1)
    mean = _mean_of([one, other])
    expected = (one.tail[-1].weight + other.tail[-1].weight) / 2
    torch.testing.assert_close(mean.tail[-1].weight, expected)
    assert torch.equal(_mean_of([one]).tail[-1].weight, one.tail[-1].weight)


def test_a_step_takes_a_batch_of_own_images_and_twice_as_many_where_nothing_is_shared_for_longer():
    sizes = {}
    for longer in (False, True):
        client = Client(split_net())
        refined(client=client, longer=longer)
        sizes[longer] = [len(images) for images in client.asked[1:]]  # the first only tells the shape
    assert sizes == {False: [4, 4, 4], True: [8, 8, 8]}


def test_own_images_their_order_and_their_augmentation_are_the_same_whatever_is_shared():
    given = some(20, seed=2)
    asked = []
    for shared in (None, shared_features(), Shared(labels=given.labels, images=given.images)):
        client = Client(split_net())
        refined(shared, client=client, steps=8)
        asked.append(torch.cat(client.asked))
    assert torch.equal(asked[0], asked[1])
    assert torch.equal(asked[0], asked[2])


def test_refinement_learns_what_is_shared():
    """Own labels say nothing; features with the answer in their mean do."""
    split = split_net()
    labels = torch.arange(3).repeat(20)
    features = torch.randn(60, 4, 7, 7, generator=torch.Generator().manual_seed(0)) * 0.1
    features[torch.arange(60), labels] += 2.0
    tail = refined(Shared(labels=labels, features=features), split=split, steps=60, batch_size=16)
    with torch.no_grad():
        assert (tail(features, foreign=True).argmax(1) == labels).float().mean() > 0.9
        assert (split.server_tail(features).argmax(1) == labels).float().mean() < 0.7


def test_the_adapter_serves_foreign_features_alone():
    features = torch.randn(5, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    split = split_net()
    tail = Tail(split.server_tail, ChannelMap((4, 7, 7), 1)).eval()
    assert torch.allclose(tail(features, foreign=True), tail(features), atol=1e-6)  # before training
    trained_tail = refined(shared_features(), split=split, adapter=True)
    assert torch.equal(trained_tail(features), trained_tail.tail(features))
    assert not torch.allclose(trained_tail(features, foreign=True), trained_tail(features), atol=1e-4)
    assert isinstance(refined(adapter=True, split=split).adapter, nn.Identity)  # nothing is foreign


@pytest.mark.parametrize(("shape", "channel_dim"), [((4, 5, 6), 1), ((5, 5, 4), 3), ((7, 4), 2), ((4,), 1)])
def test_the_adapter_maps_channels_wherever_they_are(shape, channel_dim):
    adapter = ChannelMap(shape, channel_dim)
    features = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(adapter(features), features, atol=1e-6)
    with torch.no_grad():
        adapter.bias[2] += 1.0
        if len(shape) > 1:  # channel 0 becomes what channel 1 was
            adapter.weight[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    changed = adapter(features).movedim(channel_dim, 0)
    expected = features.movedim(channel_dim, 0).clone()
    if len(shape) > 1:
        expected[0] = expected[1]
    expected[2] += 1.0
    assert torch.allclose(changed, expected, atol=1e-6)
