"""Victims named among candidates by comparing releases: what names them, and what does not."""

import pytest
import torch

from dpbench.metrics import linkage
from dpbench.metrics.linkage import link_ranks

IMAGES = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def flat(images):
    return images.flatten(1)


def noisy(std, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda images: flat(images) + std * torch.randn(len(images), 48, generator=generator)


def ranks(release, query, victims=10, parts=(IMAGES,)):
    return link_ranks([release(IMAGES[:victims])], list(parts), query)


def test_a_deterministic_release_names_every_victim_however_it_scrambles():
    mixing = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(1))).Q
    for release in (flat, lambda images: flat(images) @ mixing, lambda images: (9 * flat(images)).round()):
        assert ranks(release, release) == [0] * 10


def test_a_client_is_never_asked_about_no_image():
    def release(images):
        assert len(images)
        return flat(images)

    assert ranks(release, release, parts=(IMAGES, IMAGES[:0])) == [0] * 10


def test_values_of_any_scale_count():
    scale = torch.logspace(-6, 6, 48)

    def release(images):
        return flat(images) * scale + 1000

    assert ranks(release, release) == [0] * 10


def test_noise_hides_the_more_the_larger_it_is():
    found = [sum(rank == 0 for rank in ranks(noisy(std), noisy(std, seed=1), victims=40)) for std in (0.1, 0.5, 30.0)]
    assert found[0] == 40
    assert found[0] > found[1] > found[2]
    assert found[2] < 8


def test_averaging_over_draws_beats_a_single_one(monkeypatch):
    few = link_ranks([noisy(0.7)(IMAGES)], [IMAGES], noisy(0.7, seed=1), draws=2)
    many = link_ranks([noisy(0.7)(IMAGES)], [IMAGES], noisy(0.7, seed=1), draws=32)
    assert sum(many) < sum(few)


def test_a_release_that_says_nothing_names_nobody():
    def release(images):
        return torch.zeros(len(images), 5)

    assert ranks(release, release) == [59] * 10


def test_ties_count_against_the_attacker():
    twice = torch.cat([IMAGES, IMAGES[:1]])
    assert ranks(flat, flat, parts=[twice]) == [1] + [0] * 9


def test_candidates_may_come_in_several_parts_and_many_batches(monkeypatch):
    expected = link_ranks([noisy(2.0)(IMAGES[:10])], [IMAGES], lambda images: flat(images))
    monkeypatch.setattr(linkage, "AT_ONCE", 7)
    monkeypatch.setattr(linkage, "REFERENCE", 60)
    assert link_ranks([noisy(2.0)(IMAGES[:10])], [IMAGES], lambda images: flat(images)) == expected
    halves = [IMAGES[:30], IMAGES[30:]]
    monkeypatch.setattr(linkage, "REFERENCE", 30)
    alike = link_ranks([IMAGES[:10].flatten(1)], halves, lambda images: flat(images))
    assert alike == [0] * 10


def test_not_a_number_names_nobody():
    def broken(images):
        codes = flat(images).clone()
        codes[:, 0] = torch.nan
        return codes

    assert min(ranks(flat, broken)) == 59


def test_a_client_that_releases_another_shape_cannot_be_compared():
    assert ranks(flat, lambda images: images.mean(dim=(2, 3))) is None


def drawing(change, seed):
    """Images (n,3,4,4) or what `change` makes of them with fresh draws."""
    generator = torch.Generator().manual_seed(seed)
    return lambda images: change(images, generator)


def one_order(count, generator):
    return torch.rand(count, 16, generator=generator).argsort(1)


def shuffled_places(images, generator):
    order = one_order(len(images), generator)[:, None].expand(-1, 3, -1)
    return images.flatten(2).gather(2, order).unflatten(2, (4, 4))


def shuffled_tokens(images, generator):
    tokens = images.flatten(2).transpose(1, 2)
    return tokens.gather(1, one_order(len(images), generator)[:, :, None].expand_as(tokens))


def shuffled_values(images, generator):
    order = torch.rand(len(images), 48, generator=generator).argsort(1)
    return images.flatten(1).gather(1, order)


STORED = 40 * torch.randn(6, 48, generator=torch.Generator().manual_seed(9))


def with_one_of_six(images, generator):
    return flat(images) + STORED[torch.randint(6, (len(images),), generator=generator)]


@pytest.mark.parametrize("change", [shuffled_places, shuffled_tokens, shuffled_values, with_one_of_six])
def test_who_may_ask_finds_what_a_client_draws_from(change):
    """An order says nothing of who it is, nor does noise that is one of six."""
    found = ranks(drawing(change, 0), drawing(change, 1), victims=40)
    assert found.count(0) >= 38


def test_a_shuffle_that_is_noisy_too_is_averaged_over():
    def change(images, generator):
        sent = shuffled_places(images, generator)
        return sent + 0.05 * torch.randn(sent.shape, generator=generator)

    assert ranks(drawing(change, 0), drawing(change, 1), victims=40).count(0) >= 36


def test_of_several_releases_more_is_known():
    found = []
    for count in (1, 8):
        release = noisy(1.0)
        several = [release(IMAGES[:40]) for _ in range(count)]
        found.append(link_ranks(several, [IMAGES], noisy(1.0, seed=1)).count(0))
    assert found[1] > found[0] + 5
