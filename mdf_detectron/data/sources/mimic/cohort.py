"""The table part: from source files to readings that have a visit, a clean row and boxes.  No image is opened."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

import pandas as pd

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.values import ProblemList
from mdf_detectron.data.sources.mimic.annotations import choose_boxes
from mdf_detectron.data.sources.mimic.cleaning import AGE_RANGE, CleaningLog, clean_triage
from mdf_detectron.data.sources.mimic.layout import SourceFiles
from mdf_detectron.data.sources.mimic.options import MimicOptions
from mdf_detectron.data.sources.mimic.readings import read_ellipses, read_readings
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.sources.mimic.visits import (
    MATCHED,
    VITAL_COLUMNS,
    age_at_study,
    match_visits,
    read_patients,
    read_radiographs,
    read_stays,
    read_triage,
)

FRONTAL_VIEWS = ("AP", "PA")


log = logging.getLogger(__name__)


@dataclass
class Cohort:
    """What the tables say.

    Attributes:
        readings: one row a kept reading: those of ``read_readings``, its image's ``subject_id, study_id, view, time``,
            ``stay_id, intime, match``, the clean clinical columns, ``triaged`` (its visit has a triage row),
            ``known_patient`` (the table of patients has its patient), ``age_removed`` (an impossible one).
        boxes: of :func:`~mdf_detectron.data.sources.mimic.annotations.choose_boxes`, of the kept readings.
        triage: the triage rows as they stood, of the visits that kept readings belong to.
        radiograph_matches: match → number of images of the whole image table.
        cleaning: what was cleaned in the whole triage table.
        changed: what was changed without being dropped, by reason.
    """

    readings: pd.DataFrame
    boxes: pd.DataFrame
    triage: pd.DataFrame
    radiograph_matches: dict[str, int]
    cleaning: CleaningLog
    changed: dict[str, int] = field(default_factory=dict)


def read_cohort(files: SourceFiles, options: MimicOptions, problems: ProblemList, flow: Flow) -> Cohort:
    """Read, check, join and clean; every image, reading and box is accounted for in ``flow``.

    Raises:
        SourceDataError: see :mod:`~mdf_detectron.data.sources.mimic.visits`.
    """
    log.info("reading the tables of patients, visits, triage and images")
    patients = read_patients(files.tables["patients"], problems, flow)
    stays = read_stays(files.tables["edstays"], problems, flow)
    triage = read_triage(files.tables["triage"], stays, problems, flow)
    radiographs = read_radiographs(files.tables["metadata"], problems, flow)
    log.info("finding the visit of %d images", len(radiographs))
    radiographs = radiographs.join(match_visits(radiographs, stays, options.stay_window_days))
    radiograph_matches = radiographs["match"].value_counts().to_dict()
    matched = radiographs["match"].isin(MATCHED)
    flow.add("images of the table", len(radiographs), int(matched.sum()), Counter(radiographs.loc[~matched, "match"]))
    clean, cleaning = clean_triage(triage)
    log.info("reading the readers' metadata and ellipses")
    for absent in files.absent_readings:
        problems.add("readers' metadata file absent", absent)
    readings = read_readings(files.readings, problems, flow)
    ellipses, unknown = read_ellipses(readings, files.reading_folders, problems, flow)
    readings = _choose_readings(readings, unknown, radiographs, options, flow)
    readings = add_clinical_values(readings, patients, clean, cleaning)
    boxes, changed = choose_boxes(ellipses, readings, options.classes, options.min_certainty, flow)
    _account_ellipses(ellipses, readings, boxes, flow)
    used = triage[triage["stay_id"].isin(readings["stay_id"])]
    return Cohort(readings, boxes, used, radiograph_matches, cleaning, changed)


def _choose_readings(
    readings: pd.DataFrame, unknown: set[str], radiographs: pd.DataFrame, options: MimicOptions, flow: Flow
) -> pd.DataFrame:
    """The readings to keep, with their image's columns; ``unknown`` are those without a usable ellipse file."""
    radiograph = radiographs.set_index("dicom_id").drop(columns="subject_id")
    subject = radiographs.set_index("dicom_id")["subject_id"].rename("radiograph_subject")
    joined = readings.join(radiograph, on="dicom_id").join(subject, on="dicom_id")
    reason = pd.Series("", index=joined.index, dtype=object)

    def drop(bad: pd.Series, why) -> None:
        reason[:] = reason.mask(bad & (reason == ""), why)

    drop(joined["reading_id"].isin(unknown), "ellipse file absent or unusable")
    drop(joined["match"].isna(), "image not in the image table")
    drop(
        joined["radiograph_subject"].notna() & (joined["radiograph_subject"] != joined["subject_id"]),
        "image of another patient",
    )
    if options.drop_discarded:
        drop(joined["discarded"], "eye tracking discarded")
    if options.view == "frontal":
        drop(~joined["view"].isin(FRONTAL_VIEWS), "view " + joined["view"].replace("", "unknown").fillna("unknown"))
    if not options.keep_unmatched:
        drop(~joined["match"].isin(MATCHED), joined["match"])
    kept = reason == ""
    flow.add("readings", len(readings), int(kept.sum()), Counter(reason[~kept]))
    return joined[kept].drop(columns="radiograph_subject").astype({"study_id": "int64"}).reset_index(drop=True)


def add_clinical_values(
    readings: pd.DataFrame, patients: pd.DataFrame, triage: pd.DataFrame, cleaning: CleaningLog
) -> pd.DataFrame:
    """Add the clinical record of each reading or image: triage of its visit, age and gender of its patient.

    Args:
        readings: ``subject_id``, ``stay_id`` and ``time`` among others.
    """
    rows = triage.set_index("stay_id")[list(VITAL_COLUMNS)]
    joined = readings.join(rows, on="stay_id").join(patients.set_index("subject_id"), on="subject_id")
    joined["triaged"] = joined["stay_id"].isin(rows.index)
    joined["known_patient"] = joined["subject_id"].isin(patients["subject_id"])
    age = age_at_study(joined["anchor_age"], joined["anchor_year"], joined["time"])
    column = next(c for c in mimic_clinical_schema().numeric if c.name == "age")
    impossible = age.notna() & ~age.between(column.minimum, column.maximum)
    cleaning.add("removed", "age", AGE_RANGE, impossible.sum())
    return joined.assign(age=age.mask(impossible), age_removed=impossible).drop(columns=["anchor_age", "anchor_year"])


def _account_ellipses(ellipses: pd.DataFrame, readings: pd.DataFrame, boxes: pd.DataFrame, flow: Flow) -> None:
    key = ["reading_id", "ellipse"]
    drawn = ellipses[key].drop_duplicates()
    of_kept = drawn[drawn["reading_id"].isin(readings["reading_id"])]
    with_box = len(boxes[key].drop_duplicates())
    reasons = {"reading dropped": len(drawn) - len(of_kept), "none of its labels became a box": len(of_kept) - with_box}
    flow.add("ellipses with a label", len(drawn), with_box, reasons)
