"""Augmentation: pixels and boxes go the same way, values by a slow reference, nothing outside training."""

import re

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image
from pycocotools import mask as mask_util

from mdf_detectron.data.augmentation import (
    QuarterTurnTransform,
    RandomQuarterTurns,
    RandomSaturation,
    RandomScaleAndShift,
    RandomWindow,
    SquareResize,
    build_augmentations,
)
from mdf_detectron.data.mapper import MultimodalDatasetMapper
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.errors import ConfigError

EVERY = ["INPUT.RANDOM_SCALE", 0.2, "INPUT.RANDOM_SHIFT", 0.1, "INPUT.RANDOM_JITTER", [0.3, 0.1]]


def bilinear(image, x, y):
    """The image at a point, by the four pixels about it; None where one of them is outside."""
    x, y = x - 0.5, y - 0.5  # of a pixel's center
    column, row = int(np.floor(x)), int(np.floor(y))
    if not (0 <= column < image.shape[1] - 1 and 0 <= row < image.shape[0] - 1):
        return None
    a, b = x - column, y - row
    top = (1 - a) * image[row, column] + a * image[row, column + 1]
    return (1 - b) * top + b * ((1 - a) * image[row + 1, column] + a * image[row + 1, column + 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_scaled_and_shifted_pixels_by_a_slow_reference(dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 32, 1)).astype(dtype)
    np.random.seed(3)
    transform = RandomScaleAndShift(0.3, 0.1).get_transform(image)
    out = transform.apply_image(image)
    assert out.shape == image.shape and out.dtype == np.float32
    left, top, right, bottom = transform.src_rect
    compared = outside = 0
    for row in range(24):
        for column in range(32):
            x = left + (column + 0.5) * (right - left) / 32
            y = top + (row + 0.5) * (bottom - top) / 24
            expected = bilinear(image[:, :, 0].astype(float), x, y)
            if expected is not None:
                compared += 1
                assert out[row, column, 0] == pytest.approx(expected, abs=0.01)
            elif not (0 <= x <= 32 and 0 <= y <= 24):
                outside += 1
                assert out[row, column, 0] == 0
    assert compared > 300 and outside > 0


def test_boxes_follow_the_pixels():
    image = np.zeros((80, 100, 1), np.uint8)
    image[20:50, 30:70] = 255
    augmentation = RandomScaleAndShift(0.2, 0.05)
    for seed in range(20):
        np.random.seed(seed)
        transform = augmentation.get_transform(image)
        rows, columns = np.nonzero(transform.apply_image(image)[:, :, 0] > 127)
        box = transform.apply_box(np.array([[30, 20, 70, 50]]))[0]
        assert box == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=1)


def test_scale_and_shift_stay_in_their_ranges_and_use_them():
    image = np.zeros((10, 10, 1), np.uint8)
    np.random.seed(0)
    rects = np.array([RandomScaleAndShift(0.2, 0.1).get_transform(image).src_rect for _ in range(2000)])
    factors = 10 / (rects[:, 2] - rects[:, 0])
    center_in_frame = (5 - rects[:, 0]) * factors / 10
    shifts = center_in_frame - 0.5
    assert factors.min() == pytest.approx(0.8, abs=0.01) and factors.max() == pytest.approx(1.2, abs=0.01)
    assert shifts.min() == pytest.approx(-0.1, abs=0.01) and shifts.max() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gray_values_are_stretched_about_their_mean_and_shifted(dtype):
    image = np.array([[[10], [60]], [[80], [250]]], dtype)  # mean 100
    for seed in range(10):
        np.random.seed(seed)
        scale = 1 + np.random.uniform(-0.4, 0.4)
        shift = 255 * np.random.uniform(-0.2, 0.2)
        np.random.seed(seed)
        transform = RandomWindow(0.4, 0.2).get_transform(image)
        expected = np.clip(scale * (image.astype(float) - 100) + 100 + shift, 0, 255)
        assert transform.apply_image(image) == pytest.approx(expected, abs=1e-3)
        assert transform.apply_box(np.array([[1, 2, 3, 4]])).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_of_pixels_and_points_by_hand(quarters):
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)  # 0 1 2 / 3 4 5
    turned = [[[0, 1, 2], [3, 4, 5]], [[2, 5], [1, 4], [0, 3]], [[5, 4, 3], [2, 1, 0]], [[3, 0], [4, 1], [5, 2]]]
    transform = QuarterTurnTransform(quarters, 3, 2)
    out = transform.apply_image(image)
    assert out[:, :, 0].tolist() == turned[quarters]
    for row in range(2):
        for column in range(3):  # each pixel's box is where its value has gone
            left, top, right, bottom = transform.apply_box(np.array([[column, row, column + 1, row + 1]]))[0]
            assert (right - left, bottom - top) == (1, 1)
            assert out[int(top), int(left), 0] == image[row, column, 0]
    assert transform.apply_coords(np.array([[0.25, 0.5]])).tolist() == [
        [[0.25, 0.5]], [[0.5, 2.75]], [[2.75, 1.5]], [[1.5, 0.25]]
    ][quarters]  # fmt: skip


def test_every_quarter_is_drawn_as_often():
    np.random.seed(0)
    drawn = [RandomQuarterTurns().get_transform(np.zeros((2, 3, 1))).quarters for _ in range(4000)]
    assert np.bincount(drawn) == pytest.approx(1000, abs=100)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_saturation_moves_colors_to_and_from_their_gray_value(dtype, image_format):
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(dtype)
    image[0, 0] = 77  # gray stays
    for seed in range(5):
        np.random.seed(seed)
        out = RandomSaturation(0.5, image_format).get_transform(image).apply_image(image)
        np.random.seed(seed)
        scale = 1 + np.random.uniform(-0.5, 0.5)
        assert out[0, 0] == pytest.approx(77, abs=1e-3) and out.dtype == np.float32
        for pixel, found in zip(image.reshape(-1, 3).tolist(), out.reshape(-1, 3), strict=True):
            red, green, blue = pixel if image_format == "RGB" else pixel[::-1]
            gray = 0.299 * red + 0.587 * green + 0.114 * blue
            assert found == pytest.approx([min(max(gray + scale * (v - gray), 0), 255) for v in pixel], abs=1e-3)


def test_only_training_augments(small_config):
    cfg = small_config("synthetic_cxr/mdf_net.yaml", *EVERY)
    kinds = [type(a) for a in build_augmentations(cfg, is_train=True)]
    assert kinds == [SquareResize, T.RandomFlip, RandomScaleAndShift, RandomWindow]
    assert [type(a) for a in build_augmentations(cfg, is_train=False)] == [SquareResize]
    color = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [1.0] * 3, "MODEL.PIXEL_STD", [1.0] * 3, "INPUT.RANDOM_FLIP",
             "both", "INPUT.RANDOM_QUARTER_TURNS", True, "INPUT.RANDOM_SATURATION", 0.2]  # fmt: skip
    built = build_augmentations(small_config("synthetic_cxr/mdf_net.yaml", *color), is_train=True)
    assert [type(a) for a in built] == [SquareResize, T.RandomFlip, T.RandomFlip, RandomQuarterTurns, RandomSaturation]
    assert [(a.horizontal, a.vertical) for a in built[1:3]] == [(True, False), (False, True)]


def mapped(small_config, record, *opts):
    cfg = small_config("synthetic_cxr/mdf_net.yaml", "INPUT.IMAGE_SIZE", 64, "MODEL.ROI_HEADS.NUM_CLASSES", 2,
                       "MODEL.CLINICAL.NUMERIC", ["age"], "MODEL.CLINICAL.CATEGORICAL", [], *opts)  # fmt: skip
    schema = ClinicalSchema([ClinicalColumn("age", "numeric", minimum=0, maximum=120)])
    return MultimodalDatasetMapper(cfg, is_train=True, schema=schema)(record)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask", "rle"])
def test_masks_and_boxes_follow_the_pixels(small_config, tmp_path, mask_format):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[20:40, 16:48] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ring = [[16, 20, 48, 20, 48, 40, 16, 40]]
    segmentation = mask_util.encode(np.asfortranarray(pixels // 200)) if mask_format == "rle" else ring
    record = {
        "file_name": str(tmp_path / "a.png"), "width": 64, "height": 64, "clinical": {"age": 5},
        "annotations": [{"bbox": [16, 20, 32, 20], "bbox_mode": 1, "category_id": 1, "segmentation": segmentation}],
    }  # fmt: skip
    opts = ["INPUT.MASK_FORMAT", "polygon" if mask_format == "polygon" else "bitmask", "INPUT.RANDOM_FLIP", "both",
            "INPUT.RANDOM_QUARTER_TURNS", True]  # fmt: skip
    for seed in range(8):
        np.random.seed(seed)
        out = mapped(small_config, record, "INPUT.RANDOM_SCALE", 0.2, "INPUT.RANDOM_SHIFT", 0.1, *opts)
        bright = out["image"][0].numpy() > 100
        rows, columns = np.nonzero(bright)
        instances = out["instances"]
        box = instances.gt_boxes.tensor[0].tolist()
        assert box == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=1)
        masks = instances.gt_masks
        bitmap = polygons_to_bitmask(masks.polygons[0], 64, 64) if mask_format == "polygon" else masks.tensor[0].numpy()
        assert (bitmap & bright).sum() / (bitmap | bright).sum() > 0.9


def test_a_finding_that_leaves_the_image_is_no_ground_truth(small_config, tmp_path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    boxes = [[0, 20, 10, 10], [20, 20, 10, 10], [54, 20, 10, 10]]
    record = {
        "file_name": str(tmp_path / "a.png"), "width": 64, "height": 64, "clinical": {"age": 5},
        "annotations": [{"bbox": box, "bbox_mode": 1, "category_id": 1} for box in boxes],
    }  # fmt: skip
    counts = set()
    for seed in range(30):
        np.random.seed(seed)
        out = mapped(
            small_config, record, "INPUT.RANDOM_SHIFT", 0.3, "INPUT.RANDOM_FLIP", "none", "MODEL.MASK_ON", False
        )
        np.random.seed(seed)
        np.random.uniform()  # of the scale
        moved = 64 * np.random.uniform(-0.3, 0.3)
        seen = [min(x + moved + 10, 64) - max(x + moved, 0) for x, *_ in boxes]
        expected = [[max(x + moved, 0), min(x + moved + 10, 64)] for (x, *_), s in zip(boxes, seen, strict=True)
                    if s >= 10 / 3]  # fmt: skip
        assert out["instances"].gt_boxes.tensor[:, [0, 2]].numpy() == pytest.approx(np.array(expected), abs=0.01)
        counts.add(len(expected))
    assert counts >= {2, 3}


@pytest.mark.parametrize("value", [-0.1, 0.6])
@pytest.mark.parametrize("key", EVERY[::2])
def test_fractions_out_of_range_are_refused(small_config, key, value):
    value = [0.2, value] if key.endswith("JITTER") else value
    with pytest.raises(ConfigError, match=rf"{key} is {re.escape(str(value))}; use .*0.0 "):
        small_config("synthetic_cxr/mdf_net.yaml", key, value)
