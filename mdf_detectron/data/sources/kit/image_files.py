"""Link a prepared folder's images to the originals, or make copies that are decoded, windowed and resized once.

Copying can be resumed: each copy is written atomically, carries its original's modification time and how it was
made, and is kept in a cache folder that survives an interrupted run. Copies of a replaced folder are reused.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from PIL import Image

from mdf_detectron.child_processes import parallel_map
from mdf_detectron.data.intensity import pixel_digest
from mdf_detectron.data.prepared import IMAGE_CACHE_SUFFIX, REPORT_FILE_NAME
from mdf_detectron.data.raster import to_gray, write_png
from mdf_detectron.data.readers import OpenImage, read_pixels
from mdf_detectron.errors import DatasetError, ImageReadError
from mdf_detectron.fileio import read_json, sha256_of

_PROVENANCE_KEY = "mdf_detectron:provenance"


@dataclass(frozen=True)
class ImageFile:
    """An image that was read: pixels and digest of its file in the prepared folder.

    Attributes:
        source_width, source_height: pixels of the original, upright.
        kind, scaling, inverted, notes: see :class:`~mdf_detectron.data.intensity.Provenance`.
        sha256, pixels: digests of the file and of its pixels.
    """

    width: int
    height: int
    source_width: int
    source_height: int
    kind: str
    scaling: str
    inverted: bool
    notes: tuple[str, ...] = ()
    sha256: str = ""
    pixels: str = ""


def how_images_were_read(files: Iterable[ImageFile]) -> dict[str, Any]:
    """Count how pixels were scaled and what was unusual, as a table of the report."""
    counts: Counter[str] = Counter()
    for file in files:
        counts[f"{file.kind}: scaling {file.scaling}" + (", inverted" if file.inverted else "")] += 1
        counts.update(f"{file.kind}: {note}" for note in file.notes)
    return {"title": "How images were read", "header": ["what", "images"], "rows": counts.most_common()}


def bring_images(
    sources: Iterable[tuple[Path, str]],
    out: Path,
    folder: Path,
    *,
    image_size: int | None = None,
    bit_depth: int = 8,
    copy: bool = False,
    num_workers: int = 2,
) -> Iterator[ImageFile | str]:
    """Fill ``folder`` with links to the originals or with copies; decode every original once either way.

    Args:
        sources: (original, path below ``folder``) of each image; names are distinct.
        out: the prepared folder; copies are cached next to it until it is complete.
        image_size: shorter side of PNG copies (never enlarged), whose names must end with ".png"; None: link. Color
            stays color at 8 bits.
        copy: without ``image_size``, copy the originals instead of linking to them.

    Yields:
        what was read, or why it could not be, for each source.
    """
    sources = [(Path(source).resolve(), name) for source, name in sources]
    if image_size is None:
        results = parallel_map(_check, [source for source, _ in sources], num_workers, "reading images")
        for (source, name), result in zip(sources, results, strict=True):
            if not isinstance(result, str):
                target = _made(folder / name)
                shutil.copyfile(source, target) if copy else target.symlink_to(source)
            yield result
        return
    cache = cache_folder(out) / f"{image_size}_{bit_depth}bit"
    _take_up(out, cache, image_size, bit_depth)
    resize = partial(_resize, cache=cache, side=image_size, bit_depth=bit_depth)
    results = parallel_map(resize, sources, num_workers, f"resizing images to {image_size}")
    for (_, name), result in zip(sources, results, strict=True):
        if not isinstance(result, str):
            os.link(cache / name, _made(folder / name))
        yield result


def cache_folder(out: Path) -> Path:
    """Return the folder next to ``out`` that caches copies until a run is complete."""
    return out.with_name(out.name + IMAGE_CACHE_SUFFIX)


def _take_up(out: Path, cache: Path, image_size: int, bit_depth: int) -> None:
    """Link copies of the existing prepared folder into the cache if size and depth are the same."""
    report = out / REPORT_FILE_NAME
    made = read_json(report, DatasetError) if report.is_file() else None
    made = made.get("arguments") if isinstance(made, dict) else None
    if not isinstance(made, dict) or "pseudonyms" in made:  # pseudonymized copies have other names
        return
    if (made.get("image_size"), made.get("bit_depth", 8)) != (image_size, bit_depth):
        return
    for copy in (out / "images").rglob("*.png"):
        target = cache / copy.relative_to(out / "images")
        if not target.exists() and not copy.is_symlink():
            os.link(copy, _made(target))


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check(source: Path) -> ImageFile | str:
    try:
        with OpenImage(source) as image:
            pixels, done = image.decode()
            digests = image.sha256, pixel_digest(pixels)
    except (ImageReadError, OSError) as error:
        return str(error)
    size = done.width, done.height
    return ImageFile(*size, *size, done.kind, done.scaling, done.inverted, done.notes, *digests)


def _resize(item: tuple[Path, str], cache: Path, side: int, bit_depth: int) -> ImageFile | str:
    source, name = item
    target = cache / name
    try:
        changed = source.stat().st_mtime_ns
        known = _known(target, source, changed)
        if known:
            return known
        pixels, done = read_pixels(source, bit_depth)
    except (ImageReadError, OSError) as error:
        return str(error)
    pixels = to_gray(pixels) if bit_depth > 8 else pixels
    height, width = pixels.shape[:2]
    factor = min(1.0, side / min(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if factor < 1 else pixels
    made = ImageFile(*size, width, height, done.kind, done.scaling, done.inverted, done.notes, "", pixel_digest(small))
    partial_file = _made(target).with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        fields = {key: value for key, value in asdict(made).items() if key != "sha256"}  # no file holds its own digest
        write_png(partial_file, small, {_PROVENANCE_KEY: json.dumps({**fields, "origin": _origin(source)})})
        made = replace(made, sha256=sha256_of(partial_file))
        os.utime(partial_file, ns=(changed, changed))
        partial_file.rename(target)
    finally:
        partial_file.unlink(missing_ok=True)
    return made


def _origin(source: Path) -> str:
    """Return a digest of a path; folder and file names may identify a patient, so copies must not hold them."""
    return hashlib.sha256(os.fsencode(source)).hexdigest()[:16]


def _known(target: Path, source: Path, changed: int) -> ImageFile | None:
    """Return an earlier run's copy if it is intact and its original has not changed."""
    try:
        if target.stat().st_mtime_ns != changed:
            return None
        with Image.open(target) as image:
            fields: dict[str, Any] = json.loads(image.info[_PROVENANCE_KEY])
            if fields.pop("origin") != _origin(source):
                return None
            image.verify()  # check the chunk checksums, so that a damaged copy is not hashed as good
        notes, pixels = tuple(fields["notes"]), fields["pixels"]
        return ImageFile(**{**fields, "notes": notes, "pixels": pixels, "sha256": sha256_of(target)})
    except (OSError, KeyError, ValueError, TypeError, SyntaxError):
        return None
