"""Define the options of ``mdf prepare own`` that say how annotations, table and images belong together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from mdf_detectron.data.schema import TableRecipe
from mdf_detectron.data.sources.kit.collection import ColumnSpec
from mdf_detectron.data.sources.kit.masks import MaskOptions
from mdf_detectron.data.sources.kit.studies import DICOM
from mdf_detectron.errors import SourceDataError, find_doubled, shorten

BOX_UNITS = ("pixels", "fraction")
DICOM_TIME = "dicom"
"""``--time dicom``: read times from the image files."""

FILE_KINDS, REGEX_KINDS = ("stem", "name"), ("stem=", "path=")
"""Keys that name the file of an image, and how keys that are a part of its name or path begin."""
KEY_KINDS = (*FILE_KINDS, "id")
"""What a table's key can match, besides a DICOM tag or a part of the path: file without or with suffix, or image id."""

_SPEC = r'\s*(?P<source>{}"[^"]+"|[^\s:{{}}"]+)(?::(?P<name>[^\s:{{}}"]+))?(?:\{{(?P<mapping>[^{{}}]*)\}})?(?=\s|$)'


def parse_columns(words: str | Sequence[str], header: Sequence[str] = ()) -> tuple[ColumnSpec, ...]:
    """Parse ``Age:age Lactate Sex:sex{male=M,female=F} "White cells":wbc``; names of the header need no quotes."""
    text = words if isinstance(words, str) else " ".join(words)
    known = [f"{re.escape(name)}|" for name in sorted(header, key=len, reverse=True) if re.search(r'[\s:{}"]', name)]
    pattern, specs, at = re.compile(_SPEC.format("".join(known))), [], 0
    while text[at:].strip():
        match = pattern.match(text, at)
        if not match:
            raise SourceDataError(
                f"columns: cannot read {shorten(text[at:].strip())}; write SOURCE, SOURCE:name or "
                'SOURCE:name{raw=value,raw=value}, and a source with blanks in double quotes, as "White cells":wbc'
            )
        source = match["source"] if match["source"] in header else match["source"].strip('"')
        specs.append(ColumnSpec(source, match["name"] or source, _mapping(match["mapping"], source)))
        at = match.end()
    if doubled := find_doubled(spec.name for spec in specs):
        raise SourceDataError(f"columns: {', '.join(doubled)} occurs twice; rename one, as in Source:other_name")
    return tuple(specs)


def _mapping(text: str | None, source: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise SourceDataError(f"columns: {source}: {{{text}}} is not a list of raw=value")
    return {raw.strip(): value.strip() for raw, _, value in pairs}


def _groups(pattern: str) -> int:
    try:
        return re.compile(pattern).groups
    except re.error:
        return 0


@dataclass(frozen=True)
class OwnOptions(MaskOptions, TableRecipe):
    """Validated options.

    Attributes:
        key: "COLUMN" or "COLUMN=KIND", KIND of :data:`KEY_KINDS`, a DICOM tag, or "stem=REGEX" or "path=REGEX" (the
            first group in the file's stem or path): matches rows to images.
        patient: a table column, "dicom:TAG", "stem=REGEX", "path=REGEX", or None: each image is a patient.
        columns, dicom_columns: clinical columns from the table and from DICOM tags, see :func:`parse_columns`; empty
            ``columns`` take all of the table.
        box_columns: "ROLE=COLUMN" for a table of boxes, see :mod:`.annotations`; others are guessed.
        box_units: of the box coordinates.
        class_name: of boxes in a table without a class column, and of masks without a class.
        split_column: table column that says train, val or test.
        time, record_time: columns with the time of the image and of the record; ``time`` may be "dicom".
        time_format: strptime format of both; None: ISO 8601.
        decimal_comma: numbers are written "38,1".
        thousands: "," or ".", if it separates thousands; encoding, sheet: of the table, see
            :func:`~mdf_detectron.data.sources.kit.table.read_table`.
        masks, mask_name, mask_values, class_column, healthy_without_mask: see :mod:`.masks`.
    """

    columns: Sequence[str] = ()
    dicom_columns: Sequence[str] = ()
    box_columns: Sequence[str] = ()
    box_units: str = "pixels"
    class_name: str = "finding"
    split_column: str | None = None
    masks: str | None = None
    mask_name: str = "{stem}"
    mask_values: Sequence[str] = ()
    class_column: str | None = None
    healthy_without_mask: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box_units not in BOX_UNITS:
            raise SourceDataError(f"--box-units {self.box_units} is none of {', '.join(BOX_UNITS)}")
        if any("=" not in pair for pair in self.box_columns):
            raise SourceDataError(f"--box-columns {' '.join(self.box_columns)}: write ROLE=COLUMN, as x1=xmin")
        for text in (self.key_kind, self.patient or ""):
            if text.startswith(REGEX_KINDS) and not _groups(text.partition("=")[2]):
                raise SourceDataError(f"{shorten(text)}: expected a regular expression with a group, as stem=^(P\\d+)_")
        if self.record_time and not self.time:
            raise SourceDataError("--record-time is compared with the image's: add --time COLUMN, or --time dicom")
        if "%Z" in (self.time_format or "").replace("%%", ""):
            raise SourceDataError("--time-format %Z: a zone's name does not tell its time; expected %z, as +0100")
        if self.thousands == (",." if self.decimal_comma else ".,")[0]:
            raise SourceDataError(f"--thousands {self.thousands}: this is the decimal mark; --decimal-comma says that "
                                  "numbers are written 1.234,5")  # fmt: skip
        if self.encoding:
            try:
                "".encode(self.encoding)
            except LookupError:
                raise SourceDataError(f"--encoding {self.encoding}: not known; cp1252 is that of Excel") from None

    def specs(self, header: Sequence[str] = ()) -> list[ColumnSpec]:
        """Return the named clinical columns of a table with this header, and of DICOM."""
        of_tags = [replace(spec, source=DICOM + spec.source) for spec in parse_columns(self.dicom_columns)]
        found = [*parse_columns(self.columns, header), *of_tags]
        if doubled := find_doubled(spec.name for spec in found):
            raise SourceDataError(f"columns: {', '.join(doubled)} comes from the table and from DICOM; rename one")
        if self.class_column in {spec.source for spec in found}:
            raise SourceDataError(f"--columns has {self.class_column}, which --class-column says is the outcome")
        return found

    @property
    def recipe(self) -> TableRecipe:
        return TableRecipe(**{field.name: getattr(self, field.name) for field in fields(TableRecipe)})

    @property
    def key_column(self) -> str | None:
        return self.key.partition("=")[0] if self.key else None

    @property
    def key_kind(self) -> str:
        return (self.key or "").partition("=")[2] or "stem"

    def table_columns(self, header: Sequence[str] = ()) -> dict[str, list[str]]:
        """Map each command-line option that names columns of a table with this header to these columns."""
        of_table = self.patient and not self.patient.startswith(("dicom:", *REGEX_KINDS))
        named = {"--key": self.key_column, "--patient": self.patient if of_table else None,
                 "--split-column": self.split_column, "--class-column": self.class_column,
                 "--time": None if self.time == DICOM_TIME else self.time,
                 "--record-time": self.record_time}  # fmt: skip
        columns = [spec.source for spec in self.specs(header) if not spec.source.startswith(DICOM)]
        return {option: [c] for option, c in named.items() if c} | ({"--columns": columns} if columns else {})

    def dicom_tags(self) -> list[str]:
        tags = [spec.source for spec in parse_columns(self.dicom_columns)]
        if self.key and self.key_kind not in KEY_KINDS and not self.key_kind.startswith(REGEX_KINDS):
            tags.append(self.key_kind)
        if self.patient and self.patient.startswith("dicom:"):
            tags.append(self.patient.removeprefix("dicom:"))
        if self.time == DICOM_TIME:
            tags += ["StudyDate", "StudyTime", "AcquisitionDate", "AcquisitionTime"]
        return sorted(set(tags))
