"""Bounds against attacks whose best error is known in closed form, and epsilon against its formula."""

import mpmath
import pytest
import scipy.optimize
import torch
from dpbench_defenses.laplace import laplace_noise
from torch import Tensor, nn

from dpbench.contract.defense import AdditiveNoise, ProtectedModel, SplitModel
from dpbench.errors import DpbenchError
from dpbench.metrics.guarantees import (
    Guarantees,
    NotBorneOut,
    fisher_mse_bound,
    gaussian_epsilon,
    guarantees_of,
    information_bits,
)

SHAPE = (3, 4, 4)
PIXELS = 48
VALUES = 60


class Linear(nn.Module):
    """(N,3,4,4) -> (N, values): A x."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.matrix.T


class Noisy(ProtectedModel):
    """Any head under any noise, which it adds as it says."""

    def __init__(self, head: nn.Module, noise: AdditiveNoise | None) -> None:
        super().__init__(SplitModel(head, nn.Identity(), split_point="head", image_shape=SHAPE, classes=2))
        self.stated = noise

    def noise(self) -> AdditiveNoise | None:
        return self.stated

    def location(self, images: Tensor) -> Tensor:
        features = self.features(images)
        if self.stated is None or self.stated.clip_norm is None:
            return features
        norm = features.flatten(1).norm(dim=1).view(-1, *[1] * (features.dim() - 1))
        return features * (self.stated.clip_norm / norm.clamp_min(1e-12)).clamp_max(1)

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        location = self.location(images)
        if self.stated is None:
            return location
        if self.stated.distribution == "laplace":
            return location + self.stated.scale * laplace_noise(
                location.shape, generator=generator, device=location.device
            )
        return location + self.stated.scale * torch.randn(location.shape, generator=generator)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, *SHAPE, generator=generator())


def orthogonal(scale: float) -> Tensor:
    """(VALUES, PIXELS) with A'A = scale^2."""
    return scale * torch.linalg.qr(torch.randn(VALUES, PIXELS, generator=generator())).Q


def general() -> Tensor:
    """(VALUES, PIXELS) of singular values from 0.5 to 2."""
    return orthogonal(1) * torch.linspace(0.5, 2, PIXELS)


def bound(matrix: Tensor, noise: AdditiveNoise, **arguments) -> Tensor:
    return fisher_mse_bound(
        Noisy(Linear(matrix), noise), images(), **{"releases": 1, "generator": generator(), **arguments}
    )


def error_of_least_squares(matrix: Tensor, draw_noise, *, shrink: float = 1.0, releases: int = 1) -> Tensor:
    """Per-image MSE of the pseudo-inverse of the mean release, over many draws; unbiased where `shrink` is 1."""
    truth = images().flatten(1)
    draws = torch.stack([draw_noise((4000, len(truth), VALUES)) for _ in range(releases)]).mean(0)
    found = (truth @ matrix.T + draws) @ torch.linalg.pinv(matrix).T * shrink
    return (found - truth).square().mean((0, 2))


def gaussian_noise(std: float):
    g = generator(5)
    return lambda shape: std * torch.randn(shape, generator=g)


class TestFisherBound:
    @pytest.mark.parametrize(("scale", "std"), [(1.0, 0.3), (4.0, 0.1)])
    def test_least_squares_meets_it_for_an_orthogonal_head(self, scale: float, std: float) -> None:
        matrix = orthogonal(scale)
        found = bound(matrix, AdditiveNoise("gaussian", std), probes=256)
        torch.testing.assert_close(found, torch.full((3,), std**2 / scale**2), rtol=0.03, atol=0)
        torch.testing.assert_close(error_of_least_squares(matrix, gaussian_noise(std)), found, rtol=0.03, atol=0)

    def test_no_unbiased_attacker_goes_below_it(self) -> None:
        """Least squares is the best of them (Gauss and Markov): sigma^2 tr((A'A)^-1) / d."""
        matrix, std = general(), 0.2
        found = bound(matrix, AdditiveNoise("gaussian", std), probes=256)
        torch.testing.assert_close(
            found, torch.full((3,), float(PIXELS * std**2 / matrix.square().sum())), rtol=0.03, atol=0
        )
        best = std**2 * torch.linalg.inv(matrix.T @ matrix).trace() / PIXELS
        errors = error_of_least_squares(matrix, gaussian_noise(std))
        torch.testing.assert_close(errors, best.expand(3), rtol=0.03, atol=0)
        assert (errors > 1.3 * found).all()

    def test_a_biased_attacker_may_go_below_it(self) -> None:
        """Shrinking towards black trades variance for bias: why the bound must not be read as safety."""
        matrix, std = orthogonal(1), 1.0
        found = bound(matrix, AdditiveNoise("gaussian", std), probes=64)
        assert (error_of_least_squares(matrix, gaussian_noise(std), shrink=0.25) < 0.4 * found).all()

    def test_releases_divide_it(self) -> None:
        matrix, noise = orthogonal(2), AdditiveNoise("gaussian", 0.2)
        torch.testing.assert_close(bound(matrix, noise, releases=4), bound(matrix, noise) / 4)
        errors = error_of_least_squares(matrix, gaussian_noise(0.2), releases=4)
        torch.testing.assert_close(errors, bound(matrix, noise, releases=4, probes=256), rtol=0.03, atol=0)

    def test_laplace_noise_says_twice_as_much_as_its_variance(self) -> None:
        """Information 1/b^2 with variance 2 b^2: least squares does not meet the bound, and stays above it."""
        matrix, b = orthogonal(1), 0.3
        found = bound(matrix, AdditiveNoise("laplace", b), probes=256)
        torch.testing.assert_close(found, torch.full((3,), b**2), rtol=0.03, atol=0)
        laplace = torch.distributions.Laplace(0.0, b)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            errors = error_of_least_squares(matrix, laplace.sample)
        torch.testing.assert_close(errors, 2 * found, rtol=0.05, atol=0)

    def test_few_probes_are_right_on_average(self) -> None:
        matrix, noise = general(), AdditiveNoise("gaussian", 1.0)
        exact = float(PIXELS / matrix.square().sum())
        few = torch.cat([bound(matrix, noise, generator=generator(seed)) for seed in range(50)])
        assert (1 / few).mean() == pytest.approx(1 / exact, rel=0.02)
        assert few.std() < 0.1 * exact

    def test_each_image_has_its_own_in_any_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """f(x) = x^2 has J = 2x."""

        class Square(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.square()

        model, victims = Noisy(Square(), AdditiveNoise("gaussian", 0.1)), images(7)
        expected = PIXELS * 0.1**2 / (2 * victims).square().sum((1, 2, 3))
        for batch in (64, 2):
            monkeypatch.setattr("dpbench.metrics.guarantees.BATCH", batch)
            with torch.no_grad():
                found = fisher_mse_bound(model, victims, releases=1, generator=generator())
            torch.testing.assert_close(found, expected)
            assert not found.requires_grad

    def test_a_release_that_says_nothing_has_a_bound_that_json_can_hold(self) -> None:
        found = guarantees_of(
            Noisy(Linear(torch.zeros(VALUES, PIXELS)), AdditiveNoise("gaussian", 1.0)),
            images(),
            releases=1,
            generator=generator(),
        )
        assert found is not None
        assert min(found.mse_bound) > 1e20
        assert Guarantees.model_validate_json(found.model_dump_json()) == found

    def test_says_what_it_needs(self) -> None:
        for noise in (None, AdditiveNoise("gaussian", 0.0)):
            with pytest.raises(DpbenchError, match="additive noise"):
                fisher_mse_bound(Noisy(Linear(general()), noise), images(), releases=1, generator=generator())

        class Detached(Noisy):
            def location(self, images: Tensor) -> Tensor:
                return self.features(images).detach()

        model = Detached(Linear(general()), AdditiveNoise("gaussian", 1.0))
        with pytest.raises(DpbenchError, match="no gradient"):
            fisher_mse_bound(model, images(), releases=1, generator=generator())


def balle_and_wang(std: float, sensitivity: float, delta: float) -> float:
    """Epsilon of the Gaussian mechanism, Balle & Wang 2018, theorem 8, solved for epsilon."""
    ratio = mpmath.mpf(sensitivity) / std

    def log_excess(epsilon: float) -> float:
        first = mpmath.ncdf(ratio / 2 - epsilon / ratio)
        second = mpmath.exp(epsilon) * mpmath.ncdf(-ratio / 2 - epsilon / ratio)
        return float(mpmath.log(first - second) - mpmath.log(delta))

    with mpmath.workdps(400):  # both terms are close where epsilon is large
        return scipy.optimize.brentq(log_excess, 0, 1e4, xtol=1e-9)


class TestEpsilon:
    @pytest.mark.parametrize("delta", [1e-5, 1e-2])
    @pytest.mark.parametrize(("std", "norm"), [(2.0, 0.7), (0.5, 3.0), (30.0, 30.0), (1.0, 25.0)])
    def test_is_that_of_the_analytic_gaussian_mechanism(self, std: float, norm: float, delta: float) -> None:
        found = gaussian_epsilon(AdditiveNoise("gaussian", std, clip_norm=norm), releases=1, delta=delta)
        assert found == pytest.approx(balle_and_wang(std, 2 * norm, delta), rel=1e-6)

    def test_releases_are_one_with_less_noise(self) -> None:
        several = gaussian_epsilon(AdditiveNoise("gaussian", 6.0, clip_norm=1.0), releases=9, delta=1e-5)
        assert several == pytest.approx(balle_and_wang(2.0, 2.0, 1e-5), rel=1e-6)

    def test_is_finite_for_hardly_any_noise_and_zero_for_no_features(self) -> None:
        assert 1e9 < gaussian_epsilon(AdditiveNoise("gaussian", 1e-5, clip_norm=1.0), releases=1, delta=1e-5) < 1e12
        assert gaussian_epsilon(AdditiveNoise("gaussian", 1.0, clip_norm=0.0), releases=1, delta=1e-5) == 0

    @pytest.mark.parametrize("noise", [AdditiveNoise("laplace", 1.0, clip_norm=1.0), AdditiveNoise("gaussian", 1.0)])
    def test_refuses_other_noise(self, noise: AdditiveNoise) -> None:
        with pytest.raises(DpbenchError, match="bounded norm"):
            gaussian_epsilon(noise, releases=1, delta=1e-5)


class TestGuaranteesOf:
    @pytest.mark.parametrize("noise", [None, AdditiveNoise("gaussian", 0.0), AdditiveNoise("laplace", 0.0)])
    def test_nothing_without_noise(self, noise: AdditiveNoise | None) -> None:
        assert guarantees_of(Noisy(Linear(general()), noise), images(), releases=1, generator=generator()) is None

    @pytest.mark.parametrize("noise", [AdditiveNoise("gaussian", 0.1), AdditiveNoise("laplace", 0.1, clip_norm=1.0)])
    def test_no_epsilon_without_clipping_or_for_laplace(self, noise: AdditiveNoise) -> None:
        found = guarantees_of(Noisy(Linear(general()), noise), images(), releases=2, generator=generator())
        assert found is not None
        assert found.epsilon is None
        assert found.delta is None
        assert found.mse_bound == bound(general(), noise, releases=2).tolist()

    def test_the_clipped_norm_is_tried_on_other_images_too(self) -> None:
        class Forgetful(Noisy):
            """Clips images like the victims alone."""

            def location(self, images: Tensor) -> Tensor:
                dark = (images.flatten(1).mean(1) < 0.2).view(-1, 1)
                return torch.where(dark, self.features(images), super().location(images))

        model = Forgetful(Linear(general()), AdditiveNoise("gaussian", 0.5, clip_norm=0.5))
        arguments = {"releases": 1, "generator": generator()}
        assert guarantees_of(model, images(), **arguments) is not None
        with pytest.raises(NotBorneOut, match=r"beyond the stated 0\.5"):
            guarantees_of(model, images(), **arguments, others=[images() * 0.3])

    @pytest.mark.parametrize("stated", [None, "gaussian", AdditiveNoise("gaussian", float("nan")),
                                        AdditiveNoise("laplace", -1.0), AdditiveNoise("uniform", 1.0)])  # fmt: skip
    def test_what_is_no_claim_guarantees_nothing(self, stated) -> None:
        model = Noisy(Linear(general()), AdditiveNoise("gaussian", 1.0))
        model.noise = lambda: stated
        if stated is None:
            assert guarantees_of(model, images(), releases=1, generator=generator()) is None
            return
        with pytest.raises(NotBorneOut, match="it states"):
            guarantees_of(model, images(), releases=1, generator=generator())

    def test_both_for_clipped_gaussian_noise(self) -> None:
        noise = AdditiveNoise("gaussian", 0.5, clip_norm=1.0)
        found = guarantees_of(Noisy(Linear(general()), noise), images(), releases=2, generator=generator(), delta=1e-6)
        assert found is not None
        assert len(found.mse_bound) == 3
        assert found.epsilon == gaussian_epsilon(noise, releases=2, delta=1e-6)
        assert found.delta == 1e-6


def test_information_is_that_of_a_gaussian_channel_where_codes_are_gaussian():
    """A code of 3 independent values with variances 1, 4, 9 under unit noise."""
    scales = torch.tensor([1.0, 2.0, 3.0])
    images = torch.randn(20_000, *SHAPE, generator=generator())
    head = Linear(torch.eye(3, PIXELS) * scales[:, None])
    noise = AdditiveNoise("gaussian", 1.0)
    model = Noisy(head, noise)
    expected = float((1 + scales.square()).log2().sum() / 2)
    assert information_bits(model, noise, [images], releases=1) == pytest.approx(expected, rel=0.01)
    twice = float((1 + 2 * scales.square()).log2().sum() / 2)
    assert information_bits(model, noise, [images[:9000], images[9000:]], releases=2) == pytest.approx(twice, rel=0.01)


def test_information_bits_of_few_images_are_more_than_those_of_many_and_of_fewer_there_are_none():
    images = torch.randn(5_000, *SHAPE, generator=generator())
    noise = AdditiveNoise("gaussian", 0.1)
    model = Noisy(Linear(torch.eye(16, PIXELS)), noise)
    few, many = (information_bits(model, noise, [images[:n]], releases=1) for n in (64, 5_000))
    assert many < few < 1.2 * many
    assert information_bits(model, noise, [images[:63]], releases=1) is None
    assert information_bits(model, AdditiveNoise("laplace", 0.1), [images], releases=1) is None
