"""Images, annotations and a table of any origin → a prepared folder."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdf_detectron.data.prepared import PreparedImage, is_up_to_date, staged_folder
from mdf_detectron.data.pseudonyms import OPEN, Privacy
from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalSchema
from mdf_detectron.data.sources.kit.geometry import OTHER_SHAPE, place_boxes, shape_problem
from mdf_detectron.data.sources.kit.image_files import ImageFile, bring_images
from mdf_detectron.data.sources.kit.output import Account, write_folder
from mdf_detectron.data.sources.kit.table import Table, read_table
from mdf_detectron.data.sources.kit.values import ProblemList, clean_value
from mdf_detectron.data.sources.own.boxes import SourceAnnotations, read_annotation_files
from mdf_detectron.data.sources.own.joining import (
    Study,
    find_files,
    join_table,
    list_images,
    read_tags,
    set_patients,
    set_splits,
    sources_of,
)
from mdf_detectron.data.sources.own.options import DICOM_TIME, ColumnSpec, OwnOptions
from mdf_detectron.data.sources.own.schema_proposal import Proposal, is_age, propose
from mdf_detectron.errors import SourceDataError
from mdf_detectron.fileio import check_regular

DEFAULT_DICOM_COLUMNS = ("PatientAge", "PatientSex", "ViewPosition")
"""Tags that become columns where there is no table and none is named."""


def prepare_own(
    annotations: Sequence[str | Path],
    images: str | Path,
    out: str | Path,
    options: OwnOptions,
    *,
    table: str | Path | None = None,
    schema: str | Path | None = None,
    title: str | None = None,
    on_error: str = "stop",
    num_workers: int = 2,
    privacy: Privacy = OPEN,
) -> bool:
    """Write the prepared folder; returns False if the same sources and options made the one that is there.

    Args:
        annotations: COCO JSON files, or one table of boxes.
        images: the folder that the annotations' file names are looked up in.
        table: of clinical values.
        schema: of the columns; None proposes one, as the folder's commented schema file.
        on_error: "stop" with all problems of the tables and annotations, or "skip": leave entries out and count them.
        privacy: what the folder may tell about patients.

    Raises:
        SourceDataError: broken input, or nothing left to write.
    """
    privacy.check(options.image_size)
    out, paths, folder = Path(out).resolve(), [Path(p) for p in annotations], Path(images)
    given = ClinicalSchema.load(schema) if schema else None
    job = Preparation(options, privacy.problem_list(on_error), num_workers)
    files = list_images(folder)
    arguments = source_arguments([*paths, *([Path(table)] if table else [])], files, options, given, on_error)
    arguments |= privacy.arguments()
    if is_up_to_date(out, arguments) and all(p.exists() for p in (out / "images").rglob("*")):
        return False
    source, studies = job.read(paths, files, folder, Path(table) if table else None)
    specs = job.column_specs(studies)
    job.problems.stop_if_any()
    proposal = None if given else job.propose_schema(specs, studies)
    clinical_schema = given or proposal.schema
    with staged_folder(out) as staging:
        records = job.make_records(source, studies, specs, clinical_schema, out, staging / "images")
        job.problems.stop_if_any()
        name = title or out.name
        write_folder(job, options, staging, name, arguments, records, source.class_names, clinical_schema, proposal)
        privacy.apply(staging)
    return True


class Preparation(Account):
    """The steps, and the account that they share."""

    def __init__(self, options: OwnOptions, problems: ProblemList, num_workers: int) -> None:
        super().__init__(problems)
        self.options, self.num_workers = options, num_workers
        self.table: Table | None = None

    def read(
        self, paths: list[Path], files: list[Path], folder: Path, table: Path | None
    ) -> tuple[SourceAnnotations, list[Study]]:
        """Read annotations and table, and bring together what belongs together."""
        o = self.options
        if table is not None:
            self.table = read_table(table, self.problems)
            self._check_columns()
        elif named := o.table_options():
            raise SourceDataError(f"{', '.join(named)}: there is no --table that they could be columns of")
        source = read_annotation_files(
            paths,
            self.problems,
            box_columns=o.box_columns,
            box_units=o.box_units,
            class_name=o.class_name,
            decimal_comma=o.decimal_comma,
        )
        self.notes += source.notes
        studies = find_files(source.images, files, folder, self.problems, self.image_drops)
        self.image_drops["unusable entry (see the problems)"] += source.images_in - len(source.images)
        others = len(files) - len(studies)
        if others:
            self.notes.append(f"{others} image files have no entry in the annotations and are not used: an image "
                              "without an entry may hold a finding that nobody annotated.")  # fmt: skip
        tags = o.dicom_tags() if (self.table or o.dicom_columns) else [*o.dicom_tags(), *DEFAULT_DICOM_COLUMNS]
        read_tags(studies, tags, self.num_workers)
        if self.table is not None:
            rest = join_table(studies, self.table, o, self.problems, self.image_drops)
            used = rest.pop("used")
            total = used + sum(rest.values()) + sum(self.table.dropped.values())
            self.flow.add(f"rows of {self.table.path.name}", total, used, Counter(self.table.dropped) + rest)
            self._account_for_records(studies)
        set_patients(studies, o, self.problems)
        if o.patient is None:
            self.patients_known = False
            self.notes.append("**Patients are not known: each image counts as a patient of its own.** If a patient has "
                              "several images, they may be in several splits and the results too good; name the "
                              "patient with --patient.")  # fmt: skip
        set_splits(studies, o, self.problems)
        return source, studies

    def _account_for_records(self, studies: list[Study]) -> None:
        """Count the images without a record by reason, and the records whose times are not known."""
        reasons = Counter(f"{s.no_record} (image kept)" for s in studies if not s.row)
        self.flow.add("images with a record", len(studies), len(studies) - sum(reasons.values()), reasons)
        if reasons:
            counted = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
            self.notes.append(f"{sum(reasons.values())} images have no record, their columns are missing: {counted}.")
        untimed = sum(bool(s.row) and None in s.times for s in studies) if self.options.record_time else 0
        if untimed:
            self.notes.append(f"**{untimed} records may be later than their images**: the time of one of them is not "
                              "in the table.")  # fmt: skip

    def _check_columns(self) -> None:
        o, table = self.options, self.table
        if not o.key:
            raise SourceDataError(f"{table.path}: which column names the image of a row? Say it with --key COLUMN, or "
                                  f"--key COLUMN=TAG for a DICOM tag; it has {', '.join(table.columns)}")  # fmt: skip
        table.require([o.key_column], "--key")
        table.require([c.source for c in o.columns], "--columns")
        for column, option in ((o.patient_column, "--patient"), (o.split_column, "--split-column"),
                               (o.time if o.time != DICOM_TIME else None, "--time"),
                               (o.record_time, "--record-time")):  # fmt: skip
            if column:
                table.require([column], option)

    def column_specs(self, studies: list[Study]) -> list[tuple[ColumnSpec, bool]]:
        """The clinical columns, and whether each comes from DICOM."""
        o = self.options
        specs = [(c, False) for c in o.columns] + [(c, True) for c in o.dicom_columns]
        if not specs and self.table:
            used = {o.key_column, o.patient, o.split_column, o.time, o.record_time}
            specs = [(ColumnSpec(c, c), False) for c in self.table.columns if c not in used]
            self.notes.append("No --columns were named: all columns of the table are taken. Check that each is known "
                              "when the image is taken, not only later.")  # fmt: skip
        elif not specs:
            filled = [tag for tag in DEFAULT_DICOM_COLUMNS if any(study.tags.get(tag) for study in studies)]
            specs = [(ColumnSpec(tag, tag), True) for tag in filled]
        return specs

    def propose_schema(self, specs: list[tuple[ColumnSpec, bool]], studies: list[Study]) -> Proposal:
        values = {spec.name: sources_of(studies, spec.source, dicom) for spec, dicom in specs}
        proposal = propose([spec for spec, _ in specs], values, self.options.decimal_comma)
        asked = self.table is not None or self.options.dicom_columns
        if not proposal.columns and not asked:
            self.notes.append("**No clinical column**: there is no --table, and the images' headers tell nothing. The "
                              "folder is for image-only models.")  # fmt: skip
        elif not proposal.columns:
            reasons = "; ".join(f"{name}: {why}" for name, why in proposal.left_out.items())
            raise SourceDataError(f"no column can be used: {reasons}")
        if proposal.left_out:
            listed = "; ".join(f"{name}: {why}" for name, why in proposal.left_out.items())
            self.notes.append(f"Columns that are left out: {listed}.")
        if undecided := [name for name, questions in proposal.questions.items() if questions]:
            self.notes.append(f"The schema is a proposal: {SCHEMA_FILE_NAME} says what to decide about "
                              f"{', '.join(undecided)}.")  # fmt: skip
        return proposal

    def make_records(
        self,
        source: SourceAnnotations,
        studies: list[Study],
        specs: list[tuple[ColumnSpec, bool]],
        schema: ClinicalSchema,
        out: Path,
        folder: Path,
    ) -> list[tuple[PreparedImage, str | None]]:
        """Read the images and make the records, each with its split if it has one."""
        o = self.options
        usable = [s for s in studies if self._has_patient_and_split(s)]
        names = _target_names([s.path for s in usable], o.image_size is not None)
        jobs = [(s.path, name) for s, name in zip(usable, names, strict=True)]
        copies = {"image_size": o.image_size, "bit_depth": o.bit_depth, "copy": o.copy_images}
        results = bring_images(jobs, out, folder, **copies, num_workers=self.num_workers)
        dropped, records = Counter(source.dropped), []
        for study, name, result in zip(usable, names, results, strict=True):
            reason = self._why_not(study, result)
            if reason:
                self.image_drops[reason] += 1
                (folder / name).unlink(missing_ok=True)
                continue
            boxes = place_boxes(study.image, result, source.class_names, dropped, self.box_changes)
            if study.image.boxes and not boxes:  # a finding that cannot be drawn makes no healthy image
                self.image_drops["none of its boxes is usable"] += 1
                (folder / name).unlink(missing_ok=True)
                continue
            row = self.clean(study, specs, schema)
            patient = study.patient or f"image {study.image.name}"
            extra = {"study_time": study.times[0], "row_time": study.times[1]} if o.time else {}
            record = PreparedImage(name, result.width, result.height, patient, row, boxes, extra, result.sha256)
            records.append((record, study.split))
            self.files.append(result)
        self._account(source, records, dropped, schema)
        return records

    def _has_patient_and_split(self, study: Study) -> bool:
        reason = None
        if self.options.patient and study.patient is None:
            reason = "no patient"
        elif self.options.split_column and study.split is None:
            reason = "no split, or its patient in several"
        self.image_drops[reason] += bool(reason)
        return reason is None

    def _why_not(self, study: Study, result: ImageFile | str) -> str | None:
        if isinstance(result, str):
            self.problems.add("unreadable image", result)
            return "unreadable image"
        if text := shape_problem(study.image, result):
            self.problems.add(OTHER_SHAPE, text)
            return OTHER_SHAPE
        return None

    def clean(self, study: Study, specs: list[tuple[ColumnSpec, bool]], schema: ClinicalSchema) -> dict[str, Any]:
        """Clean the record of a study, column by column."""
        by_name = {spec.name: (spec, dicom) for spec, dicom in specs}
        row = {}
        for column in schema.columns:
            spec, dicom = by_name.get(column.name, (ColumnSpec(column.name, column.name), False))
            raw = (study.tags if dicom else study.row).get(spec.source)
            row[column.name] = clean_value(
                raw,
                column,
                self.log,
                decimal_comma=self.options.decimal_comma,
                mapping=spec.mapping,
                as_age=is_age(spec),
            )
        return row

    def _account(self, source: SourceAnnotations, records: list, dropped: Counter[str], schema: ClinicalSchema) -> None:
        self.flow.add("annotated images", source.images_in, len(records), self.image_drops)
        boxes = sum(len(record.annotations) for record, _ in records)
        dropped["its image was dropped"] += source.boxes_in - boxes - sum(dropped.values())
        self.flow.add("boxes", source.boxes_in, boxes, dropped)
        values = len(records) * len(schema.columns)
        self.flow.add("clinical values", values, values - sum(self.log.removed.values()), self.log.dropped())


def _target_names(paths: Sequence[Path], as_png: bool) -> list[str]:
    """Distinct names below images/, one a path: the file's own, and where two files share it a number more."""
    taken: Counter[str] = Counter()
    names = []
    for path in paths:
        first = f"{path.stem}.png" if as_png else path.name
        taken[first.casefold()] += 1
        count = taken[first.casefold()]
        names.append(first if count == 1 else f"{Path(first).stem}~{count}{Path(first).suffix}")
    return names


def source_arguments(
    paths: list[Path], files: list[Path], options: OwnOptions, schema: ClinicalSchema | None, on_error: str
) -> dict[str, Any]:
    state = []
    for path in [*paths, *files]:
        found = check_regular(path, SourceDataError)
        state.append((str(path), found.st_size, found.st_mtime_ns))
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    return {
        **json.loads(json.dumps(asdict(options))),
        "annotations": [p.name for p in paths],
        "schema": schema.to_dict() if schema else None,
        "on_error": on_error,
        "sources": digest,
    }
