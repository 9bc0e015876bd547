"""Read clinical records of new studies as those of the training data were read: from a table, DICOM tags or a form."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mdf_detectron.data.readers import OpenImage
from mdf_detectron.data.schema import ClinicalSchema, TableRecipe, Value
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.studies import DICOM, SourceImage, Study, read_tags
from mdf_detectron.data.sources.kit.table import Table
from mdf_detectron.data.sources.kit.values import for_prediction, read_record
from mdf_detectron.data.sources.own.joining import LATE, SEVERAL_ROWS, UNREADABLE_TIME, join_table, read_keyed_table
from mdf_detectron.data.sources.own.options import OwnOptions
from mdf_detectron.errors import DatasetError, SourceDataError, shorten


@dataclass
class FoundRecord:
    """The record of an image, or None, and notes about its values; ``error`` says why it cannot be known."""

    values: Mapping[str, Value] | None = None
    notes: list[str] = field(default_factory=list)
    error: str = ""

    def __call__(self, image: OpenImage) -> FoundRecord:
        """Return itself: it is known before the image is opened."""
        return self


def dicom_tags(given: Mapping[str, str], schema: ClinicalSchema) -> dict[str, str]:
    """Return the tags of clinical columns: those given, column → DICOM keyword, or else those of the training data."""
    schema.check_names(given, "--dicom-record")
    known = {c.name: c.source.removeprefix(DICOM) for c in schema.columns if c.source.startswith(DICOM)}
    if not (given or known):
        raise DatasetError("--dicom-record: the model's data had no column from DICOM tags; write COLUMN=TAG")
    return dict(given or known)


def dicom_record(image: OpenImage, tags: Mapping[str, str], schema: ClinicalSchema) -> FoundRecord:
    """Read the record of an image from ``tags``, clinical column → DICOM keyword."""
    found = image.tags(list(tags.values()))
    return FoundRecord(*read_record({name: found[tag] for name, tag in tags.items()}, schema, str(image.path)))


def table_records(
    table: str | Path,
    paths: Sequence[Path],
    folder: Path,
    schema: ClinicalSchema,
    *,
    key: str | None = None,
    columns: Mapping[str, str] | None = None,
    ignored: Iterable[str] = (),
) -> tuple[list[FoundRecord], list[str]]:
    """Find the records of images in a table by the schema's recipe, as ``mdf prepare own`` joins it.

    Args:
        folder: that paths in the table start in.
        key, columns, ignored: the options of ``mdf predict``; ``columns`` is clinical column → its name in the table.

    Returns:
        a record for each path, and what was not used, for the console.

    Raises:
        SourceDataError: no such file, key or column, a row of another length, or no row of any image.
        DatasetError: without a recipe, a column that is neither in the schema nor ignored.
    """
    given = {"patient": None, **({"key": key} if key else {})}
    options, problems, said = OwnOptions(**asdict(schema.table) | given), ProblemList(), []
    if options.key_kind == "id":
        raise DatasetError(
            f"{table}: --key {options.key}: new images have no ids; name a column of file names with --key"
        )
    try:
        read = read_keyed_table(Path(table), options, problems)
    except SourceDataError as error:
        raise SourceDataError(for_prediction(str(error), schema.table)) from None
    said += read.notes
    if options.record_time and not {options.time, options.record_time} & set(read.columns):
        said.append(f"{table} has no column {options.record_time}: times of image and record are not compared")
        options = replace(options, time=None, record_time=None)
    for option, names in options.table_columns().items():
        read.require(names, option if option == "--key" else "as the training table had")
    sources = _sources(read, schema, options.key_column or "", columns or {}, set(ignored))
    studies = _studies(paths, folder, [*sources.values(), *(DICOM + tag for tag in options.dicom_tags())])
    joined, drops = list(studies), Counter()
    rest = join_table(joined, read, options, folder, problems, drops)
    if others := [kind for kind in problems.counts if kind not in (LATE, SEVERAL_ROWS, UNREADABLE_TIME)]:
        raise DatasetError(for_prediction(problems.listed[others[0]][0], schema.table))
    known, places = set(map(id, joined)), {id(row): read.place(number) for number, row in enumerate(read.rows)}
    found = [FoundRecord(error=for_prediction("" if id(s) in known else s.no_record, schema.table)) for s in studies]
    for one, study in zip(found, studies, strict=True):
        if study.row:
            raw = {name: study.value(source) for name, source in sources.items()}
            try:
                one.values, one.notes = read_record(raw, schema, places[id(study.row)])
            except DatasetError as error:
                one.error = str(error)
    rest.pop("used")
    reasons = Counter(study.no_record for study in joined if study.no_record)
    said += [f"{n} image(s) have no record: {reason}" for reason, n in reasons.items()]
    said += [f"{n} row(s) of {table} are not used: {reason}" for reason, n in rest.items() if n]
    return found, said


def _sources(
    table: Table, schema: ClinicalSchema, key: str, given: Mapping[str, str], ignored: set[str]
) -> dict[str, str]:
    """Return the source of each clinical column that the table is asked for."""
    schema.check_names(given, "--columns")
    table.require(list(given.values()), "--columns")
    sources, has_recipe = dict(given), schema.table != TableRecipe()
    for column in schema.columns:
        name, source = column.name, column.source
        if name in sources or name in ignored:
            continue
        if name in table.columns and source not in table.columns and not source.startswith(DICOM):
            source = ""  # a table with the schema's names will do, too
        if has_recipe and not source.startswith(DICOM):
            remedy = f"name it with --columns {name}=COLUMN, or leave it out with --ignore-columns {name}"
            table.require([source or name], remedy)
        if source or name in table.columns:
            sources[name] = source or name
    unknown = [c for c in table.columns if c not in {key, *sources.values(), *ignored}]
    if unknown and not has_recipe:
        raise DatasetError(
            f"{table.path}: unknown clinical column(s) {shorten(unknown)}; the schema has {shorten(schema.names)}; "
            "rename them with --columns NAME=COLUMN, or name those that are not clinical with --ignore-columns"
        )
    return sources


def _studies(paths: Sequence[Path], folder: Path, sources: Iterable[str]) -> list[Study]:
    """Return a study of each image below a folder, with the DICOM tags among the sources."""
    files = [(path, Path(os.path.abspath(path))) for path in paths]
    studies = [Study(SourceImage(file.relative_to(folder).as_posix(), "", str(path)), file) for path, file in files]
    read_tags(studies, sorted({s.removeprefix(DICOM) for s in sources if s.startswith(DICOM)}), 0)
    return studies
