"""Files from strangers under a picture's name: only the formats that are read are opened, and no program is started."""

import io
import os

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from dpbench.data import images
from dpbench.data.images import FORMATS, from_pillow, to_uint8_array
from dpbench.errors import DpbenchError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
PDF = b"%PDF-1.4\n1 0 obj <</Type /Catalog>> endobj\ntrailer <</Root 1 0 R>>\n%%EOF\n"
WMF = b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(range(16)) + b"\x01\x00\x09\x00" + bytes(64)
PSD = b"8BPS\x00\x01" + bytes(6) + b"\x00\x03" + b"\x00\x00\x00\x10" * 2 + b"\x00\x08\x00\x03" + bytes(1000)
FITS = b"".join(
    line.ljust(80)
    for line in (
        b"SIMPLE  =                    T",
        b"BITPIX  = 8",
        b"NAXIS   = 2",
        b"NAXIS1  = 16",
        b"NAXIS2  = 16",
        b"END",
    )
).ljust(2880) + bytes(2880)


def made(ending, size=(16, 16), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, ending, **options)
    return file.getvalue()


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of that name, which says when it is started."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return tmp_path / "started"


def test_a_postscript_file_called_jpg_starts_no_program(tmp_path, ghostscript):
    (tmp_path / "photo.jpg").write_bytes(EPS)
    with pytest.raises(
        DpbenchError, match=r"photo\.jpg cannot be decoded \(not an image of a format that is read: BMP"
    ):
        to_uint8_array(tmp_path / "photo.jpg", 16)
    assert not ghostscript.exists()


def test_nor_where_another_package_opened_it(ghostscript):
    opened = Image.open(io.BytesIO(EPS))
    with pytest.raises(DpbenchError, match=r"its format is EPS, expected BMP, .*: convert it"):
        from_pillow(opened, 16)
    with pytest.raises(DpbenchError, match="Ghostscript"):
        # one that loads what it opens, as torchvision does
        next(images.in_threads(_loaded, [EPS]))
    assert not ghostscript.exists()
    assert EpsImagePlugin.gs_binary is None


def _loaded(content):
    try:
        return from_pillow(Image.open(io.BytesIO(content)).convert("RGB"), 16)
    except OSError as error:
        raise DpbenchError(str(error)) from error


@pytest.mark.parametrize(
    "content",
    [
        *(PDF, WMF, PSD, FITS, b"", b"\0" * 100, b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        *(made(ending) for ending in ("ICNS", "ICO", "PCX", "TGA", "SGI", "JPEG2000", "DDS")),
        *(made(ending, mode="1") for ending in ("XBM", "MSP")),
    ],
)
def test_other_formats_under_a_picture_s_name_are_one_line(tmp_path, content):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(DpbenchError, match=r"photo\.png cannot be decoded") as refused:
        to_uint8_array(path, 16)
    assert "\n" not in str(refused.value)
    assert all(name in str(refused.value) for name in FORMATS)


@pytest.mark.parametrize("ending", [*FORMATS, "MPO"])
def test_formats_are_told_by_content(tmp_path, ending):
    path = tmp_path / "photo.jpg"
    path.write_bytes(made(ending, (20, 30)))
    assert to_uint8_array(path, 16).shape == (3, 16, 16)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_truncated_files_are_one_line(tmp_path, ending, share):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, ending)
    path = tmp_path / "photo.jpg"
    path.write_bytes(file.getvalue()[: int(share * len(file.getvalue()))])
    with pytest.raises(DpbenchError, match="cannot be decoded") as refused:
        to_uint8_array(path, 16)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("ending", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(ending):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    file = io.BytesIO()
    frames[0].save(
        file, ending, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "WEBP" else {})
    )
    file.seek(0)
    assert to_uint8_array(file, 16)[:, 8, 8].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I"])
def test_every_mode_that_a_file_may_have(mode):
    file = io.BytesIO()
    Image.new(mode, (20, 20)).save(file, "TIFF")
    file.seek(0)
    decoded = to_uint8_array(file, 16)
    assert decoded.shape == (3, 16, 16)
    assert decoded.dtype == np.uint8
