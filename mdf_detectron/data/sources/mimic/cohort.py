"""Read and join the tables of MIMIC: options, and the cohort of readings with their boxes and clinical values."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.account import ProblemList, ValueLog
from mdf_detectron.data.sources.mimic import layout, tables
from mdf_detectron.data.sources.mimic.cleaning import add_clinical_values, clean_triage
from mdf_detectron.data.sources.mimic.readings import MASK_SHAPES, choose_boxes, read_ellipses, read_readings
from mdf_detectron.data.sources.mimic.schema import KNOWN_LABELS, MIMIC_CLASSES
from mdf_detectron.errors import SourceDataError

RECORDS, VIEWS, PROTOCOLS = ("reading", "image"), ("frontal", "all"), ("patient", "paper")
FRONTAL_VIEWS = ("AP", "PA")

PAPER = {"stay_window_days": 0, "keep_unmatched": False, "min_certainty": 1, "mask_shape": "box", "records": "reading",
         "drop_discarded": True, "split_by": "row", "first_label": True}  # fmt: skip
"""The authors' choices of :class:`MimicOptions`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MimicOptions:
    """Validated options.

    Attributes:
        stay_window_days: days after a departure within which an image still belongs to the visit; 0: only during it.
        keep_unmatched: keep images without a visit, with age and gender only.
        classes: labels that become boxes, in the order of the categories.
        min_certainty: least certainty (1–5) of a box.
        mask_shape: "ellipse" or "box".
        records: "reading" (one per reading, as in the paper) or "image" (one per image, with all readers' boxes).
        view: "frontal" (AP and PA) or "all".
        drop_discarded: drop readings whose eye tracking was discarded, although their boxes are valid.
        split_by: "patient", or "row": by reading regardless of patient, which leaks.
        first_label: one box an ellipse, of its first label in the order of ``classes``; otherwise one a label.
        raw_values: take the numbers as they are written, without cleaning.
        protocol: "paper" replaces all that is in :data:`PAPER`, and drops images inside several visits.
    """

    stay_window_days: float = 7
    keep_unmatched: bool = False
    classes: Sequence[str] = MIMIC_CLASSES
    min_certainty: int = 3
    mask_shape: str = "ellipse"
    records: str = "reading"
    view: str = "frontal"
    drop_discarded: bool = False
    split_by: str = "patient"
    first_label: bool = False
    raw_values: bool = False
    protocol: str = "patient"

    def __post_init__(self) -> None:
        for name, allowed in (("mask_shape", MASK_SHAPES), ("records", RECORDS), ("view", VIEWS),
                              ("split_by", ("patient", "row")), ("protocol", PROTOCOLS)):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise SourceDataError(f"{name} '{getattr(self, name)}' is not one of {', '.join(allowed)}")
        if not (math.isfinite(self.stay_window_days) and self.stay_window_days >= 0):
            raise SourceDataError(f"stay_window_days must be at least 0, got {self.stay_window_days}")
        if self.min_certainty not in range(1, 6):
            raise SourceDataError(f"min_certainty must be 1 to 5, got {self.min_certainty}")
        unknown = [c for c in self.classes if c not in KNOWN_LABELS]
        if unknown or not self.classes or len(set(self.classes)) != len(self.classes):
            raise SourceDataError(f"classes {unknown or list(self.classes)} unknown, doubled or none; after merging "
                                  f"the labels are: {', '.join(KNOWN_LABELS)}")  # fmt: skip

    def notes(self, split_file: str | None) -> list[str]:
        """Return notes that readers of the results must know; ``split_file`` says who is in which split."""
        if self.protocol == "patient":
            return [] if split_file else ["Split by patient: no patient, image or reading is in two splits."]
        return [
            "**This folder follows the authors' protocol**; use it to compare with published numbers only.",
            "Choices: images inside exactly one visit; certainty above 0 makes 'unlikely' (below 10 %) a positive box; "
            f"one box an ellipse, of its first label ({', '.join(self.classes)}); masks are the boxes' rectangles; "
            "readings with discarded eye tracking are dropped, although their boxes are sound; values are "
            f"{'as they were written' if self.raw_values else 'cleaned, unlike theirs (--raw-values)'}.",
            f"Splits: {split_file}."
            if split_file
            else "Leaks: readings are split one by one, so that an image that was "
            "read twice, and a patient with several images, can be in the train and in the test split.",
        ]


@dataclass
class Cohort:
    """Joined and cleaned content of the tables.

    Attributes:
        readings: one row per kept reading: columns of ``read_readings``, its image's ``subject_id, study_id, view,
            time``, ``stay_id, intime, match``, the clean clinical columns, ``triaged`` (the visit has triage values),
            ``known_patient`` (in the table of patients), ``age_removed`` (an impossible age).
        boxes: of the kept readings, see :func:`~mdf_detectron.data.sources.mimic.readings.choose_boxes`.
        triage: raw triage rows of the kept readings' visits.
        radiograph_matches: match → number of images in the whole image table.
        cleaning, changed: changes in the whole triage table; numbers of clamped boxes.
    """

    readings: pd.DataFrame
    boxes: pd.DataFrame
    triage: pd.DataFrame
    radiograph_matches: dict[str, int]
    cleaning: ValueLog
    options: MimicOptions
    changed: dict[str, int] = field(default_factory=dict)


def read_cohort(files: layout.SourceFiles, options: MimicOptions, problems: ProblemList, flow: Flow) -> Cohort:
    """Read, check, join and clean the tables; account for every image, reading and box in ``flow``."""
    log.info("reading the tables of patients, visits, triage and images")
    patients = tables.read_patients(files.tables["patients"], problems, flow)
    stays = tables.read_stays(files.tables["edstays"], problems, flow)
    triage = tables.read_triage(files.tables["triage"], stays, problems, flow)
    radiographs = tables.read_radiographs(files.tables["metadata"], problems, flow)
    log.info("finding the visit of %d images", len(radiographs))
    radiographs = radiographs.join(tables.match_visits(radiographs, stays, options.stay_window_days))
    radiograph_matches = radiographs["match"].value_counts().to_dict()
    matched = radiographs["match"].isin(tables.MATCHED)
    flow.add("images of the table", len(radiographs), int(matched.sum()), Counter(radiographs.loc[~matched, "match"]))
    clean, cleaning = clean_triage(triage, options.raw_values)
    log.info("reading the readers' metadata and ellipses")
    for absent in files.absent_readings:
        problems.add("readers' metadata file absent", absent)
    readings = read_readings(files.readings, problems, flow)
    ellipses, unknown = read_ellipses(readings, files.reading_folders, problems, flow)
    readings = _choose_readings(readings, unknown, radiographs, options, flow)
    readings = add_clinical_values(readings, patients, clean, cleaning)
    chosen = options.classes, options.min_certainty, flow, options.first_label
    boxes, changed = choose_boxes(ellipses, readings, *chosen)
    _account_ellipses(ellipses, readings, boxes, flow)
    used = triage[triage["stay_id"].isin(readings["stay_id"])]
    return Cohort(readings, boxes, used, radiograph_matches, cleaning, options, changed)


def _choose_readings(
    readings: pd.DataFrame, unknown: set[str], radiographs: pd.DataFrame, options: MimicOptions, flow: Flow
) -> pd.DataFrame:
    """Choose readings to keep and add their image's columns; ``unknown`` readings have no usable ellipse file."""
    radiograph = radiographs.set_index("dicom_id").drop(columns="subject_id")
    subject = radiographs.set_index("dicom_id")["subject_id"].rename("radiograph_subject")
    joined = readings.join(radiograph, on="dicom_id").join(subject, on="dicom_id")
    reason, dropped = pd.Series("", index=joined.index, dtype=object), Counter()

    def drop(bad: pd.Series, why) -> None:
        new = bad & (reason == "")
        reason[:] = reason.mask(new, why)
        dropped.update(reason[new])

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
        drop(~joined["match"].isin(tables.MATCHED), joined["match"])
    if options.protocol == "paper":
        drop(joined["match"] == tables.INSIDE_SEVERAL, "inside several visits")
    kept = reason == ""
    flow.add("readings", len(readings), int(kept.sum()), dropped)
    return joined[kept].drop(columns="radiograph_subject").astype({"study_id": "int64"}).reset_index(drop=True)


def _account_ellipses(ellipses: pd.DataFrame, readings: pd.DataFrame, boxes: pd.DataFrame, flow: Flow) -> None:
    key = ["reading_id", "ellipse"]
    drawn = ellipses[key].drop_duplicates()
    of_kept = drawn[drawn["reading_id"].isin(readings["reading_id"])]
    with_box = len(boxes[key].drop_duplicates())
    reasons = {"reading dropped": len(drawn) - len(of_kept), "none of its labels became a box": len(of_kept) - with_box}
    flow.add("ellipses with a label", len(drawn), with_box, reasons)
