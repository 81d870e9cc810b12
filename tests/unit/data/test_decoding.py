"""Pictures of any shape, mode and depth become squares of the asked size."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import noise
from PIL import Image

from dpbench.data import images
from dpbench.data.images import content_hash, to_uint8_array
from dpbench.errors import DpbenchError


def saved(image, ending="png", **options):
    file = io.BytesIO()
    image.save(file, ending, **options)
    file.seek(0)
    return file


def test_rgb_of_the_right_size_is_untouched():
    pixels = noise(np.random.default_rng(0), 16, 16)
    decoded = to_uint8_array(saved(Image.fromarray(pixels)), 16)
    np.testing.assert_array_equal(decoded, pixels.transpose(2, 0, 1))
    assert decoded.flags.c_contiguous


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 33]), st.sampled_from(["L", "RGB", "RGBA", "P"]))
def test_any_shape_and_mode_becomes_a_square(height, width, size, mode):
    image = Image.fromarray(noise(np.random.default_rng(0), height, width)).convert(mode)
    decoded = to_uint8_array(saved(image), size)
    assert decoded.shape == (3, size, size)
    assert decoded.dtype == np.uint8


def test_the_middle_is_kept():
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = noise(np.random.default_rng(0), 16, 16)
    np.testing.assert_array_equal(
        to_uint8_array(saved(Image.fromarray(pixels)), 16), pixels[:, 16:32].transpose(2, 0, 1)
    )
    thin = to_uint8_array(saved(Image.new("RGB", (20_000, 1), "red")), 512)
    assert thin[0].min() == 255


def test_shrinking_is_antialiased():
    checker = np.indices((128, 128)).sum(0) % 2 * 255
    decoded = to_uint8_array(saved(Image.fromarray(checker.astype(np.uint8))), 16)
    assert 120 < decoded.min() <= decoded.max() < 135


def test_resizing_is_pillows():
    image = Image.fromarray(noise(np.random.default_rng(0), 40, 40))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(to_uint8_array(saved(image), 16), expected)


def test_grey_is_replicated():
    grey = noise(np.random.default_rng(0), 16, 16)[:, :, 0]
    decoded = to_uint8_array(saved(Image.fromarray(grey)), 16)
    assert all(np.array_equal(channel, grey) for channel in decoded)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bits_are_scaled_not_clipped(ending):
    grey = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    decoded = to_uint8_array(saved(Image.fromarray(grey), ending), 16)
    assert all(np.array_equal(channel, np.arange(256).reshape(16, 16)) for channel in decoded)


def test_32_bits_are_taken_for_16_or_refused():
    grey = np.full((16, 16), 65535, np.int32)
    assert to_uint8_array(saved(Image.fromarray(grey), "tiff"), 16).min() == 255
    with pytest.raises(DpbenchError, match="outside 0 to 65535"):
        to_uint8_array(saved(Image.fromarray(grey + 1), "tiff"), 16)
    with pytest.raises(DpbenchError, match="floating-point"):
        to_uint8_array(saved(Image.fromarray(grey.astype(np.float32)), "tiff"), 16)


def test_transparency_is_laid_on_white():
    rgba = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    rgba.putpixel((3, 5), (200, 0, 0, 255))
    decoded = to_uint8_array(saved(rgba), 16)
    assert decoded[:, 5, 3].tolist() == [200, 0, 0]
    assert decoded[:, 0, 0].tolist() == [255, 255, 255]
    half = to_uint8_array(saved(Image.new("LA", (16, 16), (0, 128))), 16)
    assert half.min() == half.max() == 127


def test_a_palette_and_its_transparency():
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert to_uint8_array(saved(palette), 16)[:, 0, 0].tolist() == [10, 20, 30]
    for transparency in (1, bytes([255, 0])):  # the second makes Pillow warn when it is converted carelessly
        decoded = to_uint8_array(saved(palette, transparency=transparency), 16)
        assert decoded.min() == 255


def test_one_bit():
    assert to_uint8_array(saved(Image.new("1", (16, 16), 1)), 16).min() == 255


def test_cmyk_is_converted():
    decoded = to_uint8_array(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "jpeg", quality=100), 16)
    assert np.abs(decoded[:, 8, 8].astype(int) - [255, 0, 0]).max() < 6


def test_the_orientation_of_a_photograph_is_respected():
    pixels = noise(np.random.default_rng(0), 16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    decoded = to_uint8_array(saved(Image.fromarray(pixels), exif=exif), 16)
    np.testing.assert_array_equal(decoded, np.rot90(pixels, -1).transpose(2, 0, 1))


def test_odd_metadata_is_no_error(tmp_path):
    file = saved(Image.new("RGB", (16, 16), "blue"), "jpeg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_uint8_array(file, 16).shape == (3, 16, 16)


def test_files_decode_in_order(flat):
    paths = sorted(flat.rglob("*.png"))
    for path, decoded in zip(paths, images.decode_files(paths, 16), strict=True):
        np.testing.assert_array_equal(decoded, to_uint8_array(str(path), 16))


@given(st.integers(0, 3 * 16 * 16 - 1))
def test_the_hash_sees_every_pixel_and_no_stride(position):
    pixels = noise(np.random.default_rng(0), 16, 16).transpose(2, 0, 1)
    before = content_hash(pixels)
    assert before == content_hash(np.ascontiguousarray(pixels))
    assert len(before) == 16
    changed = pixels.copy()
    changed.flat[position] ^= 1
    assert content_hash(changed) != before
