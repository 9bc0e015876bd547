"""MIMIC's source files → a prepared folder: the table part, the images, the records, the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mdf_detectron.data.prepared import (
    Flow,
    PreparedImage,
    is_up_to_date,
    staged_folder,
    summarize_splits,
    write_annotations,
    write_report,
)
from mdf_detectron.data.pseudonyms import OPEN, Privacy
from mdf_detectron.data.sources.kit.image_files import ImageFile, bring_images, how_images_were_read
from mdf_detectron.data.sources.kit.values import ProblemList
from mdf_detectron.data.sources.mimic.cohort import Cohort, read_cohort
from mdf_detectron.data.sources.mimic.layout import SourceFiles
from mdf_detectron.data.sources.mimic.options import MimicOptions
from mdf_detectron.data.sources.mimic.readings import ELLIPSE_FILE
from mdf_detectron.data.sources.mimic.records import fold_records, make_records, split_records
from mdf_detectron.data.sources.mimic.report import report_body, write_cohort_files
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.errors import SourceDataError

TITLE = "MIMIC chest radiographs with triage values"
ABSENT, UNREADABLE = "image file absent", "unreadable image"
DOWNLOAD = "download it again from mimic-cxr-jpg, or point --images to the folder of 'files/'"
SUFFIX = {False: ".jpg", True: ".png"}
"""Of the prepared images: links to the originals, or resized copies."""


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
        on_error: "stop" with all problems of the tables, then of the images, or "skip": leave entries out and count
            them.
        num_workers: processes that read the images.
        privacy: what the folder may tell about patients.

    Raises:
        SourceDataError: broken source entries, or nothing left to write.
    """
    out, options = Path(out).resolve(), options.effective()
    privacy.check(options.image_size)
    arguments = {**_arguments(files, options, on_error), **privacy.arguments()}
    if is_up_to_date(out, arguments) and all(p.exists() for p in (out / "images").glob("*")):
        return False
    problems, flow = ProblemList(skip=on_error == "skip", show_values=privacy.show_values), Flow()
    with staged_folder(out) as folder:
        cohort = read_cohort(files, options, problems, flow)
        problems.stop_if_any()
        _require_readings(cohort, flow)
        sources = _image_paths(files, cohort)
        images = _bring_images(sources, out, folder / "images", options.image_size, num_workers, problems)
        records = make_records(cohort, images, SUFFIX[options.image_size is not None], options, problems, flow)
        problems.stop_if_any()
        splits = _split(lambda: split_records(records, options))
        schema = mimic_clinical_schema()
        write_annotations(folder, splits, options.classes, schema, TITLE)
        body = report_body(cohort, splits, problems.as_dict(), options)
        if files.synthetic:
            body |= {"synthetic": True, "notes": [files.synthetic, *body["notes"]]}
        body["tables"] = [how_images_were_read(images.values())]
        write_report(folder, TITLE, arguments, flow, body)
        write_cohort_files(folder, cohort, body, options)
        if options.folds:
            _write_folds(folder, records, options, arguments, flow)
        privacy.apply(folder)
    return True


def _arguments(files: SourceFiles, options: MimicOptions, on_error: str) -> dict[str, Any]:
    tables = [*sum(files.tables.values(), []), *files.readings]
    ellipses = [p for folder in files.reading_folders for p in sorted(folder.glob(f"*/{ELLIPSE_FILE}"))]
    state = [(str(p), s.st_size, s.st_mtime_ns) for p in (*tables, *ellipses) for s in (p.stat(),)]
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    return {**asdict(options), "classes": list(options.classes), "on_error": on_error, "layout": files.layout,
            "sources": digest}  # fmt: skip


def _image_paths(files: SourceFiles, cohort: Cohort) -> dict[str, Path]:
    """The file of each image, by dicom_id."""
    images = cohort.readings.drop_duplicates("dicom_id").itertuples(index=False)
    return {i.dicom_id: files.image_path(i.dicom_id, int(i.subject_id), int(i.study_id)) for i in images}


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


def _bring_images(
    sources: dict[str, Path], out: Path, folder: Path, image_size: int | None, num_workers: int, problems: ProblemList
) -> dict[str, ImageFile]:
    """Links or resized copies named by dicom_id; an absent or unreadable image is a problem, and not in the result."""
    there = {}
    for dicom_id, path in sources.items():
        if path.is_file():
            there[dicom_id] = path
        else:
            problems.add(ABSENT, f"no image {path}; {DOWNLOAD}")
    jobs = [(path, f"{dicom_id}{SUFFIX[image_size is not None]}") for dicom_id, path in there.items()]
    read = {}
    results = bring_images(jobs, out, folder, image_size=image_size, num_workers=num_workers)
    for dicom_id, result in zip(there, results, strict=True):
        if isinstance(result, str):
            problems.add(UNREADABLE, f"{result}, or {DOWNLOAD}")
        else:
            read[dicom_id] = result
    return read


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
