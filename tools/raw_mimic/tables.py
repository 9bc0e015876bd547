"""Triage values with their dirt, and the source tables in PhysioNet's columns."""

import numpy as np
import pandas as pd

from mdf_detectron.data.synthetic.cohort import CLASS_SHIFTS, VITAL_MEANS, VITAL_SDS, VITALS, vital_correlation
from raw_mimic.history import (
    CELSIUS,
    DECIMAL_SLIP,
    O2_ABOVE_100,
    ODD_PAIN,
    SWAPPED_PRESSURES,
    History,
    RawSettings,
    written_anchor_age,
)
from raw_mimic.readers import LABELS_BY_PHASE, Reading

ODD_PAINS = ("5-6", "8/10", "unable", "13", "ett")

_LOWEST, _HIGHEST = np.array([90.0, 40, 8, 75, 70, 25]), np.array([106.0, 190, 50, 100, 230, 130])
"""Clean vitals stay here, so that ten times any of them is outside its legal range."""


def make_triage(settings: RawSettings, visits: pd.DataFrame) -> pd.DataFrame:
    """Make one row per visit as the table has it: stay_id, the six vitals, pain as text, acuity; NaN where missing."""
    rng = np.random.default_rng([settings.cohort.seed, 2])
    count = len(visits)
    shift = sum(np.array(list(CLASS_SHIFTS[a].values()))[visits[f"label_{a}"]] for a in ("A", "B"))
    latent = settings.cohort.signal * shift + rng.multivariate_normal(np.zeros(6), vital_correlation(), size=count)
    values = np.clip(VITAL_MEANS + VITAL_SDS * latent, _LOWEST, _HIGHEST)
    values = np.concatenate([values[:, :1].round(1), values[:, 1:].round()], axis=1)
    values[:, 5] = np.minimum(values[:, 5], values[:, 4] - 10)
    rows = pd.DataFrame(values, columns=list(VITALS))
    rows["pain"] = rng.integers(0, 11, size=count).astype(float)
    rows["acuity"] = rng.integers(1, 6, size=count).astype(float)
    missing = rng.random(count) < settings.cohort.missing
    rows = rows.mask(pd.Series(missing), np.nan)
    rows.insert(0, "stay_id", visits["stay_id"].to_numpy())
    return add_dirt(rng, rows, missing, settings.dirt)


def add_dirt(rng: np.random.Generator, rows: pd.DataFrame, missing: np.ndarray, factor: float) -> pd.DataFrame:
    """Put each kind of dirt in rows of its own; at least one row per kind, where there are rows enough."""
    free = rng.permutation(np.flatnonzero(~missing))
    written = rows.astype({"pain": object})
    written["pain"] = rows["pain"].map(lambda v: "" if np.isnan(v) else f"{v:g}")

    def take(share: float) -> np.ndarray:
        nonlocal free
        count = 0 if factor == 0 else min(len(free), max(1, round(share * factor * len(rows))))
        taken, free = free[:count], free[count:]
        return taken

    at = take(CELSIUS)
    written.loc[at, "temperature"] = ((rows.loc[at, "temperature"] - 32) / 1.8).round(2)
    for name in VITALS:
        at = take(DECIMAL_SLIP)
        written.loc[at, name] = rows.loc[at, name] * 10
    at = take(O2_ABOVE_100)
    written.loc[at, "o2sat"] = rng.integers(101, 106, size=len(at)).astype(float)
    at = take(SWAPPED_PRESSURES)
    written.loc[at, ["sbp", "dbp"]] = rows.loc[at, ["dbp", "sbp"]].to_numpy()
    at = take(ODD_PAIN)
    written.loc[at, "pain"] = np.resize(ODD_PAINS, len(at))
    return written


READING_COLUMNS = (
    "id", "split", "eye_tracking_data_discarded", "image", "dicom_id", "subject_id", "image_size_x", "image_size_y",
)  # fmt: skip


def patients_table(history: History) -> pd.DataFrame:
    patients = history.patients
    return pd.DataFrame({
        "subject_id": patients["subject_id"], "gender": patients["gender"],
        "anchor_age": written_anchor_age(patients["anchor_age"].to_numpy()),
        "anchor_year": patients["anchor_year"], "anchor_year_group": "2011 - 2013", "dod": "",
    })  # fmt: skip


def stays_table(history: History) -> pd.DataFrame:
    visits = history.visits.sort_values("stay_id")
    layout = "%Y-%m-%d %H:%M:%S"
    return pd.DataFrame({
        "subject_id": visits["subject_id"], "hadm_id": "", "stay_id": visits["stay_id"],
        "intime": visits["intime"].dt.strftime(layout),
        "outtime": visits["outtime"].dt.strftime(layout),
        "gender": visits["subject_id"].map(history.patients.set_index("subject_id")["gender"]),
        "race": "UNKNOWN", "arrival_transport": "WALK IN", "disposition": "HOME",
    })  # fmt: skip


def triage_table(history: History, triage: pd.DataFrame) -> pd.DataFrame:
    table = triage.assign(subject_id=history.visits["subject_id"].to_numpy(), chiefcomplaint="Synthetic")
    order = ["subject_id", "stay_id", "temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain", "acuity"]
    return table[[*order, "chiefcomplaint"]].sort_values("stay_id")


def radiographs_table(history: History) -> pd.DataFrame:
    """Make the metadata table; clock times are numbers, so that leading zeros vanish."""
    radiographs, time = history.radiographs, history.radiographs["time"].dt
    clock = time.hour * 10_000 + time.minute * 100 + time.second + time.microsecond / 1e6
    return pd.DataFrame({
        "dicom_id": radiographs["dicom_id"], "subject_id": radiographs["subject_id"],
        "study_id": radiographs["study_id"],
        "PerformedProcedureStepDescription": "CHEST (PORTABLE AP)",
        "ViewPosition": radiographs["view"], "Rows": radiographs["height"], "Columns": radiographs["width"],
        "StudyDate": time.year * 10_000 + time.month * 100 + time.day,
        "StudyTime": clock.round(3),
    })  # fmt: skip


def readings_table(history: History, readings: list[Reading], phase: int) -> pd.DataFrame:
    """Make the metadata of one phase (a header only, if it has no reading).

    A label's value is the largest certainty of its ellipses.
    """
    radiographs = history.radiographs
    rows = []
    for reading in (r for r in readings if r.phase == phase):
        radiograph = radiographs.iloc[reading.radiograph]
        subject = f"p{radiograph['subject_id']:08d}"
        certainty = dict.fromkeys(LABELS_BY_PHASE[phase], 0)
        for ellipse in reading.ellipses:
            for label in ellipse["labels"]:
                certainty[label] = max(certainty[label], ellipse["certainty"])
        rows.append(
            {
                "id": reading.reading_id,
                "split": "train",
                "eye_tracking_data_discarded": reading.discarded,
                "image": f"files/{subject[:3]}/{subject}/s{radiograph['study_id']}/{radiograph['dicom_id']}.dcm",
                "dicom_id": radiograph["dicom_id"],
                "subject_id": radiograph["subject_id"],
                "image_size_x": radiograph["width"],
                "image_size_y": radiograph["height"],
                **certainty,
                "Support devices": False,
                "Other": "",
            }
            | ({"Quality issue": False} if phase == 1 else {})
        )
    labels = [*LABELS_BY_PHASE[phase], "Support devices", "Other", *(["Quality issue"] if phase == 1 else [])]
    return pd.DataFrame(rows, columns=[*READING_COLUMNS, *labels])


def ellipse_table(reading: Reading) -> pd.DataFrame:
    """Make the table of the ellipses of one reading; only a header where there are none."""
    labels = (*LABELS_BY_PHASE[reading.phase], "Support devices")
    columns = ["xmin", "ymin", "xmax", "ymax", "certainty", *labels]
    rows = [{**e, **{label: label in e["labels"] for label in labels}} for e in reading.ellipses]
    return pd.DataFrame(rows, columns=columns)
