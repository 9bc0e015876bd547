"""Find the emergency visit that an image belongs to, and with it the clinical record.

An image belongs to the visit it was taken in, else to the latest one that ended shortly before. A visit that begins
after the image is never its visit, because its triage values lie in the image's future.
"""

from __future__ import annotations

import pandas as pd

from mdf_detectron.data.sources.kit.account import ValueLog
from mdf_detectron.data.sources.mimic.cleaning import AGE, outside
from mdf_detectron.data.sources.mimic.tables import VITAL_COLUMNS

INSIDE, INSIDE_SEVERAL, WITHIN_WINDOW = "inside a visit", "inside several visits, the latest taken", "within the window"
MATCHED = (INSIDE, INSIDE_SEVERAL, WITHIN_WINDOW)
NO_VISIT, BEFORE_ARRIVAL, AFTER_WINDOW, NO_DEPARTURE = (
    "patient without a visit",
    "before the first arrival",
    "later than the window after every departure",
    "only visits without a departure time",
)
UNMATCHED = (NO_VISIT, BEFORE_ARRIVAL, AFTER_WINDOW, NO_DEPARTURE)


def match_visits(radiographs: pd.DataFrame, stays: pd.DataFrame, window_days: float) -> pd.DataFrame:
    """Find the visit of each image.

    ``inside``: intime < time < outtime; of several, the latest intime.  Otherwise, with a window above 0:
    outtime ≤ time ≤ outtime + window, the latest outtime (then the latest intime).  A visit whose departure is
    unknown can only match by the window, counted from its arrival: it cannot have ended earlier.

    Args:
        radiographs: frame with ``subject_id`` and ``time`` (datetime64); its index is kept.
        stays: ``subject_id``, ``stay_id``, ``intime``, ``outtime`` (NaT where unknown).
        window_days: days after the departure; 0 takes only images inside a visit.

    Returns:
        Frame with the index of ``radiographs``: ``stay_id`` (Int64, NA unmatched), ``intime`` (NaT unmatched) and
        ``match`` (one of :data:`MATCHED` or :data:`UNMATCHED`).

    Raises:
        ValueError: a negative window.
    """
    if not window_days >= 0:
        raise ValueError(f"the window must be at least 0 days, got {window_days}")
    pairs = _pairs(radiographs, stays)
    inside = pairs[pairs["time"] < pairs["outtime"]]
    several = inside["image"].duplicated(keep=False)
    inside = inside.assign(match=several.map({False: INSIDE, True: INSIDE_SEVERAL}))
    inside = inside.sort_values(["intime", "stay_id"], kind="stable").drop_duplicates("image", keep="last")
    after = _after(pairs, window_days)
    after = after[~after["image"].isin(inside["image"])].assign(match=WITHIN_WINDOW)
    chosen = pd.concat([inside, after]).set_index("image")[["stay_id", "intime", "match"]]
    matched = chosen.reindex(range(len(radiographs)))
    matched["match"] = (
        matched["match"].astype(object).where(matched["match"].notna(), _why_not(radiographs, stays, pairs))
    )
    return matched.astype({"stay_id": "Int64"}).set_axis(radiographs.index)


def _pairs(radiographs: pd.DataFrame, stays: pd.DataFrame) -> pd.DataFrame:
    """Pair each image (by position) with each visit of its patient that begins before it."""
    left = pd.DataFrame(
        {
            "image": range(len(radiographs)),
            "subject_id": radiographs["subject_id"].to_numpy(),
            "time": radiographs["time"].to_numpy(),
        }
    )
    relevant = stays[stays["subject_id"].isin(left["subject_id"])][["subject_id", "stay_id", "intime", "outtime"]]
    pairs = left.merge(relevant, on="subject_id")
    return pairs[pairs["intime"] < pairs["time"]]


def _after(pairs: pd.DataFrame, window_days: float) -> pd.DataFrame:
    end = pairs["outtime"].fillna(pairs["intime"])
    late = pairs["time"] - end
    within = (late >= pd.Timedelta(0)) & (late <= pd.Timedelta(days=window_days)) & (window_days > 0)
    near = pairs[within].assign(end=end[within])
    return near.sort_values(["end", "intime", "stay_id"], kind="stable").drop_duplicates("image", keep="last")


def _why_not(radiographs: pd.DataFrame, stays: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Give each image the reason it would have if it were unmatched."""
    begun = pairs.groupby("image")["outtime"].count()
    visited = radiographs["subject_id"].isin(stays["subject_id"])
    departures = begun.reindex(range(len(radiographs))).to_list()
    return [
        NO_VISIT if not has else BEFORE_ARRIVAL if known != known else AFTER_WINDOW if known else NO_DEPARTURE
        for has, known in zip(visited, departures, strict=True)
    ]


def add_clinical_values(
    readings: pd.DataFrame, patients: pd.DataFrame, triage: pd.DataFrame, cleaning: ValueLog
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
    impossible = age.notna() & ~age.between(AGE.minimum, AGE.maximum)
    cleaning.remove("age", outside(AGE), count=impossible.sum())
    return joined.assign(age=age.mask(impossible), age_removed=impossible).drop(columns=["anchor_age", "anchor_year"])


def age_at_study(anchor_age: pd.Series, anchor_year: pd.Series, time: pd.Series) -> pd.Series:
    """Return years: anchor_age + (study year − anchor_year); NaN where any is unknown. 91 is everybody over 89."""
    return anchor_age + (time.dt.year - anchor_year)
