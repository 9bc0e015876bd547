"""Which visit a film belongs to: the one it was taken in, else the one that ended shortly before.

A visit that begins after the film is never its visit, because its triage lies in the film's future.
"""

from __future__ import annotations

import pandas as pd

INSIDE, INSIDE_SEVERAL, WITHIN_WINDOW = "inside a visit", "inside several visits, the latest taken", "within the window"
MATCHED = (INSIDE, INSIDE_SEVERAL, WITHIN_WINDOW)
NO_VISIT, BEFORE_ARRIVAL, AFTER_WINDOW, NO_DEPARTURE = (
    "patient without a visit",
    "before the first arrival",
    "later than the window after every departure",
    "only visits without a departure time",
)
UNMATCHED = (NO_VISIT, BEFORE_ARRIVAL, AFTER_WINDOW, NO_DEPARTURE)


def match_visits(films: pd.DataFrame, stays: pd.DataFrame, window_days: float) -> pd.DataFrame:
    """The visit of each film.

    ``inside``: intime < time < outtime; of several, the latest intime.  Otherwise, with a window above 0:
    outtime ≤ time ≤ outtime + window, the latest outtime (then the latest intime).  A visit whose departure is
    unknown can only match by the window, counted from its arrival: it cannot have ended earlier.

    Args:
        films: frame with ``subject_id`` and ``time`` (datetime64); its index is kept.
        stays: ``subject_id``, ``stay_id``, ``intime``, ``outtime`` (NaT where unknown).
        window_days: days after the departure; 0 takes only films inside a visit.

    Returns:
        Frame with the index of ``films``: ``stay_id`` (Int64, NA unmatched), ``intime`` (NaT unmatched) and
        ``match`` (one of :data:`MATCHED` or :data:`UNMATCHED`).

    Raises:
        ValueError: a negative window.
    """
    if not window_days >= 0:
        raise ValueError(f"the window must be at least 0 days, got {window_days}")
    pairs = _pairs(films, stays)
    inside = pairs[pairs["time"] < pairs["outtime"]]
    several = inside["film"].duplicated(keep=False)
    inside = inside.assign(match=several.map({False: INSIDE, True: INSIDE_SEVERAL}))
    inside = inside.sort_values(["intime", "stay_id"], kind="stable").drop_duplicates("film", keep="last")
    after = _after(pairs, window_days)
    after = after[~after["film"].isin(inside["film"])].assign(match=WITHIN_WINDOW)
    chosen = pd.concat([inside, after]).set_index("film")[["stay_id", "intime", "match"]]
    matched = chosen.reindex(range(len(films)))
    matched["match"] = matched["match"].astype(object).where(matched["match"].notna(), _why_not(films, stays, pairs))
    return matched.astype({"stay_id": "Int64"}).set_axis(films.index)


def _pairs(films: pd.DataFrame, stays: pd.DataFrame) -> pd.DataFrame:
    """Each film (by position) with each visit of its patient that begins before it."""
    left = pd.DataFrame(
        {"film": range(len(films)), "subject_id": films["subject_id"].to_numpy(), "time": films["time"].to_numpy()}
    )
    relevant = stays[stays["subject_id"].isin(left["subject_id"])][["subject_id", "stay_id", "intime", "outtime"]]
    pairs = left.merge(relevant, on="subject_id")
    return pairs[pairs["intime"] < pairs["time"]]


def _after(pairs: pd.DataFrame, window_days: float) -> pd.DataFrame:
    end = pairs["outtime"].fillna(pairs["intime"])
    late = pairs["time"] - end
    within = (late >= pd.Timedelta(0)) & (late <= pd.Timedelta(days=window_days)) & (window_days > 0)
    near = pairs[within].assign(end=end[within])
    return near.sort_values(["end", "intime", "stay_id"], kind="stable").drop_duplicates("film", keep="last")


def _why_not(films: pd.DataFrame, stays: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Reason of each film as if it were unmatched."""
    begun = pairs.groupby("film")["outtime"].count()
    visited = films["subject_id"].isin(stays["subject_id"])
    departures = begun.reindex(range(len(films))).to_list()
    return [
        NO_VISIT if not has else BEFORE_ARRIVAL if known != known else AFTER_WINDOW if known else NO_DEPARTURE
        for has, known in zip(visited, departures, strict=True)
    ]


def age_at_study(anchor_age: pd.Series, anchor_year: pd.Series, time: pd.Series) -> pd.Series:
    """Years: anchor_age + (study year − anchor_year); NaN where any is unknown.  91 stands for all over 89."""
    return anchor_age + (time.dt.year - anchor_year)
