"""Decode raster images of any mode and depth by Pillow, and write images."""

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile, PngInfo

from mdf_detectron.data.intensity import Provenance, change_depth, check_memory, quantize, robust_range
from mdf_detectron.errors import ImageReadError

FULL_RANGE_KEY = "mdf_detectron:scaling"
"""Text entry of a 16-bit PNG whose values already span black to white, set by :func:`write_png`."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "JPEG2000", "PPM")
"""Formats that Pillow may detect; not PostScript, which it would have another program execute."""

_COMPRESSION = 1  # PNG level: noise hardly compresses, and higher levels are several times slower
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274  # TIFF tags

Decoded = tuple[np.ndarray, Provenance]
"""(H, W) or (H, W, 3) RGB pixels, uint8 or uint16, and the steps taken."""


def raster_size(file: IO[bytes]) -> tuple[int, int]:
    """Return (width, height) of the upright image, from the header of an open file without decoding."""
    with _no_pixel_limit(), Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        sideways = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if sideways else (width, height)


def decode_raster(path: Path, content: bytes, bit_depth: int) -> Decoded:
    """Decode the content of a raster file, see :meth:`~mdf_detectron.data.readers.OpenImage.decode`."""
    # from memory: given a path, Pillow garbles rotated TIFFs and allocates any length that a PNG chunk claims
    with _no_pixel_limit(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return decode_image(path, image, bit_depth, content)


def decode_image(path: Path, image: Image.Image, bit_depth: int, content: bytes = b"") -> Decoded:
    """Decode a Pillow image; ``content`` is that of its file, if it has one."""
    check_memory(path, *image.size, samples=max(1, len(image.getbands()) / 2))  # half: eight bits are not scaled
    notes = [f"{pages} pages: the first is read"] if (pages := getattr(image, "n_frames", 1)) > 1 else []
    if _has_deep_color(image, content):
        check_memory(path, *image.size, samples=len(image.getbands()))
        pixels, provenance = _scale(_deep_color(path, content), bit_depth or 16)
        return pixels, _with_size(provenance, pixels, notes, image.format)
    kind = image.format or "image"
    white_is_zero = kind == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
    if image.getexif().get(_ORIENTATION, 1) != 1:
        notes.append("EXIF orientation applied")
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        full_range = image.info.get(FULL_RANGE_KEY) == "full range"
        pixels, provenance = _scale(np.asarray(upright), bit_depth or 16, white_is_zero, full_range)
    else:
        pixels = change_depth(_eight_bit(upright), bit_depth or 8)
        provenance = Provenance(kind, 0, 0, 1 if upright.mode == "1" else 8, inverted=white_is_zero)
    return pixels, _with_size(provenance, pixels, notes, kind)


def decode_array(samples: np.ndarray) -> Decoded:
    """Decode samples of more than eight bits, (H, W) or (H, W, 3 or 4), at 16 bits."""
    return _scale(_opaque(samples), 16)


def _with_size(done: Provenance, pixels: np.ndarray, notes: list[str], kind: str | None) -> Provenance:
    height, width = pixels.shape[:2]
    return Provenance(kind or "image", width, height, done.bits, done.scaling, done.low, done.high, done.inverted,
                      (*notes, *done.notes))  # fmt: skip


def _scale(values: np.ndarray, bit_depth: int, invert: bool = False, full_range: bool = False) -> Decoded:
    """Scale float samples or more than eight bits; non-finite pixels become black, with a note."""
    bits = values.dtype.itemsize * 8
    finite = np.isfinite(values)
    notes: tuple[str, ...] = ()
    if not finite.all():
        bad = int(values.size - finite.sum())
        if bad == values.size:
            raise ValueError("none of its pixels is a finite number")
        notes = ("pixels that are not finite numbers are black",)
        values = np.where(finite, values, values[finite].max() if invert else values[finite].min())
    if full_range:
        low, high, rule = 0.0, 65535.0, "full range"
    else:
        low, high, rule = robust_range(values[finite])
    pixels = quantize(values, low, high, bit_depth, invert)
    return pixels, Provenance("", 0, 0, bits, rule, low, high, invert, notes)


def _eight_bit(image: Image.Image) -> np.ndarray:
    """Convert any eight-bit mode to (H, W) or (H, W, 3) uint8; transparency becomes black."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    pixels = np.array(image.convert("RGB"))
    gray = pixels[:, :, 0]
    return gray.copy() if (pixels == gray[:, :, None]).all() else pixels


def _has_deep_color(image: Image.Image, content: bytes) -> bool:
    """Check for several 16-bit samples per pixel, of which Pillow would keep only the upper eight bits."""
    if isinstance(image, PngImageFile) and image.mode in ("RGB", "RGBA", "LA"):
        if not content and Path(image.filename).is_file():  # once the image is loaded, only the file tells
            content = Path(image.filename).read_bytes()
        return content[24:25] == b"\x10" or any(";16" in str(tile[3]) for tile in image.tile)
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) == 16
    return False


def _deep_color(path: Path, content: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if decoded is None or decoded.dtype != np.uint16:
        remedy = "save it as 16-bit gray" if content else "Pillow keeps eight bits of it: give its path, or an array"
        raise ImageReadError(f"cannot read image {path}: its 16-bit color cannot be decoded; {remedy}")
    if decoded.ndim == 2:
        return decoded
    return _opaque(decoded[:, :, [2, 1, 0, 3][: decoded.shape[2]]])


def _opaque(samples: np.ndarray) -> np.ndarray:
    """Compose (H, W, 4) uint16 with black by its alpha; return (H, W) where all colors of a pixel are equal."""
    if samples.ndim == 3 and samples.shape[2] == 4:
        samples = np.rint(samples[:, :, :3] * (samples[:, :, 3:] / 65535.0)).astype(np.uint16)
    gray = samples.ndim == 3 and (samples == samples[:, :, :1]).all()
    return samples[:, :, 0] if gray else samples


_limit_lock, _limit_users, _limit_saved = threading.Lock(), 0, None


@contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Lift Pillow's fixed pixel limit while files are open; :func:`check_memory` replaces it."""
    global _limit_users, _limit_saved
    with _limit_lock:
        if _limit_users == 0:
            _limit_saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                Image.MAX_IMAGE_PIXELS = _limit_saved


def raster_samples(path: Path, content: bytes) -> np.ndarray:
    """Return the samples of a raster file as stored, upright; of a palette its indices, or its grays."""
    with _no_pixel_limit(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        check_memory(path, *image.size, samples=len(image.getbands()))
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "P" and all(r == g == b for _, (r, g, b) in upright.convert("RGB").getcolors(257)):
        upright = upright.convert("L")
    samples = np.asarray(upright)
    opaque = upright.mode in ("LA", "RGBA") and (samples[:, :, -1] == 255).all()
    return samples[:, :, :-1] if opaque else samples


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) RGB to (H, W) luma (ITU-R 601, like Pillow), same dtype; return gray pixels unchanged."""
    if pixels.ndim == 2:
        return pixels
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).convert("L"))
    return np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(pixels.dtype)


def write_png(path: str | Path, pixels: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Write (H, W) uint8 or uint16 pixels that span black to white, with ``text`` entries.

    :func:`~mdf_detectron.data.readers.read_pixels` returns the same values.
    """
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    if pixels.dtype == np.uint16:
        info.add_text(FULL_RANGE_KEY, "full range")
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=info, compress_level=_COMPRESSION)


def write_image(path: str | Path, pixels: np.ndarray, params: Sequence[int] = ()) -> None:
    """Write (H, W) or (H, W, 3) BGR uint8 pixels in the suffix's format, with ``params`` of ``cv2.imencode``.

    ``cv2.imwrite`` can return True for a file that a full disk cut off; this raises ``OSError``. Not atomic.
    """
    encoded, content = cv2.imencode(Path(path).suffix, pixels, list(params))
    if not encoded:
        raise ValueError(f"{path}: cannot be encoded")
    Path(path).write_bytes(content)
