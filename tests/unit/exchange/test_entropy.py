"""Noise of a release that is sent: fresh, and of more than a seed."""

import torch

from dpbench.exchange.entropy import fresh_generator


def test_fresh_noise_is_noise_and_never_the_same():
    first, second = (torch.randn(20_000, generator=fresh_generator(torch.device("cpu"))) for _ in range(2))
    for noise in (first, second):
        assert abs(noise.mean()) < 0.05
        assert abs(noise.std() - 1) < 0.05
    assert abs((first * second).mean()) < 0.05
    assert not torch.equal(first[:100], second[:100])


def test_fresh_noise_comes_from_more_than_a_seed():
    generator = fresh_generator(torch.device("cpu"))
    state = generator.get_state()
    seeded = torch.Generator().manual_seed(generator.initial_seed()).get_state()
    # nearly every byte of the 624 words of 32 bits differs from what any seed gives
    assert int((state != seeded).sum()) > 624 * 4 * 0.9
    again = torch.Generator().set_state(state)
    assert torch.equal(torch.rand(2000, generator=generator), torch.rand(2000, generator=again))
