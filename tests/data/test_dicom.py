"""DICOM radiographs: each transfer syntax, LUTs, windows, inversion, padding, and files that are refused."""

from __future__ import annotations

import re

import numpy as np
import pydicom
import pytest
from dicom_files import lookup_table, radiograph, save
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from mdf_detectron.data.readers import read_dicom_tags, read_pixels, read_radiograph, read_record_image, read_size
from mdf_detectron.errors import ImageReadError, SourceDataError


def model_input(path, image_format="L"):
    return read_record_image({"file_name": path}, image_format)


@pytest.fixture
def stored():
    """(40, 32) uint16 of 12 bits: a smooth ramp from 500 to 3000 with noise."""
    rng = np.random.default_rng(3)
    return (np.linspace(500, 3000, 40 * 32).reshape(40, 32) + rng.integers(0, 50, (40, 32))).astype(np.uint16)


def expected_by_window(pixels, center, width, bits=12):
    """PS3.3 C.11.2.1.2.1, one pixel after the other."""
    out = np.empty(pixels.shape)
    for index, x in np.ndenumerate(pixels.astype(float)):
        if x <= center - 0.5 - (width - 1) / 2:
            out[index] = 0
        elif x > center - 0.5 + (width - 1) / 2:
            out[index] = 255
        else:
            out[index] = ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.rint(out)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1])
def test_every_lossless_syntax_gives_the_same_picture(syntax, stored, tmp_path):
    plain, _ = read_pixels(save(radiograph(stored, WindowCenter=1700, WindowWidth=2400), tmp_path / "plain.dcm"))
    dataset = radiograph(stored, WindowCenter=1700, WindowWidth=2400)
    pixels, done = read_pixels(save(dataset, tmp_path / "x.dcm", syntax))
    assert np.array_equal(pixels, plain) and pixels.dtype == np.uint8
    assert (done.kind, done.width, done.height, done.bits, done.scaling) == ("DICOM", 32, 40, 12, "window")
    assert np.abs(pixels - expected_by_window(stored, 1700, 2400)).max() <= 1
    assert read_size(tmp_path / "x.dcm") == (32, 40)


def test_jpeg_baseline_of_8_bits_is_not_rescaled(tmp_path):
    stored = np.tile(np.linspace(60, 180, 64).astype(np.uint8), (48, 1))
    pixels, done = read_pixels(save(radiograph(stored, 8), tmp_path / "x.dcm", JPEGBaseline8Bit))
    assert np.abs(pixels.astype(int) - stored).max() <= 3
    assert (done.scaling, done.low, done.high) == ("bit depth", 0, 255)


def test_monochrome1_is_inverted_after_the_window(stored, tmp_path):
    tags = {"WindowCenter": 1700, "WindowWidth": 2400}
    plain, _ = read_pixels(save(radiograph(stored, **tags), tmp_path / "2.dcm"))
    inverse = radiograph(stored, PhotometricInterpretation="MONOCHROME1", **tags)
    pixels, done = read_pixels(save(inverse, tmp_path / "1.dcm"))
    assert done.inverted and np.abs(pixels.astype(int) - (255 - plain.astype(int))).max() <= 1
    assert pixels[0].mean() > pixels[-1].mean()  # low stored values are bright


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_rescale_and_window_agree_with_pydicom_pixel_by_pixel(function, stored, tmp_path):
    signed = stored.astype(np.int16) - 1700
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100, "RescaleType": "US", "VOILUTFunction": function}
    dataset = radiograph(signed, **tags, WindowCenter=[-50, 7], WindowWidth=[3000, 8])
    shown = apply_windowing(apply_modality_lut(signed, dataset), dataset)
    low, high = np.array([-2048, 2047]) * 2 - 100  # the range of 12 signed bits after the modality LUT
    pixels, _ = read_pixels(save(dataset, tmp_path / "x.dcm"), bit_depth=16)
    assert np.abs(pixels - (shown - low) / (high - low) * 65535).max() <= 1


@pytest.mark.parametrize("bits", [8, 12])
def test_voi_lut_goes_before_the_window_and_holds_its_ends(bits, stored, tmp_path):
    top = 2**bits - 1
    entries = [top * k * k // (1999 * 1999) for k in range(2000)]  # of the stored values 800 to 2799
    tags = {"VOILUTSequence": lookup_table(entries, 800, bits), "WindowCenter": 100, "WindowWidth": 20}
    pixels, done = read_pixels(save(radiograph(stored, **tags), tmp_path / "x.dcm"))
    expected = np.array([[entries[min(max(int(v) - 800, 0), 1999)] for v in row] for row in stored]) * 255 / top
    assert done.scaling == "VOI LUT" and np.abs(pixels - expected).max() <= 1


def test_a_modality_lut_is_applied_first(stored, tmp_path):
    entries = [4095 - k for k in range(4096)]
    tags = {"ModalityLUTSequence": lookup_table(entries, 0, 12), "WindowCenter": 2400, "WindowWidth": 2400}
    pixels, _ = read_pixels(save(radiograph(stored, **tags), tmp_path / "x.dcm"))
    assert np.abs(pixels - expected_by_window(4095 - stored, 2400, 2400)).max() <= 1


def test_without_a_window_three_saturated_pixels_change_nothing(stored, tmp_path):
    plain, done = read_pixels(save(radiograph(stored), tmp_path / "plain.dcm"))
    marked = stored.copy()
    marked[0, :3] = 4095
    pixels, _ = read_pixels(save(radiograph(marked), tmp_path / "marked.dcm"))
    assert done.scaling == "percentiles"
    assert abs(np.median(pixels) - np.median(plain)) <= 2 and 100 < np.median(plain) < 155


@pytest.mark.parametrize("tags, note", [
    ({"WindowCenter": 60000, "WindowWidth": 10}, "window shows almost nothing"),
    ({"WindowCenter": 1000, "WindowWidth": 0}, "window is not usable"),
])  # fmt: skip
def test_a_useless_window_is_named_and_replaced(tags, note, stored, tmp_path):
    pixels, done = read_pixels(save(radiograph(stored, **tags), tmp_path / "x.dcm"))
    assert done.scaling == "percentiles" and note in done.notes[0]
    assert 100 < np.median(pixels) < 155


def test_padding_is_black_and_does_not_count(stored, tmp_path):
    padded = stored.copy()
    padded[:, :8] = 4000
    tags = {"PixelPaddingValue": 4000, "PhotometricInterpretation": "MONOCHROME1"}
    pixels, done = read_pixels(save(radiograph(padded, **tags), tmp_path / "x.dcm"))
    assert (pixels[:, :8] == 0).all() and done.high < 3100


def test_color_becomes_gray(tmp_path):
    stored = np.zeros((6, 5, 3), dtype=np.uint8)
    stored[:, :, 0] = 200
    path = save(radiograph(stored, 8), tmp_path / "x.dcm")
    assert read_pixels(path)[0].shape == (6, 5, 3)
    assert np.abs(read_radiograph(path)[:, :, 0].astype(float) - 0.299 * 200).max() <= 1
    assert read_radiograph(path, "BGR")[0, 0].tolist() == [0, 0, 200]


def test_what_is_unusual_is_noted(stored, tmp_path):
    tags = {"PatientOrientation": ["R", "F"], "ViewPosition": "PA", "ImagerPixelSpacing": [0.1, 0.2],
            "BurnedInAnnotation": "YES"}  # fmt: skip
    _, done = read_pixels(save(radiograph(stored, **tags), tmp_path / "x.dcm"))
    assert [note.split()[0] for note in done.notes] == ["PatientOrientation", "pixels", "burned-in"]


WINDOW = {"WindowCenter": 1700, "WindowWidth": 2400}
BITS = {
    "upper": (lambda v: v << 4, {"HighBit": 15}, "upper bits .HighBit 15, 12 bits"),
    "upper and noise": (lambda v: v << 4 | 5, {"HighBit": 15}, "upper bits"),
    "signed upper": (lambda v: (v << 4).astype(np.int16), {"HighBit": 15}, "upper bits"),
    "not upper": (lambda v: v, {"HighBit": 14}, "HighBit is 14, but its values are in the lowest 12"),
    "too few": (lambda v: v, {"BitsStored": 9, "HighBit": 8}, "values need 12 bits, its header says 9"),
    "overlay": (lambda v: v | (v % 2 << 12), {"overlay": 12}, None),
    "constant": (lambda v: v | 0xA000, {}, None),
    "no sign": (lambda v: (v & 0xFFF).astype(np.int16), {}, None),
    "sign": (lambda v: np.where(v >> 11, v | 0xF000, v).astype(np.uint16).view(np.int16), {}, None),
}


@pytest.mark.parametrize("case", BITS)
def test_values_are_read_from_the_bits_that_hold_them(case, stored, tmp_path):
    change, tags, note = BITS[case]
    values = stored // 2 if case == "signed upper" else stored
    plain = np.where(values >= 2048, values - 4096.0, values) if "sign" in case else values.astype(float)
    tags = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 700, "WindowWidth": 3400, **tags}
    overlay = tags.pop("overlay", None)
    dataset = radiograph(change(values), **tags)
    if overlay:
        dataset.add_new((0x6000, 0x0102), "US", overlay)
    pixels, done = read_pixels(save(dataset, tmp_path / "x.dcm"))
    assert np.abs(pixels - expected_by_window(plain, 700, 3400)).max() <= 1
    assert bool(done.notes) == bool(note) and re.search(note or "", "".join(done.notes))


@pytest.mark.parametrize(("tags", "written", "slope", "note"), [
    ({"RescaleSlope": None, "RescaleIntercept": None}, {}, 1, None),
    ({"RescaleSlope": "0", "RescaleIntercept": "0"}, {}, 1, "RescaleSlope is 0"),
    ({"RescaleSlope": "0.75", "RescaleIntercept": "0"}, {b"0.75": b"0,75"}, 0.75, "RescaleSlope has a decimal comma"),
    ({"RescaleSlope": "2.5"}, {}, 2.5, None),
    ({"PixelSpacing": ["0.14", "0.14"]}, {b"0.14": b"0,14"}, 1, "PixelSpacing has a decimal comma"),
    ({"PixelSpacing": ["0.14", "0.14"]}, {b"0.14": b"a.14"}, 1, "PixelSpacing is no number: unused"),
    ({"PresentationLUTShape": "INVERSE"}, {}, 1, "INVERSE contradicts MONOCHROME2"),
    ({"PresentationLUTShape": "IDENTITY"}, {}, 1, None),
])  # fmt: skip
def test_numbers_that_break_the_rules_are_read_and_noted(tags, written, slope, note, stored, tmp_path):
    path = save(radiograph(stored, **WINDOW, **tags), tmp_path / "x.dcm")
    for before, after in written.items():
        path.write_bytes(path.read_bytes().replace(before, after))
    pixels, done = read_pixels(path)
    assert np.abs(pixels - expected_by_window(stored * slope, 1700, 2400)).max() <= 1
    assert (note is None and done.notes == ()) or (note in done.notes[0] and len(done.notes) == 1)
    path = save(radiograph(stored, RescaleSlope="1.75", RescaleIntercept="0"), tmp_path / "y.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.75", b"1,7,"))
    with pytest.raises(ImageReadError, match="y.dcm: its RescaleSlope is '1,7,', expected one number"):
        read_pixels(path)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_is_read(implicit, stored, tmp_path):
    dataset = radiograph(stored, **WINDOW)
    del dataset.file_meta
    pydicom.dcmwrite(tmp_path / "I.1.5", dataset, implicit_vr=implicit, little_endian=True)
    pixels, done = read_pixels(tmp_path / "I.1.5")
    assert np.abs(pixels - expected_by_window(stored, 1700, 2400)).max() <= 1
    assert "names no transfer syntax: read as " + ("Implicit" if implicit else "Explicit") in done.notes[0]


@pytest.mark.parametrize("samples", [1, 3])
def test_a_jpeg_stream_knows_its_samples(samples, tmp_path):
    shape = (48, 64, 3)[: 3 if samples == 3 else 2]
    values = np.broadcast_to(np.linspace(60, 180, 64).astype(np.uint8).reshape(1, 64, *[1] * (samples == 3)), shape)
    dataset = radiograph(np.ascontiguousarray(values), 8)
    save(dataset, tmp_path / "x.dcm", JPEGBaseline8Bit)
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 4 - samples, 0
    dataset.PhotometricInterpretation = "RGB" if samples == 1 else "MONOCHROME2"
    pydicom.dcmwrite(tmp_path / "x.dcm", dataset, enforce_file_format=True)
    pixels, done = read_pixels(tmp_path / "x.dcm")
    assert pixels.shape == shape and np.abs(pixels.astype(int) - values).max() <= 4
    assert f"{samples} samples, its header says {4 - samples}" in done.notes[0]


def test_a_file_without_suffix_is_known_by_its_preamble(stored, tmp_path):
    assert read_radiograph(save(radiograph(stored), tmp_path / "IM0001")).shape == (40, 32, 1)


def test_refused_files_say_why(stored, tmp_path):
    frames = radiograph(np.stack([stored, stored])[0], NumberOfFrames=2)
    frames.PixelData = np.stack([stored, stored]).tobytes()
    cases = {"frames.dcm": "2 frames, a radiograph has one"}
    save(frames, tmp_path / "frames.dcm")
    empty = radiograph(stored)
    del empty.PixelData
    save(empty, tmp_path / "empty.dcm")
    cases["empty.dcm"] = "without pixels"
    save(radiograph(stored), tmp_path / "cut.dcm")
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "cut.dcm").read_bytes()[:-900])
    cases["cut.dcm"] = "cannot read image .*replace the file"
    (tmp_path / "text.dcm").write_text("no DICOM at all, only a text of some length")
    cases["text.dcm"] = "cannot read image"
    save(radiograph(stored, Rows=60000, Columns=60000), tmp_path / "bomb.dcm")
    cases["bomb.dcm"] = "60000 × 60000 pixels, which need more than half"
    for name, message in cases.items():
        with pytest.raises(ImageReadError, match=message) as caught:
            read_radiograph(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_tags_are_read_as_text(stored, tmp_path):
    tags = {"AccessionNumber": "A7 ", "PatientAge": "062Y", "PatientName": "", "ImageType": ["ORIGINAL", "PRIMARY"]}
    path = save(radiograph(stored, **tags), tmp_path / "x.dcm")
    tags = read_dicom_tags(path, ["AccessionNumber", "PatientAge", "PatientName", "PatientSex", "ImageType"])
    assert tags == {"AccessionNumber": "A7", "PatientAge": "062Y", "PatientName": None, "PatientSex": None,
                    "ImageType": "ORIGINAL\\PRIMARY"}  # fmt: skip
    with pytest.raises(SourceDataError, match="PatientAgee"):
        read_dicom_tags(path, ["PatientAgee"])


def test_an_age_without_its_unit_can_be_read(stored, tmp_path):
    dataset = radiograph(stored)
    with pydicom.config.disable_value_validation():
        dataset.PatientAge = "62"
        save(dataset, tmp_path / "x.dcm")
    assert read_dicom_tags(tmp_path / "x.dcm", ["PatientAge"]) == {"PatientAge": "62"}


def test_the_models_input_keeps_the_depth_that_is_stored(stored, tmp_path):
    path = save(radiograph(stored), tmp_path / "x.dcm")
    deep, flat = model_input(path), read_radiograph(path)
    assert deep.dtype == np.float32 and np.abs(deep - flat).max() <= 0.5 + 1e-3
    assert len(np.unique(deep)) > len(np.unique(flat))
    path = save(radiograph((stored // 16).astype(np.uint8), bits=8), tmp_path / "y.dcm")
    assert model_input(path).dtype == np.uint8
