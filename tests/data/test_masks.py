"""Segmentations: every sound one passes, every broken one is named, by hand and against pycocotools."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdf_detectron.data.masks import segmentation_problems

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def problem(segmentation, height=48, width=64):
    return "".join(text for _, text in segmentation_problems([(segmentation, height, width)]))


def encode(mask):
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode()}


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_what_pycocotools_writes_is_sound(seed, height, width, density):
    rng = np.random.default_rng(seed)
    masks = [rng.random((height, width)) < density for _ in range(3)] + [np.ones((height, width)), np.zeros((300, 200))]
    encoded = [encode(m) for m in masks]
    assert not list(segmentation_problems([(m, *m["size"]) for m in encoded]))
    cut = [{**m, "counts": m["counts"][:-1]} for m in encoded]
    assert {i for i, _ in segmentation_problems([(m, *m["size"]) for m in cut])} == set(range(5))


@settings(max_examples=200)
@given(st.lists(st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=12), min_size=1, max_size=5))
def test_counts_equal_a_decoder_digit_by_digit(texts):
    def runs_of(text):
        runs, digits = [], []
        for character in text:
            code = ord(character) - 48
            if not 0 <= code <= 63:
                return None
            digits.append(code)
            if not code & 32:
                if len(digits) > 7:
                    return None
                value = sum((d & 31) << 5 * k for k, d in enumerate(digits))
                value -= (1 << 5 * len(digits)) if code & 16 else 0
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                digits = []
        return None if digits or not runs or min(runs) < 0 else runs

    masks = []
    for text in texts:
        total = sum(runs_of(text) or [1]) or 1
        masks.append(({"size": [1, total], "counts": text}, None, None))
    totals = [sum(runs_of(text) or []) for text in texts]
    expected = {i for i, total in enumerate(totals) if not 0 < total <= 100_000}  # a longer side is refused before
    assert {i for i, _ in segmentation_problems(masks)} == expected


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (SQUARE, "is a flat list of numbers; write a list of polygons"),
        ([[8, 6, 32, 32]], r"polygon 0 \[8, 6, 32, 32\] has 4 numbers; expected an even number of at least 6"),
        ([SQUARE, SQUARE[:7]], "polygon 1 .* has 7 numbers"),
        ([[5, 6, 15, 6, 25, 6]], "has no area"),
        ([[1e3 + v for v in SQUARE]], "lies outside the 64 × 48 image"),
        ([[-v for v in SQUARE]], "lies outside"),
        ([[0, 0, 500, 0, 500, 40]], "lies outside"),
        ([[0, 0, float("nan"), 0, 5, 5]], "not finite"),
        ([[0, 0, "5", 0, 5, 5]], "is not a list of numbers"),
        ([[0, 0, True, 0, 5, 5]], "is not a list of numbers"),
        ("mask.png", "is neither a list of polygons nor"),
        ({"counts": "V9"}, "is no run-length encoding; expected an object with 'size'"),
        ({"size": [48], "counts": "V9"}, r"its size \[48\] is not"),
        ({"size": [24, 32], "counts": [768]}, r"its size is 24 × 32 \(height × width\), its image's 48 × 64"),
        ({"size": [48, 64], "counts": "garbage"}, "its counts 'garbage' are no run-length encoding of its size"),
        ({"size": [48, 64], "counts": "é"}, "are no run-length encoding"),
        ({"size": [48, 64], "counts": ""}, "are no run-length encoding"),
        ({"size": [48, 64], "counts": [3000, 71]}, "its counts are of 3071 pixels, its size of 3072"),
        ({"size": [48, 64], "counts": [3073, -1]}, "neither text nor a list of whole numbers"),
    ],
)
def test_broken_ones_are_named(segmentation, message):
    assert problem([SQUARE]) == ""
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problem(segmentation))


def test_sound_polygons_and_runs():
    bow_tie = [10, 10, 30, 30, 30, 10, 10, 30]  # its signed areas cancel out
    reaching_out = [-3, 5, 70, 5, 30, 50]
    for segmentation in ([SQUARE], [bow_tie], [reaching_out, SQUARE], {"size": [48, 64], "counts": [1000, 72, 2000]}):
        assert problem(segmentation) == ""
    assert problem([[1e3 + v for v in SQUARE]], None, None) == ""  # no image size, no place
