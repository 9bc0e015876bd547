"""The visit of an image against a slow reference that knows nothing of pandas, on random histories."""

from datetime import datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdf_detectron.data.sources.mimic.cleaning import age_at_study
from mdf_detectron.data.sources.mimic.tables import MATCHED, match_visits

DAY0 = datetime(2150, 1, 1)


def hour(number):
    return DAY0 + timedelta(hours=number)


def reference(subject, time, stays, window):
    """(stay_id, match) by the rules as people say them."""
    own = [s for s in stays if s[0] == subject]
    if not own:
        return None, "patient without a visit"
    begun = [s for s in own if s[2] < time]
    if not begun:
        return None, "before the first arrival"
    inside = [s for s in begun if s[3] is not None and time < s[3]]
    if inside:
        best = max(inside, key=lambda s: (s[2], s[1]))
        return best[1], "inside a visit" if len(inside) == 1 else "inside several visits, the latest taken"
    near = []
    for s in begun:
        end = s[3] if s[3] is not None else s[2]
        if window > 0 and end <= time <= end + timedelta(days=window):
            near.append((end, s[2], s[1]))
    if near:
        return max(near)[2], "within the window"
    if all(s[3] is None for s in begun):
        return None, "only visits without a departure time"
    return None, "later than the window after every departure"


hours = st.integers(0, 24 * 20)
visit = st.tuples(st.integers(1, 3), hours, st.none() | st.integers(0, 60))
radiograph = st.tuples(st.integers(1, 4), hours)


@settings(max_examples=120)
@given(
    visits=st.lists(visit, max_size=8),
    radiographs=st.lists(radiograph, min_size=1, max_size=6),
    window=st.sampled_from([0, 1, 7]),
)
def test_match_equals_the_reference(visits, radiographs, window):
    stays = [
        (subject, 100 + k, hour(begin), None if length is None else hour(begin + length))
        for k, (subject, begin, length) in enumerate(visits)
    ]
    radiographs = [(subject, hour(taken)) for subject, taken in radiographs]
    stay_frame = pd.DataFrame(stays, columns=["subject_id", "stay_id", "intime", "outtime"])
    stay_frame = stay_frame.astype({"intime": "datetime64[ns]", "outtime": "datetime64[ns]"})
    radiograph_frame = pd.DataFrame(radiographs, columns=["subject_id", "time"], index=range(5, 5 + len(radiographs)))
    matched = match_visits(radiograph_frame, stay_frame, window)
    assert list(matched.index) == list(radiograph_frame.index)
    begin = {s[1]: s[2] for s in stays}
    for (subject, time), row in zip(radiographs, matched.itertuples(), strict=True):
        stay, how = reference(subject, time, stays, window)
        assert (None if pd.isna(row.stay_id) else row.stay_id, row.match) == (stay, how)
        assert (row.match in MATCHED) == (stay is not None)
        if stay is not None:  # never a visit that begins after the image
            assert begin[row.stay_id] < time and row.intime == begin[row.stay_id]


def test_negative_window_is_refused():
    frame = pd.DataFrame({"subject_id": [1], "time": [pd.Timestamp(DAY0)]})
    with pytest.raises(ValueError, match="at least 0 days, got -1"):
        match_visits(frame, pd.DataFrame(columns=["subject_id", "stay_id", "intime", "outtime"]), -1)


def test_age_follows_the_calendar_year():
    time = pd.Series(pd.to_datetime(["2152-12-31", "2148-01-01", "2150-05-05"]))
    ages = age_at_study(pd.Series([50.0, 91.0, None]), pd.Series([2150.0, 2150.0, 2150.0]), time)
    assert ages.tolist()[:2] == [52, 89] and pd.isna(ages[2])
