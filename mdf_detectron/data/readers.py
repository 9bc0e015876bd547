"""Read tags, size and pixels of radiographs by :class:`OpenImage`; write images."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from mdf_detectron.data.intensity import Provenance, change_depth, check_memory, quantize, robust_range
from mdf_detectron.errors import DatasetError, ImageReadError, UserError, short_text
from mdf_detectron.fileio import check_regular, shorten_path

FULL_RANGE_KEY = "mdf_detectron:scaling"
"""Text entry of a 16-bit PNG whose values already span black to white, set by :func:`write_png`."""

AS_STORED = 0
"""Bit depth for :meth:`OpenImage.decode`: 16 if the file has more than eight bits, else 8."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "JPEG2000", "PPM")
"""Formats that Pillow may detect; not PostScript, which it would have another program execute."""

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic")
_DICOM_TAGS = (b"\2\0\0\0", b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
"""How a file without preamble begins: with one of its first tags."""

_COMPRESSION = 1  # PNG level: noise hardly compresses, and higher levels are several times slower
_PNG_SIGNATURE, _PNG_TEXTS = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274  # TIFF tags


Decoded = tuple[np.ndarray, Provenance]


def _dicom() -> ModuleType:
    from mdf_detectron.data import dicom

    return dicom


class OpenImage:
    """An image file, opened once, for its tags, size, digest and pixels; use it in a ``with`` statement.

    Args:
        source: path, content, or an open binary file, which is read from its start.

    A file that is absent, truncated, not an image, or too large for the memory raises
    :class:`~mdf_detectron.errors.ImageReadError`; every message names the file.

    Attributes:
        path: of the file, or the kind of another source, for messages.
        is_dicom: the file has a DICOM suffix or preamble; any other is read as a raster file.
        notes: oddities of the file, known once it is decoded.
    """

    def __init__(self, source: str | os.PathLike | bytes | IO[bytes]):
        stored = isinstance(source, (str, os.PathLike))
        self.path, self.notes = Path(source if stored else _kind(source)), ()
        with _one_line_errors(self.path):
            self._file = open(self.path, "rb") if stored else io.BytesIO(_content_of(source))
            head = self._file.read(132)
            begins = head[128:] == b"DICM" or head[:4] in _DICOM_TAGS
            self.is_dicom = begins or self.path.suffix.lower() in DICOM_SUFFIXES

    def __enter__(self) -> OpenImage:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @cached_property
    def _content(self) -> bytes | mmap.mmap:
        self._file.seek(0)
        if not self.is_dicom:
            return self._file.read()
        if not isinstance(self._file, io.BytesIO):
            return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        content = mmap.mmap(-1, len(self._file.getbuffer()))
        content.write(self._file.read())
        return content

    def tags(self, keywords: Sequence[str]) -> dict[str, str | None]:
        """Return DICOM tags as text, see :func:`~mdf_detectron.data.dicom.dicom_tags`."""
        if not self.is_dicom:
            raise ImageReadError(f"cannot read tags of {shorten_path(self.path)}: it is not DICOM")
        with _one_line_errors(self.path):
            return _dicom().dicom_tags(self.path, self._content, keywords)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image, from the header without decoding."""
        with _one_line_errors(self.path):
            if self.is_dicom:
                return _dicom().dicom_size(self.path, self._content)
            self._file.seek(0)
            with _no_pixel_limit(), Image.open(self._file, formats=FORMATS) as image:
                width, height = image.size
                sideways = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return (height, width) if sideways else (width, height)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        with _one_line_errors(self.path):
            return hashlib.sha256(self._content).hexdigest()

    def decode(self, bit_depth: int = 8) -> Decoded:
        """Decode the image upright, with bone bright, at 8 or 16 bits or :data:`AS_STORED`.

        Raster files may be gray, palette, RGB, CMYK or with alpha (transparent becomes black), of 1 to 32 bits or
        float; only the first page is read. An EXIF orientation is applied, WhiteIsZero is inverted, and more than eight
        bits are scaled by :func:`~mdf_detectron.data.intensity.robust_range`.

        Returns:
            (H, W) or (H, W, 3) RGB, uint8 or uint16, and the steps taken.
        """
        with _one_line_errors(self.path):
            read = _dicom().decode_dicom if self.is_dicom else _decode_raster
            pixels, provenance = read(self.path, self._content, bit_depth)
            self.notes = provenance.notes
            return pixels, provenance

    def pixels(self, image_format: str = "L", sha256: str | None = None) -> np.ndarray:
        """Return the model's input at the stored depth.

        Args:
            image_format: "L", "RGB" or "BGR".
            sha256: required digest of the file; decoders alone would accept most damaged files.

        Returns:
            (H, W, C) uint8, or float32 in 0–255 for more than eight bits (65535 becomes 255).
        """
        if sha256 is not None and (found := self.sha256) != sha256:
            raise ImageReadError(
                f"{shorten_path(self.path, 120)} is not the image that was prepared (its SHA-256 is {found[:8]}…, not "
                f"{sha256[:8]}…): it was damaged or replaced since; restore it, or remove the folder and prepare it "
                "again"
            )
        return as_input(self.decode(AS_STORED)[0], image_format)


def input_of_samples(image: np.ndarray | Image.Image, image_format: str) -> tuple[np.ndarray, Sequence[str]]:
    """Return what :meth:`OpenImage.pixels` does for the file of a Pillow image or of samples, and its notes.

    Samples are (H, W), (H, W, C) or (C, H, W), C = 1, 3 or 4 (with alpha; of 8 or 16 bits), integers or float; others
    raise ``ImageReadError``.
    """
    path = Path(_kind(image))
    with _one_line_errors(path):
        if isinstance(image, np.ndarray):
            if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[2] not in (1, 3, 4):
                image = np.moveaxis(image, 0, 2)
            channels = image.shape[2] if image.ndim == 3 else 1
            known = (1, 3, 4) if image.dtype in (np.uint8, np.uint16) else (1, 3)
            if image.dtype.kind not in "biuf" or image.ndim not in (2, 3) or channels not in known or not image.size:
                raise ImageReadError(
                    f"pixels of type {image.dtype} and shape {image.shape} are no image: give (H, W), (H, W, C) or "
                    "(C, H, W), C = 1 or 3 (4 of 8 or 16 bits), integers or float; several images go to predict_batch"
                )
            image = image[:, :, 0] if image.shape[2:] == (1,) else image
            image = image.astype(np.uint8) * 255 if image.dtype == bool else image
            check_memory(path, image.shape[1], image.shape[0], samples=max(1, channels / 2))
            image = Image.fromarray(image) if image.dtype == np.uint8 else image
        deep = isinstance(image, np.ndarray)
        pixels, provenance = _scale(_opaque(image), 16) if deep else _decode_image(path, image, AS_STORED)
        return as_input(pixels, image_format), provenance.notes


def is_dicom(path: Path) -> bool:
    """Check whether a file has a DICOM suffix or preamble."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with OpenImage(path) as image:
        return image.is_dicom


def read_radiograph(path: str | Path, image_format: str = "L") -> np.ndarray:
    """Read an image at eight bits, for display or comparison: (H, W, C) uint8, C = 1 for "L", else 3."""
    return as_input(read_pixels(path)[0], image_format)


def read_record_image(record: Mapping[str, Any], image_format: str) -> np.ndarray:
    """Read the image of a dataset record as the model's input; check the record's digest and size.

    Raises:
        ImageReadError: the file is unreadable, or its digest differs.
        DatasetError: its size differs.
    """
    with OpenImage(record["file_name"]) as image:
        pixels = image.pixels(image_format, record.get("sha256"))
    check_size(record, (pixels.shape[1], pixels.shape[0]))
    return pixels


def check_size(record: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raise :class:`DatasetError` if a record differs from its image file's (width, height) ``size``."""
    written = record.get("width", size[0]), record.get("height", size[1])
    if written != size:
        raise DatasetError(
            f"{shorten_path(record['file_name'], 120)} has {size[0]} × {size[1]} pixels, its annotation file says "
            f"{written[0]} × {written[1]} (width × height): boxes would be in the wrong place; correct the size "
            "there, or prepare the data set again"
        )


def read_pixels(path: str | Path, bit_depth: int = 8) -> Decoded:
    """Decode an image file, see :meth:`OpenImage.decode`."""
    with OpenImage(path) as image:
        return image.decode(bit_depth)


def read_size(path: str | Path) -> tuple[int, int]:
    """Read (width, height) of the upright image from the header, without decoding."""
    with OpenImage(path) as image:
        return image.size


def read_dicom_tags(path: str | Path, keywords: Sequence[str]) -> dict[str, str | None]:
    """Read DICOM tags as text, see :meth:`OpenImage.tags`."""
    with OpenImage(path) as image:
        return image.tags(keywords)


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask's samples as stored, (H, W), upright, of a raster file or NPY; refuse channels that differ.

    Of a palette image these are the indices, or the gray values if all its colors are gray.
    """
    with OpenImage(path) as image, _one_line_errors(image.path):
        if image.path.suffix.lower() == ".npy":
            samples = np.load(image.path, mmap_mode="r", allow_pickle=False)  # mapped: a false shape takes no memory
        else:
            samples = _raster_samples(image.path, image._content)
        if samples.ndim == 3 and samples.shape[2] and (samples == samples[:, :, :1]).all():
            samples = samples[:, :, 0]
        if samples.ndim != 2 or not samples.size or samples.dtype.kind not in "biuf":
            raise ValueError(f"a mask of shape {samples.shape} has several channels; save one gray mask for each class")
        check_memory(image.path, *samples.shape[::-1])
        return np.asarray(samples)


def _raster_samples(path: Path, content: bytes) -> np.ndarray:
    with _no_pixel_limit(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        check_memory(path, *image.size, samples=len(image.getbands()))
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "P" and all(r == g == b for _, (r, g, b) in upright.convert("RGB").getcolors(257)):
        upright = upright.convert("L")
    samples = np.asarray(upright)
    opaque = upright.mode in ("LA", "RGBA") and (samples[:, :, -1] == 255).all()
    return samples[:, :, :-1] if opaque else samples


def to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Round the result of :meth:`OpenImage.pixels` to uint8."""
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)


def as_input(pixels: np.ndarray, image_format: str) -> np.ndarray:
    """Turn decoded pixels into the model's input, see :meth:`OpenImage.pixels`."""
    pixels = to_gray(pixels) if image_format == "L" else pixels
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 1 if image_format == "L" else 3, axis=2)
    pixels = pixels[:, :, ::-1].copy() if image_format == "BGR" else pixels
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32) / np.float32(257)


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turn any decoder error into a one-line :class:`ImageReadError`."""
    if os.path.exists(path):
        check_regular(path, ImageReadError)
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise ImageReadError(f"no image file at {path}; prepare the data set again (mdf prepare)") from None
    except MemoryError:
        raise ImageReadError(f"cannot read image {path}: not enough memory; reduce the image") from None
    except Exception as error:
        cause = getattr(error, "strerror", None) or short_text(error)  # strerror does not repeat the path
        if isinstance(error, UnidentifiedImageError):
            cause = "it is no image of a known format"
        text = f"cannot read image {shorten_path(path)}: {cause}"
        raise ImageReadError(f"{text}; replace the file or remove it") from None


def _kind(source: object) -> str:
    return f"<{type(source).__name__}>"


def _content_of(source: Any) -> bytes:
    """Read an open file from its start, or return bytes; refuse what is no image."""
    if hasattr(source, "read") and not isinstance(source, io.TextIOBase):
        with suppress(AttributeError, OSError):  # a stream
            source.seek(0)
        source = source.read()
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise ImageReadError(
            f"a {type(source).__name__} is no image: give a path, bytes, an open binary file, a Pillow image, an array "
            "or a tensor; several images go to predict_batch"
        )
    return bytes(source)


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) RGB to (H, W) luma (ITU-R 601, like Pillow), same dtype; return gray pixels unchanged."""
    if pixels.ndim == 2:
        return pixels
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).convert("L"))
    return np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(pixels.dtype)


def write_png(path: str | Path, pixels: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Write (H, W) uint8 or uint16 pixels that span black to white, with ``text`` entries.

    :func:`read_pixels` returns the same values.
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


def copy_bare_png(source: Path, target: Path) -> None:
    """Copy a PNG file without its text, EXIF and time chunks, except for :data:`FULL_RANGE_KEY`."""
    data, at, kept = source.read_bytes(), len(_PNG_SIGNATURE), [_PNG_SIGNATURE]
    if not data.startswith(_PNG_SIGNATURE):
        raise ImageReadError(f"{source}: no PNG file; expected a copy that the preparation made")
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind, content = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if kind not in _PNG_TEXTS or content.startswith(FULL_RANGE_KEY.encode() + b"\0"):
            kept.append(data[at:end])
        at = end
    target.write_bytes(b"".join(kept))


def _decode_raster(path: Path, content: bytes, bit_depth: int) -> Decoded:
    # from memory: given a path, Pillow garbles rotated TIFFs and allocates any length that a PNG chunk claims
    with _no_pixel_limit(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return _decode_image(path, image, bit_depth, content)


def _decode_image(path: Path, image: Image.Image, bit_depth: int, content: bytes = b"") -> Decoded:
    check_memory(path, *image.size, samples=max(1, len(image.getbands()) / 2))  # half: eight bits are not scaled
    notes = []
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        notes.append(f"{pages} pages: the first is read")
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
    if image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA"):
        return content[24:25] == b"\x10"
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) == 16
    return False


def _deep_color(path: Path, content: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ImageReadError(f"cannot read image {path}: its 16-bit color cannot be decoded; save it as 16-bit gray")
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
