"""Your own images (DICOM too), boxes as COCO JSON or a table, and a table of clinical values.

mdf prepare own --annotations boxes.json --images scans/ --table labs.csv --key File --patient MRN \\
    --columns 'Age:age Lactate Sex:sex{male=M,female=F}' --image-size 512 --out datasets/mine
mdf prepare own --masks masks/ --mask-name '{stem}_mask' --images photos/ --table cases.csv --key File \\
    --class-column diagnosis --columns Age:age Sex:sex --out datasets/mine

Everything that is changed or left out is counted in report.md of the folder. Without --schema a schema is proposed as
its clinical_schema.yaml: edit a copy and prepare again with --schema COPY.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mdf_detectron.data.image_paths import IMAGE_SUFFIXES, list_images
from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.data.sources.kit.annotation_formats import Builder
from mdf_detectron.data.sources.kit.boxes import say_what_is_double
from mdf_detectron.data.sources.kit.collection import Collection, ColumnSpec, Content
from mdf_detectron.data.sources.kit.masks import list_masks, mask_options
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.studies import DICOM, SourceAnnotations, Study, read_tags
from mdf_detectron.data.sources.kit.table import Table
from mdf_detectron.data.sources.own.annotations import ROLES, annotation_files, read_annotation_files
from mdf_detectron.data.sources.own.joining import find_files, join_table, read_keyed_table, set_patients, set_splits
from mdf_detectron.data.sources.own.masks import masked_studies, set_own_findings
from mdf_detectron.data.sources.own.options import BOX_UNITS, KEY_KINDS, OwnOptions
from mdf_detectron.data.sources.own.proposal import Proposal, propose
from mdf_detectron.data.sources.own.suspicions import near_names
from mdf_detectron.errors import SourceDataError

DEFAULT_DICOM_COLUMNS = ("PatientAge", "PatientSex", "ViewPosition")
"""Tags that become columns if there is no table and none are named."""


def read_own(
    job: Preparation,
    *,
    images: str | Path,
    annotations: Sequence[str | Path] = (),
    table: str | Path | None = None,
    schema: str | Path | None = None,
    title: str | None = None,
    **choices: Any,
) -> Content | None:
    """Read annotations (COCO JSON files or one table) or masks, and the clinical table, and join them.

    Args:
        images: folder that is searched for the annotated files.
        schema: schema file; its ``table``, sources and mappings are defaults of the choices. None proposes one and
            writes it, commented, as the folder's schema.
        title: of the report; by default the folder's name.
        choices: fields of :class:`OwnOptions`.
    """
    given, folder = ClinicalSchema.load(schema) if schema else None, Path(images)
    recipe = {k: v for k, v in given.table.to_dict().items() if table and not choices.get(k)} if given else {}
    o = OwnOptions(**choices | recipe)
    if o.split_column and job.options.folds:
        raise SourceDataError("--split-column and --folds exclude each other: folds split the patients again")
    if bool(annotations) == bool(o.masks):
        raise SourceDataError("name the findings by --annotations FILE or by --masks DIR, one of them")
    found = list_masks(Path(o.masks), o.mask_name) if o.masks else {}
    masks = [path for paths in found.values() for path in paths]
    if not folder.is_dir():
        raise SourceDataError(f"{folder}: no such folder of images")
    files, _ = list_images(folder, set(masks))
    if not files:
        raise SourceDataError(f"{folder}: no image in it, neither DICOM nor {', '.join(IMAGE_SUFFIXES)}")
    boxes, tables = annotation_files([Path(path) for path in annotations]), [Path(table)] if table else []
    if len(boxes) < 3:  # more may be files of one image each, whose names may not be in the report
        tables = [*boxes, *tables]
    if job.is_done(tables, [*files, *masks, *boxes], asdict(o) | {"schema": given.to_dict() if given else None}):
        return None
    rows = read_keyed_table(Path(table), o, job.problems) if table else None
    named = o.table_columns(rows.columns if rows else ())
    if rows is None and named:
        raise SourceDataError(f"{', '.join(named)}: there is no --table that they could be columns of")
    for option, columns in named.items():
        rows.require(columns, option)
    job.notes += rows.notes if rows else []
    if o.masks:
        source, studies = SourceAnnotations(images_in=len(files)), masked_studies(files, folder, found, job)
    else:
        source = _read_annotations(boxes, o, job)
        studies = find_files(source.images, files, folder, job.problems, job.image_drops)
        say_what_is_double([study.image for study in studies], job.notes)
        job.image_drops["unusable entry (see the problems)"] += source.images_in - len(source.images)
        if others := len(files) - len(studies):
            job.notes.append(f"{others} image files have no entry in the annotations and are not used: an image "
                             "without an entry may hold a finding that nobody annotated.")  # fmt: skip
    tags = o.dicom_tags() if rows or o.dicom_columns else [*o.dicom_tags(), *DEFAULT_DICOM_COLUMNS]
    tags += [c.source.removeprefix(DICOM) for c in (given.columns if given else ()) if c.source.startswith(DICOM)]
    read_tags(studies, sorted(set(tags)), job.num_workers)
    if rows is not None:
        _join(studies, rows, o, folder, job)
    versions = set_patients(studies, o, folder)
    if o.patient is None:
        job.say_patients_unknown("; name the patient with --patient")
    if versions:
        job.notes.append(f"{versions} images are augmented versions (Roboflow's names): those of one original count as "
                         "one patient and stay in one split.")  # fmt: skip
    if o.split_column:
        set_splits(studies, o.split_column, job.problems, job.image_drops)
    studies = job.usable(studies)
    if o.masks:
        studies = set_own_findings(studies, found, o, source, job)
    job.problems.stop_if_any()
    specs = _column_specs(studies, rows, o, job, given)
    content = Content(title or job.out.name, source, studies, _with_sources(given, specs, rows, o),
                      has_times=o.time is not None)  # fmt: skip
    if given is None:
        proposal = _propose_schema(specs, studies, o, job, asked=rows is not None or bool(o.dicom_columns))
        content.schema, content.schema_text = proposal.schema, proposal.to_yaml()
        content.schema_questions = [(n, q) for n, several in proposal.questions.items() for q in several]
        content.schema_questions += [(n, f"left out: {reason}") for n, reason in proposal.left_out.items()]
    return content


def _read_annotations(files: Mapping[Path, Path], o: OwnOptions, job: Preparation) -> SourceAnnotations:
    build = Builder(job.problems, o.class_name, dict(pair.split("=", 1) for pair in o.box_columns), o.decimal_comma)
    source = read_annotation_files(files, build, o.box_units)
    job.notes += source.notes
    if near := near_names(source.class_names):
        job.notes.append(f"**Classes that are nearly the same**: {'; '.join(near[:5])}. If they are one, give them one "
                         "name in the annotations.")  # fmt: skip
    return source


def _join(studies: list[Study], table: Table, o: OwnOptions, folder: Path, job: Preparation) -> None:
    """Join the table; count its rows, images without a record by reason, and records without a time."""
    rest = join_table(studies, table, o, folder, job.problems, job.image_drops)
    used = rest.pop("used")
    total = used + sum(rest.values()) + sum(table.dropped.values())
    job.flow.add(f"rows of {table.path.name}", total, used, Counter(table.dropped) + rest)
    reasons = Counter(f"{s.no_record} (image kept)" for s in studies if not s.row)
    job.flow.add("images with a record", len(studies), len(studies) - sum(reasons.values()), reasons)
    if reasons:
        counted = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
        job.notes.append(f"{sum(reasons.values())} images have no record, their columns are missing: {counted}.")
    if untimed := sum(bool(s.row) and None in s.times for s in studies) if o.record_time else 0:
        job.notes.append(f"**{untimed} records may be later than their images**: the time of one of them is not "
                         "in the table.")  # fmt: skip


def _with_sources(
    given: ClinicalSchema | None, specs: Sequence[ColumnSpec], table: Table | None, o: OwnOptions
) -> ClinicalSchema:
    """Return a given schema with the sources and mappings of ``specs``, and how the table was read."""
    named, columns = {spec.name: spec for spec in specs}, []
    for column in given.columns if given else ():
        if spec := named.get(column.name):
            source = "" if spec.source == column.name else spec.source
            column = replace(column, source=source, mapping={**column.mapping, **spec.mapping})
        elif table is not None and not column.source.startswith(DICOM):
            table.require([column.source or column.name], f"of the schema's column {column.name}")
        columns.append(column)
    return ClinicalSchema(tuple(columns), table=o.recipe)


def _column_specs(
    studies: list[Study], table: Table | None, o: OwnOptions, job: Preparation, given: ClinicalSchema | None
) -> list[ColumnSpec]:
    """Return the sources of the clinical columns: as named, or else of the schema, or all of the table."""
    if named := o.specs(table.columns if table else ()):
        return named
    if given is not None:
        return []
    if table is None:
        filled = [tag for tag in DEFAULT_DICOM_COLUMNS if any(study.tags.get(tag) for study in studies)]
        return [ColumnSpec(DICOM + tag, tag) for tag in filled]
    job.notes.append("No --columns were named: all columns of the table are taken. Check that each is known "
                     "when the image is taken, not only later.")  # fmt: skip
    used = {o.key_column, o.patient, o.split_column, o.class_column, o.time, o.record_time}
    return [ColumnSpec(c, c) for c in table.columns if c not in used]


def _propose_schema(
    specs: Sequence[ColumnSpec], studies: Sequence[Study], o: OwnOptions, job: Preparation, asked: bool
) -> Proposal:
    rows = {id(study.row): study for study in studies}.values()  # images may share one
    values = {c.name: [s.value(c.source) for s in (studies if c.source.startswith(DICOM) else rows)] for c in specs}
    proposal = propose(specs, values, o.recipe)
    listed = "; ".join(f"{name}: {why}" for name, why in proposal.left_out.items())
    if not proposal.columns and asked:
        raise SourceDataError(f"no column can be used: {listed}")
    if not proposal.columns:
        job.notes.append("**No clinical column**: there is no --table, and the images' headers tell nothing. The "
                         "folder is for image-only models.")  # fmt: skip
    if listed:
        job.notes.append(f"Columns that are left out: {listed}")
    if undecided := [name for name, questions in proposal.questions.items() if questions]:
        job.notes.append(f"The schema is a proposal: {SCHEMA_FILE_NAME} says what to decide about "
                         f"{', '.join(undecided)}.")  # fmt: skip
    return proposal


def add_options(parser: argparse.ArgumentParser) -> None:
    add = argparse.ArgumentParser.add_argument  # of groups, too
    # fmt: off
    files = parser.add_argument_group("files")
    add(files, "--annotations", nargs="+", default=[], metavar="FILE",
        help="COCO JSON, a table with one row per box, or files or a folder of YOLO (with data.yaml), Pascal VOC, "
        "CVAT, Label Studio, Labelme or VIA; several of one format are put together")
    add(files, "--images", required=True, metavar="DIR", help="folder of the images, searched with subfolders")
    add(files, "--table", metavar="FILE", help="clinical values: .csv, .tsv, .xlsx or .parquet")
    add(files, "--schema", metavar="FILE", help="of the columns (default: one is proposed)")
    add(files, "--title", help="of the report (default: the folder's name)")
    joins = parser.add_argument_group("what belongs together")
    add(joins, "--key", metavar="COLUMN[=KIND]",
        help=f"column of the table that names the image; KIND: {', '.join(KEY_KINDS)} of the image, a "
        "DICOM tag such as AccessionNumber, or stem=REGEX (default stem, the file's name or path without suffix)")
    add(joins, "--patient", metavar="COLUMN", help="column of the table, dicom:TAG, or stem=REGEX with a group")
    add(joins, "--split-column", metavar="COLUMN", help="column of the table with train, val or test")
    add(joins, "--time", metavar="COLUMN", help="time of the image: a column of the table, or 'dicom'")
    add(joins, "--record-time", metavar="COLUMN", help="time of the record; one later than its image is refused")
    add(joins, "--time-format", metavar="FORMAT", help="of both, as %%d.%%m.%%Y %%H:%%M (default: ISO 8601)")
    values = parser.add_argument_group("clinical columns")
    add(values, "--columns", nargs="+", default=[], metavar="SPEC",
        help="SOURCE, SOURCE:name or SOURCE:name{raw=value,raw=value} (default: the whole table)")
    add(values, "--dicom-columns", nargs="+", default=[], metavar="SPEC",
        help="the same of DICOM tags, as PatientAge:age PatientSex:sex ViewPosition:view")
    add(values, "--decimal-comma", action="store_true", help="numbers of the tables are written 38,1")
    add(values, "--thousands", choices=(",", "."), default="", help="separates thousands in the table")
    add(values, "--encoding", metavar="NAME", help="of a table that is not UTF-8, as cp1252")
    add(values, "--sheet", metavar="NAME", help="of a workbook (default: the only one with content)")
    boxes = parser.add_argument_group("a table of boxes")
    add(boxes, "--box-columns", nargs="+", default=[], metavar="ROLE=COLUMN",
        help=f"roles: {', '.join(ROLES)} (corners or a corner and a size; default: guessed by name)")
    add(boxes, "--box-units", choices=BOX_UNITS, default="pixels", help="of the coordinates (%(default)s), COCO's too")
    add(boxes, "--class-name", default="finding", help="of boxes and masks without a class (%(default)s)")
    add_mask = mask_options(parser)
    add_mask("--masks", metavar="DIR", help="folder of masks (PNG, TIFF, NPY), instead of --annotations")
    add_mask("--mask-name", default="{stem}", help="name of a mask file, without suffix, as {stem}_segmentation or "
             "{stem}_mask* for several (%(default)s)")
    add_mask("--class-column", metavar="COLUMN", help="of the table: the class of an image's masks")
    add_mask("--mask-values", nargs="+", default=[], metavar="VALUE=CLASS", help="class of each value in the masks")
    add_mask("--healthy-without-mask", action="store_true", help="an image without a mask shows no finding")
    # fmt: on


COLLECTION = Collection("own", __doc__, read_own, options=add_options)
