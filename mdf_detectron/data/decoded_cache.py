"""Cache decoded radiographs at the model's input size in one memory-mapped file per dataset.

The pixels are in ``<name>_<size>_<format>.npy``, (M, S, S, C) uint8, or float32 if any file has more than eight bits.
The index next to it (``.json``) holds the format version, the sources (each file with its digest, size and modification
time), and each image's original size and pixel checksum.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mdf_detectron.child_processes import thread_map
from mdf_detectron.data.readers import read_record_image
from mdf_detectron.errors import DatasetError, ImageReadError
from mdf_detectron.fileio import atomic_path, file_stamp, for_owner_only, read_json, remove_partial_files, write_json
from mdf_detectron.locks import FolderLock

VERSION = 1
"""Of the file format; a cache of another version is rebuilt."""

Resize = Callable[[np.ndarray], np.ndarray]
"""(H, W, C) uint8 or float32 → (S, S, C) of the same dtype; the first step for every image."""


class CachedImage(NamedTuple):
    """An image of the cache.

    Attributes:
        pixels: (S, S, C) uint8 or float32, a read-only view of the file.
        height, width: before resizing.
    """

    pixels: np.ndarray
    height: int
    width: int


class DecodedCache:
    """The decoded images of one dataset; :meth:`open` opens a cache, :meth:`make` builds it first if needed."""

    def __init__(self, path: Path, index: dict[str, Any]):
        self.path = path
        self.checksums, self.sizes = index["checksums"], index["sizes"]
        self.place = {file_name: number for number, (file_name, *_) in enumerate(index["made_of"])}
        self._pixels: np.ndarray | None = None
        self._verified = np.zeros(len(self.place), dtype=bool)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pixels": None}  # another process maps the file itself

    def __len__(self) -> int:
        return len(self.place)

    def get(self, file_name: str) -> CachedImage | None:
        """Return a file's image, or None if not cached; raise ``ImageReadError`` if its checksum differs."""
        number = self.place.get(file_name)
        if number is None:
            return None
        if self._pixels is None:
            self._pixels = np.load(self.path, mmap_mode="r")
        pixels = self._pixels[number]
        if not self._verified[number]:
            if zlib.crc32(pixels) != self.checksums[number]:
                raise ImageReadError(f"{self.path}: image {number} is damaged; remove the file, it is then made again")
            self._verified[number] = True
        return CachedImage(pixels, *self.sizes[number])

    @classmethod
    def open(cls, path: Path, records: Sequence[dict[str, Any]]) -> tuple[DecodedCache | None, str]:
        """Open the cache, for its owner only, if it matches these records; else return None and the reason."""
        if not path.is_file() or not path.with_suffix(".json").is_file():
            return None, "it is not there"
        for file in (path, path.with_suffix(".json")):
            with suppress(OSError):  # of another owner, who alone can change it
                file.chmod(0o600)
        try:
            index = read_json(path.with_suffix(".json"), DatasetError)
            version, made_of = index["version"], index["made_of"]
            counts = {len(index["sizes"]), len(index["checksums"])}
            pixels = np.load(path, mmap_mode="r")
        except (DatasetError, KeyError, TypeError, OSError, ValueError, EOFError) as error:
            return None, f"it cannot be read ({error})"
        if version != VERSION:
            return None, "another version of this program made it"
        if made_of != _made_of(records):
            return None, "the data set or its image files have changed"
        if counts | {len(pixels)} != {len(records)} or pixels.dtype not in (np.uint8, np.float32):
            return None, "its index does not fit its pixels"
        return cls(path, index), ""

    @classmethod
    def make(cls, path: Path, records: Sequence[dict[str, Any]], resize: Resize, image_format: str) -> DecodedCache:
        """Open the cache, or :meth:`build` it under a lock if it does not match these records."""
        cache, _ = cls.open(path, records)
        if cache is not None:
            return cache
        with for_owner_only(), FolderLock(path, in_parent=True, wait=True):
            cache, reason = cls.open(path, records)
            if cache is None:
                logging.getLogger(__name__).info(f"{path}: {reason}; making it now")
                for file in (path, path.with_suffix(".json")):
                    remove_partial_files(path.parent, of=glob.escape(file.name))
                cache = cls.build(path, records, resize, image_format)
        return cache

    @classmethod
    def build(
        cls, path: Path, records: Sequence[dict[str, Any]], resize: Resize, image_format: str, dtype: type = np.uint8
    ) -> DecodedCache:
        """Decode every image on all cores, and write pixels and index, each atomically.

        Args:
            dtype: of the pixels; float32 replaces it for all images if one has more than eight bits.

        Raises:
            ImageReadError: a file is unreadable, or has changed since preparation.
            DatasetError: an image size differs from its record, or the disk is too full.
        """
        made_of = _made_of(records)

        def decode(record: dict[str, Any]) -> tuple[np.ndarray, list[int]]:
            pixels = read_record_image(record, image_format)
            if pixels.dtype != np.uint8 and dtype == np.uint8:
                raise _MoreThanEightBits
            small = resize(pixels)
            return small.reshape(*small.shape[:2], -1), [*pixels.shape[:2]]

        sizes, checksums = [], []
        try:
            shape = (len(records), *decode(records[0])[0].shape)
            _check_room(path, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            with atomic_path(path) as partial:
                pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
                _reserve(partial)
                decoded = thread_map(decode, records, os.cpu_count() or 1)
                for number, (image, size) in enumerate(tqdm(decoded, f"decoding to {path.name}", len(records))):
                    pixels[number] = image
                    sizes.append(size)
                    checksums.append(zlib.crc32(pixels[number]))
                pixels.flush()
        except _MoreThanEightBits:
            return cls.build(path, records, resize, image_format, np.float32)
        index = {"version": VERSION, "made_of": made_of, "sizes": sizes, "checksums": checksums}
        write_json(path.with_suffix(".json"), index, indent=None)
        return cls(path, index)


class _MoreThanEightBits(Exception):
    """An image does not fit an eight-bit cache."""


def _made_of(records: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """List each image's file, digest at preparation, file size and modification time, in JSON types."""
    return [[r["file_name"], r.get("sha256"), *(file_stamp(r["file_name"]) or ())[:2]] for r in records]


def _reserve(path: Path) -> None:
    """Allocate a mapped file's disk space: writing to it on a full disk would kill the process."""
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
