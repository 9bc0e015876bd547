"""Reading radiographs of any common file type into 8-bit arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mdf_detectron.errors import ImageReadError


def read_radiograph(path: str | Path, image_format: str = "L") -> np.ndarray:
    """Read one image file.

    Args:
        path: PNG, JPEG or whatever Pillow reads; gray (8 or 16 bits), palette, RGB or with alpha.
        image_format: "L", "RGB" or "BGR".

    Returns:
        (H, W, C) uint8, C = 1 for "L" and else 3. 16-bit and float images are scaled from their own minimum
        and maximum; transparent pixels lie on black.

    Raises:
        ImageReadError: the file is absent, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            array = _to_mode(image, "L" if image_format == "L" else "RGB")
    except FileNotFoundError:
        raise ImageReadError(f"no image file at {path}; prepare the dataset again, see datasets/README.md") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ImageReadError(f"cannot read image {path}: {error}; replace the file or remove it") from None
    if image_format == "L":
        return array[:, :, None]
    return array[:, :, ::-1].copy() if image_format == "BGR" else array


def _to_mode(image: Image.Image, mode: str) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        low, high = values.min(), values.max()
        image = Image.fromarray(np.round((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(background, image)
    return np.array(image.convert(mode))
