"""Defenses on features for which the release is known."""

from __future__ import annotations

import dp_accounting
import pytest
import torch
import torch.nn.functional as F
from split_networks import (
    conv_split,
    fitted,
    generator,
    make,
    pictures,
    released,
)
from torch import Tensor, nn

from dpbench.contract.defense import ProtectedModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.errors import DpbenchError
from dpbench.metrics.guarantees import guarantees_of
from dpbench.toolkit.calibration import mean_and_std, median_norm, quantiles


class TestKnownAnswers:
    def test_gaussian_noise_has_the_stated_std(self) -> None:
        model = fitted(make("gaussian", std=0.5), conv_split())
        noise, clean = _noise_and_features(model)
        assert noise.std() == pytest.approx(0.5 * clean.std().item(), rel=0.03)
        assert abs(noise.mean()) < 0.02 * clean.std()

    def test_laplace_noise_has_variance_two_b_squared(self) -> None:
        model = fitted(make("laplace", scale=2.0), conv_split())
        noise, clean = _noise_and_features(model)
        b = 2.0 * clean.std().item()
        assert noise.var() == pytest.approx(2 * b * b, rel=0.06)
        assert noise.abs().mean() == pytest.approx(b, rel=0.03)  # tells Laplace from a Gaussian of equal variance
        assert abs(noise.mean()) < 0.05 * b

    def test_laplace_noise_is_finite_at_the_ends_of_the_draw(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = fitted(make("laplace"), conv_split())
        for u in (0.0, 0.5, 1 - 2**-24):
            monkeypatch.setattr(torch, "rand", lambda *shape, u=u, **options: torch.full(shape[0], u))
            assert model.transform(torch.zeros(2, 16, 8, 8)).isfinite().all()

    @pytest.mark.parametrize(("clip", "std"), [(1.0, 1.0), (0.5, 0.2), (3.0, 2.0)])
    def test_clipped_gaussian_scales_down_and_adds_noise_in_units_of_the_norm(self, clip: float, std: float) -> None:
        split, private = conv_split(), pictures(63)
        model = fitted(make("clipped-gaussian", clip=clip, std=std), split, private)
        features = split.client_head(private.images)
        norms = features.flatten(1).norm(dim=1)
        noise = model.noise()
        assert noise is not None
        assert noise.clip_norm == pytest.approx(clip * norms.median().item())
        assert noise.scale == pytest.approx(std * noise.clip_norm / (16 * 8 * 8) ** 0.5)
        location = model.location(private.images)
        torch.testing.assert_close(location.flatten(1).norm(dim=1), norms.clamp_max(noise.clip_norm))
        torch.testing.assert_close(F.cosine_similarity(location.flatten(1), features.flatten(1)), torch.ones(63))

    def test_clipped_gaussian_without_noise_releases_its_location(self) -> None:
        model = fitted(make("clipped-gaussian", std=0), conv_split())
        images = pictures(8, seed=99).images
        torch.testing.assert_close(model.release(images), model.location(images))
        assert guarantees_of(model, images, releases=1, generator=generator()) is None

    def test_clipped_gaussian_survives_features_that_are_all_zero(self) -> None:
        split = conv_split()
        for parameter in split.client_head.parameters():
            nn.init.zeros_(parameter)
        assert not released(fitted(make("clipped-gaussian"), split)).any()

    @pytest.mark.parametrize(("releases", "delta"), [(1, 1e-5), (4, 1e-6)])
    def test_epsilon_of_clipped_gaussian(self, releases: int, delta: float) -> None:
        """Noise std * C / sqrt(D) against sensitivity 2C: C cancels; an accountant of events agrees."""
        model = fitted(make("clipped-gaussian", std=200), conv_split())
        images = pictures(2, seed=99).images
        found = guarantees_of(model, images, releases=releases, generator=generator(), delta=delta)
        assert found is not None
        accountant = dp_accounting.pld.PLDAccountant()
        accountant.compose(dp_accounting.GaussianDpEvent(200 / (2 * 1024**0.5)), releases)
        assert found.epsilon == pytest.approx(accountant.get_epsilon(delta), rel=1e-3)
        assert found.delta == delta

    @pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
    def test_dropout_drops_the_stated_share_and_keeps_the_expectation(self, p: float) -> None:
        model = fitted(make("dropout", p=p), conv_split())
        ones = torch.ones(64, 16, 8, 8)
        out = model.transform(ones, generator=generator())
        assert (out == 0).float().mean() == pytest.approx(p, abs=0.01)
        assert out.mean() == pytest.approx(1, abs=0.05)
        assert out.max() == pytest.approx(1 / (1 - p))

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_quantise_has_few_levels_and_a_bounded_error(self, bits: int) -> None:
        model = fitted(make("quantise", bits=bits), conv_split())
        low, high = model.get_buffer("low"), model.get_buffer("high")
        inside = low + (high - low) * torch.rand(8, 16, 8, 8, generator=generator())
        out = model.transform(inside)
        assert len(out.unique()) == 2**bits
        bound = (high - low) / (2**bits - 1) / 2
        assert ((out - inside).abs() <= bound * (1 + 1e-4)).all()
        beyond = model.transform(torch.tensor([[-1e6, 1e6]]))
        torch.testing.assert_close(beyond, torch.stack([low, high])[None])

    def test_quantise_range_is_that_of_the_private_features(self) -> None:
        model = fitted(make("quantise"), conv_split())
        clean = model.features(pictures(64).images)
        assert model.get_buffer("low") == pytest.approx(clean.min().item(), abs=1e-3)
        assert 0.7 * clean.max() < model.get_buffer("high") <= clean.max()

    def test_more_bits_less_error(self) -> None:
        split = conv_split()
        clean = split.client_head(pictures(8, seed=99).images)
        errors = [
            F.mse_loss(released(fitted(make("quantise", bits=bits), split)), clean).item() for bits in range(1, 9)
        ]
        assert errors == sorted(errors, reverse=True)

    def test_quantise_has_no_gradient(self) -> None:
        model = fitted(make("quantise"), conv_split())
        features = torch.rand(2, 16, 8, 8, requires_grad=True)
        model.transform(features).sum().backward()
        assert features.grad is not None
        assert not features.grad.any()

    def test_quantise_survives_constant_features(self) -> None:
        split = conv_split()
        for parameter in split.client_head.parameters():
            nn.init.zeros_(parameter)
        assert released(fitted(make("quantise"), split)).isfinite().all()


def _noise_and_features(model: ProtectedModel) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        clean = model.features(pictures(64).images)
        return model.transform(clean, generator=generator()) - clean, clean


class TestCalibration:
    def test_streams_to_the_same_figures(self) -> None:
        features = 1e3 + torch.randn(70, 5, 4, 4, generator=generator()) * torch.arange(1, 6).view(5, 1, 1)
        mean, std = mean_and_std(features.split(16))
        torch.testing.assert_close(mean, features.mean())
        torch.testing.assert_close(std, features.std(correction=0))
        mean, std = mean_and_std(features.split(16), channel_dim=1)
        torch.testing.assert_close(mean, features.mean((0, 2, 3)))
        torch.testing.assert_close(std, features.std((0, 2, 3), correction=0))

    def test_quantiles_of_a_small_set_are_exact(self) -> None:
        values = torch.randn(100, 6, generator=generator())
        found = quantiles(values.split(30), [0.0, 0.25, 1.0], generator=generator())
        torch.testing.assert_close(found, torch.quantile(values, torch.tensor([0.0, 0.25, 1.0])))

    def test_median_norm_is_that_of_whole_images(self) -> None:
        features = torch.randn(71, 5, 4, 4, generator=generator()) * torch.arange(71).view(-1, 1, 1, 1)
        norm, values = median_norm(features.split(16))
        torch.testing.assert_close(norm, features.flatten(1).norm(dim=1).median())
        assert values == 80

    def test_takes_each_private_image_at_most_once(self) -> None:
        model = make("none").build(conv_split())
        private = pictures(40)
        seen = torch.cat(list(feature_batches(model, private, generator=generator(), images=30, batch_size=8)))
        assert len(seen) == 30
        assert len(seen.flatten(1).unique(dim=0)) == 30

    def test_needs_an_image(self) -> None:
        model = make("none").build(conv_split())
        with pytest.raises(DpbenchError, match="0 private images"):
            list(feature_batches(model, pictures(0), generator=generator()))
        with pytest.raises(DpbenchError, match="at least one batch"):
            mean_and_std([])
        with pytest.raises(DpbenchError, match="at least one batch"):
            quantiles([], [0.5], generator=generator())
        with pytest.raises(DpbenchError, match="at least one batch"):
            median_norm([])
