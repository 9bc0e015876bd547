"""What the tables of a collection say of its images: boxes, file, patient, raw values, times, split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mdf_detectron.data.readers import DICOM_SUFFIXES, is_dicom, read_dicom_tags
from mdf_detectron.data.sources.kit.table import Row
from mdf_detectron.errors import ImageReadError
from mdf_detectron.workers import parallel_map

FRACTION = (1, 1)
"""Size of an image whose boxes are given as fractions of its sides."""

NO_FINDING = frozenset({"no finding", "no_finding", "nofinding", "normal", "none", "healthy", "no findings"})
"""Spellings, folded, of the class of an image without a finding."""

SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
               "test": "test", "testing": "test"}  # fmt: skip
"""Spellings, folded, of the splits."""


@dataclass
class SourceImage:
    """One annotated image.

    Attributes:
        name: its file, as the annotations have it.
        image_id: its id there, as text.
        where: file and entry, for messages.
        size: (width, height) that its boxes are in, :data:`FRACTION`, or None: its own pixels.
        boxes: dicts of ``bbox`` (XYWH), ``class``, and where given ``segmentation``, ``iscrowd``, ``reader``,
            ``certainty``.
    """

    name: str
    image_id: str
    where: str
    size: tuple[int, int] | None = None
    boxes: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class SourceAnnotations:
    """The classes in order, and the account of images and boxes.

    Attributes:
        class_names: of the categories.
        boxes_in, images_in: how many the annotations have.
        dropped: boxes that cannot be used, by reason.
        images: the usable ones, while a reader looks for what belongs to them.
        notes: for the report.
    """

    class_names: list[str] = field(default_factory=list)
    boxes_in: int = 0
    images_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    images: list[SourceImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Study:
    """One annotated image with what belongs to it.

    Attributes:
        image: of the annotations.
        path: of its file; several studies may share one.
        row: raw clinical values by column; empty where the image has no record.
        tags: DICOM tags that were asked for.
        patient: id, in any spelling; None where it is not known.
        no_patient: why ``patient`` is None, for the message.
        times: (image, record), ISO 8601 or None.
        split: where the collection fixes it.
        extra: further keys of the image's entry in the prepared folder.
        identity: the row of the table that tells patient and split, which may be one whose values are refused.
        no_record: why ``row`` is empty.
    """

    image: SourceImage
    path: Path
    row: Row = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)
    patient: str | None = None
    no_patient: str = ""
    times: tuple[str | None, str | None] = (None, None)
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    identity: Row = field(default_factory=dict)
    no_record: str = ""


def read_tags(studies: Sequence[Study], tags: Sequence[str], num_workers: int) -> None:
    """Set the tags of DICOM files; other files have none."""
    dicom = [s for s in studies if tags and (s.path.suffix.lower() in DICOM_SUFFIXES or is_dicom(s.path))]
    for study in studies:
        study.tags = dict.fromkeys(tags)
    function = partial(_tags_of, keywords=list(tags))
    found = parallel_map(function, [s.path for s in dicom], num_workers, "reading tags")
    for study, read in zip(dicom, found, strict=True):
        study.tags = read


def _tags_of(path: Path, keywords: list[str]) -> dict[str, str | None]:
    try:
        return read_dicom_tags(path, keywords)
    except ImageReadError:  # the file is named when its pixels are read
        return dict.fromkeys(keywords)
