"""Every metric agrees with somebody else's, is per image, and does not depend on the batch."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.image.lpips as other
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dpbench import fidelity, lpips_weights

METRICS = {"mse": fidelity.mse, "psnr_db": fidelity.psnr_db, "ssim": fidelity.ssim}


@pytest.fixture(scope="module")
def pairs():
    """Smooth images and noisy versions of them, of growing noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(12, 3, 6, 6, generator=generator)
    victims = torch.nn.functional.interpolate(coarse, size=48, mode="bicubic", align_corners=False).clamp(0, 1)
    noise = torch.randn(victims.shape, generator=generator) * torch.linspace(0.02, 0.4, 12)[:, None, None, None]
    return (victims + noise).clamp(0, 1), victims


def test_ssim_agrees_with_scikit_image(pairs):
    expected = [
        structural_similarity(
            a.numpy(), b.numpy(), channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(*pairs, strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(fidelity.ssim(*pairs), torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0)


def test_psnr_agrees_with_scikit_image_and_has_peak_one(pairs):
    expected = [peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1.0) for a, b in zip(*pairs, strict=True)]
    torch.testing.assert_close(fidelity.psnr_db(*pairs), torch.tensor(expected, dtype=torch.float32), atol=1e-2, rtol=0)
    grey = torch.full((1, 3, 32, 32), 0.5)
    assert fidelity.psnr_db(grey, grey + 0.1).item() == pytest.approx(20.0, abs=1e-3)  # not 68.1: no peak of 255


def test_ssim_without_the_range_check_is_the_same(pairs):
    assert torch.equal(fidelity.ssim_unchecked(*pairs), fidelity.ssim(*pairs))


def _convolutions(network):
    return [module for module in network.net.modules() if isinstance(module, torch.nn.Conv2d)]


def test_lpips_agrees_with_torchmetrics(pairs):
    ours = fidelity.lpips(*pairs)
    network = lpips_weights.load_lpips()

    theirs = other._LPIPS(pretrained=True, net="alex", pnet_rand=True, eval_mode=True)
    for a, b in zip(_convolutions(theirs), _convolutions(network), strict=True):
        a.load_state_dict(b.state_dict())
    with torch.no_grad():
        expected = theirs(*pairs, normalize=True).flatten()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert ours[0] < ours[-1]


def test_lpips_is_not_given_zero_to_one_where_it_wants_minus_one_to_one(pairs):
    wrong = lpips_weights.load_lpips()(*pairs, normalize=False).flatten()
    assert not torch.allclose(fidelity.lpips(*pairs), wrong, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_figures_do_not_depend_on_the_batch(pairs, batch_size):
    together, _ = fidelity.grade(*pairs)
    apart, _ = fidelity.grade(*pairs, batch_size=batch_size)
    assert together.keys() == apart.keys() == {"mse", "psnr_db", "ssim", "lpips"}
    for name, figures in together.items():
        np.testing.assert_allclose(figures, apart[name], atol=2e-4)
        assert len(figures) == 12


def test_psnr_is_averaged_after_the_logarithm(pairs):
    images, victims = pairs
    pooled = -10 * torch.log10(fidelity.mse(images, victims).mean())
    assert fidelity.psnr_db(images, victims).mean() > pooled + 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([16, 32, 40]))
def test_identity_symmetry_and_range(seed, size):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 2, 3, size, size, generator=generator)
    for metric in METRICS.values():
        torch.testing.assert_close(metric(a, b), metric(b, a), atol=1e-5, rtol=1e-4)
    assert fidelity.mse(a, a).tolist() == [0, 0]
    torch.testing.assert_close(fidelity.ssim(a, a), torch.ones(2))
    assert (fidelity.psnr_db(a, a) == 80).all()
    assert ((fidelity.ssim(a, b) >= -1) & (fidelity.ssim(a, b) <= 1)).all()
    assert ((fidelity.psnr_db(a, b) > 0) & (fidelity.psnr_db(a, b) < 80)).all()
    assert ((fidelity.mse(a, b) >= 0) & (fidelity.mse(a, b) <= 1)).all()


def test_where_lpips_cannot_be_had_the_figure_is_empty_and_the_reason_given(pairs, monkeypatch):
    monkeypatch.setattr(lpips_weights, "_load", lambda: (None, "AlexNet's weights are not at hand"))
    figures, missing = fidelity.grade(*pairs)
    assert "lpips" not in figures
    assert "not at hand" in missing["lpips"]
    assert figures["ssim"]


def test_images_too_small_for_lpips_have_no_lpips():
    small = torch.rand(2, 3, 28, 28)
    figures, missing = fidelity.grade(small, small)
    assert "smaller than 32" in missing["lpips"]
    assert "lpips" not in figures


def test_the_carrier_is_read_without_running_code(tmp_path):
    import pickle

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": print}))
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match="not an array"):
        lpips_weights._ArraysOnly(file).load()


def test_weights_come_from_torchvision_or_from_the_carrier_alike():
    convolutions = lpips_weights._from_torchvision() or lpips_weights._from_carrier()
    assert convolutions is not None, lpips_weights.ADVICE
    assert [tuple(weight.shape) for weight, _ in convolutions] == [
        (64, 3, 11, 11),
        (192, 64, 5, 5),
        (384, 192, 3, 3),
        (256, 384, 3, 3),
        (256, 256, 3, 3),
    ]


def test_a_carrier_with_another_hash_is_not_read(monkeypatch):
    monkeypatch.setattr(lpips_weights, "CARRIER_SHA256", "0" * 64)
    assert lpips_weights._from_carrier() is None
