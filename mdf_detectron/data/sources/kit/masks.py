"""Make findings (box and run-length encoded mask) of mask files: one per mask, or one per connected part."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mdf_detectron.child_processes import parallel_map
from mdf_detectron.data.image_paths import IMAGE_SUFFIXES
from mdf_detectron.data.readers import read_mask, read_size
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.boxes import OTHER_SHAPE, differs_in_shape, encode_mask
from mdf_detectron.data.sources.kit.collection import Content
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.studies import NO_FINDING, SourceAnnotations, SourceImage, Study
from mdf_detectron.errors import ImageReadError, SourceDataError, shorten

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".bmp", ".gif", ".jpg", ".jpeg")
MOST_PARTS = 200
"""Most findings of one mask."""

UNUSABLE_MASK, EMPTY_MASK, NO_MASK = "unusable mask", "mask without a pixel", "image without a mask"
NO_IMAGE, NOT_LISTED, HEALTHY_MASK = "mask without an image", "image that no table lists", "mask of a healthy image"
NO_CLASS, SPECK = "no class", "speck next to a larger part of its mask"
EMPTY, SOFT = "have no finding", "have more than two values: a finding is what reaches half of white"
SCALED = "have another size than their image and are scaled to it"


@dataclass(frozen=True)
class MaskOptions:
    """How masks become findings.

    Attributes:
        components: one finding per connected part (8 neighbors) instead of one per mask.
        specks: parts below this share of the mask's largest one are left out.
        stretch_masks: scale masks of another shape to their image; those of its shape are scaled in any case.
    """

    components: bool = False
    specks: float = 0.01
    stretch_masks: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.specks <= 1:
            raise SourceDataError(f"--specks must be a share from 0 to 1, got {self.specks}")


class MaskFile(NamedTuple):
    """A mask file, the class of its findings, the value that marks them and those of all classes (None: any value)."""

    path: Path
    class_name: str
    value: int | None = None
    values: tuple[int, ...] = ()


class Drawn(NamedTuple):
    """A study and its masks; ``healthy``: True, it has no finding; False, it has one at least; None, either."""

    study: Study
    masks: list[MaskFile]
    healthy: bool | None = False


class Found(NamedTuple):
    """What a mask file holds: ``bbox`` (XYWH) and ``segmentation`` of each finding, or a problem (kind, message)."""

    boxes: Sequence[dict[str, Any]] = ()
    specks: int = 0
    remarks: Sequence[str] = ()
    problem: tuple[str, str] | None = None


def mask_options(parser: argparse.ArgumentParser) -> Callable[..., Any]:
    """Declare the fields of :class:`MaskOptions`; return ``add_argument`` of their group."""
    add = parser.add_argument_group("masks").add_argument
    add("--components", action="store_true", help="one finding per connected part, not one per mask")
    add("--specks", type=float, default=0.01, metavar="SHARE",
        help="leave out parts below this share of the mask's largest part (%(default)s)")  # fmt: skip
    add("--stretch-masks", action="store_true", help="the images were stretched to another shape: masks too")
    return add


def list_masks(folder: Path, name: str) -> dict[str, list[Path]]:
    """Map image stems to the mask files in ``folder`` and below whose stems match ``name``, as "{stem}_mask*"."""
    if name.count("{stem}") != 1:
        raise SourceDataError(f"--mask-name {name!r} needs {{stem}}, the image's name, once, as {{stem}}_segmentation")
    pattern = re.escape(name).replace(re.escape("{stem}"), "(?P<stem>.+)").replace(re.escape("*"), ".*")
    if not folder.is_dir():
        raise SourceDataError(f"no folder of masks {folder}")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MASK_SUFFIXES and (match := re.fullmatch(pattern, path.stem)):
            found.setdefault(match["stem"], []).append(path)
    return found


def images_by_stem(folder: Path, pattern: str = ".+") -> dict[str, Path]:
    """Map the stems that match ``pattern`` to the raster images in ``folder``."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else ()
    return {p.stem: p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and re.fullmatch(pattern, p.stem)}


def pair_masks(
    job: Preparation,
    classes: Sequence[str],
    rows: Iterable[tuple[str, str, str, str, dict[str, Any]]],
    images: Mapping[str, Path],
    masks: Mapping[str, Sequence[Path]],
) -> list[Drawn]:
    """Pair each row (place, stem of the image, class, patient, record) with its files; name files without a row."""
    drawn: dict[str, Drawn] = {}
    for where, key, name, patient, record in rows:
        healthy = name in NO_FINDING
        if key in drawn or not (healthy or name in classes):
            text = f"{key}: class {shorten(name)}; expected one row of each image, with {', '.join(classes)}"
            job.drop(NO_CLASS, f"{where}: {text}")
            continue
        study = Study(SourceImage(key, key, where), images.get(key, Path(key)), row=record, patient=patient)
        drawn[key] = Drawn(study, [MaskFile(path, name) for path in masks.get(key, ())], healthy)
    for kind, paths in ((NO_IMAGE, [p for key in masks.keys() - drawn.keys() for p in masks[key]]),
                        (NOT_LISTED, [images[key] for key in images.keys() - drawn.keys()])):  # fmt: skip
        for path in sorted(paths):
            job.problems.add(kind, f"{path.name}: the table has no row of it; download both again, or remove it")
    return list(drawn.values())


def masked_content(
    job: Preparation, title: str, classes: Sequence[str], schema: ClinicalSchema, drawn: Sequence[Drawn],
    tables: Sequence[Path], options: MaskOptions, choices: Mapping[str, Any],
) -> Content | None:  # fmt: skip
    """Return the content of a collection that is drawn as masks; None if ``job.is_done``."""
    files = [path for one in drawn for path in (one.study.path, *(mask.path for mask in one.masks))]
    choices = {**choices, **asdict(options)}
    if job.is_done(tables, [path for path in files if path.is_file()], choices):
        return None
    source = SourceAnnotations(list(classes), images_in=len(drawn) + sum(job.image_drops.values()))
    return Content(title, source, set_findings(drawn, options, source, job), schema, tables, choices)


def set_findings(
    drawn: Sequence[Drawn], options: MaskOptions, source: SourceAnnotations, job: Preparation, remedy: str = ""
) -> list[Study]:
    """Set the boxes of each study from its masks and count them in ``source``; return the usable studies.

    Args:
        remedy: end of the message about an image without a finding.
    """
    usable = set(map(id, job.usable([one.study for one in drawn])))
    drawn = [one for one in drawn if id(one.study) in usable]
    files = [(mask, one.study.path) for one in drawn for mask in one.masks]
    read = parallel_map(partial(read_findings, options=options), files, job.num_workers, "reading masks")
    kept, remarks = [], Counter()
    for study, masks, healthy in drawn:
        found = [next(read) for _ in masks]
        for mask, one in zip(masks, found, strict=True):
            remarks.update(one.remarks)
            source.boxes_in += len(one.boxes) + one.specks * options.components
            if one.specks:
                (source.dropped if options.components else job.box_changes)[SPECK] += one.specks
            study.image.boxes += [{**box, "class": mask.class_name} for box in one.boxes]
        problems = [one.problem for one in found if one.problem]
        where = study.image.where if study.path.name in study.image.where else f"{study.image.where}: {study.path.name}"
        if not problems and healthy and study.image.boxes:
            problems = [(HEALTHY_MASK, f"{where} is said to be healthy, and its mask has a finding")]
        elif not problems and healthy is False and not study.image.boxes:
            text = "its mask has no pixel of a finding" if found else "it has no mask file"
            text = f"{where}: {text}; it may show a finding that nobody drew{remedy}"
            problems = [(EMPTY_MASK if found else NO_MASK, text)]
        for problem in problems:
            job.problems.add(*problem)
        if problems:
            job.image_drops[problems[0][0]] += 1
        else:
            kept.append(study)
    job.notes += [f"{count} masks {text}." for text, count in remarks.items()]
    return kept


def read_findings(item: tuple[MaskFile, Path], options: MaskOptions) -> Found:
    """Read a mask file, the first of ``item``; the second is its image."""
    (path, _, value, values), image = item
    try:
        samples, (width, height) = read_mask(path), read_size(image)
        if values and len(unknown := np.setdiff1d(samples, (0, *values))):
            raise ValueError(f"value {unknown[0]:g} is none of --mask-values; name its class there")
        mask, soft = (samples == value, False) if values else binary_mask(samples)
        drawn, remarks = mask.shape[::-1], [SOFT] * soft
        if differs_in_shape(drawn, (width, height)) and not options.stretch_masks:
            text = f"{drawn[0]} × {drawn[1]} pixels, its image has {width} × {height}"
            text = f"{path}: {text}; draw it on the image, or --stretch-masks if that was stretched"
            return Found(problem=(OTHER_SHAPE, text))
        if drawn != (width, height):
            remarks += [SCALED][: value in (None, *values[:1])]  # once a file
            mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        parts, specks = split_mask(mask, options)
    except (ImageReadError, ValueError) as error:
        return Found(problem=(UNUSABLE_MASK, str(error) if isinstance(error, ImageReadError) else f"{path}: {error}"))
    encoded = map(encode_mask, parts)
    boxes = [{"bbox": coco_mask.toBbox(rle).tolist(), "segmentation": rle} for rle in encoded]
    return Found(boxes, specks, remarks if boxes or values else [*remarks, EMPTY])


def binary_mask(samples: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the finding's pixels, (H, W) bool, and whether the mask is soft.

    A mask of 0 and one other value is taken as it is. Of more values, those from half of white on count; white is 1
    (floats), 255 or 65535, the least that no value exceeds.

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
    if values[-1] < white / 2:
        listed = ", ".join(f"{v:g}" for v in values[:4])
        raise ValueError(f"{len(values)} values ({listed} …), none from half of white ({white}) on; name the class of "
                         "each value (--mask-values of mdf prepare own), or save black and white")  # fmt: skip
    return samples >= white / 2, True


def split_mask(mask: np.ndarray, options: MaskOptions) -> tuple[list[np.ndarray], int]:
    """Return the masks of the findings, (H, W) bool, and the number of specks left out; holes stay holes.

    Raises:
        ValueError: more than :data:`MOST_PARTS` parts.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= options.specks * areas.max(initial=0))
    specks = count - 1 - len(kept)
    if not options.components:
        return [np.isin(labels, kept)] if len(kept) else [], specks
    if len(kept) > MOST_PARTS:
        raise ValueError(f"{len(kept)} separate parts, more than {MOST_PARTS}; raise --specks, or smooth the mask")
    return [labels == number for number in kept], specks
