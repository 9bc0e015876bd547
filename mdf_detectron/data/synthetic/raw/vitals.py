"""The triage table: vitals that follow the findings, then the dirt of real tables, counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdf_detectron.data.synthetic.cohort import (
    CLASS_SHIFTS,
    VITAL_MEANS,
    VITAL_SDS,
    VITALS,
    vital_correlation,
)
from mdf_detectron.data.synthetic.raw.settings import (
    CELSIUS,
    DECIMAL_SLIP,
    O2_ABOVE_100,
    ODD_PAIN,
    SWAPPED_PRESSURES,
    RawSettings,
)

ODD_PAINS = {"5-6": 5.5, "8/10": 8.0, "unable": np.nan, "13": np.nan, "ett": np.nan}
"""What is written → what it means."""
_LOWEST, _HIGHEST = np.array([90.0, 40, 8, 75, 70, 25]), np.array([106.0, 190, 50, 100, 230, 130])
"""Clean vitals stay here, so that ten times any of them is outside its legal range."""


@dataclass(frozen=True)
class Triage:
    """Attributes:
    clean: (V rows) stay_id, the six vitals, pain, acuity; NaN where missing.  What cleaning should recover.
    written: the same rows as the table has them, pain as text.
    dirty: (V,) bool, the rows that dirt touched.
    counts: kind of dirt → cells; the keys of :func:`add_dirt`.
    """

    clean: pd.DataFrame
    written: pd.DataFrame
    dirty: np.ndarray
    counts: dict[str, int]


def make_triage(settings: RawSettings, visits: pd.DataFrame) -> Triage:
    """One row a visit."""
    rng = np.random.default_rng([settings.cohort.seed, 2])
    count = len(visits)
    shift = sum(np.array(list(CLASS_SHIFTS[a].values()))[visits[f"label_{a}"]] for a in ("A", "B"))
    latent = settings.cohort.signal * shift + rng.multivariate_normal(np.zeros(6), vital_correlation(), size=count)
    values = np.clip(VITAL_MEANS + VITAL_SDS * latent, _LOWEST, _HIGHEST)
    values = np.concatenate([values[:, :1].round(1), values[:, 1:].round()], axis=1)
    values[:, 5] = np.minimum(values[:, 5], values[:, 4] - 10)
    clean = pd.DataFrame(values, columns=list(VITALS))
    clean["pain"] = rng.integers(0, 11, size=count).astype(float)
    clean["acuity"] = rng.integers(1, 6, size=count).astype(float)
    missing = rng.random(count) < settings.cohort.missing
    clean = clean.mask(pd.Series(missing), np.nan)
    clean.insert(0, "stay_id", visits["stay_id"].to_numpy())
    return add_dirt(rng, clean, missing, settings.dirt)


def add_dirt(rng: np.random.Generator, clean: pd.DataFrame, missing: np.ndarray, factor: float) -> Triage:
    """Each kind of dirt in rows of its own; at least one row a kind, where there are rows enough."""
    free = rng.permutation(np.flatnonzero(~missing))
    written, counts = clean.astype({"pain": object}), {"missing rows": int(missing.sum())}
    written["pain"] = clean["pain"].map(lambda v: "" if np.isnan(v) else f"{v:g}")
    clean, dirty = clean.copy(), np.zeros(len(clean), dtype=bool)

    def take(share: float) -> np.ndarray:
        nonlocal free
        count = 0 if factor == 0 else min(len(free), max(1, round(share * factor * len(clean))))
        rows, free = free[:count], free[count:]
        dirty[rows] = True
        return rows

    rows = take(CELSIUS)
    written.loc[rows, "temperature"] = ((clean.loc[rows, "temperature"] - 32) / 1.8).round(2)
    counts["temperatures in °C"] = len(rows)
    for name in VITALS:
        rows = take(DECIMAL_SLIP)
        written.loc[rows, name] = clean.loc[rows, name] * 10
        clean.loc[rows, name] = np.nan
        counts[f"decimal slips in {name}"] = len(rows)
    rows = take(O2_ABOVE_100)
    written.loc[rows, "o2sat"] = rng.integers(101, 106, size=len(rows)).astype(float)
    clean.loc[rows, "o2sat"] = 100.0
    counts["saturations above 100"] = len(rows)
    rows = take(SWAPPED_PRESSURES)
    written.loc[rows, ["sbp", "dbp"]] = clean.loc[rows, ["dbp", "sbp"]].to_numpy()
    clean.loc[rows, ["sbp", "dbp"]] = np.nan
    counts["pressures swapped"] = len(rows)
    rows = take(ODD_PAIN)
    texts = np.resize(list(ODD_PAINS), len(rows))
    written.loc[rows, "pain"] = texts
    clean.loc[rows, "pain"] = [ODD_PAINS[t] for t in texts]
    counts |= {f"pain written {text!r}": int((texts == text).sum()) for text in ODD_PAINS}
    return Triage(clean, written, dirty, counts)
