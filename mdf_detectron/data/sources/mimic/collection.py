"""MIMIC-CXR, MIMIC-IV-ED and REFLACX, or MIMIC-Eye: readers' boxes with triage values (credentialed PhysioNet access).

mdf prepare mimic-eye --physionet ROOT --out datasets/mimic_eye
mdf prepare mimic-eye --mimic-eye ROOT --out datasets/mimic_eye --image-size 512
"""

import argparse
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mdf_detectron.data.sources.kit.boxes import OTHER_SHAPE, differs_in_shape
from mdf_detectron.data.sources.kit.collection import Collection, Content
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.studies import SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.mimic import layout
from mdf_detectron.data.sources.mimic.cohort import PAPER, PROTOCOLS, RECORDS, VIEWS, Cohort, MimicOptions, read_cohort
from mdf_detectron.data.sources.mimic.readings import ELLIPSE_FILE, MASK_SHAPES, to_box
from mdf_detectron.data.sources.mimic.report import list_details
from mdf_detectron.data.sources.mimic.schema import MIMIC_CLASSES, mimic_clinical_schema
from mdf_detectron.errors import SourceDataError


def read_mimic(
    job: Preparation, *, physionet: str | Path | None = None, mimic_eye: str | Path | None = None, **choices: Any
) -> Content | None:
    """Read the tables and readings below ``physionet`` (parent of its projects) or ``mimic_eye``.

    ``choices`` are fields of :class:`MimicOptions`, and with ``physionet`` overrides of
    :data:`~mdf_detectron.data.sources.mimic.layout.PATHS`.
    """
    overrides = {name: path for name in layout.PATHS if (path := choices.pop(name, None))}
    if mimic_eye and overrides:
        raise SourceDataError(f"{', '.join(f'--{name}' for name in overrides)} goes with --physionet")
    options = MimicOptions(**choices)
    options = replace(options, **PAPER) if options.protocol == "paper" else options
    files = layout.mimic_eye_files(mimic_eye) if mimic_eye else layout.physionet_files(physionet, overrides)
    ellipses = [path for folder in files.reading_folders for path in sorted(folder.glob(f"*/{ELLIPSE_FILE}"))]
    read = [*sum(files.tables.values(), []), *files.readings, *ellipses]
    if job.is_done(read, (), asdict(options) | {"layout": files.layout}):
        return None
    job.notes += options.notes(job.options.splits and Path(job.options.splits).name)
    if files.synthetic:
        job.notes.insert(0, files.synthetic)
    cohort = read_cohort(files, options, job.problems, job.flow)
    job.problems.stop_if_any()
    if cohort.readings.empty:
        stage = next(s for s in job.flow.stages if s["stage"] == "readings")
        raise SourceDataError(f"none of {stage['in']} readings is left: {stage['dropped']}; check that the tables are "
                              "of the same releases, or widen --stay-window-days")  # fmt: skip
    if options.protocol == "paper" and (absent := [c for c in options.classes if c not in set(cohort.boxes["label"])]):
        raise SourceDataError(f"no box of class '{absent[0]}' in the {len(cohort.readings)} readings that are left, so "
                              "it can be neither learned nor measured; leave it out of --classes")  # fmt: skip
    studies = _studies(cohort, files, options, job)
    source = SourceAnnotations(list(options.classes), len(cohort.boxes), len(studies))
    details = partial(list_details, cohort=cohort, flow=job.flow, synthetic=bool(files.synthetic))
    schema = mimic_clinical_schema(ranges=not options.raw_values)
    return Content("MIMIC chest radiographs with triage values", source, studies, schema, read,
                   has_times=True, split_patients=options.split_by == "patient", details=details)  # fmt: skip


def _studies(cohort: Cohort, files: layout.SourceFiles, options: MimicOptions, job: Preparation) -> list[Study]:
    """Make one study per reading, or per image with the boxes of all its readings."""
    boxes = dict(tuple(cohort.boxes.groupby("reading_id", sort=False)))
    studies: dict[str, Study] = {}
    joined, dropped = 0, 0
    for reading in cohort.readings.itertuples(index=False):
        size = reading.width, reading.height
        study = studies.setdefault(
            reading.reading_id if options.records == "reading" else reading.dicom_id, _study(reading, files)
        )
        ids, (width, height) = study.extra["reading_id"], study.image.size
        if differs_in_shape(size, study.image.size):
            text = f"reading {reading.reading_id} is of {size[0]} × {size[1]} pixels, {ids} of {width} × {height}"
            job.problems.add(OTHER_SHAPE, f"image {reading.dicom_id}: {text}; download the readings again")
            dropped += 1
            continue
        if reading.reading_id != ids:
            study.extra["reading_id"] = f"{ids} {reading.reading_id}"
            joined += 1
        scale = width / reading.width, height / reading.height
        own = boxes.get(reading.reading_id, pd.DataFrame()).itertuples(index=False)
        study.image.boxes += [to_box(box, options.mask_shape, scale) for box in own]
    reasons = {"joined with the image's first": joined, OTHER_SHAPE: dropped}
    job.flow.add("records", len(cohort.readings), len(studies), reasons)
    return list(studies.values())


def _study(reading: Any, files: layout.SourceFiles) -> Study:
    where = f"reading {reading.reading_id} of image {reading.dicom_id}"
    image = SourceImage(reading.dicom_id, reading.dicom_id, where, (reading.width, reading.height))
    return study_of(image, reading._asdict(), files, reading_id=reading.reading_id)


def study_of(image: SourceImage, record: dict[str, Any], files: layout.SourceFiles, **extra: Any) -> Study:
    """Make an image's study from its joined row: image table, visit, patient and clean values."""
    dicom_id, subject_id, study_id = record["dicom_id"], int(record["subject_id"]), int(record["study_id"])
    stay_id, arrival = (None if pd.isna(record[name]) else record[name] for name in ("stay_id", "intime"))
    return Study(
        image,
        files.image_path(dicom_id, subject_id, study_id),
        row={name: record[name] for name in mimic_clinical_schema().names},
        patient=str(subject_id),
        times=(record["time"].isoformat(), arrival and arrival.isoformat()),
        extra={"dicom_id": dicom_id, "study_id": study_id, "stay_id": stay_id and int(stay_id),
               "match": record["match"], **extra},
    )  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    # fmt: off
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--physionet", metavar="ROOT", help="folder with mimiciv/, mimic-iv-ed/, mimic-cxr-jpg/ …")
    source.add_argument("--mimic-eye", metavar="ROOT", help="folder with patient_<subject_id>/ and spreadsheets/")
    layout.add_path_options(parser, layout.PATHS)
    parser.add_argument("--classes", nargs="+", default=MIMIC_CLASSES, help="labels (default: the paper's five)")
    parser.add_argument("--min-certainty", type=int, default=3, help="of a box, 1 (unlikely) to 5 (default 3)")
    parser.add_argument("--mask-shape", choices=MASK_SHAPES, default="ellipse")
    parser.add_argument("--records", choices=RECORDS, default="reading", help="one per reading, or one per image")
    parser.add_argument("--view", choices=VIEWS, default="frontal", help="frontal: AP and PA only")
    parser.add_argument("--drop-discarded", action="store_true", help="drop readings whose eye tracking was discarded")
    parser.add_argument("--raw-values", action="store_true", help="numbers as they are written, not cleaned")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="patient", help="paper: the authors' choices; leaks")
    # fmt: on


COLLECTION = Collection(
    "mimic-eye", __doc__, read_mimic, mimic_clinical_schema(), add_options, "--physionet ROOT --image-size 512"
)
