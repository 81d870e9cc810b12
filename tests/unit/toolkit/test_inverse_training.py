"""How an inverse network is trained where images are large and batches small."""

import torch

from dpbench.contract.attack import Observation
from dpbench.contract.images import LabelledImages
from dpbench.machine.randomness import derive_generator
from dpbench.service.release import RELEASE_BATCH
from dpbench.toolkit.inverse_network import HeldOut
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import WINDOW, same_window

CPU = torch.device("cpu")


def test_small_batches_are_asked_for_together() -> None:
    asked: list[int] = []

    def query(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return torch.nn.functional.avg_pool2d(images, 2)

    images = torch.rand(132, 3, 16, 16, generator=derive_generator(CPU, "images"))
    seen = Observation(
        released=query(images[:2]),
        image_shape=(3, 16, 16),
        auxiliary=LabelledImages(images, torch.zeros(132, dtype=torch.int64)),
        query=query,
        client=None,
        remember=lambda name, train, depends_on, owner=None: train(derive_generator(CPU, name)),
    )
    asked.clear()
    InverseTraining(steps=10, width=8, blocks=1, batch_size=16, learning_rate=0.01).trained(seen)
    attempts = 2 if "retried" in seen.notes else 1
    # of 132 images statistics, then of 10 steps of 16 images four, four and two at once
    convolutions = attempts * [RELEASE_BATCH, RELEASE_BATCH, 4, RELEASE_BATCH, RELEASE_BATCH, 32]
    assert asked[: len(convolutions)] == convolutions
    linear = asked[len(convolutions) :][:5]  # 99 images and their mirror images, then those that were left out
    assert linear == [RELEASE_BATCH, RELEASE_BATCH, 35, 35, 33]


def test_few_images_are_not_judged_by() -> None:
    images = torch.rand(40, 3, 16, 16, generator=derive_generator(CPU, "few"))

    def query(some: torch.Tensor) -> torch.Tensor:
        return some.flatten(1)

    states: list[dict[str, torch.Tensor]] = []

    def remember(name, train, depends_on, owner=None):  # type: ignore[no-untyped-def]
        states.append(train(derive_generator(CPU, name)))
        return states[-1]

    seen = Observation(
        released=query(images[:2]),
        image_shape=(3, 16, 16),
        auxiliary=LabelledImages(images, torch.zeros(40, dtype=torch.int64)),
        query=query,
        client=None,
        remember=remember,
    )
    InverseTraining(steps=2, width=8, blocks=1, batch_size=16).trained(seen)
    assert states[0]["linear_loss"] == torch.inf
    assert "linear_loss" not in seen.notes


def test_windows_are_the_same_of_both_images() -> None:
    images = torch.rand(2, 3, 200, 120, generator=derive_generator(CPU, "large"))
    places = set()
    for seed in range(8):
        one, other = same_window(images, images, derive_generator(CPU, seed))
        assert one.shape == (2, 3, WINDOW, WINDOW)
        assert torch.equal(one, other)
        places.add(one.storage_offset())
    assert len(places) > 4
    small = images[:, :, :64, :WINDOW]
    generator = derive_generator(CPU, "small")
    state = generator.get_state()
    assert torch.equal(same_window(small, small, generator)[0], small)
    assert torch.equal(generator.get_state(), state), "figures of small images would change"


def test_what_is_held_out_keeps_a_long_training_from_learning_few_images_by_heart() -> None:
    generator = derive_generator(CPU, "smooth")
    coarse = torch.rand(160, 3, 3, 3, generator=generator)
    images = torch.nn.functional.interpolate(coarse, 16, mode="bilinear", align_corners=False)
    known, fresh = images[:96], images[96:]

    def query(some: torch.Tensor) -> torch.Tensor:
        told = some.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)  # a colour, beside values that name an image
        return torch.cat([told, torch.sin(1000 * some[:, :, ::4, ::4])], dim=1)

    def error(**parameters: float) -> float:
        seen = Observation(
            released=query(fresh),
            image_shape=(3, 16, 16),
            auxiliary=LabelledImages(known, torch.zeros(len(known), dtype=torch.int64)),
            query=query,
            client=None,
            remember=lambda name, train, depends_on, owner=None: train(derive_generator(CPU, "one")),
        )
        training = InverseTraining(steps=300, width=16, blocks=1, batch_size=16, **parameters)
        network = training.trained(seen)
        mean = training._loss(known.mean(0, keepdim=True).expand_as(fresh), fresh)
        return float(training._loss(training.apply(network, seen.released), fresh) / mean)

    by_heart = error()
    assert by_heart > 1.02, "worse than the mean image"
    for averaged in (0, 0.9):
        assert error(held_out=0.25, average=averaged) - 1 < (by_heart - 1) / 2


def test_the_best_weights_so_far_are_kept() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    judge = HeldOut(torch.zeros(2, 1), lambda some: some + 1, lambda net, seen: net(seen), lambda got, true: got.sum())
    for weight, best in ((float("nan"), None), (3.0, 3.0), (1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)):
        torch.nn.init.constant_(network.weight, weight)
        judge.judge(network, {})
        if best is not None:
            assert judge.loss == 2 * best
            assert judge.state["weight"].item() == best
    assert network.training
    judge.judge(network, {"weight": torch.full((1, 1), 0.5)})  # a mean in its place
    assert judge.state["weight"].item() == 0.5
    assert network.weight.isnan().all()
