"""Resize every input image, and augment training images at random."""

from collections.abc import Callable

import numpy as np
from detectron2.data import transforms as T
from PIL import Image


def _by_channel(img: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply ``change`` to each channel of (H, W, C) or (H, W); Pillow's float images have one channel."""
    channels = img[:, :, None] if img.ndim == 2 else img
    changed = np.stack([np.asarray(change(Image.fromarray(c))) for c in np.moveaxis(channels, 2, 0).copy()], axis=2)
    return changed.reshape(*changed.shape[:2], *img.shape[2:])


class AntialiasedResizeTransform(T.ResizeTransform):
    """Detectron2's resize, but antialiased for float pixels too."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (H, W, C) or (H, W); float32 stays float32, other types use Detectron2's code."""
        if img.dtype != np.float32:
            return super().apply_image(img, interp)
        size, method = (self.new_w, self.new_h), self.interp if interp is None else interp
        return _by_channel(img, lambda channel: channel.resize(size, method))


class SquareResize(T.Augmentation):
    """Resize to side × side pixels, ignoring the aspect ratio, as in the paper."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return AntialiasedResizeTransform(*image.shape[:2], self.side, self.side, Image.BILINEAR)


class FloatExtentTransform(T.ExtentTransform):
    """Detectron2's crop-and-scale transform in float32; black outside the image."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Crop and scale (H, W, C) or (H, W) to float32; given ``interp`` (masks), keep the dtype."""
        (h, w), method = self.output_size, self.interp if interp is None else interp
        img = img.astype(np.float32) if interp is None else img
        return _by_channel(img, lambda c: c.transform((w, h), Image.EXTENT, self.src_rect, method, fillcolor=0))


class RandomScaleAndShift(T.Augmentation):
    """Scale about the center, then shift, in a frame of the same size; uncovered pixels are black.

    Args:
        scale: in [0, 0.5]; the factor is uniform in 1 ± ``scale``.
        shift: fraction of the side; the shift along each axis is uniform in ± ``shift``.
    """

    def __init__(self, scale: float, shift: float):
        super().__init__()
        self.scale, self.shift = scale, shift

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        factor = 1 + np.random.uniform(-self.scale, self.scale)
        x, y = np.random.uniform(-self.shift, self.shift, 2)
        # the source's center lands at (0.5 + x, 0.5 + y) of the frame
        left, top = width * (0.5 - (0.5 + x) / factor), height * (0.5 - (0.5 + y) / factor)
        return FloatExtentTransform((left, top, left + width / factor, top + height / factor), (height, width))


class QuarterTurnTransform(T.Transform):
    """Turn an image of ``width`` × ``height`` pixels counterclockwise by 0 to 3 quarters, exactly."""

    def __init__(self, quarters: int, width: int, height: int):
        super().__init__()
        self.quarters, self.width, self.height = quarters, width, height

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.rot90(img, self.quarters)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Turn (P, 2) points x, y: a quarter maps (x, y) to (y, width − x)."""
        side = self.width
        for _ in range(self.quarters):
            coords = np.stack([coords[:, 1], side - coords[:, 0]], axis=1)
            side = self.height if side == self.width else self.width
        return coords


class RandomQuarterTurns(T.Augmentation):
    """Turn by 0, 1, 2 or 3 quarters, each with the same probability."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        return QuarterTurnTransform(np.random.randint(4), width, height)


class GrayValueTransform(T.NoOpTransform):
    """Map v to scale · v + offset in float32, clipped to 0–255; no change of geometry."""

    def __init__(self, scale: float, offset: float):
        super().__init__()
        self.scale, self.offset = scale, offset

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.clip(np.float32(self.scale) * img.astype(np.float32) + np.float32(self.offset), 0, 255)


class RandomWindow(T.Augmentation):
    """Vary the exposure: stretch gray values about their mean m and shift them, v → c·(v − m) + m + b.

    Args:
        contrast: in [0, 1); c is uniform in 1 ± ``contrast``.
        brightness: fraction of the full range 255; b is uniform in ± that.
    """

    def __init__(self, contrast: float, brightness: float):
        super().__init__()
        self.contrast, self.brightness = contrast, brightness

    def get_transform(self, image: np.ndarray) -> T.Transform:
        scale = 1 + np.random.uniform(-self.contrast, self.contrast)
        shift = 255 * np.random.uniform(-self.brightness, self.brightness)
        return GrayValueTransform(scale, float(image.mean(dtype=np.float64)) * (1 - scale) + shift)


class SaturationTransform(T.NoOpTransform):
    """Map each pixel to g + scale · (v − g), g its gray value by Rec. 601, in float32, clipped to 0–255."""

    def __init__(self, scale: float, weights: np.ndarray):
        super().__init__()
        self.scale, self.weights = scale, weights

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        img = img.astype(np.float32)
        gray = (img @ self.weights)[:, :, None]
        return np.clip(gray + np.float32(self.scale) * (img - gray), 0, 255)


class RandomSaturation(T.Augmentation):
    """Vary the saturation of a color image; the factor is uniform in 1 ± ``saturation``, in [0, 1)."""

    def __init__(self, saturation: float, image_format: str):
        super().__init__()
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        self.saturation, self.weights = saturation, weights[::-1] if image_format == "BGR" else weights

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return SaturationTransform(1 + np.random.uniform(-self.saturation, self.saturation), self.weights)


def build_augmentations(cfg, is_train: bool) -> list[T.Augmentation]:
    """Build the resize and, for training, the random changes of geometry, gray values and colors of ``cfg.INPUT``.

    The resize comes first, so that the decoded cache can hold its result.
    """
    augmentations: list[T.Augmentation] = [SquareResize(cfg.INPUT.IMAGE_SIZE)]
    if not is_train:
        return augmentations
    for way in ("horizontal", "vertical"):
        if cfg.INPUT.RANDOM_FLIP in (way, "both"):
            augmentations.append(T.RandomFlip(horizontal=way == "horizontal", vertical=way == "vertical"))
    if cfg.INPUT.RANDOM_QUARTER_TURNS:
        augmentations.append(RandomQuarterTurns())
    if cfg.INPUT.RANDOM_SCALE or cfg.INPUT.RANDOM_SHIFT:
        augmentations.append(RandomScaleAndShift(cfg.INPUT.RANDOM_SCALE, cfg.INPUT.RANDOM_SHIFT))
    if any(cfg.INPUT.RANDOM_JITTER):
        augmentations.append(RandomWindow(*cfg.INPUT.RANDOM_JITTER))
    if cfg.INPUT.RANDOM_SATURATION:
        augmentations.append(RandomSaturation(cfg.INPUT.RANDOM_SATURATION, cfg.INPUT.FORMAT))
    return augmentations
