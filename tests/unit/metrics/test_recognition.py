"""Whether reconstructions give victims away: ranks have known answers, and the judge is nobody's model under attack."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbench.contract.images import LabelledImages
from dpbench.data.datasets import load_parts
from dpbench.data.spec import DatasetSpec
from dpbench.machine.randomness import derive_generator, seeded
from dpbench.metrics import judge as judges
from dpbench.metrics import recognition
from dpbench.metrics.judge import labels_read
from dpbench.metrics.recognition import identity_ranks, reidentification_ranks
from dpbench.models import backbones, training
from dpbench.models.spec import BackboneSpec

CPU = torch.device("cpu")
SMALL = BackboneSpec(name="resnet10t", weights="fit", epochs=8)


@pytest.fixture(scope="module")
def parts(cache):
    spec = DatasetSpec(image_size=32, private=1500, auxiliary=1, test=120)
    return load_parts(spec, cache=cache / "datasets")


@pytest.fixture(scope="module")
def fit(parts):
    def fit(seed, epochs, images):
        private = LabelledImages(parts.private.images[:images], parts.private.labels[:images])
        spec = SMALL.model_copy(update={"epochs": epochs})
        return judges.fit_judge(
            spec,
            private,
            image_size=32,
            classes=len(parts.classes),
            generator=derive_generator(CPU, "judge", seed),
            device=CPU,
            progress=lambda text: None,
        )

    return fit


@pytest.fixture(scope="module")
def judge(fit, parts):
    return judges.make_judge(SMALL, fit(0, SMALL.epochs, 2000), image_size=32, classes=len(parts.classes), device=CPU)


def gallery_of(count, size=16, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_true_images_are_all_recognised(parts):
    images = parts.test.images
    assert reidentification_ranks(images, images, torch.arange(len(images))).tolist() == [0] * len(images)


@settings(max_examples=25, deadline=None)
@given(contrast=st.floats(0.01, 1), brightness=st.floats(0, 1), seed=st.integers(0, 1000))
def test_brightness_and_contrast_hide_nothing(contrast, brightness, seed):
    gallery = gallery_of(30, seed=seed)
    dull = contrast * gallery[:10] + (1 - contrast) * brightness
    assert reidentification_ranks(dull, gallery, torch.arange(10)).tolist() == [0] * 10


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 0.7, 1.0])
@pytest.mark.parametrize("size", [16, 224])
def test_a_constant_image_ranks_last(value, size):
    gallery = gallery_of(20, size)
    constant = torch.full((20, 3, size, size), value)
    assert reidentification_ranks(constant, gallery, torch.arange(20)).tolist() == [19] * 20
    rounded = (constant + 1e-7 * torch.randn(constant.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert reidentification_ranks(rounded, gallery, torch.arange(20)).tolist() == [19] * 20


def test_one_image_for_all_victims_recognises_one_of_them():
    gallery = gallery_of(20)
    ranks = reidentification_ranks(gallery[7].expand(20, -1, -1, -1), gallery, torch.arange(20))
    assert sorted(ranks.tolist()) == list(range(20))
    assert ranks[7] == 0


def test_noise_does_no_better_than_chance():
    gallery = gallery_of(50)
    ranks = torch.cat([reidentification_ranks(gallery_of(50, seed=s), gallery, torch.arange(50)) for s in range(1, 21)])
    # 1,000 draws, uniform over 0..49: mean 24.5 with a standard error of 0.46; top-1 2% with one of 0.44%
    assert ranks.double().mean().item() == pytest.approx(24.5, abs=4 * 0.46)
    assert (ranks == 0).double().mean().item() == pytest.approx(0.02, abs=4 * 0.0044)


def test_ranks_count_the_images_that_are_nearer():
    gallery = gallery_of(5)
    mixed = 0.6 * gallery[3] + 0.4 * gallery[1]
    ranks = reidentification_ranks(mixed.expand(2, -1, -1, -1), gallery, torch.tensor([3, 1]))
    assert ranks.tolist() == [0, 1]


def test_ties_count_against_the_attacker():
    gallery = torch.cat([gallery_of(4), gallery_of(4)[:1]])  # the first image twice
    assert reidentification_ranks(gallery, gallery, torch.arange(5)).tolist() == [1, 0, 0, 0, 1]
    broken = torch.full((1, 3, 16, 16), torch.nan)
    assert reidentification_ranks(broken, gallery, torch.tensor([2])).tolist() == [4]


def test_a_negative_is_not_the_image():
    gallery = gallery_of(12)
    assert reidentification_ranks(1 - gallery, gallery, torch.arange(12)).tolist() == [11] * 12


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_ranks_depend_neither_on_the_batch_nor_on_the_order(batch_size):
    generator = torch.Generator().manual_seed(3)
    gallery = gallery_of(60)
    truth = torch.randperm(60, generator=generator)[:40]
    noisy = gallery[truth] + 6 * torch.randn(40, 3, 16, 16, generator=generator)
    ranks = reidentification_ranks(noisy, gallery, truth)
    assert 0 < (ranks == 0).sum() < 40  # neither all nor none: a test that can fail
    assert torch.equal(ranks, reidentification_ranks(noisy, gallery, truth, batch_size=batch_size))

    order, shelf = torch.randperm(40, generator=generator), torch.randperm(60, generator=generator)
    moved = reidentification_ranks(noisy[order], gallery[shelf], shelf.argsort()[truth[order]])
    assert torch.equal(moved, ranks[order])


def test_the_judge_is_never_of_the_architecture_under_attack():
    for name in ("resnet10t", "resnet14t", "resnet14t.c3_in1k", "mobilenetv2_100", "vit_tiny_patch16_224"):
        spec = judges.judge_spec(name)
        assert spec.name != name.split(".")[0]
        assert spec.weights == "fit"


def test_a_pretrained_backbone_is_judged_by_another_pretrained_network():
    assert judges.pretrained_judge_spec("tf_efficientnet_lite0", 1000).name == "mobilenetv2_100"
    spec = judges.pretrained_judge_spec("mobilenetv2_100", 1000)
    assert spec.name == "tf_efficientnet_lite0"
    assert judges.pretrained_judge_spec("mobilenetv2_100", 10) is None
    shape = {"image_size": 96, "classes": 1000}
    state = judges.load_judge(spec, image_size=96, names=[f"n{number:04}" for number in range(1000)])
    judge = judges.make_judge(spec, state, **shape, device=CPU)
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.allclose(judge(images), judge[1:](images))  # not scaled down


def test_the_judge_reads_labels_of_images_it_never_saw(judge, parts):
    read = labels_read(judge, parts.test.images, parts.test.labels)
    assert sum(read) / len(read) > 0.35  # chance: 0.1
    shuffled = labels_read(judge, parts.test.images, parts.test.labels.roll(1))
    assert sum(shuffled) / len(shuffled) < 0.25


@pytest.mark.parametrize("batch_size", [1, 7, 120])
def test_what_the_judge_reads_does_not_depend_on_the_batch(judge, parts, batch_size):
    together = labels_read(judge, parts.test.images, parts.test.labels)
    assert labels_read(judge, parts.test.images, parts.test.labels, batch_size=batch_size) == together
    backwards = labels_read(judge, parts.test.images.flip(0), parts.test.labels.flip(0), batch_size=batch_size)
    assert backwards[::-1] == together


def test_a_judge_is_frozen_and_comes_back_from_its_weights(judge, parts):
    assert not any(module.training for module in judge.modules())
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    state = judge[-1].state_dict()
    again = judges.make_judge(SMALL, state, image_size=32, classes=len(parts.classes), device=CPU)
    assert torch.equal(again(parts.test.images), judge(parts.test.images))


def test_the_same_seed_fits_the_same_judge_and_nothing_outside_notices(fit):
    before = torch.random.get_rng_state()
    one, two, other = fit(1, 1, 256), fit(1, 1, 256), fit(2, 1, 256)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv1.0.weight"], other["conv1.0.weight"])


def test_a_judge_shares_no_weights_with_a_backbone_of_another_seed(judge, parts):
    with seeded(11, CPU):
        backbone = backbones.create_backbone(SMALL, image_size=32, classes=len(parts.classes))
        training.fit_classifier(
            torch.nn.Sequential(backbones.normalisation(backbone), backbone),
            LabelledImages(parts.private.images[:256], parts.private.labels[:256]),
            epochs=1,
            learning_rate=SMALL.learning_rate,
            generator=derive_generator(CPU, 11),
            progress=lambda text: None,
        )
    theirs = backbone.state_dict()
    for name, weight in judge[-1].named_parameters():
        assert not torch.equal(weight, theirs[name]), name


def test_large_images_are_read_at_a_smaller_size():
    spec = BackboneSpec(name="resnet10t", weights="fit", epochs=0)
    common = {"classes": 4, "device": CPU}
    images = LabelledImages(gallery_of(3, 96), torch.zeros(3, dtype=torch.int64))
    state = judges.fit_judge(
        spec, images, image_size=96, generator=derive_generator(CPU, 0), progress=lambda text: None, **common
    )
    large = judges.make_judge(spec, state, image_size=96, **common)
    small = judges.make_judge(spec, state, image_size=64, **common)
    shrunk = torch.nn.functional.adaptive_avg_pool2d(images.images, 64)
    torch.testing.assert_close(large(images.images), small(shrunk))


def test_perfect_reconstructions_give_everything_away(judge, parts):
    everything = labels_read(judge, parts.test.images, parts.test.labels)
    found = recognition.recognise(parts.test.images[:20], parts.test, 20, judge, "resnet10t", 0.5)
    assert found.reid_rank == [0] * 20
    assert found.label_read == everything[:20]
    assert (found.gallery, found.judge, found.judge_accuracy) == (120, "resnet10t", 0.5)


def test_a_grey_image_gives_nothing_away(judge, parts):
    grey = torch.full_like(parts.test.images[:50], 0.5)
    found = recognition.recognise(grey, parts.test, 50, judge, "resnet10t", 0.5)
    assert found.reid_rank == [119] * 50
    guessed = judge(grey).argmax(dim=1)[0].item()
    assert found.label_read == (parts.test.labels[:50] == guessed).tolist()  # one guess for all


def people(count, pictures, seed=0):
    """`pictures` of each of `count` people, (count * pictures, 3, 16, 16): they differ by a little noise."""
    labels = torch.arange(count).repeat_interleave(pictures)
    noise = 0.2 * gallery_of(len(labels), seed=seed + 1)
    return LabelledImages((0.8 * gallery_of(count)[labels] + noise), labels)


def test_people_are_identified_by_other_pictures_of_them():
    enrolled, victims = people(10, 3), people(10, 1, seed=5)
    assert identity_ranks(victims.images, victims.labels, enrolled).tolist() == [0] * 10
    strangers = victims.labels.roll(1)
    assert identity_ranks(victims.images, strangers, enrolled).min() > 0
    some = identity_ranks(victims.images * 0.3 + 0.1, victims.labels, enrolled, batch_size=3)
    assert some.tolist() == [0] * 10  # brightness and contrast hide nobody


def test_what_shows_nothing_identifies_nobody():
    enrolled, victims = people(10, 3), people(10, 1, seed=5)
    for nothing in (torch.full_like(victims.images, 0.5), torch.full_like(victims.images, torch.nan)):
        assert identity_ranks(nothing, victims.labels, enrolled).tolist() == [9] * 10
    absent = LabelledImages(enrolled.images[3:], enrolled.labels[3:])
    ranks = identity_ranks(victims.images, victims.labels, absent)
    assert ranks.tolist() == [8] + [0] * 9  # of nine classes: a record holds no larger rank


def test_numbers_that_stand_for_no_enrolled_class_are_not_counted():
    enrolled, victims = people(10, 3), people(10, 1, seed=5)
    few = LabelledImages(enrolled.images[:6], enrolled.labels[:6] + 40)
    ranks = identity_ranks(victims.images[:3], torch.tensor([40, 41, 3]), few)
    assert ranks.tolist() == [0, 0, 1]
    nothing = torch.full_like(victims.images[:2], torch.nan)
    assert identity_ranks(nothing, torch.tensor([40, 41]), few).tolist() == [1, 1]


def test_noise_identifies_by_chance():
    enrolled, labels = people(10, 3), torch.arange(10).repeat(100)
    ranks = identity_ranks(gallery_of(1000, seed=9), labels, enrolled)
    assert 0.06 < float((ranks == 0).float().mean()) < 0.14


def test_identity_is_asked_where_there_are_other_pictures(judge, parts):
    images = parts.test.images[:20]
    assert recognition.recognise(images, parts.test, 20, judge, "x", 0.5).identity_rank is None
    found = recognition.recognise(images, parts.test, 20, judge, "x", 0.5, parts.private)
    assert len(found.identity_rank) == 20
    assert found.identities == len(parts.classes)
