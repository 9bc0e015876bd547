"""Map stored pixel values of any depth to 8 or 16 bits, and record how.

More than eight bits are never scaled by an image's extremes: three saturated marker pixels would turn it black.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdf_detectron.errors import ImageReadError
from mdf_detectron.fileio import machine_memory

LOWEST, HIGHEST = 0.5, 99.5
"""Percentiles mapped to black and white if the file defines no display range."""

MOST_PIXELS = 64_000_000
"""Per radiograph; the largest detectors give less than half. Reading this many takes up to 2 GB."""

_CONTAINER_BITS = (8, 10, 12, 14, 16, 32)
_MOST_BINS = 1 << 20
_BYTES_PER_PIXEL = 12  # decoded samples and the floats for scaling


@dataclass(frozen=True)
class Provenance:
    """How a reader turned a file's stored values into pixels.

    Attributes:
        kind: file type ("PNG", "TIFF", "DICOM"...).
        width, height: pixels, after applying an orientation tag.
        bits: stored per sample.
        scaling: "none", "full range", "bit depth", "percentiles", "window" or "VOI LUT".
        low, high: modality values mapped to black and white (white and black if ``inverted``).
        inverted: low stored values are bright (MONOCHROME1, WhiteIsZero).
        notes: oddities of the file, one short sentence each.
    """

    kind: str
    width: int
    height: int
    bits: int
    scaling: str = "none"
    low: float = 0.0
    high: float = 255.0
    inverted: bool = False
    notes: tuple[str, ...] = ()


def robust_range(values: np.ndarray) -> tuple[float, float, str]:
    """Return the values to map to black and white, and the name of the rule, for (N ≥ 1,) finite ``values``.

    The rule "percentiles" takes the 0.5th and 99.5th; if one value fills nearly all pixels, the percentiles of the
    others, widened to include it. For a constant image, "bit depth" takes 0 and the largest value of the depth.
    """
    low, high = _percentiles(values)
    if low == high:
        others = values[values != low]
        if others.size == 0:
            return (0.0, _full_scale(low), "bit depth") if low >= 0 else (low, 0.0, "bit depth")
        first, last = _percentiles(others)
        low, high = min(low, first), max(high, last)
    return low, high, "percentiles"


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Return the smallest values that at least 0.5 % and 99.5 % of the pixels do not exceed."""
    ranks = [max(0, int(np.ceil(values.size * share / 100)) - 1) for share in (LOWEST, HIGHEST)]
    if np.issubdtype(values.dtype, np.integer):
        first = int(values.min())
        if int(values.max()) - first < _MOST_BINS:  # counting is many times faster than sorting
            below = np.cumsum(np.bincount((values.astype(np.int64) - first).ravel()))
            low, high = np.searchsorted(below, np.array(ranks) + 1)
            return float(first + low), float(first + high)
    low, high = np.partition(values, ranks, axis=None)[ranks]
    return float(low), float(high)


def _full_scale(value: float) -> float:
    """Return the largest value of the smallest usual bit depth that fits ``value``; 1 for values up to 1."""
    return next((2.0**bits - 1 for bits in _CONTAINER_BITS if 1 < value <= 2.0**bits - 1), max(1.0, value))


def quantize(values: np.ndarray, low: float, high: float, bit_depth: int, invert: bool = False) -> np.ndarray:
    """Map [low, high], low < high, to the full range of ``bit_depth`` (8 or 16), clipped and rounded.

    Args:
        values: finite, any shape; returned as uint8 or uint16.
        invert: map ``low`` to white instead.
    """
    top = 2**bit_depth - 1
    scaled = (np.asarray(values, dtype=np.float64) - low) * (top / (high - low))
    np.clip(scaled, 0, top, out=scaled)
    if invert:
        np.subtract(top, scaled, out=scaled)
    return np.rint(scaled).astype(np.uint8 if bit_depth == 8 else np.uint16)


def change_depth(pixels: np.ndarray, bit_depth: int) -> np.ndarray:
    """Convert full-range uint8 to uint16 or back; black and white are preserved."""
    if pixels.dtype == np.uint8:
        return pixels if bit_depth == 8 else pixels.astype(np.uint16) * 257
    return pixels if bit_depth == 16 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def pixel_digest(pixels: np.ndarray) -> str:
    """Return a digest of pixels and their shape: the same for files of any format that hold the same image."""
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()


def check_memory(path: Path, width: int, height: int, samples: float = 1) -> None:
    """Raise :class:`ImageReadError` if an image is too large for a radiograph or for this machine's memory.

    Args:
        samples: memory per pixel, relative to a gray pixel.
    """
    memory = machine_memory()
    count = width * height * samples
    if count * _BYTES_PER_PIXEL > memory / 2:
        raise ImageReadError(
            f"cannot read image {path}: its header says {width} × {height} pixels, which need more than half of this "
            f"machine's memory ({memory / 2**30:.0f} GiB); reduce the image, or remove the file if it is no radiograph"
        )
    if count > MOST_PIXELS:
        raise ImageReadError(
            f"cannot read image {path}: its header says {width} × {height} pixels{' of color' * (samples > 1)}, more "
            f"than {int(MOST_PIXELS / samples):,}; reduce the image, or remove the file if it is no radiograph"
        )
