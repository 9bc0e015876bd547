"""Map stored pixel values of any depth to 8 or 16 bits, and say what was done.

More than eight bits are never scaled from an image's extremes: three saturated pixels of a marker would turn a
radiograph black.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdf_detectron.errors import ImageReadError
from mdf_detectron.fileio import machine_memory

LOWEST, HIGHEST = 0.5, 99.5
"""Percentiles of the pixels that become black and white where the file does not say how it is to be shown."""

MOST_PIXELS = 64_000_000
"""Of a radiograph; the largest detectors and scanners give less than half. Reading them takes up to 2 GB."""

_CONTAINER_BITS = (8, 10, 12, 14, 16, 32)
_MOST_BINS = 1 << 20
_BYTES_PER_PIXEL = 12  # the decoded samples, and the floats they are scaled in


@dataclass(frozen=True)
class Provenance:
    """What a reader did between a file's stored values and the pixels it returned.

    Attributes:
        kind: file type ("PNG", "TIFF", "DICOM"...).
        width, height: pixels, after an orientation tag is applied.
        bits: bits stored per sample.
        scaling: "none", "full range", "bit depth", "percentiles", "window" or "VOI LUT".
        low, high: modality values that became black and white (white and black if ``inverted``).
        inverted: stored low values are bright (MONOCHROME1, WhiteIsZero).
        notes: what is unusual about the file, one short sentence each.
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
    """Find the values that become black and white, and the name of the rule.

    Args:
        values: (N,) finite integers or floats, N ≥ 1.

    Returns:
        the 0.5th and 99.5th percentile, "percentiles". Where one value fills nearly all pixels, the percentiles of
        the others, widened to hold it; of a constant image, 0 and the largest value of its bit depth, "bit depth".
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
    """Return the smallest values that at least 0.5 and 99.5 % of the pixels do not exceed."""
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
    """Return the largest value of the narrowest usual bit depth that holds ``value``; 1 for values up to 1."""
    return next((2.0**bits - 1 for bits in _CONTAINER_BITS if 1 < value <= 2.0**bits - 1), max(1.0, value))


def quantize(values: np.ndarray, low: float, high: float, bit_depth: int, invert: bool = False) -> np.ndarray:
    """Map [low, high] to the full range of ``bit_depth`` (8 or 16), clipped and rounded.

    Args:
        values: any shape, finite.
        low, high: ``low`` < ``high``.
        invert: map ``low`` to white instead.

    Returns:
        uint8 or uint16 of the same shape.
    """
    top = 2**bit_depth - 1
    scaled = (np.asarray(values, dtype=np.float64) - low) * (top / (high - low))
    np.clip(scaled, 0, top, out=scaled)
    if invert:
        np.subtract(top, scaled, out=scaled)
    return np.rint(scaled).astype(np.uint8 if bit_depth == 8 else np.uint16)


def change_depth(pixels: np.ndarray, bit_depth: int) -> np.ndarray:
    """Convert full-range uint8 to uint16 or back; 0 and the largest value are kept."""
    if pixels.dtype == np.uint8:
        return pixels if bit_depth == 8 else pixels.astype(np.uint16) * 257
    return pixels if bit_depth == 16 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def check_memory(path: Path, width: int, height: int, samples: float = 1) -> None:
    """Raise :class:`ImageReadError` for an image that is too large for a radiograph, or for this machine.

    Args:
        samples: how much more memory a pixel takes than one of gray.
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
