"""Read tags, size and pixels of radiographs by :class:`OpenImage`."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mdf_detectron.data.intensity import check_memory
from mdf_detectron.data.raster import (
    Decoded,
    decode_array,
    decode_image,
    decode_raster,
    raster_samples,
    raster_size,
    to_gray,
)
from mdf_detectron.errors import DatasetError, ImageReadError, UserError, short_text
from mdf_detectron.fileio import check_regular, shorten_path

AS_STORED = 0
"""Bit depth for :meth:`OpenImage.decode`: 16 if the file has more than eight bits, else 8."""

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic")
_DICOM_TAGS = (b"\2\0\0\0", b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
"""How a file without preamble begins: with one of its first tags."""


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
            return raster_size(self._file)

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
            read = _dicom().decode_dicom if self.is_dicom else decode_raster
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
        pixels, provenance = decode_array(image) if deep else decode_image(path, image, AS_STORED)
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
            samples = raster_samples(image.path, image._content)
        if samples.ndim == 3 and samples.shape[2] and (samples == samples[:, :, :1]).all():
            samples = samples[:, :, 0]
        if samples.ndim != 2 or not samples.size or samples.dtype.kind not in "biuf":
            raise ValueError(f"a mask of shape {samples.shape} has several channels; save one gray mask for each class")
        check_memory(image.path, *samples.shape[::-1])
        return np.asarray(samples)


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
