"""Decoded radiographs at the model's input size, one memory-mapped file a data set: decoded once, not each epoch.

Beside the pixels (``<name>_<size>_<format>.npy``, (M, S, S, C) uint8, or float32 where a file has more than eight bits)
lies an index (``.json``): the version of this format, and of each image its file, the file's size, time of change and
digest, the image's size and a checksum of its pixels.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mdf_detectron.data.readers import read_record_image
from mdf_detectron.errors import DatasetError, ImageReadError, shorten
from mdf_detectron.fileio import atomic_path, read_json, remove_partial_files, write_json
from mdf_detectron.locks import FolderLock
from mdf_detectron.workers import thread_map

VERSION = 3
"""Of the files; one of another version is made anew."""

Resize = Callable[[np.ndarray], np.ndarray]
"""(H, W, C) uint8 or float32 → (S, S, C) of the same type, what every image goes through first."""


class CachedImage(NamedTuple):
    """An image of the cache.

    Attributes:
        pixels: (S, S, C) uint8 or float32, a view of the file: not to be written to.
        height, width: of the image before it was resized.
    """

    pixels: np.ndarray
    height: int
    width: int


class DecodedCache:
    """The decoded images of one data set; open one by :meth:`open`, or make it where it is not there by :meth:`make`.

    Args:
        path: the ``.npy`` file.
        index: content of the index.
    """

    def __init__(self, path: Path, index: dict[str, Any]):
        self.path = path
        self.checksums, self.sizes = index["checksums"], index["sizes"]
        self.row_of = {name: row for row, name in enumerate(index["files"])}
        self._pixels: np.ndarray | None = None
        self._verified = np.zeros(len(self.row_of), dtype=bool)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pixels": None}  # another process maps the file itself

    def __len__(self) -> int:
        return len(self.row_of)

    def get(self, file_name: str) -> CachedImage | None:
        """Return a file's image, whose checksum is verified the first time; None for a file of another data set.

        Raises:
            ImageReadError: the pixels are not those that were written.
        """
        row = self.row_of.get(file_name)
        if row is None:
            return None
        if self._pixels is None:
            self._pixels = np.load(self.path, mmap_mode="r")
        pixels = self._pixels[row]
        if not self._verified[row]:
            if zlib.crc32(pixels) != self.checksums[row]:
                raise ImageReadError(f"{self.path}: image {row} is damaged; remove the file, it is then made anew")
            self._verified[row] = True
        return CachedImage(pixels, *self.sizes[row])

    @classmethod
    def open(cls, path: Path, records: Sequence[dict[str, Any]]) -> tuple[DecodedCache | None, str]:
        """Open a cache that fits these records; else None, and why."""
        index_file = path.with_suffix(".json")
        if not path.is_file() or not index_file.is_file():
            return None, "it is not there"
        try:
            index = read_json(index_file, DatasetError)
            version, stamps, shape = index["version"], index["stamps"], index["shape"]
            names, digests = index["files"], index["digests"]
            per_image = len(index["checksums"]), len(index["sizes"])
        except (DatasetError, KeyError, TypeError) as error:
            return None, f"its index cannot be read ({error})"
        if version != VERSION:
            return None, f"it has the version {shorten(version)}, this program writes {VERSION}"
        if names != [r["file_name"] for r in records]:
            return None, "the data set has other images"
        if digests != _digests(records):
            return None, "the data set was prepared with other images"
        if per_image != (len(names), len(names)):
            return None, f"its index has {per_image[0]} checksums and {per_image[1]} sizes of {len(names)} images"
        if stamps != _stamps(names):
            return None, "image files have changed"
        try:
            found = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            return None, f"it cannot be read ({error})"
        if list(found.shape) != shape or found.dtype not in (np.uint8, np.float32):
            return None, f"its pixels are {found.dtype} of the shape {found.shape}, not uint8 of {tuple(shape)}"
        return cls(path, index), ""

    @classmethod
    def make(cls, path: Path, records: Sequence[dict[str, Any]], resize: Resize, image_format: str) -> DecodedCache:
        """Open a cache that fits these records; else build it, while others that want it wait, and then open it too.

        Raises:
            ImageReadError, DatasetError: see :meth:`build`.
        """
        cache, _ = cls.open(path, records)
        if cache is not None:
            return cache
        with FolderLock(path, beside=True, wait=True):
            cache, reason = cls.open(path, records)
            if cache is None:
                logging.getLogger(__name__).info(f"{path}: {reason}; it is made now")
                for file in (path, path.with_suffix(".json")):
                    remove_partial_files(path.parent, of=glob.escape(file.name))
                cache = cls.build(path, records, resize, image_format)
        return cache

    @classmethod
    def build(cls, path: Path, records: Sequence[dict[str, Any]], resize: Resize, image_format: str) -> DecodedCache:
        """Decode every image, on all cores, and write pixels and index, each whole or not at all.

        Raises:
            ImageReadError: a file that cannot be read, or is not the one that was prepared.
            DatasetError: an image of another size than its record says, or a disk without room.
        """
        for dtype in (np.uint8, np.float32):
            try:
                return cls._build(path, records, resize, image_format, dtype)
            except _MoreThanEightBits:
                continue
        raise AssertionError("float32 holds every image")

    @classmethod
    def _build(
        cls, path: Path, records: Sequence[dict[str, Any]], resize: Resize, image_format: str, dtype: type
    ) -> DecodedCache:
        names = [r["file_name"] for r in records]
        stamps = _stamps(names)

        def decode(record: dict[str, Any]) -> tuple[np.ndarray, list[int]]:
            pixels = read_record_image(record, image_format)
            if pixels.dtype != np.uint8 and dtype == np.uint8:
                raise _MoreThanEightBits
            small = resize(pixels)
            return small.reshape(*small.shape[:2], -1), [*pixels.shape[:2]]

        first, _ = decode(records[0])
        shape = (len(records), *first.shape)
        _check_room(path, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        sizes, checksums = [], []
        with atomic_path(path) as partial:
            pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
            _reserve(partial)
            decoded = thread_map(decode, records, os.cpu_count() or 1)
            for row, (image, size) in enumerate(tqdm(decoded, f"decoding to {path.name}", len(records))):
                pixels[row] = image
                sizes.append(size)
                checksums.append(zlib.crc32(pixels[row]))
            pixels.flush()
        index = {"version": VERSION, "shape": list(shape), "files": names, "digests": _digests(records),
                 "stamps": stamps, "sizes": sizes, "checksums": checksums}  # fmt: skip
        write_json(path.with_suffix(".json"), index, indent=None)
        return cls(path, index)


class _MoreThanEightBits(Exception):
    """An image of a cache of eight bits has more."""


def _digests(records: Sequence[dict[str, Any]]) -> list[str | None]:
    """Of the files, as the data set was prepared."""
    return [record.get("sha256") for record in records]


def _stamps(names: Sequence[str]) -> list[list[int]]:
    """Size and time of change of each file; [-1, -1] of one that is absent."""
    stamps = []
    for name in names:
        try:
            found = os.stat(name)
            stamps.append([found.st_size, found.st_mtime_ns])
        except OSError:
            stamps.append([-1, -1])
    return stamps


def _reserve(path: Path) -> None:
    """Take the room of a mapped file: a disk that is full while it is written to would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _check_room(path: Path, wanted: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < wanted:
        raise DatasetError(
            f"{path}: the decoded images need {wanted / 2**30:.1f} GiB, the disk has {free / 2**30:.1f}; name a folder "
            "on another one by DATALOADER.DECODED_CACHE, or leave it empty"
        )
