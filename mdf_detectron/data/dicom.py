"""Decode pixels (as meant for display) and tags of DICOM radiographs with pydicom.

pydicom converts values on access; :class:`~mdf_detectron.data.readers.OpenImage` turns its errors into one line.
"""

from __future__ import annotations

import io
import mmap
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mdf_detectron.data.intensity import Provenance, change_depth, check_memory, quantize, robust_range
from mdf_detectron.errors import ImageReadError, SourceDataError, short_text, shorten
from mdf_detectron.fileio import shorten_path

if TYPE_CHECKING:
    from pydicom import Dataset

Content = mmap.mmap
"""A memory-mapped file: a bogus length in it allocates no memory."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax of files compressed as a whole."""

_ITEM = b"\xfe\xff\x00\xe0"  # compressed pixels begin with it
_NUMBERS = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "PixelSpacing", "ImagerPixelSpacing",
            "PixelAspectRatio")  # fmt: skip
_COMMA = re.compile(r"^\s*([+-]?\d+),(\d+)\s*$")
_OVERLAYS = range(0x6000, 0x6020, 2)
_STANDARD_ORIENTATION = ["L", "F"]  # rows run to the patient's left, columns to the feet
_LEAST_INSIDE = 0.01


def decode_dicom(path: Path, content: Content, bit_depth: int = 8) -> tuple[np.ndarray, Provenance]:
    """Decode one DICOM radiograph: apply the modality LUT, then VOI LUT or window, then invert MONOCHROME1.

    Without a usable VOI LUT or window, more than eight bits are scaled by
    :func:`~mdf_detectron.data.intensity.robust_range`, others by their bit depth. Padding becomes black.

    Args:
        path: for messages.
        bit_depth: 8, 16, or 0 for 16 if more than eight bits are stored, else 8.

    Returns:
        (H, W) or (H, W, 3) RGB, uint8 or uint16, and the steps taken.

    Raises:
        ImageReadError: not DICOM, no pixels, several frames, or undecodable pixels.
    """
    dataset = _parse(path, content)
    check_memory(path, int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0))
    notes = _mend_numbers(path, dataset)
    pixels = _decode(path, dataset, notes)
    notes += _notes(dataset, pixels)
    bits = int(dataset.get("BitsStored") or pixels.dtype.itemsize * 8)
    bit_depth = bit_depth or (16 if bits > 8 else 8)
    if pixels.ndim == 3:
        scaled = change_depth(pixels, bit_depth) if bits == 8 else quantize(pixels, 0, 2**bits - 1, bit_depth)
        return scaled, Provenance("DICOM", pixels.shape[1], pixels.shape[0], bits, notes=tuple(notes))
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    scaled, rule, low, high = _present(path, pixels, dataset, bit_depth, inverted, notes)
    height, width = pixels.shape
    return scaled, Provenance("DICOM", width, height, bits, rule, low, high, inverted, tuple(notes))


def dicom_size(path: Path, content: Content) -> tuple[int, int]:
    """Return (width, height) from the header of a DICOM file."""
    dataset = _parse(path, content, ["Rows", "Columns"])
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise ImageReadError(f"{path}: a DICOM file without pixels (no Rows and Columns); leave it out")
    return int(dataset.Columns), int(dataset.Rows)


def dicom_tags(path: Path, content: Content, keywords: Sequence[str]) -> dict[str, str | None]:
    """Return tags by keyword (``"PatientAge"``) as text; None if absent or empty, several values joined by "\\\\".

    Raises:
        SourceDataError: an unknown keyword.
        ImageReadError: not DICOM, or an unreadable tag.
    """
    pydicom = _pydicom()
    unknown = [keyword for keyword in keywords if pydicom.datadict.tag_for_keyword(keyword) is None]
    if unknown:
        raise SourceDataError(f"DICOM has no tag {unknown}; use its keywords, such as PatientAge or AccessionNumber")
    dataset = _parse(path, content, list(keywords))
    tags = {}
    for keyword in keywords:
        try:
            tags[keyword] = _text(dataset.get(keyword))
        except Exception as error:  # pydicom converts values on access
            raise ImageReadError(f"{path}: the tag {keyword} cannot be read ({short_text(error)})") from None
    return tags


def _text(value: object) -> str | None:
    if value is None:
        return None
    several = isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"
    text = "\\".join(str(v) for v in value) if several else str(value)
    return text.strip(" \0") or None


def _pydicom():
    try:
        import pydicom
    except ImportError:
        raise ImageReadError("DICOM files need pydicom; run: pip install 'mdf_detectron[dicom]'") from None
    return pydicom


def _parse(path: Path, content: Content, only: list[str] | None = None) -> Dataset:
    pydicom = _pydicom()
    arguments = {} if only is None else {"stop_before_pixels": True, "specific_tags": only}
    try:
        if _DEFLATED in content[:2048]:
            raise ValueError("it is deflated as a whole, and may unpack to any size; save it uncompressed")
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that break DICOM's own rules ("62" for an age) are common
            return pydicom.dcmread(content, force=True, **arguments)
    except Exception as error:  # pydicom has no common base class for errors of broken files
        cause = getattr(error, "strerror", None) or short_text(error)
        text = f"cannot read image {shorten_path(path)}: not DICOM ({cause}); replace the file"
        raise ImageReadError(text) from None


def _mend_numbers(path: Path, dataset: Dataset) -> list[str]:
    """Read decimal commas in the numbers that decoding uses, and take a slope of 0 for none; return notes."""
    notes = []
    for keyword in _NUMBERS:
        text = _text(dataset.get(keyword)) or ""
        try:
            numbers = [float(_COMMA.sub(r"\1.\2", part)) for part in text.split("\\") if text]
        except ValueError:
            numbers = None
        if keyword.startswith("Rescale") and (numbers is None or len(numbers) > 1):
            found = f"its {keyword} is {shorten(text)}, expected one number; correct the tag"
            raise ImageReadError(f"cannot read image {shorten_path(path)}: {found}")
        if numbers is None or "," in text:
            del dataset[keyword]
            setattr(dataset, keyword, numbers)
            notes.append(f"its {keyword} {'is no number: unused' if numbers is None else 'has a decimal comma'}")
    if dataset.get("RescaleSlope") == 0:
        del dataset.RescaleSlope
        notes.append("its RescaleSlope is 0, which would make all pixels equal: 1 is taken")
    return notes


def _decode(path: Path, dataset: Dataset, notes: list[str]) -> np.ndarray:
    """Decode the stored samples, (H, W) or (H, W, 3) RGB."""
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageReadError(f"cannot read image {path}: a DICOM file without pixels; leave it out")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageReadError(f"cannot read image {path}: {frames} frames, a radiograph has one; export the frame")
    pydicom = _pydicom()
    _set_syntax(dataset, notes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plugin = {}
            syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
            if syntax == pydicom.uid.JPEGBaseline8Bit and dataset.get("SamplesPerPixel") == 1:
                plugin = {"decoding_plugin": "pillow"}  # three times as fast as the default plug-in
            dataset.pixel_array_options(correct_unused_bits=False, **plugin)
            try:
                pixels = np.asarray(dataset.pixel_array)
            except ValueError:
                if not _follow_stream(dataset, notes):
                    raise
                pixels = np.asarray(dataset.pixel_array)
            pixels = _stored_values(pixels, dataset, notes)
            if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
                pixels = pydicom.pixels.apply_color_lut(pixels, dataset)
                dataset.BitsStored = pixels.dtype.itemsize * 8
    except BaseException as error:  # plug-ins raise anything; a Rust panic is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
        name = getattr(syntax, "name", "no transfer syntax")
        raise ImageReadError(f"cannot read image {path}: {short_text(error)} ({name}); replace the file") from None
    pixels = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
    if pixels.shape[:2] != (int(dataset.Rows), int(dataset.Columns)):
        raise ImageReadError(
            f"cannot read image {path}: {pixels.shape[1]} × {pixels.shape[0]} pixels are stored, the header says "
            f"{dataset.Columns} × {dataset.Rows}; replace the file"
        )
    return pixels


def _set_syntax(dataset: Dataset, notes: list[str]) -> None:
    """Set the transfer syntax that a file without preamble lacks, if its pixels are not compressed."""
    uid, meta = _pydicom().uid, getattr(dataset, "file_meta", None)
    if meta is None or meta.get("TransferSyntaxUID") or dataset.get("PixelData", b"")[:4] == _ITEM:
        return
    meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if dataset.original_encoding[0] else uid.ExplicitVRLittleEndian
    notes.append(f"its header names no transfer syntax: read as {meta.TransferSyntaxUID.name}")


def _follow_stream(dataset: Dataset, notes: list[str]) -> bool:
    """Set the samples per pixel to those of a JPEG stream; return whether the header says others."""
    try:
        frame = _pydicom().encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            samples, said = len(image.getbands()), int(dataset.SamplesPerPixel)
    except Exception:  # no JPEG at all: the first error stands
        samples = said = 0
    if samples == said or samples not in (1, 3):
        return False
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = samples, 0
    dataset.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "YBR_FULL_422"
    notes.append(f"its pixels have {samples} samples, its header says {said}: the pixels are followed")
    return True


def _stored_values(pixels: np.ndarray, dataset: Dataset, notes: list[str]) -> np.ndarray:
    """Return the values that samples of more bits than are stored hold; the header is followed where it can be true.

    Samples may be in the upper bits (HighBit), and bits outside may hold the sign or an overlay. If they need more bits
    than BitsStored, it is set to what they need.
    """
    size, said = 8 * pixels.dtype.itemsize, int(dataset.get("BitsStored") or 0)
    if pixels.dtype.kind not in "ui" or not 0 < said < size:
        return pixels
    high, signed = dataset.get("HighBit"), pixels.dtype.kind == "i"
    words = pixels.view(pixels.dtype.str.replace("i", "u"))
    used = int(np.bitwise_or.reduce(words, axis=None))
    shift = 0 if high is None else int(high) - said + 1
    in_range = -(1 << said - 1) * signed <= int(pixels.min()) and int(pixels.max()) < 1 << said
    if 0 < shift <= size - said and not in_range:
        notes.append(f"its values are in the upper bits (HighBit {high}, {said} bits stored)")
        pixels = pixels >> shift
    elif shift:
        notes.append(f"its HighBit is {high}, but its values are in the lowest {said} bits")
    elif (
        not in_range
        and (used ^ int(np.bitwise_and.reduce(words, axis=None))) >> said  # bits that no pixel changes say nothing
        and not any(dataset.get((group, 0x0102)) for group in _OVERLAYS)
    ):
        dataset.BitsStored = size if signed else used.bit_length()
        notes.append(f"its values need {dataset.BitsStored} bits, its header says {said}")
        return pixels
    return (pixels << size - said) >> size - said if signed or used >> said else pixels


def _notes(dataset: Dataset, pixels: np.ndarray) -> list[str]:
    notes = []
    shape, photometric = dataset.get("PresentationLUTShape"), dataset.get("PhotometricInterpretation")
    if (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        notes.append(f"its PresentationLUTShape {shape} contradicts {photometric}, which is followed")
    orientation = [str(v) for v in dataset.get("PatientOrientation") or ()]
    if orientation and orientation != _STANDARD_ORIENTATION and dataset.get("ViewPosition") in ("PA", "AP"):
        notes.append(f"PatientOrientation is {'/'.join(orientation)}, not L/F: pixels are not turned")
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        ratio = dataset.get(keyword)
        if ratio and len(ratio) == 2 and abs(float(ratio[0]) - float(ratio[1])) > 0.01 * float(ratio[0]):
            notes.append(f"pixels are not square ({keyword}): the aspect is left as stored")
            break
    if dataset.get("BurnedInAnnotation") == "YES":
        notes.append("burned-in annotation")
    return notes


def _present(
    path: Path, pixels: np.ndarray, dataset: Dataset, bit_depth: int, inverted: bool, notes: list[str]
) -> tuple[np.ndarray, str, float, float]:
    """Return the scaled pixels, the scaling rule, and the modality values at its ends.

    Integers go through a table of their values, which is many times faster than computing each pixel.
    """
    padding = _padding(pixels, dataset)
    shown = pixels if padding is None else pixels[~padding]
    if shown.size == 0:
        notes.append("all pixels are padding")
        return np.zeros(pixels.shape, np.uint8 if bit_depth == 8 else np.uint16), "none", 0.0, 0.0
    if not np.issubdtype(pixels.dtype, np.integer):
        finite = np.isfinite(shown)
        if not finite.any():
            raise ImageReadError(f"cannot read image {path}: none of its pixels is a finite number; remove the file")
        if not finite.all():
            notes.append("pixels that are not finite numbers are black")
            padding = ~np.isfinite(pixels) if padding is None else padding | ~np.isfinite(pixels)
        low, high, rule = robust_range(shown[finite])
        scaled = quantize(np.nan_to_num(pixels), low, high, bit_depth, inverted)
    else:
        first, last = int(pixels.min()), int(pixels.max())
        stored = np.arange(first, last + 1)
        table, rule, low, high = _table(stored, shown, dataset, bit_depth, inverted, notes)
        scaled = table[pixels.astype(np.int64) - first]
    if padding is not None:
        scaled[padding] = 0
    return scaled, rule, low, high


def _table(
    stored: np.ndarray, shown: np.ndarray, dataset: Dataset, bit_depth: int, inverted: bool, notes: list[str]
) -> tuple[np.ndarray, str, float, float]:
    """Return the output of each stored value, the scaling rule, and the modality values at its ends."""
    modality = _modality(stored, dataset)
    steps = []
    if dataset.get("VOILUTSequence"):
        steps.append(_voi_lut)
    if dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        steps.append(_window)
    for step in steps:
        try:
            values, low, high, rule = step(modality, dataset)
        except (ValueError, NotImplementedError, TypeError, AttributeError, IndexError) as error:
            notes.append(f"its {'VOI LUT' if step is _voi_lut else 'window'} is not usable ({short_text(error)})")
            continue
        table = quantize(values, low, high, bit_depth, inverted)
        if _shows_something(table[shown.astype(np.int64) - int(stored[0])], shown, bit_depth):
            return table, rule, *_ends(modality, values, low, high)
        notes.append(f"its {rule} shows almost nothing of it and is not used")
    bits = int(dataset.BitsStored)
    if bits <= 8:
        signed = bool(dataset.get("PixelRepresentation"))
        ends = _modality(np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1]), dataset)
        low, high, rule = float(ends.min()), float(ends.max()), "bit depth"
    else:
        low, high, rule = robust_range(modality[shown.astype(np.int64) - int(stored[0])])
    return quantize(modality, low, high, bit_depth, inverted), rule, low, high


def _shows_something(scaled: np.ndarray, stored: np.ndarray, bit_depth: int) -> bool:
    """Check that at least 1 % of the pixels are neither black nor white, unless the image has at most two values."""
    inside = np.count_nonzero((scaled > 0) & (scaled < 2**bit_depth - 1))
    return inside >= _LEAST_INSIDE * scaled.size or len(np.unique(stored[:: max(1, stored.size // 10000)])) <= 2


def _ends(modality: np.ndarray, values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Return the smallest and largest modality value shown as neither black nor white."""
    inside = np.flatnonzero((values > min(low, high)) & (values < max(low, high)))
    span = modality[[inside[0], inside[-1]]] if inside.size else modality[[0, -1]]
    return float(span.min()), float(span.max())


def _modality(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    if dataset.get("ModalityLUTSequence"):
        return _lookup(stored, dataset.ModalityLUTSequence[0], dataset)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None and intercept is None:
        return stored
    with np.errstate(over="ignore"):
        values = stored * float(1 if slope is None else slope) + float(intercept or 0)
    if not np.isfinite(values).all():
        raise ValueError("its RescaleSlope and RescaleIntercept give values that are not finite")
    return values


def _voi_lut(modality: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, float, float, str]:
    values, bits = _lookup(modality, dataset.VOILUTSequence[0], dataset)
    # some files declare 16 bits for a table of 12
    bits = min(bits, max(1, int(np.asarray(values).max()).bit_length()))
    return values, 0.0, 2.0**bits - 1, "VOI LUT"


def _window(modality: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, float, float, str]:
    apply_windowing = _pydicom().pixels.apply_windowing
    values = apply_windowing(modality, dataset)
    with np.errstate(over="ignore"):
        low, high = sorted(apply_windowing(np.array([-1e12, 1e12]), dataset))
    if not low < high:
        raise ValueError("no range")
    return values, float(low), float(high), "window"


def _lookup(values: np.ndarray, item: Dataset, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Look values up in a LUT (PS3.3 C.11.1.1), clamped to its first and last entries.

    pydicom's own function wraps around in tables of more than 256 8-bit entries.
    """
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = item.LUTData
    if isinstance(entries, bytes):
        order = "<" if getattr(dataset, "original_encoding", (None, True))[1] is not False else ">"
        wide = len(entries) >= 2 * (count or 65536)
        entries = np.frombuffer(entries, dtype=f"{order}u2" if wide else "u1")
    table = np.atleast_1d(np.asarray(entries, dtype=np.int64))[: count or 65536]
    if table.size == 0:
        raise ValueError("an empty LUT")
    return table[np.clip(np.asarray(values).astype(np.int64) - first, 0, table.size - 1)], bits


def _padding(pixels: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Return (H, W) bool, true for padding; None if there is none."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    low, high = sorted((int(value), int(value if limit is None else limit)))
    inside = (pixels >= low) & (pixels <= high)
    return inside if inside.any() else None
