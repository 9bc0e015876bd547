"""Change images before the model: every input is resized, and training draws random changes at each step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from detectron2.data import transforms as T
from PIL import Image


def _by_channel(img: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Change each channel of (H, W, C) or (H, W) on its own; Pillow's float images have one channel."""
    channels = img[:, :, None] if img.ndim == 2 else img
    changed = np.stack([np.asarray(change(Image.fromarray(c))) for c in np.moveaxis(channels, 2, 0).copy()], axis=2)
    return changed.reshape(*changed.shape[:2], *img.shape[2:])


class AntialiasedResizeTransform(T.ResizeTransform):
    """Detectron2's resize with one filter for every depth: its own samples float pixels without antialiasing."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (H, W, C) or (H, W); float32 stays float32, other types go Detectron2's way."""
        if img.dtype != np.float32:
            return super().apply_image(img, interp)
        size, method = (self.new_w, self.new_h), self.interp if interp is None else interp
        return _by_channel(img, lambda channel: channel.resize(size, method))


class SquareResize(T.Augmentation):
    """Resize to side × side pixels, whatever the aspect, as in the paper."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return AntialiasedResizeTransform(*image.shape[:2], self.side, self.side, Image.BILINEAR)


class FloatExtentTransform(T.ExtentTransform):
    """Detectron2's cut-out that is scaled to the output size, computed in float32; black outside the image."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Cut out and scale (H, W, C) or (H, W), to float32; with an ``interp``, as masks have, the type stays."""
        (h, w), method = self.output_size, self.interp if interp is None else interp
        img = img.astype(np.float32) if interp is None else img
        return _by_channel(img, lambda c: c.transform((w, h), Image.EXTENT, self.src_rect, method, fillcolor=0))


class RandomScaleAndShift(T.Augmentation):
    """Enlarge about the center, then move, in a frame of the same size; what enters it is black.

    Args:
        scale: the factor is uniform in 1 ± this, in [0, 0.5].
        shift: along each axis uniform in ± this share of the side.
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


class GrayValueTransform(T.NoOpTransform):
    """v → scale · v + offset, in float32 and within 0–255; the geometry stays."""

    def __init__(self, scale: float, offset: float):
        super().__init__()
        self.scale, self.offset = scale, offset

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.clip(np.float32(self.scale) * img.astype(np.float32) + np.float32(self.offset), 0, 255)


class RandomWindow(T.Augmentation):
    """Stretch gray values about their mean m and shift them, as another exposure would: v → c·(v − m) + m + b.

    Args:
        contrast: c is uniform in 1 ± this, in [0, 1).
        brightness: b is uniform in ± this share of the full range, 255.
    """

    def __init__(self, contrast: float, brightness: float):
        super().__init__()
        self.contrast, self.brightness = contrast, brightness

    def get_transform(self, image: np.ndarray) -> T.Transform:
        scale = 1 + np.random.uniform(-self.contrast, self.contrast)
        shift = 255 * np.random.uniform(-self.brightness, self.brightness)
        return GrayValueTransform(scale, float(image.mean(dtype=np.float64)) * (1 - scale) + shift)


def build_augmentations(cfg, is_train: bool) -> list[T.Augmentation]:
    """Resize to the square input and, in training, flip, scale, move and change gray values as the config says.

    The resizing comes first, so that the decoded cache can hold its result.
    """
    augmentations: list[T.Augmentation] = [SquareResize(cfg.INPUT.IMAGE_SIZE)]
    if not is_train:
        return augmentations
    if cfg.INPUT.RANDOM_FLIP != "none":
        augmentations.append(
            T.RandomFlip(horizontal=cfg.INPUT.RANDOM_FLIP == "horizontal", vertical=cfg.INPUT.RANDOM_FLIP == "vertical")
        )
    if cfg.INPUT.RANDOM_SCALE or cfg.INPUT.RANDOM_SHIFT:
        augmentations.append(RandomScaleAndShift(cfg.INPUT.RANDOM_SCALE, cfg.INPUT.RANDOM_SHIFT))
    if any(cfg.INPUT.RANDOM_JITTER):
        augmentations.append(RandomWindow(*cfg.INPUT.RANDOM_JITTER))
    return augmentations
