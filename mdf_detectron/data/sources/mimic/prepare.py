"""MIMIC's source files → a prepared folder: the table part, the images, the records, the report."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdf_detectron.data.prepared import (
    REPORT_FILE_NAME,
    Flow,
    PreparedImage,
    is_up_to_date,
    staged_folder,
    summarize_splits,
    write_annotations,
    write_report,
)
from mdf_detectron.data.pseudonyms import OPEN, Privacy
from mdf_detectron.data.sources.mimic.cohort import Cohort, read_cohort
from mdf_detectron.data.sources.mimic.images import cache_images, link_images
from mdf_detectron.data.sources.mimic.layout import SourceFiles
from mdf_detectron.data.sources.mimic.options import MimicOptions
from mdf_detectron.data.sources.mimic.readings import ELLIPSE_FILE
from mdf_detectron.data.sources.mimic.records import fold_records, make_records, split_records
from mdf_detectron.data.sources.mimic.report import report_body, write_cohort_files
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.sources.mimic.source_table import Problems
from mdf_detectron.errors import DatasetError, SourceDataError
from mdf_detectron.fileio import read_json

TITLE = "MIMIC chest radiographs with triage values"


def prepare_mimic(
    files: SourceFiles,
    out: str | Path,
    options: MimicOptions,
    *,
    on_error: str = "stop",
    num_workers: int = 2,
    privacy: Privacy = OPEN,
) -> bool:
    """Write the prepared folder; returns False if the same sources and options made the one that is there.

    Args:
        files: of :mod:`~mdf_detectron.data.sources.mimic.layout`.
        options: the choices; the protocol's are applied here.
        on_error: "stop" at the first broken entry, or "skip": leave it out, count and list it.
        num_workers: processes that resize images.
        privacy: what the folder may tell about patients.

    Raises:
        SourceDataError: a broken source entry, or nothing left to write.
    """
    out, options = Path(out).resolve(), options.effective()
    privacy.check(options.image_size)
    arguments = {**_arguments(files, options, on_error), **privacy.arguments()}
    if is_up_to_date(out, arguments) and all(p.exists() for p in (out / "images").glob("*")):
        return False
    problems, flow = Problems(skip=on_error == "skip", show_values=privacy.show_values), Flow()
    with staged_folder(out) as folder:
        cohort = read_cohort(files, options, problems, flow)
        _require_readings(cohort, flow)
        sizes, suffix = _bring_radiographs(files, cohort, out, folder / "images", options, num_workers, problems)
        records = make_records(cohort, sizes, suffix, options, problems, flow)
        splits = _split(lambda: split_records(records, options))
        schema = mimic_clinical_schema()
        write_annotations(folder, splits, options.classes, schema, TITLE)
        body = report_body(cohort, splits, problems.as_dict(), options)
        write_report(folder, TITLE, arguments, flow, body)
        write_cohort_files(folder, cohort, body, options)
        if options.folds:
            _write_folds(folder, records, options, arguments, flow)
        privacy.apply(folder)
    shutil.rmtree(_radiograph_cache(out), ignore_errors=True)
    return True


def _arguments(files: SourceFiles, options: MimicOptions, on_error: str) -> dict[str, Any]:
    tables = [*sum(files.tables.values(), []), *files.readings]
    ellipses = [p for folder in files.reading_folders for p in sorted(folder.glob(f"*/{ELLIPSE_FILE}"))]
    state = [(str(p), s.st_size, s.st_mtime_ns) for p in (*tables, *ellipses) for s in (p.stat(),)]
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    return {**asdict(options), "classes": list(options.classes), "on_error": on_error, "layout": files.layout,
            "sources": digest}  # fmt: skip


def _require_readings(cohort: Cohort, flow: Flow) -> None:
    if cohort.readings.empty:
        stage = next(s for s in flow.stages if s["stage"] == "readings")
        raise SourceDataError(f"none of {stage['in']} readings is left: {stage['dropped']}; check that the tables are "
                              "of the same releases, or widen --stay-window-days")  # fmt: skip


def _split(split: Callable[[], Any]) -> Any:
    try:
        return split()
    except ValueError as error:
        raise SourceDataError(f"{error}; too few patients are left, see the options that drop readings") from None


def _radiograph_cache(out: Path) -> Path:
    """Outlives an interrupted run, so that the next goes on where it stopped."""
    return out.with_name(out.name + ".radiograph_cache")


def _bring_radiographs(
    files: SourceFiles,
    cohort: Cohort,
    out: Path,
    target: Path,
    options: MimicOptions,
    num_workers: int,
    problems: Problems,
) -> tuple[dict[str, tuple[int, int]], str]:
    radiographs = cohort.readings.drop_duplicates("dicom_id")
    sources = {f.dicom_id: files.image_path(f.dicom_id, int(f.subject_id), int(f.study_id))
               for f in radiographs.itertuples(index=False)}  # fmt: skip
    if options.image_size is None:
        return link_images(sources, target, num_workers, problems), ".jpg"
    cache = _radiograph_cache(out) / str(options.image_size)
    _reuse(out, cache, options.image_size)
    sizes = cache_images(sources, cache, options.image_size, num_workers, problems)
    target.mkdir()
    for name in sizes:
        os.link(cache / f"{name}.png", target / f"{name}.png")
    return sizes, ".png"


def _reuse(out: Path, cache: Path, image_size: int) -> None:
    """Take over the images of the folder that is there, if they have the same size."""
    cache.mkdir(parents=True, exist_ok=True)
    report = out / REPORT_FILE_NAME
    if report.is_file() and read_json(report, DatasetError)["arguments"].get("image_size") == image_size:
        for radiograph in (out / "images").glob("*.png"):
            if not (cache / radiograph.name).exists():
                os.link(radiograph, cache / radiograph.name)


def _write_folds(
    folder: Path, records: Sequence[PreparedImage], options: MimicOptions, arguments: dict[str, Any], flow: Flow
) -> None:
    """``fold_0`` …, each a prepared folder of its own that shares the images."""
    schema = mimic_clinical_schema()
    for number, splits in enumerate(_split(lambda: fold_records(records, options))):
        fold = folder / f"fold_{number}"
        fold.mkdir()
        (fold / "images").symlink_to("../images")
        write_annotations(fold, splits, options.classes, schema, f"{TITLE}, fold {number} of {options.folds}")
        body = {"notes": options.notes(), "splits": summarize_splits(splits, options.classes, schema)}
        write_report(fold, f"{TITLE}, fold {number} of {options.folds}", {**arguments, "fold": number}, flow, body)
