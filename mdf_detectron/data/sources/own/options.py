"""What the preparation of own data is told; every choice is written to the report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mdf_detectron.data.sources.kit.image_files import BIT_DEPTHS
from mdf_detectron.errors import SourceDataError, shorten

BOX_UNITS = ("pixels", "fraction")
KEY_KINDS = ("stem", "name", "id")
"""What a table's key is compared with, besides a DICOM tag: the file's name without or with suffix, the image id."""

DICOM_TIME = "dicom"
"""``--time dicom``: the times come from the files."""

_SPEC = re.compile(r'\s*(?P<source>"[^"]+"|[^\s:{}"]+)(?::(?P<name>[^\s:{}"]+))?(?:\{(?P<mapping>[^{}]*)\})?(?=\s|$)')


@dataclass(frozen=True)
class ColumnSpec:
    """One clinical column: where it comes from, its name in the records, and spellings that are replaced."""

    source: str
    name: str
    mapping: Mapping[str, str] = field(default_factory=dict)


def parse_columns(text: str) -> tuple[ColumnSpec, ...]:
    """Parse ``Age:age Lactate Sex:sex{male=M,female=F} "White cells":wbc``.

    Raises:
        SourceDataError: something else, or a name that stands twice.
    """
    specs, at = [], 0
    while text[at:].strip():
        match = _SPEC.match(text, at)
        if not match:
            raise SourceDataError(
                f"columns: cannot read {shorten(text[at:].strip())}; write SOURCE, SOURCE:name or "
                'SOURCE:name{raw=value,raw=value}, and a source with blanks in double quotes, as "White cells":wbc'
            )
        source = match["source"].strip('"')
        specs.append(ColumnSpec(source, match["name"] or source, _mapping(match["mapping"], source)))
        at = match.end()
    names = [spec.name for spec in specs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise SourceDataError(f"columns: {', '.join(doubled)} stands twice; rename one, as in Source:other_name")
    return tuple(specs)


def _mapping(text: str | None, source: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise SourceDataError(f"columns: {source}: {{{text}}} is no list of raw=value")
    return {raw.strip(): value.strip() for raw, _, value in pairs}


@dataclass(frozen=True)
class OwnOptions:
    """Choices, checked.

    Attributes:
        key: "COLUMN" or "COLUMN=KIND", KIND of :data:`KEY_KINDS` or a DICOM tag: which row belongs to an image.
        patient: a column of the table, "dicom:TAG", "stem=REGEX" (its first group), or None: each image a patient.
        columns, dicom_columns: clinical columns of the table and of DICOM tags; no columns: all of the table.
        box_columns: of a table of boxes, "role=column", see :mod:`.boxes`; others are guessed.
        box_units: of its coordinates.
        class_name: of boxes in a table without a class column.
        split_column: a column of the table that says train, val or test.
        time, record_time: columns with the time of the image and of the record; time may be "dicom".
        time_format: of both, as strptime has it; None: ISO 8601.
        decimal_comma: numbers are written "38,1".
        fractions, seed, folds: of the splits; folds > 0 also writes that many cross-validation folders.
        image_size, bit_depth, copy_images: see :func:`~mdf_detectron.data.sources.kit.image_files.bring_images`.
    """

    key: str | None = None
    patient: str | None = None
    columns: Sequence[ColumnSpec] = ()
    dicom_columns: Sequence[ColumnSpec] = ()
    box_columns: Mapping[str, str] = field(default_factory=dict)
    box_units: str = "pixels"
    class_name: str = "finding"
    split_column: str | None = None
    time: str | None = None
    record_time: str | None = None
    time_format: str | None = None
    decimal_comma: bool = False
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 1
    folds: int = 0
    image_size: int | None = None
    bit_depth: int = 8
    copy_images: bool = False

    def __post_init__(self) -> None:
        def refuse(text: str) -> None:
            raise SourceDataError(text)

        if self.box_units not in BOX_UNITS:
            refuse(f"box units '{self.box_units}' are none of {', '.join(BOX_UNITS)}")
        if self.bit_depth not in BIT_DEPTHS:
            refuse(f"bit depth {self.bit_depth} is none of {BIT_DEPTHS}")
        if self.bit_depth == 16 and self.image_size is None:
            refuse("a bit depth of 16 needs copies: name their shorter side with --image-size")
        if self.image_size is not None and self.image_size < 32:
            refuse(f"an image size must be at least 32 pixels, got {self.image_size}")
        if self.folds < 0 or self.folds in (1, 2):
            refuse(f"folds must be 0 (none) or at least 3 (train, val, test), got {self.folds}")
        if abs(sum(self.fractions) - 1) > 1e-9 or not all(math.isfinite(f) and f > 0 for f in self.fractions):
            refuse(f"split fractions must be positive and sum to 1, got {self.fractions}")
        if self.record_time and not self.time:
            refuse("a time of the record is compared with the image's: name its column with --time, or --time dicom")
        if self.split_column and self.folds:
            refuse("a split column and folds exclude each other: folds split the patients anew")
        names = [c.name for c in (*self.columns, *self.dicom_columns)]
        if doubled := sorted({n for n in names if names.count(n) > 1}):
            refuse(f"columns: {', '.join(doubled)} comes from the table and from DICOM; rename one")

    @property
    def key_column(self) -> str | None:
        return self.key.partition("=")[0] if self.key else None

    @property
    def key_kind(self) -> str:
        return (self.key or "").partition("=")[2] or "stem"

    @property
    def patient_column(self) -> str | None:
        """The column of the table that tells the patient, if it is one."""
        return self.patient if self.patient and not self.patient.startswith(("dicom:", "stem=")) else None

    def table_options(self) -> list[str]:
        """Options, as they are written, that name a column of the table."""
        time = None if self.time == DICOM_TIME else self.time
        named = {"--key": self.key, "--patient": self.patient_column, "--columns": self.columns,
                 "--split-column": self.split_column, "--time": time, "--record-time": self.record_time}  # fmt: skip
        return [option for option, value in named.items() if value]

    def dicom_tags(self) -> list[str]:
        """Tags that must be read from the files."""
        tags = [c.source for c in self.dicom_columns]
        if self.key and self.key_kind not in KEY_KINDS:
            tags.append(self.key_kind)
        if self.patient and self.patient.startswith("dicom:"):
            tags.append(self.patient.removeprefix("dicom:"))
        if self.time == DICOM_TIME:
            tags += ["StudyDate", "StudyTime", "AcquisitionDate", "AcquisitionTime"]
        return sorted(set(tags))
