"""Augmentation: pixels and boxes go the same way, values by a slow reference, nothing outside training."""

import numpy as np
import pytest
from detectron2.data import transforms as T

from mdf_detectron.data.augmentation import RandomScaleAndShift, RandomWindow, SquareResize, build_augmentations
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.loaders import build_train_loader
from mdf_detectron.errors import ConfigError

EVERY = ["INPUT.RANDOM_SCALE", 0.2, "INPUT.RANDOM_SHIFT", 0.1, "INPUT.RANDOM_CONTRAST", 0.3,
         "INPUT.RANDOM_BRIGHTNESS", 0.1]  # fmt: skip


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
    assert out.shape == image.shape and out.dtype == dtype
    left, top, right, bottom = transform.src_rect
    compared = outside = 0
    for row in range(24):
        for column in range(32):
            x = left + (column + 0.5) * (right - left) / 32
            y = top + (row + 0.5) * (bottom - top) / 24
            expected = bilinear(image[:, :, 0].astype(float), x, y)
            if expected is not None:
                compared += 1
                assert out[row, column, 0] == pytest.approx(expected, abs=1.0 if dtype == np.uint8 else 0.1)
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
    shifts = (5 - (rects[:, 0] + rects[:, 2]) / 2) / 10
    assert factors.min() == pytest.approx(0.8, abs=0.01) and factors.max() == pytest.approx(1.2, abs=0.01)
    assert shifts.min() == pytest.approx(-0.1, abs=0.01) and shifts.max() == pytest.approx(0.1, abs=0.01)


def test_gray_values_are_stretched_about_their_mean_and_shifted():
    image = np.array([[[40.0], [60.0]], [[80.0], [100.0]]], np.float32)  # mean 70
    np.random.seed(5)
    scale = 1 + np.random.uniform(-0.4, 0.4)
    shift = 255 * np.random.uniform(-0.2, 0.2)
    np.random.seed(5)
    transform = RandomWindow(0.4, 0.2).get_transform(image)
    assert transform.apply_image(image) == pytest.approx(scale * (image - 70) + 70 + shift)
    eight_bits = transform.apply_image(image.astype(np.uint8))
    assert eight_bits.dtype == np.uint8
    assert eight_bits == pytest.approx(np.clip(scale * (image - 70) + 70 + shift, 0, 255), abs=1)
    assert transform.apply_box(np.array([[1, 2, 3, 4]])).tolist() == [[1, 2, 3, 4]]


def test_only_training_augments(small_config):
    cfg = small_config("synthetic_cxr/mdf_net.yaml", *EVERY)
    kinds = [type(a) for a in build_augmentations(cfg, is_train=True)]
    assert kinds == [SquareResize, T.RandomFlip, RandomScaleAndShift, RandomWindow]
    assert [type(a) for a in build_augmentations(cfg, is_train=False)] == [SquareResize]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_a_training_batch_is_whole(small_config, tiny_folder, mask_format):
    register_prepared_folder(tiny_folder, "tiny_cxr")
    cfg = small_config(
        "synthetic_cxr/mdf_net.yaml", *EVERY, "DATASETS.TRAIN", ("tiny_cxr_train",), "INPUT.MASK_FORMAT", mask_format,
        "MODEL.ROI_HEADS.NUM_CLASSES", 2, "MODEL.CLINICAL.NUMERIC", ["temperature", "age"],
    )  # fmt: skip
    stream = iter(build_train_loader(cfg))
    side = cfg.INPUT.IMAGE_SIZE
    boxes = 0
    for batch in (next(stream) for _ in range(3)):
        for item in batch:
            assert item["image"].shape == (1, side, side)
            found = item["instances"]
            boxes += len(found)
            assert (found.gt_boxes.tensor >= 0).all() and (found.gt_boxes.tensor <= side).all()
            assert not len(found) or len(found.gt_masks) == len(found)
    assert boxes


@pytest.mark.parametrize("value", [-0.1, 1.0])
@pytest.mark.parametrize("key", EVERY[::2])
def test_shares_out_of_range_are_refused(small_config, key, value):
    with pytest.raises(ConfigError, match=f"{key} is {value}; use 0"):
        small_config("synthetic_cxr/mdf_net.yaml", key, value)
