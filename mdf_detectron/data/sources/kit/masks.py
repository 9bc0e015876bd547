"""Make findings (box and run-length encoded mask) of mask files: one per mask, or one per connected component."""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mdf_detectron.child_processes import parallel_map
from mdf_detectron.data.readers import read_mask, read_size
from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.boxes import OTHER_SHAPE, differs_in_shape, encode_mask
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, Study
from mdf_detectron.data.sources.kit.table import IMAGE_SUFFIXES
from mdf_detectron.errors import ImageReadError, SourceDataError

if TYPE_CHECKING:
    from mdf_detectron.data.sources.kit.preparation import Preparation

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".bmp", ".gif", ".jpg", ".jpeg")
MOST_COMPONENTS = 200
"""Most findings of one mask."""

UNUSABLE_MASK, EMPTY_MASK, NO_MASK = "unusable mask", "mask without a pixel", "image without a mask"
NO_IMAGE, NOT_LISTED = "mask without an image", "image that no table lists"
SIZES_DIFFER = "masks of one image differ in size"
SPECK = "speck next to a larger part of its mask"


@dataclass(frozen=True)
class MaskOptions:
    """How masks become findings.

    Attributes:
        components: one finding per connected component (8 neighbors) instead of one per mask.
        specks: components below this share of the mask's largest one are left out.
        mask_threshold: of masks with more than two values, a pixel from this share of white on belongs to the finding.
        stretch_masks: stretch masks of another shape to their image.
    """

    components: bool = False
    specks: float = 0.01
    mask_threshold: float = 0.5
    stretch_masks: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.specks <= 1 and 0 < self.mask_threshold <= 1):
            raise SourceDataError(f"--specks {self.specks} must be from 0 to 1, --mask-threshold {self.mask_threshold} "
                                  "above 0 and up to 1")  # fmt: skip


@dataclass(frozen=True)
class MaskFile:
    """A mask file: the class of its findings, and the only value that marks them (None: see :func:`binary_mask`)."""

    path: Path
    class_name: str
    value: int | None = None


@dataclass
class MaskFindings:
    """What a mask file holds.

    Attributes:
        size: (width, height) of the mask's pixels.
        boxes: of each finding ``bbox`` (XYWH) and ``segmentation``.
        soft: it has more than two values.
        problem: why it cannot be used, or "".
    """

    size: tuple[int, int] = (0, 0)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    specks: int = 0
    soft: bool = False
    problem: str = ""


def mask_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("masks")
    group.add_argument("--components", action="store_true", help="one finding per connected part, not one per mask")
    group.add_argument("--specks", type=float, default=0.01, metavar="SHARE",
                       help="leave out parts below this share of the mask's largest part (%(default)s)")  # fmt: skip
    group.add_argument("--mask-threshold", type=float, default=0.5, metavar="SHARE",
                       help="share of white from which a pixel of a soft mask counts (%(default)s)")  # fmt: skip
    group.add_argument("--stretch-masks", action="store_true",
                       help="the images were stretched to another shape: stretch their masks too")  # fmt: skip


def list_masks(folder: Path, name: str) -> dict[str, list[Path]]:
    """Map the stem of an image to its mask files in ``folder`` and its subfolders.

    Args:
        name: of a mask file without suffix, as "{stem}_segmentation"; "*" matches anything.
    """
    if name.count("{stem}") != 1:
        raise SourceDataError(f"--mask-name {name!r} needs {{stem}}, the image's name, once, as {{stem}}_segmentation")
    parts = (".*".join(map(re.escape, part.split("*"))) for part in name.split("{stem}"))
    pattern = re.compile("(?P<stem>.+)".join(parts))
    if not folder.is_dir():
        raise SourceDataError(f"no folder of masks {folder}")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MASK_SUFFIXES and (match := pattern.fullmatch(path.stem)):
            found[match["stem"]].append(path)
    return dict(found)


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Map the stems of the raster images in ``folder`` to their paths."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else ()
    return {path.stem: path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}


def pair_masks(
    studies: Mapping[str, tuple[Study, str]], masks: Mapping[str, Sequence[Path]], images: Iterable[Path], job: Account
) -> list[tuple[Study, list[MaskFile]]]:
    """Return each study with its masks; add a problem for each mask, and each of ``images``, that no study is of.

    Args:
        studies: the stem of the image → its study, and the class of its findings.
    """
    for path in (path for stem in sorted(masks.keys() - studies.keys()) for path in masks[stem]):
        job.problems.add(NO_IMAGE, f"{path.name}: its image is not listed; remove the mask or add its image")
    for path in images:
        if path.stem not in studies:
            job.problems.add(NOT_LISTED, f"{path.name}: the tables do not list it; download them again")
    return [(s, [MaskFile(path, name) for path in masks.get(stem, ())]) for stem, (s, name) in studies.items()]


def find_done(
    job: Preparation, pairs: Sequence[tuple[Study, Sequence[MaskFile]]], tables: Sequence[Path], choices: Mapping
) -> bool:
    """Call ``job.is_done`` with the images and masks that exist."""
    files = [path for study, masks in pairs for path in (study.path, *(mask.path for mask in masks))]
    return job.is_done(tables, [path for path in files if path.is_file()], choices)


def set_findings(
    pairs: Sequence[tuple[Study, Sequence[MaskFile]]],
    options: MaskOptions,
    source: SourceAnnotations,
    job: Preparation,
    *,
    healthy: bool = False,
) -> list[Study]:
    """Set size and boxes of each study's image from its masks; return the studies that can be used.

    Args:
        source: findings are counted here.
        healthy: an image without a mask, or with empty ones, has no finding; by default it is a problem.
    """
    files = [(mask, study.path) for study, masks in pairs for mask in masks]
    read = parallel_map(partial(read_findings, options=options), files, job.num_workers, "reading masks")
    kept, soft, scaled = [], 0, 0
    for study, masks in pairs:
        found = [(mask, next(read)) for mask in masks]
        for mask, result in found:
            soft += result.soft
            source.boxes_in += len(result.boxes) + result.specks * options.components
            if result.specks:
                (source.dropped if options.components else job.box_changes)[SPECK] += result.specks
            study.image.size = result.size
            study.image.boxes += [{**box, "class": mask.class_name} for box in result.boxes]
        if kind := _problem(study, found, healthy, job):
            job.image_drops[kind] += 1
        else:
            scaled += bool(found) and (_size(study.path) or study.image.size) != study.image.size
            kept.append(study)
    if soft:
        job.notes.append(f"{soft} masks have more than two values: a pixel belongs to the finding from "
                         f"{options.mask_threshold:g} of white on (--mask-threshold).")  # fmt: skip
    if scaled:
        job.notes.append(f"The masks of {scaled} images have another size than the image, of the same shape: they "
                         "are scaled to it.")  # fmt: skip
    return kept


def _problem(study: Study, found: Sequence[tuple[MaskFile, MaskFindings]], healthy: bool, job: Account) -> str:
    """Add a problem for each unusable mask; return why the image cannot be used, or ""."""
    where, remedy = study.image.where, "it may show a finding that nobody drew"
    broken = [(UNUSABLE_MASK, result.problem) for _, result in found if result.problem]
    if not found and not healthy:
        broken.append((NO_MASK, f"{where}: {study.path.name} has no mask file; {remedy}"))
    if not broken and not healthy:
        broken = [(EMPTY_MASK, f"{mask.path}: no pixel of a finding; {remedy}") for mask, r in found if not r.boxes]
    if len({result.size for _, result in found}) > 1 and not broken:
        sizes = " and ".join(f"{mask.path.name} {r.size[0]} × {r.size[1]}" for mask, r in found[:3])
        broken = [(SIZES_DIFFER, f"{where}: masks differ in size: {sizes}; save all of them at the image's size")]
    elif found and not broken and (size := _size(study.path)) and differs_in_shape(found[0][1].size, size):
        text = "its mask has {} × {} pixels, the image {} × {}".format(*found[0][1].size, *size)
        broken = [(OTHER_SHAPE, f"{where}: {text}: draw it on the image; if that was stretched, --stretch-masks")]
    for kind, text in broken:
        job.problems.add(kind, text)
    return broken[0][0] if broken else ""


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return read_size(path)
    except ImageReadError:
        return None  # reported when its pixels are read


def read_findings(item: tuple[MaskFile, Path], options: MaskOptions) -> MaskFindings:
    """Read a mask file (first of ``item``; the second is its image, for ``options.stretch_masks``)."""
    file, image = item
    try:
        samples = read_mask(file.path)
        mask, soft = (samples == file.value, False) if file.value is not None else binary_mask(samples, options)
        if options.stretch_masks and (size := _size(image)) and differs_in_shape(mask.shape[::-1], size):
            mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        parts, specks = split_mask(mask, options)
    except ImageReadError as error:
        return MaskFindings(problem=str(error))
    except ValueError as error:
        return MaskFindings(problem=f"{file.path}: {error}")
    encoded = map(encode_mask, parts)
    boxes = [{"bbox": coco_mask.toBbox(rle).tolist(), "segmentation": rle} for rle in encoded]
    return MaskFindings(mask.shape[::-1], boxes, specks, soft)


def binary_mask(samples: np.ndarray, options: MaskOptions) -> tuple[np.ndarray, bool]:
    """Return the finding's pixels, (H, W) bool, and whether the mask is soft.

    A mask of 0 and one other value is taken as it is. Of more values, those from ``options.mask_threshold`` of white
    on count; white is 1 (floats), 255 or 65535, the least that no value exceeds.

    Raises:
        ValueError: values that are no mask.
    """
    values = np.unique(samples)
    if not np.isfinite(values).all() or values[0] < 0:
        raise ValueError("values below 0 or not finite; expected 0 for the background and one value for the finding")
    if len(values) == 1 or (len(values) == 2 and values[0] == 0):
        return samples > 0, False
    whites = (255, 65535) if samples.dtype.kind in "iu" else (1, 255, 65535)
    white = next((white for white in whites if values[-1] <= white), values[-1])
    if values[-1] < options.mask_threshold * white:
        listed = ", ".join(f"{v:g}" for v in values[:4]) + (", …" if len(values) > 4 else "")
        raise ValueError(f"{len(values)} values ({listed}), none from {options.mask_threshold:g} of white ({white}) "
                         "on; say which class each value is (--mask-values), or save black and white")  # fmt: skip
    return samples >= options.mask_threshold * white, True


def split_mask(mask: np.ndarray, options: MaskOptions) -> tuple[list[np.ndarray], int]:
    """Return the masks of the findings, (H, W) bool, and the number of specks left out; holes stay holes.

    Raises:
        ValueError: more than :data:`MOST_COMPONENTS` components.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= options.specks * areas.max(initial=0))
    specks = count - 1 - len(kept)
    if not options.components:
        return ([np.isin(labels, kept)] if specks else [mask]) if len(kept) else [], specks
    if len(kept) > MOST_COMPONENTS:
        raise ValueError(f"{len(kept)} separate parts, more than {MOST_COMPONENTS}; raise --specks, or smooth the mask")
    return [labels == number for number in kept], specks
