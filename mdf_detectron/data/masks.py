"""Check COCO segmentations: polygons, and run-length encodings (RLE), compressed or not.

pycocotools accepts any text as a mask, and polygons anywhere. This module needs NumPy only.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mdf_detectron.errors import shorten

_CHUNK = 20_000
"""Compressed masks decoded at once."""

_LONGEST = 7
"""Most characters of a number in compressed counts; at five bits each, more than 32 bits."""

_FARTHEST = 1_000_000
"""Pixels; largest polygon coordinate."""

_LARGEST_SIDE = 100_000
"""Pixels; largest mask side. pycocotools allocates memory for any size it reads."""

Segmentation = tuple[Any, int | None, int | None]
"""A segmentation with its image's height and width, None if unknown."""


def segmentation_problems(segmentations: Sequence[Segmentation]) -> Iterator[tuple[int, str]]:
    """Yield (index, error message) of every unusable segmentation."""
    packed: list[tuple[int, bytes, int]] = []
    for i, (segmentation, height, width) in enumerate(segmentations):
        if isinstance(segmentation, dict):
            problem = _rle_problem(segmentation, height, width)
            counts = segmentation.get("counts")
            if not problem and isinstance(counts, (str, bytes)):
                code = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
                packed.append((i, code, math.prod(segmentation["size"])))
        else:
            problem = _polygons_problem(segmentation, height, width)
        if problem:
            yield i, problem
    for start in range(0, len(packed), _CHUNK):
        chunk = packed[start : start + _CHUNK]
        bad = _undecodable([code for _, code, _ in chunk], np.array([total for _, _, total in chunk], dtype=np.int64))
        for at in np.flatnonzero(bad):
            i = chunk[at][0]
            yield i, f"its counts {shorten(segmentations[i][0]['counts'])} are no run-length encoding of its size"


def _rle_problem(rle: dict[str, Any], height: int | None, width: int | None) -> str:
    """Describe what is wrong with a run-length encoding; :func:`_undecodable` checks compressed counts."""
    if not {"size", "counts"} <= rle.keys():
        return f"{shorten(rle)} is no run-length encoding; expected an object with 'size' and 'counts'"
    size, counts = rle["size"], rle["counts"]
    whole = isinstance(size, (list, tuple)) and [type(v) for v in size] == [int, int]
    if not whole or not 0 < min(size) <= max(size) <= _LARGEST_SIDE:
        return f"its size {shorten(size)} is not [height, width] in whole pixels from 1 to {_LARGEST_SIDE:,}"
    if height is not None and width is not None and tuple(size) != (height, width):
        return (
            f"its size is {size[0]} × {size[1]} (height × width), its image's {height} × {width}; "
            "write the mask at the size of the image"
        )
    if isinstance(counts, (str, bytes)):
        return ""
    if not isinstance(counts, (list, tuple)) or not all(type(v) is int and v >= 0 for v in counts):
        return f"its counts {shorten(counts)} are neither text nor a list of whole numbers from 0 on"
    if sum(counts) != math.prod(size):
        return f"its counts are of {sum(counts)} pixels, its size of {math.prod(size)}"
    return ""


def _polygons_problem(polygons: Any, height: int | None, width: int | None) -> str:
    if not isinstance(polygons, (list, tuple)):
        return f"{shorten(polygons)} is neither a list of polygons nor a run-length encoding"
    if all(isinstance(v, (int, float)) for v in polygons):
        return f"{shorten(polygons)} is a flat list of numbers; write a list of polygons, [[x1, y1, x2, y2, x3, y3, …]]"
    for number, polygon in enumerate(polygons):
        problem = _polygon_problem(polygon, height, width)
        if problem:
            return f"polygon {number} {shorten(polygon)} {problem}"
    return ""


def _polygon_problem(polygon: Any, height: int | None, width: int | None) -> str:
    if not isinstance(polygon, (list, tuple)) or not set(map(type, polygon)) <= {int, float}:
        return "is not a list of numbers [x1, y1, x2, y2, x3, y3, …]"
    if len(polygon) < 6 or len(polygon) % 2:
        return f"has {len(polygon)} numbers; expected an even number of at least 6, [x1, y1, x2, y2, x3, y3, …]"
    if not all(abs(v) <= _FARTHEST for v in polygon):  # excludes NaN, and products of coordinates that overflow
        return f"has a coordinate that is not finite, or beyond {_FARTHEST:,} pixels"
    xs, ys = polygon[::2], polygon[1::2]
    if height is not None and width is not None:
        low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
        outside = low_x >= width or low_y >= height or high_x <= 0 or high_y <= 0
        if outside or low_x < -width or low_y < -height or high_x > 2 * width or high_y > 2 * height:
            return f"lies outside the {width} × {height} image (width × height); coordinates are pixels"
    x, y = xs[0], ys[0]
    corners = zip(xs[1:-1], ys[1:-1], xs[2:], ys[2:], strict=True)
    if not any((a - x) * (d - y) != (c - x) * (b - y) for a, b, c, d in corners):
        return "has no area: all its points are on one line"
    return ""


def _undecodable(texts: Sequence[bytes], totals: np.ndarray) -> np.ndarray:
    """Return (N,) bool, true for compressed counts that do not decode to runs ≥ 0 with the sums ``totals``.

    Each number consists of five-bit digits, lowest first, as characters from "0"; bit 32 marks that another digit
    follows, bit 16 of the last one is the sign. From the fourth run on, a number is the difference to the run two
    places earlier.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    bad = lengths == 0
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return bad
    row = np.repeat(np.arange(len(texts)), lengths)
    bad[row[(codes < 0) | (codes > 63)]] = True
    last = (codes & 32) == 0
    ends = (np.cumsum(lengths) - 1)[lengths > 0]
    bad[row[ends[~last[ends]]]] = True
    last[ends] = True
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(codes)) - starts[np.cumsum(last) - last]
    bad[row[place >= _LONGEST]] = True
    place = np.minimum(place, _LONGEST)
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    values -= np.where(codes[last] & 16, np.int64(1) << (5 * (place[last] + 1)), 0)
    runs, row = _undo_differences(values, row[last]), row[last]
    bad[row[runs < 0]] = True
    sums = np.zeros(len(texts), dtype=np.int64)
    np.add.at(sums, row, runs)
    return bad | (sums != totals)


def _undo_differences(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Accumulate each row's numbers at odd places, and at even places from 2 on; place 0 is unchanged."""
    number = np.arange(len(values)) - np.searchsorted(row, row)
    chain = 3 * row + np.where(number == 0, 0, 1 + number % 2)
    order = np.argsort(chain, kind="stable")
    sums = np.cumsum(values[order])
    begins = np.searchsorted(chain[order], chain[order])
    runs = np.empty_like(values)
    runs[order] = sums - np.where(begins > 0, sums[begins - 1], 0)
    return runs
