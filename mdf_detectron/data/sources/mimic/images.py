"""The images of a prepared folder: links to the originals, or copies decoded and resized once.

The cache is resumable: each copy is written whole, carries its original's time of change, and lies in a folder that
outlives an interrupted run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
from PIL import Image
from tqdm import tqdm

from mdf_detectron.data.readers import read_radiograph, write_image
from mdf_detectron.data.sources.mimic.source_table import Problems
from mdf_detectron.errors import ImageReadError
from mdf_detectron.workers import parallel_map


def link_images(
    sources: Mapping[str, Path], folder: Path, num_workers: int, problems: Problems
) -> dict[str, tuple[int, int]]:
    """Symbolic links ``<dicom_id>.jpg`` in ``folder``; returns dicom_id → (width, height) of the usable images.

    Every image is decoded once, at an eighth of its size, because a cut-off download has a sound header.
    An absent or unreadable one is a problem.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        results = tqdm(pool.map(_check_one, sources.values()), "checking images", len(sources), unit="image")
        for (name, source), result in zip(sources.items(), results, strict=True):
            if isinstance(result, str):
                _complain(source, result, problems)
            else:
                (folder / f"{name}{source.suffix}").symlink_to(source)
                sizes[name] = result
    return sizes


def _check_one(source: Path) -> tuple[int, int] | str:
    """(width, height) of an image that decodes, or why it does not."""
    try:
        with Image.open(source) as image:
            size = image.size
            image.draft("L", (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        return str(error)
    return size


def cache_images(
    sources: Mapping[str, Path], folder: Path, side: int, num_workers: int, problems: Problems
) -> dict[str, tuple[int, int]]:
    """Gray PNG copies ``<dicom_id>.png`` whose shorter side has ``side`` pixels (never enlarged).

    Copies that are there from an earlier run and whose original has not changed since are taken as they are.

    Returns:
        dicom_id → (width, height) of the copy, without the images that could not be read (each a problem).
    """
    folder.mkdir(parents=True, exist_ok=True)
    resize = partial(_resize_one, folder=folder, side=side)
    items, sizes = list(sources.items()), {}
    for (name, source), result in zip(
        items, parallel_map(resize, items, num_workers, "resizing images", chunk=4), strict=True
    ):
        if isinstance(result, str):
            _complain(source, result, problems)
        else:
            sizes[name] = result
    return sizes


def _resize_one(item: tuple[str, Path], folder: Path, side: int) -> tuple[int, int] | str:
    """(width, height) of the copy, or why there is none."""
    name, source = item
    target = folder / f"{name}.png"
    try:
        changed = source.stat().st_mtime_ns
        if target.is_file() and target.stat().st_mtime_ns == changed:
            with Image.open(target) as image:
                return image.size
        pixels = read_radiograph(source)[:, :, 0]
    except (ImageReadError, OSError) as error:
        return str(error)
    height, width = pixels.shape
    factor = min(1.0, side / min(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if factor < 1 else pixels
    partial_file = folder / f"{name}.{os.getpid()}.partial.png"
    write_image(partial_file, small)
    os.utime(partial_file, ns=(changed, changed))
    partial_file.rename(target)
    return size


def _complain(source: Path, error: object, problems: Problems) -> None:
    kind = "unreadable image" if source.exists() else "image file absent"
    what = f"cannot read image {source}: {error}" if source.exists() else f"no image {source}"
    problems.add(kind, f"{what}; download it again from mimic-cxr-jpg, or point --images to the folder of 'files/'")
