"""Raster files of every kind to 8 and 16 bits: depth, polarity, orientation, pages, limits."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from dicom_files import radiograph, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mdf_detectron.data.intensity import change_depth, quantize, robust_range
from mdf_detectron.data.raster import write_png
from mdf_detectron.data.readers import (
    OpenImage,
    read_pixels,
    read_radiograph,
    read_record_image,
    read_size,
    to_eight_bits,
)
from mdf_detectron.errors import ImageReadError
from mdf_detectron.fileio import sha256_of


def model_input(path, image_format="L"):
    return read_record_image({"file_name": path}, image_format)


@pytest.fixture
def ramp():
    """(48, 64) uint16 from 960 to 3456, brighter to the right and below."""
    return np.linspace(960, 3456, 48 * 64).reshape(48, 64).astype(np.uint16)


def save_tiff(path, values, photometric):
    tags = ImageFileDirectory_v2()
    tags[262] = photometric
    if values.dtype == np.uint8 and photometric == 0:
        values = 255 - values  # Pillow inverts eight bits, and no others, while it writes
    Image.fromarray(values).save(path, tiffinfo=tags)


def test_a_16_bit_image_keeps_its_contrast_beside_saturated_pixels(ramp, tmp_path):
    marked = ramp.copy()
    marked[0, :3] = 65535
    for name, values in (("plain", ramp), ("marked", marked)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    plain, done = read_pixels(tmp_path / "plain.png")
    pixels, _ = read_pixels(tmp_path / "marked.png")
    assert (done.bits, done.scaling) == (16, "percentiles")
    assert abs(int(np.median(plain)) - 128) <= 2 and abs(int(np.median(pixels)) - int(np.median(plain))) <= 2


def test_pixels_that_are_not_finite_are_named_and_black(ramp, tmp_path):
    values = ramp.astype(np.float32) / 4096
    values[:2, :2], values[5, 5] = np.nan, np.inf
    Image.fromarray(values).save(tmp_path / "x.tif")
    pixels, done = read_pixels(tmp_path / "x.tif")
    assert done.notes == ("pixels that are not finite numbers are black",)
    assert (pixels[:2, :2] == 0).all() and pixels[5, 5] == 0 and 110 < np.median(pixels) < 145
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ImageReadError, match="nan.tif: none of its pixels is a finite number"):
        read_pixels(tmp_path / "nan.tif")


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0)])
def test_white_is_zero_has_one_polarity_at_every_depth(dtype, top, ramp, tmp_path):
    bright_right = (ramp / 4095 * top).astype(dtype)
    save_tiff(tmp_path / "black.tif", bright_right, 1)
    save_tiff(tmp_path / "white.tif", (top - bright_right.astype(np.float64)).astype(dtype), 0)
    black, _ = read_pixels(tmp_path / "black.tif")
    white, done = read_pixels(tmp_path / "white.tif")
    assert done.inverted and np.abs(black.astype(int) - white).max() <= 2


@pytest.mark.parametrize("orientation, upright", [
    (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (4, lambda a: a[::-1]), (5, lambda a: a.T),
    (6, lambda a: a.T[:, ::-1]), (7, lambda a: a.T[::-1, ::-1]), (8, lambda a: a.T[::-1]),
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_orientation_is_applied(orientation, upright, suffix, tmp_path):
    stored = np.zeros((40, 56), dtype=np.uint8)
    stored[:16, :24], stored[24:, 40:] = 200, 90
    exif = Image.Exif()
    exif[274] = orientation
    tags = ImageFileDirectory_v2()
    tags[274] = orientation
    Image.fromarray(stored).save(
        tmp_path / f"x.{suffix}", **({"tiffinfo": tags} if suffix == "tif" else {"exif": exif})
    )
    pixels, done = read_pixels(tmp_path / f"x.{suffix}")
    expected = upright(stored)
    assert pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).mean() < 2
    assert done.notes == ("EXIF orientation applied",)
    assert read_size(tmp_path / f"x.{suffix}") == (done.width, done.height) == expected.shape[::-1]


def test_of_several_pages_the_first_is_read_and_said(tmp_path):
    pages = [Image.fromarray(np.full((6, 8), value, dtype=np.uint8)) for value in (50, 90, 130)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    pixels, done = read_pixels(tmp_path / "x.tif")
    assert (pixels == 50).all() and done.notes == ("3 pages: the first is read",)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "LA"])
def test_every_common_file_type_reads_as_gray(mode, tmp_path):
    gray = np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    image.save(tmp_path / "x.png")
    out = read_radiograph(tmp_path / "x.png")
    assert out.shape == (6, 8, 1) and out.dtype == np.uint8
    assert np.abs(out[:, :, 0].astype(int) - gray).max() <= 1
    assert read_radiograph(tmp_path / "x.png", "BGR").shape == (6, 8, 3)


def test_cmyk_and_palette(tmp_path):
    gray = np.linspace(40, 220, 64 * 48).reshape(48, 64).astype(np.uint8)
    Image.fromarray(gray).convert("RGB").convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    assert np.abs(read_radiograph(tmp_path / "x.jpg")[:, :, 0].astype(int) - gray).max() <= 6
    palette = Image.fromarray((gray // 16).astype(np.uint8), mode="P")
    palette.putpalette([v for k in range(16) for v in (255 - 16 * k,) * 3])
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_radiograph(tmp_path / "p.png")[:, :, 0], 255 - 16 * (gray // 16))


@pytest.mark.parametrize("channels, suffix", [(3, "png"), (4, "png"), (3, "tif")])
def test_16_bit_color_is_not_cut_to_its_upper_eight_bits(channels, suffix, ramp, tmp_path):
    values = np.repeat(ramp[:, :, None], channels, axis=2)
    if channels == 4:
        values[:, :, 3] = 65535
    assert cv2.imwrite(str(tmp_path / f"x.{suffix}"), values)
    pixels, done = read_pixels(tmp_path / f"x.{suffix}")
    Image.fromarray(ramp).save(tmp_path / "gray.png")
    assert done.bits == 16 and np.array_equal(pixels, read_pixels(tmp_path / "gray.png")[0])


@pytest.mark.parametrize("depth", [8, 16])
def test_written_pixels_come_back_unchanged(depth, tmp_path):
    top = 2**depth - 1
    pixels = np.linspace(top // 3, top // 2, 300).reshape(15, 20).astype(np.uint8 if depth == 8 else np.uint16)
    write_png(tmp_path / "x.png", pixels)
    again, done = read_pixels(tmp_path / "x.png", depth)
    assert np.array_equal(again, pixels) and again.dtype == pixels.dtype
    assert np.abs(read_pixels(tmp_path / "x.png", 8)[0] - pixels * (255 / top)).max() <= 0.51


def test_a_constant_image_is_neither_stretched_nor_an_error():
    assert robust_range(np.full(50, 1000)) == (0, 1023, "bit depth")
    assert robust_range(np.full(50, 0.5)) == (0, 1, "bit depth")
    assert robust_range(np.zeros(50, dtype=np.int64))[:2] == (0, 1)


def test_a_small_object_on_a_constant_background_is_shown():
    values = np.zeros(100_000, dtype=np.uint16)
    values[:200] = np.arange(300, 500)
    assert robust_range(values) == (0, 498, "percentiles")


@settings(deadline=None)  # a busy machine
@given(st.lists(st.integers(0, 4095), min_size=1, max_size=400))
def test_percentiles_by_counting_and_by_sorting_agree(values):
    counted, sorted_ = robust_range(np.array(values)), robust_range(np.array(values, dtype=np.float64))
    assert counted == sorted_


def test_depths_convert_both_ways():
    assert change_depth(change_depth(np.arange(256, dtype=np.uint8), 16), 8).tolist() == list(range(256))
    assert quantize(np.array([-5, 0, 25, 100, 200]), 0, 100, 8).tolist() == [0, 0, 64, 255, 255]
    assert quantize(np.array([0, 100]), 0, 100, 16, invert=True).tolist() == [65535, 0]


def test_an_image_beyond_pillows_own_limit_is_read_and_the_limit_restored(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(np.full((60, 50), 7, dtype=np.uint8)).save(tmp_path / "x.tif")
    assert (read_radiograph(tmp_path / "x.tif") == 7).all()
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_models_input_keeps_the_depth_of_its_file(tmp_path):
    deep = np.arange(60000, dtype=np.uint16).reshape(200, 300)
    write_png(tmp_path / "deep.png", deep)
    read = model_input(tmp_path / "deep.png")
    assert read.shape == (200, 300, 1) and read.dtype == np.float32
    assert np.allclose(read[:, :, 0], deep / 257, atol=1e-4) and len(np.unique(read)) == 60000
    assert np.array_equal(to_eight_bits(read), read_radiograph(tmp_path / "deep.png"))
    assert model_input(tmp_path / "deep.png", "BGR").shape == (200, 300, 3)
    write_png(tmp_path / "flat.png", (deep // 257).astype(np.uint8))
    flat = model_input(tmp_path / "flat.png")
    assert flat.dtype == np.uint8 and np.array_equal(flat, read_radiograph(tmp_path / "flat.png"))


def test_an_image_file_is_opened_once(tmp_path, openings):
    """Digest, tags, size and pixels come from one opened file, of a raster file (16-bit color too) and of DICOM."""
    color = np.random.default_rng(0).integers(0, 65536, (40, 32, 3)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "color.png"), color)
    save(radiograph(color[:, :, 0] // 16, Modality="DX"), tmp_path / "x.dcm")
    with openings(tmp_path) as counts:
        with OpenImage(tmp_path / "color.png") as image:
            assert not image.is_dicom and image.size == (32, 40) and image.decode(16)[0].shape == (40, 32, 3)
        with OpenImage(tmp_path / "x.dcm") as image:
            assert image.is_dicom and image.tags(["Modality"]) == {"Modality": "DX"} and image.size == (32, 40)
            assert image.pixels("RGB", image.sha256).shape == (40, 32, 3)
    assert counts == {"color.png": 1, "x.dcm": 1}
    with openings(tmp_path) as counts:
        read_record_image({"file_name": tmp_path / "x.dcm", "sha256": sha256_of(tmp_path / "x.dcm")}, "L")
    assert counts["x.dcm"] == 1 + 1  # and this test's digest
    with OpenImage(tmp_path / "color.png") as image, pytest.raises(ImageReadError, match="color.png: it is not DICOM"):
        image.tags(["Modality"])
