"""The generated frames as PhysioNet's tables write them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdf_detectron.data.synthetic.raw.history import FIRST_HADM_ID, History, written_anchor_age
from mdf_detectron.data.synthetic.raw.readers import LABELS_BY_PHASE, Reading
from mdf_detectron.data.synthetic.raw.vitals import Triage

READING_COLUMNS = (
    "id", "split", "eye_tracking_data_discarded", "image", "dicom_id", "subject_id", "image_size_x", "image_size_y",
)  # fmt: skip


def patients_table(history: History) -> pd.DataFrame:
    patients = history.patients
    decade = patients["anchor_year"] // 3 % 4 * 3 + 2008
    return pd.DataFrame(
        {
            "subject_id": patients["subject_id"],
            "gender": patients["gender"],
            "anchor_age": written_anchor_age(patients["anchor_age"].to_numpy()),
            "anchor_year": patients["anchor_year"],
            "anchor_year_group": decade.astype(str) + " - " + (decade + 2).astype(str),
            "dod": "",
        }
    )


def stays_table(history: History) -> pd.DataFrame:
    visits = history.visits.sort_values("stay_id")
    count, layout = len(visits), "%Y-%m-%d %H:%M:%S"
    admitted = np.arange(count) % 3 == 0
    return pd.DataFrame(
        {
            "subject_id": visits["subject_id"],
            "hadm_id": np.where(admitted, (FIRST_HADM_ID + np.arange(count)).astype(str), ""),
            "stay_id": visits["stay_id"],
            "intime": visits["intime"].dt.strftime(layout),
            "outtime": visits["outtime"].dt.strftime(layout),
            "gender": visits["subject_id"].map(history.patients.set_index("subject_id")["gender"]),
            "race": "UNKNOWN",
            "arrival_transport": "WALK IN",
            "disposition": np.where(admitted, "ADMITTED", "HOME"),
        }
    )


def triage_table(history: History, triage: Triage) -> pd.DataFrame:
    table = triage.written.assign(subject_id=history.visits["subject_id"].to_numpy(), chiefcomplaint="Synthetic")
    order = ["subject_id", "stay_id", "temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain", "acuity"]
    return table[[*order, "chiefcomplaint"]].sort_values("stay_id")


def films_table(history: History) -> pd.DataFrame:
    """The metadata table; clock times are numbers, so that leading zeros vanish."""
    films, time = history.films, history.films["time"].dt
    clock = time.hour * 10_000 + time.minute * 100 + time.second + time.microsecond / 1e6
    return pd.DataFrame(
        {
            "dicom_id": films["dicom_id"],
            "subject_id": films["subject_id"],
            "study_id": films["study_id"],
            "PerformedProcedureStepDescription": "CHEST (PORTABLE AP)",
            "ViewPosition": films["view"],
            "Rows": films["height"],
            "Columns": films["width"],
            "StudyDate": time.year * 10_000 + time.month * 100 + time.day,
            "StudyTime": clock.round(3),
            "ProcedureCodeSequence_CodeMeaning": "CHEST (PORTABLE AP)",
            "ViewCodeSequence_CodeMeaning": films["view"].map({"AP": "antero-posterior", "PA": "postero-anterior"}),
            "PatientOrientationCodeSequence_CodeMeaning": "Erect",
        }
    )


def split_table(history: History) -> pd.DataFrame:
    films = history.films
    split = np.array(["train", "train", "train", "validate", "test"])[films["subject_id"].to_numpy() % 5]
    return films[["dicom_id", "study_id", "subject_id"]].assign(split=split)


def readings_table(history: History, readings: list[Reading], phase: int) -> pd.DataFrame:
    """The metadata of one phase (a header only, if it has no reading).

    A label's cell is the largest certainty of its ellipses.
    """
    films = history.films
    rows = []
    for reading in (r for r in readings if r.phase == phase):
        film = films.iloc[reading.film]
        subject = f"p{film['subject_id']:08d}"
        certainty = dict.fromkeys(LABELS_BY_PHASE[phase], 0)
        for ellipse in reading.ellipses:
            for label in ellipse["labels"]:
                certainty[label] = max(certainty[label], ellipse["certainty"])
        rows.append(
            {
                "id": reading.reading_id,
                "split": "train",
                "eye_tracking_data_discarded": reading.discarded,
                "image": f"files/{subject[:3]}/{subject}/s{film['study_id']}/{film['dicom_id']}.dcm",
                "dicom_id": film["dicom_id"],
                "subject_id": film["subject_id"],
                "image_size_x": film["width"],
                "image_size_y": film["height"],
                **certainty,
                "Support devices": False,
                "Other": "",
            }
            | ({"Quality issue": False} if phase == 1 else {})
        )
    labels = [*LABELS_BY_PHASE[phase], "Support devices", "Other", *(["Quality issue"] if phase == 1 else [])]
    return pd.DataFrame(rows, columns=[*READING_COLUMNS, *labels])


def ellipse_table(reading: Reading) -> pd.DataFrame:
    """The ellipses of one reading; only a header where there are none."""
    labels = (*LABELS_BY_PHASE[reading.phase], "Support devices")
    columns = ["xmin", "ymin", "xmax", "ymax", "certainty", *labels]
    rows = [{**e, **{label: label in e["labels"] for label in labels}} for e in reading.ellipses]
    return pd.DataFrame(rows, columns=columns)
