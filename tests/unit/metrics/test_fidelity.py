"""Every metric agrees with somebody else's on real pictures, is per image, and does not depend on the batch."""

import dataclasses
import io

import numpy as np
import pytest
import skimage.data
import torch
import torchmetrics.functional.image as other
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image.lpips import _LPIPS

from dpbench.metrics import fidelity, grading, lpips_weights
from dpbench.metrics.table import BUILT_IN

PICTURES = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")  # inside scikit-image's wheel
SIZES = (32, 64, 224)
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2


def picture(name, size):
    """The middle square of a picture, (size, size)."""
    image = Image.fromarray(getattr(skimage.data, name)())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def as_tensor(image):
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)


def add_noise(images, std, seed=0):
    return (images + std * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def distorted(image):
    """Every distortion of one picture."""
    clean = as_tensor(image)
    return [
        add_noise(clean, 0.03),
        add_noise(clean, 0.2),
        as_tensor(image.filter(ImageFilter.GaussianBlur(1))),
        as_tensor(image.filter(ImageFilter.GaussianBlur(4))),
        0.5 * clean + 0.25,
        as_tensor(jpeg(image, 50)),
        as_tensor(jpeg(image, 5)),
    ]


def pairs_of(size):
    pictures = [picture(name, size) for name in (PICTURES if size < 100 else PICTURES[:2])]
    made = [distorted(image) for image in pictures]
    victims = torch.stack([as_tensor(image) for image, images in zip(pictures, made, strict=True) for _ in images])
    return torch.stack([image for images in made for image in images]), victims


@pytest.fixture(scope="module", params=SIZES)
def real(request):
    """Distorted pictures and the true ones, (N,3,size,size)."""
    return pairs_of(request.param)


@pytest.fixture(scope="module")
def large():
    return pairs_of(224)


@pytest.fixture(scope="module")
def pairs():
    """Smooth images and noisy versions of them, of growing noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(12, 3, 6, 6, generator=generator)
    victims = torch.nn.functional.interpolate(coarse, size=48, mode="bicubic", align_corners=False).clamp(0, 1)
    noise = torch.randn(victims.shape, generator=generator) * torch.linspace(0.02, 0.4, 12)[:, None, None, None]
    return (victims + noise).clamp(0, 1), victims


def by_scikit_image(metric, pairs):
    # float64: it is the reference
    return torch.tensor([metric(b.double().numpy(), a.double().numpy()) for a, b in zip(*pairs, strict=True)])


def test_mse_and_psnr_agree_with_scikit_image(real):
    torch.testing.assert_close(
        fidelity.mse(*real).double(), by_scikit_image(mean_squared_error, real), atol=0, rtol=1e-5
    )
    # piq adds 1e-8 to the error before the logarithm
    expected = by_scikit_image(lambda a, b: peak_signal_noise_ratio(a, b, data_range=1.0), real)
    torch.testing.assert_close(fidelity.psnr_db(*real).double(), expected, atol=1e-3, rtol=0)


def test_psnr_has_peak_one():
    grey = torch.full((1, 3, 32, 32), 0.5)
    assert fidelity.psnr_db(grey, grey + 0.1).item() == pytest.approx(20.0, abs=1e-3)  # not 68.1: no peak of 255


def test_ssim_agrees_with_scikit_image(real):
    def ssim(a, b):
        # its mean leaves out the 5 pixels at the border, as ours does: only whole windows count
        return structural_similarity(
            a, b, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )

    expected = by_scikit_image(ssim, real)
    exact = fidelity.ssim(*(images.double() for images in real))
    torch.testing.assert_close(exact, expected, atol=1e-6, rtol=0)  # one formula
    torch.testing.assert_close(fidelity.ssim(*real).double(), expected, atol=5e-5, rtol=0)  # fp32 variances cancel


def whole_windows(a, b):
    """torchmetrics' SSIM per image and channel; it pads by reflection and counts the border, we do not."""
    _, full = other.structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)
    return full[..., 5:-5, 5:-5].mean(dim=(2, 3))


def test_psnr_and_ssim_agree_with_torchmetrics(real):
    psnr = other.peak_signal_noise_ratio(*real, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(fidelity.psnr_db(*real), psnr, atol=1e-3, rtol=0)
    torch.testing.assert_close(fidelity.ssim(*real), whole_windows(*real).mean(dim=1), atol=2e-5, rtol=0)


def test_ms_ssim_agrees_with_torchmetrics_scale_by_scale(large):
    count = len(large[0])
    a, b = (images.reshape(-1, 1, 224, 224) for images in large)  # channels apart: averaged last, by us
    expected = torch.ones(len(a))
    for scale, weight in enumerate(SCALE_WEIGHTS):
        _, structure = other.structural_similarity_index_measure(
            a, b, data_range=1.0, reduction="none", return_contrast_sensitivity=True
        )
        term = whole_windows(a, b).squeeze(1) if scale == 4 else structure
        expected *= term.relu() ** weight
        a, b = (torch.nn.functional.avg_pool2d(images, 2) for images in (a, b))
    torch.testing.assert_close(fidelity.ms_ssim(*large), expected.reshape(count, 3).mean(dim=1), atol=2e-5, rtol=0)


def test_ms_ssim_is_close_to_torchmetrics_with_its_padded_border(large):
    grey = [images.mean(dim=1, keepdim=True) for images in large]
    theirs = other.multiscale_structural_similarity_index_measure(*grey, data_range=1.0, reduction="none")
    ours = fidelity.ms_ssim(*(images.expand(-1, 3, -1, -1) for images in grey))
    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)


def test_ssim_of_training_loops_is_the_same_on_pictures(pairs):
    torch.testing.assert_close(fidelity.ssim_unchecked(*pairs), fidelity.ssim(*pairs), atol=2e-6, rtol=0)


def _convolutions(network):
    return [module for module in network.net.modules() if isinstance(module, torch.nn.Conv2d)]


@pytest.fixture(scope="module")
def their_lpips():
    """torchmetrics' own LPIPS and linear layers, with the convolutions that we found."""
    network = _LPIPS(pretrained=True, net="alex", pnet_rand=True, eval_mode=True)
    for a, b in zip(_convolutions(network), _convolutions(lpips_weights.load_lpips()), strict=True):
        a.load_state_dict(b.state_dict())
    return network


def test_lpips_agrees_with_torchmetrics(real, their_lpips):
    with torch.no_grad():
        expected = their_lpips(*real, normalize=True).flatten()
    torch.testing.assert_close(fidelity.lpips(*real), expected, atol=1e-5, rtol=1e-4)


def test_lpips_orders_distortions_as_eyes_do(large):
    figures = fidelity.lpips(*large).reshape(-1, 7)
    weak, strong = figures[:, [0, 2, 5]], figures[:, [1, 3, 6]]  # noise, blur, JPEG
    assert (weak < strong).all()


def test_lpips_is_not_given_zero_to_one_where_it_wants_minus_one_to_one(pairs):
    wrong = lpips_weights.load_lpips()(*pairs, normalize=False).flatten()
    assert not torch.allclose(fidelity.lpips(*pairs), wrong, atol=1e-3)


@pytest.mark.parametrize(("size", "batch_size"), [(32, 1), (32, 5), (64, 16), (224, 1), (224, 5)])
def test_figures_depend_neither_on_the_batch_nor_on_the_order(size, batch_size):
    images, victims = (part[:12] for part in pairs_of(size))
    together, missing = grading.grade(images, victims)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    apart, _ = grading.grade(images[order], victims[order], batch_size=batch_size)
    assert together.keys() == apart.keys() == set(BUILT_IN) - set(missing)
    for name, figures in together.items():
        np.testing.assert_allclose(np.array(figures)[order], apart[name], atol=2e-4 if name == "psnr_db" else 1e-5)
        assert len(figures) == len(images)


def test_psnr_is_averaged_after_the_logarithm(pairs):
    images, victims = pairs
    pooled = -10 * torch.log10(fidelity.mse(images, victims).mean())
    assert fidelity.psnr_db(images, victims).mean() > pooled + 1


def crops(size, seed):
    """Two squares cut out of real pictures at places that the seed says."""
    random = np.random.default_rng(seed)
    cut = []
    for name in random.choice(PICTURES, 2, replace=False):
        image = getattr(skimage.data, name)()
        top, left = (random.integers(0, side - size + 1) for side in image.shape[:2])
        cut.append(as_tensor(image[top : top + size, left : left + size]))
    return torch.stack(cut)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([32, 40, 64, 176]))
def test_identity_symmetry_and_range(seed, size):
    a = crops(size, seed)
    b = a.flip(0)
    metrics = {n: m().measure for n, m in BUILT_IN.items() if n != "ms_ssim" or size >= fidelity.SMALLEST_MS_SSIM}
    perfect = {"mse": 0.0, "psnr_db": 80.0, "ssim": 1.0, "ms_ssim": 1.0, "lpips": 0.0}
    ranges = {"mse": (0, 1), "psnr_db": (0, 80), "ssim": (-1, 1), "ms_ssim": (0, 1), "lpips": (0, 2)}
    for name, metric in metrics.items():
        assert metric(a, b).shape == (2,)
        torch.testing.assert_close(metric(a, b), metric(b, a), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(metric(a, a), torch.full((2,), perfect[name]), atol=2e-6, rtol=0)
        low, high = ranges[name]
        assert ((metric(a, b) >= low) & (metric(a, b) <= high)).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([32, 64, 176]))
def test_more_noise_is_never_closer(seed, size):
    victims = crops(size, seed)
    levels = [add_noise(victims, std, seed) for std in (0.01, 0.04, 0.16, 0.64)]
    names = ["psnr_db", "ssim"] + (["ms_ssim"] if size >= fidelity.SMALLEST_MS_SSIM else [])
    for name in names:
        figures = torch.stack([BUILT_IN[name]().measure(images, victims) for images in levels])
        assert (figures.diff(dim=0) < 0).all(), name


def test_ms_ssim_wants_161_pixels():
    images = crops(161, 0)
    figures, missing = grading.grade(images, images.flip(0))
    assert np.isfinite(figures["ms_ssim"]).all()
    assert missing == {}
    figures, missing = grading.grade(images[..., 1:, :], images[..., 1:, :])
    assert "ms_ssim" not in figures
    assert "smaller than 161" in missing["ms_ssim"]
    assert figures.keys() == {"mse", "psnr_db", "ssim", "lpips"}


def test_where_lpips_cannot_be_had_the_figure_is_empty_and_the_reason_given(pairs, monkeypatch):
    monkeypatch.setattr(lpips_weights, "_load", lambda: (None, "AlexNet's weights are not at hand"))
    figures, missing = grading.grade(*pairs)
    assert "lpips" not in figures
    assert "not at hand" in missing["lpips"]
    assert figures["ssim"]


def test_images_too_small_for_lpips_have_no_lpips():
    small = torch.rand(2, 3, 28, 28)
    figures, missing = grading.grade(small, small)
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
    monkeypatch.setattr(lpips_weights, "ALEXNET", dataclasses.replace(lpips_weights.ALEXNET, sha256="0" * 64))
    assert lpips_weights._from_carrier() is None
