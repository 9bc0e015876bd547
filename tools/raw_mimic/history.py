"""Settings of the raw tree, and the history of each synthetic patient: visits, studies, readings."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdf_detectron.data.synthetic.cohort import CLASS_PRIORS, FIRST_SUBJECT_ID, CohortSettings
from mdf_detectron.errors import SourceDataError

RADIOGRAPHS_PER_PATIENT = 377_110 / 300_000
"""Images of the full-size table over its patients."""

READ_SHARE = 2_616 / 377_110
"""Share of the full-size table's images that were read."""


# Dirt in the triage table, as shares: of visits (the share without vitals is the cohort's).
CELSIUS, DECIMAL_SLIP, O2_ABOVE_100, SWAPPED_PRESSURES, ODD_PAIN = 0.002, 0.0002, 0.0002, 0.0002, 0.03

# What readers do: shares of the findings (missed, class swapped within the pair, several labels), the spread of a box
# edge as a share of the box, and the share of coordinates that lie off the image.
MISS, SWAP, SEVERAL_LABELS, JITTER, OFF_IMAGE = 0.15, 0.05, 0.15, 0.06, 0.01


@dataclass(frozen=True)
class RawSettings:
    """The cohort, its size as tables, and how dirty it is.

    Attributes:
        cohort: seed, patients, signal, ambiguity and image size; its ``missing`` is the share of visits without vitals.
        dirt: factor on the shares of celsius, decimal slips, saturations above 100 and odd pain; 0 is a clean table.
        reader_noise: factor on everything that readers do wrong; 0 gives clean readers.
        tables_only: no image, and few read images (:data:`READ_SHARE`).
    """

    cohort: CohortSettings
    dirt: float = 1.0
    reader_noise: float = 1.0
    tables_only: bool = False

    def __post_init__(self) -> None:
        if self.radiographs < 20:
            raise SourceDataError(f"num_patients must be at least 16 for a raw tree, got {self.cohort.num_patients}")
        if self.cohort.interaction:
            raise SourceDataError("a raw tree has no interaction; use mdf prepare synthetic --interaction")
        for name, top in (("dirt", 1 / ODD_PAIN), ("reader_noise", 1 / MISS)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= top):
                raise SourceDataError(f"{name} must be a factor between 0 and {top:.3g}, got {value}")

    @property
    def radiographs(self) -> int:
        """Rows of the image table, lateral images too."""
        return round(RADIOGRAPHS_PER_PATIENT * self.cohort.num_patients)

    @property
    def read_share(self) -> float:
        """Share of the studies whose frontal image is read."""
        return min(1.0, READ_SHARE / FIRST_RADIOGRAPH_SHARE) if self.tables_only else 0.9


FIRST_RADIOGRAPH_SHARE = 0.62
"""Share of the images that open a study; the others are further views of it."""

FIRST_STUDY_ID, FIRST_STAY_ID = 90_000_000, 93_000_000
"""Above the ids of any real release."""

RELATIONS = ("inside", "after", "no_visit", "before_first_visit", "outside_window")
"""An image and the visits of its patient: taken within one; at most 7 days after one's departure; the patient has none;
before the first arrival; none of these."""

RELATION_SHARES = (0.44, 0.23, 0.15, 0.05, 0.13)

MATCHED = RELATIONS[:2]

_SECOND = np.timedelta64(1000, "ms")

_HOUR, _DAY = 3600 * _SECOND, 86400 * _SECOND

_WINDOW = 7 * _DAY

_PAUSE_DAYS = 40
"""Least time between visits; longer than any image outside the window is late, so that it is near no other visit."""


@dataclass(frozen=True)
class History:
    """The frames.

    Attributes:
        patients: (P rows) subject_id, gender, anchor_age (before the cut at 89), anchor_year.
        visits: (V rows) subject_id, stay_id, intime, outtime, label_A, label_B (indices into the archetype's classes).
        images: (F rows) dicom_id, subject_id, study_id, time, relation, visit (row of ``visits``, -1 for none),
            label_A, label_B, age (at the study), width, height, view, first (opens its study).
    """

    patients: pd.DataFrame
    visits: pd.DataFrame
    radiographs: pd.DataFrame


def make_history(settings: RawSettings) -> History:
    """Draw all frames; the same settings give the same frames."""
    rng = np.random.default_rng([settings.cohort.seed, 1])
    patients = _make_patients(rng, settings.cohort.num_patients)
    visits = _make_visits(rng, patients)
    studies = _make_studies(rng, settings.radiographs, patients, visits)
    visits, studies = _overlap_some_visits(rng, visits, studies)
    visits = visits.assign(stay_id=FIRST_STAY_ID + rng.permutation(len(visits)))
    return History(patients, visits, _make_radiographs(rng, settings, patients, studies))


def choose_labels(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Draw the class index of each archetype, (count,) int each, by the priors; the last index is "nothing"."""
    return {f"label_{a}": rng.choice(3, size=count, p=list(p.values())) for a, p in CLASS_PRIORS.items()}


def _make_patients(rng: np.random.Generator, count: int) -> pd.DataFrame:
    return pd.DataFrame({
        "subject_id": FIRST_SUBJECT_ID + np.arange(count),
        "gender": rng.choice(["F", "M"], size=count), "anchor_age": rng.integers(18, 96, size=count),
        "anchor_year": rng.integers(2110, 2190, size=count),
        "visits": _visit_counts(rng, count),
    })  # fmt: skip


def _visit_counts(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw 1 + negative binomial (1.67 on average), and none for the patients whose images have no visit at all."""
    counts = 1 + rng.negative_binomial(1, 0.6, size=count)
    without = rng.permutation(count)[: max(1, round(RELATION_SHARES[2] * count))]
    counts[without] = 0
    return counts


def _make_visits(rng: np.random.Generator, patients: pd.DataFrame) -> pd.DataFrame:
    """Draw visits in order of time, at least :data:`_PAUSE_DAYS` apart; log-normal lengths with a median of 5.5 h."""
    owner = np.repeat(np.arange(len(patients)), patients["visits"])
    number = np.arange(len(owner)) - np.repeat(np.cumsum(patients["visits"]) - patients["visits"], patients["visits"])
    hours = np.clip(5.5 * np.exp(0.6 * rng.normal(size=len(owner))), 0.5, 72.0)
    pause = _PAUSE_DAYS + 3 + rng.exponential(200, size=len(owner))
    first = rng.uniform(0, 700, size=len(owner))
    # days since the anchor year began: the first visit's own draw, then pauses added up within a patient
    days = pd.Series(np.where(number == 0, first, pause)).groupby(owner).cumsum().to_numpy()
    intime = _new_year(patients["anchor_year"].to_numpy()[owner]) + _seconds(days * 86400)
    return pd.DataFrame({
        "subject_id": patients["subject_id"].to_numpy()[owner],
        "patient": owner, "number": number, "intime": intime, "outtime": intime + _seconds(hours * 3600),
        **choose_labels(rng, len(owner)),
    })  # fmt: skip


def _make_studies(
    rng: np.random.Generator, radiographs: int, patients: pd.DataFrame, visits: pd.DataFrame
) -> pd.DataFrame:
    opens = rng.random(radiographs) < FIRST_RADIOGRAPH_SHARE
    opens[0] = True
    count = int(opens.sum())
    relation = rng.choice(len(RELATIONS), size=count, p=RELATION_SHARES)
    visit = rng.integers(len(visits), size=count)
    # the first visit of the same patient
    visit = np.where(
        relation == RELATIONS.index("before_first_visit"), visit - visits["number"].to_numpy()[visit], visit
    )
    without = np.flatnonzero(patients["visits"] == 0)
    patient = visits["patient"].to_numpy()[visit]
    patient = np.where(relation == RELATIONS.index("no_visit"), rng.choice(without, size=count), patient)
    intime, outtime = visits["intime"].to_numpy()[visit], visits["outtime"].to_numpy()[visit]
    u = rng.random(count)
    minute = 60 * _SECOND
    time = np.select(
        [relation == k for k in range(len(RELATIONS))],
        [
            intime + minute + _share(outtime - intime - 2 * minute, u),
            outtime + minute + _share(_WINDOW - 2 * minute, u),
            _new_year(patients["anchor_year"].to_numpy()[patient]) + _share(1000 * _DAY, u),
            intime - minute - _share(3 * _DAY, u),
            outtime + _WINDOW + _HOUR + _share(20 * _DAY, u),
        ],
        np.datetime64("NaT", "ms"),
    )
    studies = pd.DataFrame({
        "patient": patient, "relation": np.take(RELATIONS, relation), "time": time,
        "images": np.diff(np.append(np.flatnonzero(opens), radiographs)),
    })  # fmt: skip
    matched = np.isin(relation, (0, 1))
    studies["near_visit"] = np.where(relation == RELATIONS.index("no_visit"), -1, visit)
    studies["visit"] = np.where(matched, visit, -1)
    own = choose_labels(rng, count)
    for name, drawn in own.items():
        studies[name] = np.where(matched, visits[name].to_numpy()[visit], drawn)
    return _move_some_to_midnight(rng, studies, visits)


def _move_some_to_midnight(rng: np.random.Generator, studies: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    """Move half a percent of the studies (at least one) to 00:00:00, where that keeps their relation to visits."""
    time = studies["time"].to_numpy()
    midnight = time.astype("datetime64[D]").astype(time.dtype) + _DAY
    visit = studies["near_visit"].to_numpy()
    outtime = visits["outtime"].to_numpy()[visit]
    relation = studies["relation"].to_numpy()
    stays = np.select(
        [relation == "inside", relation == "after", relation == "before_first_visit"],
        [midnight < outtime, midnight < outtime + _WINDOW, midnight < visits["intime"].to_numpy()[visit]],
        True,
    )
    movable = rng.permutation(np.flatnonzero(stays))
    chosen = movable[: max(1, round(0.005 * len(studies)))]
    time = time.copy()
    time[chosen] = midnight[chosen]
    return studies.assign(time=time)


def _overlap_some_visits(
    rng: np.random.Generator, visits: pd.DataFrame, studies: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let 0.1 % of the visits (at least one) begin again before they end: the study within both belongs to the later.

    Only visits with a single study are taken, so that no other study's visit changes.
    """
    near = studies["near_visit"].to_numpy()
    alone = np.bincount(near[near >= 0], minlength=len(visits))[near] == 1
    candidates = rng.permutation(np.flatnonzero(alone & (studies["relation"] == "inside").to_numpy()))
    chosen = np.sort(candidates[: max(1, round(0.001 * len(visits)))])
    again = visits.iloc[near[chosen]].copy()
    time = studies["time"].to_numpy()[chosen]
    waited = time - again["intime"].to_numpy()
    again["intime"] = (again["intime"].to_numpy() + _share(waited, rng.uniform(0.1, 0.9, len(chosen)))).astype(
        "datetime64[s]"
    )
    again["outtime"] = again["outtime"].to_numpy() + _seconds(rng.uniform(1, 5, len(chosen)) * 3600)
    visit = studies["visit"].to_numpy().copy()
    visit[chosen] = len(visits) + np.arange(len(chosen))
    return pd.concat([visits, again], ignore_index=True), studies.assign(visit=visit)


def _make_radiographs(
    rng: np.random.Generator, settings: RawSettings, patients: pd.DataFrame, studies: pd.DataFrame
) -> pd.DataFrame:
    """Make one frontal image per study, then further views; all at the study's time."""
    studies = studies.assign(study_id=FIRST_STUDY_ID + rng.permutation(len(studies)))
    owner = patients.iloc[studies["patient"].to_numpy()]
    studies["subject_id"] = owner["subject_id"].to_numpy()
    year = studies["time"].to_numpy().astype("datetime64[Y]").astype(int) + 1970
    # the table writes 91 for everybody over 89, so that is what an age can be computed from
    written_age = written_anchor_age(owner["anchor_age"].to_numpy())
    studies["age"] = written_age + year - owner["anchor_year"].to_numpy()
    index = np.repeat(np.arange(len(studies)), studies["images"])
    radiographs = studies.drop(columns=["images", "near_visit"]).iloc[index].reset_index(drop=True)
    count = len(radiographs)
    radiographs["first"] = np.r_[True, index[1:] != index[:-1]]
    frontal, further = (
        rng.choice(["AP", "PA"], size=count),
        rng.choice(["LATERAL", "LL", "PA"], p=[0.7, 0.2, 0.1], size=count),
    )
    radiographs["view"] = np.where(radiographs["first"], frontal, further)
    short = np.rint(settings.cohort.image_size * rng.uniform(0.82, 0.98, size=count)).astype(int)
    wide = rng.random(count) < 0.3
    radiographs["width"] = np.where(wide, settings.cohort.image_size, short)
    radiographs["height"] = np.where(wide, short, settings.cohort.image_size)
    radiographs["dicom_id"] = _dicom_ids(rng, count)
    return radiographs


def written_anchor_age(age: np.ndarray) -> np.ndarray:
    """Return ages as the patient table writes them: 91 for all over 89."""
    return np.where(age > 89, 91, age)


def _dicom_ids(rng: np.random.Generator, count: int) -> list[str]:
    """Make ids of five groups of eight hexadecimal digits."""
    digits = rng.bytes(20 * count).hex()
    return ["-".join(digits[40 * k + 8 * g : 40 * k + 8 * g + 8] for g in range(5)) for k in range(count)]


def _new_year(years: np.ndarray) -> np.ndarray:
    return (years - 1970).astype("datetime64[Y]").astype("datetime64[ms]")


def _seconds(seconds: np.ndarray) -> np.ndarray:
    """Return whole seconds, as the visit table writes times."""
    return np.rint(seconds).astype(np.int64) * _SECOND


def _share(span: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return ``share`` of a time span, in whole milliseconds, as the image table writes times."""
    return (
        (np.asarray(span).astype("timedelta64[ms]").astype(np.int64) * share).astype(np.int64).astype("timedelta64[ms]")
    )
