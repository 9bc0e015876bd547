"""Define a study: one image with its boxes, file, patient, raw clinical values, times and split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mdf_detectron.child_processes import parallel_map
from mdf_detectron.data.readers import is_dicom, read_dicom_tags
from mdf_detectron.data.sources.kit.table import Row
from mdf_detectron.errors import ImageReadError

DICOM = "dicom:"
"""Prefix of a source that is a DICOM tag."""

FRACTION = (1, 1)
"""Image size that marks boxes given as fractions of the image's sides."""

NO_FINDING = frozenset({"no finding", "no_finding", "nofinding", "normal", "none", "healthy", "no findings"})
"""Folded spellings of the class of an image without findings."""

SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
               "test": "test", "testing": "test"}  # fmt: skip
"""Folded spellings of the splits."""


@dataclass
class SourceImage:
    """An annotated image.

    Attributes:
        name, image_id, folder: file name, id (as text) and, of several files of that name, the folder's end, or "".
        where: file and entry, for messages.
        size: (width, height) of the boxes' coordinates, :data:`FRACTION`, or None for the image's own pixels.
        boxes: dicts of ``bbox`` (XYWH), ``class``, and optionally ``segmentation``, ``iscrowd``, ``reader``,
            ``certainty``.
        unusable: number of boxes that cannot be used; with these alone the image is not healthy.
        task: file or folder that it was read from; ``tasks`` counts those of which it holds the boxes.
    """

    name: str
    image_id: str
    where: str
    size: tuple[int, int] | None = None
    boxes: list[dict[str, Any]] = field(default_factory=list)
    unusable: int = 0
    task: Path | None = None
    tasks: int = 1
    folder: str = ""


@dataclass
class SourceAnnotations:
    """Classes in order of the categories, and an account of images and boxes.

    Attributes:
        boxes_in, images_in: numbers in the annotations.
        dropped: unusable boxes, by reason.
        images: usable images, until a reader makes studies of them.
    """

    class_names: list[str] = field(default_factory=list)
    boxes_in: int = 0
    images_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    images: list[SourceImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Study:
    """An annotated image and its file, record, patient and split.

    Attributes:
        path: of the image file; several studies may share one.
        row, no_record: raw clinical values by column; empty if there is no record, and why.
        patient, no_patient: id in any spelling; None if unknown, and why.
        times: (image, record), ISO 8601 or None.
        split: None unless the collection defines it.
        extra: further keys of the image's entry in the prepared folder.
        identity: table row that gives patient and split, even if its clinical values are not used.
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

    def value(self, source: str) -> Any:
        """Return the raw value of a table column, or of "dicom:TAG"."""
        tag = source.removeprefix(DICOM)
        return self.row.get(source) if tag == source else self.tags.get(tag)


def read_tags(studies: Sequence[Study], tags: Sequence[str], num_workers: int) -> None:
    """Set the requested tags of studies whose file is DICOM."""
    dicom = [s for s in studies if tags and is_dicom(s.path)]
    for study in studies:
        study.tags = dict.fromkeys(tags)
    function = partial(_tags_of, keywords=list(tags))
    found = parallel_map(function, [s.path for s in dicom], num_workers, "reading tags")
    for study, read in zip(dicom, found, strict=True):
        study.tags = read


def _tags_of(path: Path, keywords: list[str]) -> dict[str, str | None]:
    try:
        return read_dicom_tags(path, keywords)
    except ImageReadError:  # reported when its pixels are read
        return dict.fromkeys(keywords)
