"""Defenses that train: what each changes, and what its loss measures."""

from typing import Any

import numpy as np
import pytest
import torch
from dpbench_defenses._dependence import distance_correlation_squared, distances, pearson_squared
from dpbench_defenses._tuning import Criterion, FineTuning, Step, TrainedModel, Training
from dpbench_defenses.disco import PrunedModel
from dpbench_defenses.siamese import ContrastiveCriterion
from torch import Tensor, nn
from trained import PRIVATE, fitted, undefended

from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import defenses
from dpbench.testing.tiny import CPU, LAYOUTS, TinyNetwork, pictures, smooth

TUNED = ("fine-tuned", "nopeek", "adversarial", "vib", "cem", "siamese", "siftfunnel")
FROZEN = ("shredder", "cloak", "disco")


@torch.no_grad()
def released(model: ProtectedModel, images: Tensor, seed: int = 0) -> Tensor:
    return model.release(images, generator=derive_generator(CPU, seed))


def accuracy(model: ProtectedModel) -> float:
    test = pictures(128, seed="test")
    return float((model.predict(released(model, test.images[:])).argmax(1) == test.labels).float().mean())


class TestWhatLearns:
    @pytest.mark.parametrize("name", TUNED)
    def test_both_halves_do_and_statistics_do_not(self, name: str) -> None:
        model, before = fitted(name), TinyNetwork().split()
        for half in ("client_head", "server_tail"):
            now, then = (getattr(split, half) for split in (model.split, before))
            assert all(not torch.equal(a, b) for a, b in zip(now.parameters(), then.parameters(), strict=True))
            assert all(torch.equal(a, b) for a, b in zip(now.buffers(), then.buffers(), strict=True))

    @pytest.mark.parametrize("name", FROZEN)
    def test_a_frozen_network_stays_what_it_was(self, name: str) -> None:
        model, before = fitted(name), TinyNetwork().split().state_dict()
        assert all(torch.equal(value, before[key]) for key, value in model.split.state_dict().items())
        assert any(parameter.any() for key, parameter in model.named_parameters() if not key.startswith("split."))

    def test_all_that_fine_tune_have_one_budget(self) -> None:
        budget = ("epochs", "learning_rate", "batch_size")
        tuned = [cls for cls in defenses().values() if issubclass(cls, FineTuning)]
        assert {cls.name for cls in tuned} == set(TUNED)
        assert len({tuple(cls.model_fields[name].default for name in budget) for cls in tuned}) == 1
        assert all(issubclass(defenses()[name], Training) for name in FROZEN)

    def test_fine_tuning_alone_learns_the_task(self) -> None:
        assert accuracy(fitted("fine-tuned", epochs=8, learning_rate=0.01)) > accuracy(undefended()) + 0.2

    @pytest.mark.parametrize("objective", ["deep-obfuscator", "ressfl", "patrol"])
    def test_each_objective_leads_elsewhere(self, objective: str) -> None:
        model, other = fitted("adversarial", objective=objective), fitted("fine-tuned")
        assert not torch.equal(*(m.split.client_head.conv.weight for m in (model, other)))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_patrol_takes_channels_out_and_the_server_reads_zeros(self, layout: str) -> None:
        model = fitted("adversarial", layout, objective="patrol", prune=0.5)
        images = pictures(8, seed="test").images[:]
        axis, channels = model.released_axis, model.released_channels
        release = released(model, images)
        assert release.shape[axis] == channels - channels // 2
        whole = model.restored(release)
        assert whole.shape[1:] == model.released_shape
        gone = [place for place in range(channels) if place not in model.kept.tolist()]
        assert not whole.index_select(axis, torch.tensor(gone)).any()
        assert torch.equal(whole.index_select(axis, model.kept), release)
        # fewer channels stay than were masked least: by what they learned
        order = model.scores.argsort(descending=True, stable=True)
        assert model.kept.tolist() == sorted(order[: model.staying].tolist())
        assert model.scores.unique().numel() > 1
        again = configure(defenses()["adversarial"], {"objective": "patrol", "prune": 0.5})
        copied = again.build(TinyNetwork(layout).split()).eval().requires_grad_(False)
        copied.load_state_dict(model.state_dict())
        assert torch.equal(released(copied, images), release)

    def test_pruning_belongs_to_patrol(self) -> None:
        with pytest.raises(DpbenchError, match=r"prune = 0\.5 belongs to objective = 'patrol'"):
            configure(defenses()["adversarial"], {"prune": 0.5})

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_a_bottleneck_starts_from_principal_axes(self, layout: str) -> None:
        """Before any training the server gets back what least squares can give it."""
        defense = configure(defenses()["fine-tuned"], {"bottleneck": 8})
        model = defense.build(TinyNetwork(layout).split()).eval()
        assert isinstance(model, TrainedModel)
        assert isinstance(defense, FineTuning)
        defense.prepare(model, PRIVATE, generator=derive_generator(CPU, "fit"))
        with torch.no_grad():
            features = model.features(PRIVATE.images[:])
            code = model.transform(features)
            error = (model.restored(code) - features).square().sum()
        assert code.shape[1:] == model.released_shape
        assert code.shape[2 if layout == "tokens" else 1] == 8
        axis = {"tokens": 2, "channels last": 3}.get(layout, 1)
        rows = features.movedim(axis, -1).flatten(0, -2)
        lost = torch.linalg.svdvals(rows - rows.mean(0))[8:].square().sum()
        assert error == pytest.approx(float(lost), rel=0.05)

    def test_fewer_channels_than_asked_for_are_all_kept(self) -> None:
        assert fitted("fine-tuned", bottleneck=64).released_shape == (12, 8, 8)


class TestDependence:
    def test_distance_correlation_is_that_of_its_definition(self) -> None:
        one, other = smooth(20, seed="one"), smooth(20, seed="other").square()

        def centred(batch: Tensor) -> Any:
            rows = batch.flatten(1).double().numpy()
            apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)
            return apart - apart.mean(0) - apart.mean(1, keepdims=True) + apart.mean()

        a, b = centred(one), centred(other)
        expected = (a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())
        assert float(distance_correlation_squared(one, other)) == pytest.approx(expected, rel=1e-3)
        assert float(distance_correlation_squared(one, 3 * one + 1)) == pytest.approx(1, rel=1e-3)

    def test_it_sees_what_is_not_linear(self) -> None:
        line = torch.linspace(-1, 1, 101)[:, None]
        assert float(distance_correlation_squared(line, line.square())) > 0.15

    def test_equal_rows_have_a_gradient(self) -> None:
        batch = torch.ones(4, 3, requires_grad=True)
        distances(batch).sum().backward()
        assert batch.grad is not None
        assert batch.grad.isfinite().all()

    @pytest.mark.parametrize("layout", ["maps", "tokens", "channels last"])
    def test_pearson_is_one_where_channels_are_the_brightness(self, layout: str) -> None:
        images = smooth(4, seed="bright")
        factors = torch.tensor([2.0, -1, 3]).view(3, 1, 1)
        maps = factors * torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 2)
        features = {"maps": maps, "tokens": maps.flatten(2).transpose(1, 2), "channels last": maps.permute(0, 2, 3, 1)}
        assert float(pearson_squared(images, features[layout])) == pytest.approx(1, rel=1e-3)

    @pytest.mark.parametrize("name", ["nopeek", "siftfunnel"])
    def test_training_lowers_it(self, name: str) -> None:
        images = pictures(64, seed="test").images[:]
        strong, alone = (
            float(distance_correlation_squared(images, released(model, images)))
            for model in (fitted(name, strength=30, learning_rate=0.01), fitted("fine-tuned", learning_rate=0.01))
        )
        assert strong < alone - 0.02


class TestMechanisms:
    def test_shredder_adds_one_of_its_tensors(self) -> None:
        model, images = fitted("shredder", tensors=3), smooth(12, seed="test")
        added = (released(model, images) - model.features(images)) / model.unit
        nearest = torch.cdist(added.flatten(1), model.tensors.flatten(1))
        assert nearest.min(1).values.max() < 1e-2
        assert len(nearest.argmin(1).unique()) > 1

    def test_shredders_noise_grows_while_the_task_holds(self) -> None:
        gentle, strong = (fitted("shredder", strength=s, tolerance=1.0) for s in (0.0, 100.0))
        assert strong.tensors.abs().mean() > gentle.tensors.abs().mean()

    def test_cloak_is_noise_on_pixels(self) -> None:
        model, image = fitted("cloak"), smooth(1, seed="test").expand(512, -1, -1, -1)
        veiled = model.veil(image, generator=derive_generator(CPU, 0)) - image
        torch.testing.assert_close(veiled.std(0), model.sigma(), rtol=0.25, atol=0)
        again = model.veil(image[:2], generator=derive_generator(CPU, 0))
        assert torch.equal(released(model, image[:2]), model.features(again))

    def test_stronger_cloaks_are_noisier(self) -> None:
        assert fitted("cloak", strength=10).sigma().mean() > fitted("cloak", strength=0).sigma().mean()

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_disco_drops_its_share_of_channels(self, layout: str, share: float) -> None:
        model, images = fitted("disco", layout, share=share, epochs=1), smooth(6, seed="test")
        features, out = model.features(images), released(model, images)
        axis = {"tokens": 2, "channels last": 3}.get(layout, 1)
        gone = (out == 0).movedim(axis, 1).flatten(2).all(2) if out.ndim > 2 else out == 0
        assert gone.sum(1).tolist() == [int(share * gone.shape[1])] * 6
        assert torch.equal(out, torch.where(out == 0, 0, features))

    @pytest.mark.parametrize("logits", [[20.0, 20.0], [-200.0, -200.0], [17.5, 90.0], [0.0, 0.0]])
    def test_disco_drops_no_more_where_scores_saturate_or_tie(self, logits: list[float]) -> None:
        """Sigmoids of 17.5 and 90 are the same number in fp32."""
        model = PrunedModel(TinyNetwork().split(), 0.5)
        channels = len(model.mean)
        nn.init.zeros_(model.pruner[2].weight)
        rising = torch.linspace(*logits, channels)
        with torch.no_grad():
            model.pruner[2].bias.copy_(rising)
        mask = model.mask(model.features(smooth(3, seed="test"))).detach().round()
        assert mask.tolist() == [[0.0] * (channels // 2) + [1.0] * (channels - channels // 2)] * 3

    def test_stronger_bottlenecks_are_noisier(self) -> None:
        images = smooth(16, seed="test")
        weak, strong = (fitted("vib", strength=s) for s in (0.0, 10.0))
        ratios = []
        for model in (weak, strong):
            mu, sigma = model.distribution(model.features(images))
            ratios.append(float(sigma.mean() / mu.std()))
        assert ratios[1] > 1.5 * ratios[0]

    def test_conditional_entropy_draws_a_class_together(self) -> None:
        test = pictures(128, seed="test")

        def within(model: TrainedModel) -> float:
            codes = model.code(model.features(test.images[:]))
            return float(torch.stack([codes[test.labels == label].var(0).mean() for label in range(4)]).mean())

        assert within(fitted("cem", learning_rate=0.01)) < within(fitted("fine-tuned", learning_rate=0.01)) / 2

    def test_contrast_falls(self) -> None:
        test = pictures(128, seed="test")

        def contrast(model: TrainedModel) -> float:
            features = model.features(test.images[:])
            step = Step(test.images[:], test.labels, features, features, model.predict(features))
            criterion = ContrastiveCriterion(1.0, 2.0, float(undefended().features(test.images[:]).std()))
            return float(criterion.loss(step) - Criterion().loss(step))

        assert contrast(fitted("siamese", strength=10)) < contrast(fitted("fine-tuned")) - 0.02
