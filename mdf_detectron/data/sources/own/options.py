"""What the preparation of own data is told; every choice is written to the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mdf_detectron.data.sources.kit.collection import ColumnSpec
from mdf_detectron.errors import SourceDataError, shorten

BOX_UNITS = ("pixels", "fraction")
KEY_KINDS = ("stem", "name", "id")
"""What a table's key is compared with, besides a DICOM tag: the file's name without or with suffix, the image id."""

DICOM_TIME = "dicom"
"""``--time dicom``: the times come from the files."""

_SPEC = re.compile(r'\s*(?P<source>"[^"]+"|[^\s:{}"]+)(?::(?P<name>[^\s:{}"]+))?(?:\{(?P<mapping>[^{}]*)\})?(?=\s|$)')


def parse_columns(words: str | Sequence[str]) -> tuple[ColumnSpec, ...]:
    """Parse ``Age:age Lactate Sex:sex{male=M,female=F} "White cells":wbc``.

    Raises:
        SourceDataError: something else, or a name that occurs twice.
    """
    text = words if isinstance(words, str) else " ".join(words)
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
        raise SourceDataError(f"columns: {', '.join(doubled)} occurs twice; rename one, as in Source:other_name")
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
        columns, dicom_columns: clinical columns of the table and of DICOM tags, as :func:`parse_columns` reads them;
            no columns: all of the table.
        box_columns: of a table of boxes, "ROLE=COLUMN", see :mod:`.annotations`; others are guessed.
        box_units: of its coordinates.
        class_name: of boxes in a table without a class column.
        split_column: a column of the table that says train, val or test.
        time, record_time: columns with the time of the image and of the record; time may be "dicom".
        time_format: of both, as strptime has it; None: ISO 8601.
        decimal_comma: numbers are written "38,1".
    """

    key: str | None = None
    patient: str | None = None
    columns: Sequence[str] = ()
    dicom_columns: Sequence[str] = ()
    box_columns: Sequence[str] = ()
    box_units: str = "pixels"
    class_name: str = "finding"
    split_column: str | None = None
    time: str | None = None
    record_time: str | None = None
    time_format: str | None = None
    decimal_comma: bool = False

    def __post_init__(self) -> None:
        if self.box_units not in BOX_UNITS:
            raise SourceDataError(f"--box-units {self.box_units} is none of {', '.join(BOX_UNITS)}")
        if any("=" not in pair for pair in self.box_columns):
            raise SourceDataError(f"--box-columns {' '.join(self.box_columns)}: write ROLE=COLUMN, as x1=xmin")
        if self.record_time and not self.time:
            raise SourceDataError("--record-time is compared with the image's: add --time COLUMN, or --time dicom")
        names = [spec.name for spec, _ in self.specs]
        if doubled := sorted({n for n in names if names.count(n) > 1}):
            raise SourceDataError(f"columns: {', '.join(doubled)} comes from the table and from DICOM; rename one")

    @cached_property
    def specs(self) -> list[tuple[ColumnSpec, bool]]:
        """The named clinical columns, and whether each comes from DICOM."""
        return [(c, dicom) for dicom, words in enumerate((self.columns, self.dicom_columns))
                for c in parse_columns(words)]  # fmt: skip

    @property
    def key_column(self) -> str | None:
        return self.key.partition("=")[0] if self.key else None

    @property
    def key_kind(self) -> str:
        return (self.key or "").partition("=")[2] or "stem"

    def table_columns(self) -> dict[str, list[str]]:
        """Return the options, as they are written, that name columns of the table, with the columns."""
        of_table = self.patient and not self.patient.startswith(("dicom:", "stem="))
        named = {"--key": self.key_column, "--patient": self.patient if of_table else None,
                 "--split-column": self.split_column, "--time": None if self.time == DICOM_TIME else self.time,
                 "--record-time": self.record_time}  # fmt: skip
        columns = [spec.source for spec, dicom in self.specs if not dicom]
        return {option: [c] for option, c in named.items() if c} | ({"--columns": columns} if columns else {})

    def dicom_tags(self) -> list[str]:
        """Return the tags that must be read from the files."""
        tags = [spec.source for spec, dicom in self.specs if dicom]
        if self.key and self.key_kind not in KEY_KINDS:
            tags.append(self.key_kind)
        if self.patient and self.patient.startswith("dicom:"):
            tags.append(self.patient.removeprefix("dicom:"))
        if self.time == DICOM_TIME:
            tags += ["StudyDate", "StudyTime", "AcquisitionDate", "AcquisitionTime"]
        return sorted(set(tags))
