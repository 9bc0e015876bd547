"""The cohort's part of the report: what matched, what was cleaned, what each class holds, the paper's Fig. 5b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import PreparedImage
from mdf_detectron.data.sources.mimic.cleaning import AGE, clean_triage, outside
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.sources.mimic.tables import MATCHED, UNMATCHED

if TYPE_CHECKING:
    from mdf_detectron.data.sources.mimic.collection import Cohort

CORRELATION_FILE, CORRELATION_PICTURE = "correlations.csv", "correlations.png"
Splits = Mapping[str, Sequence[PreparedImage]]


def correlations(readings: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Correlate each clinical column (gender as M = 1) with each class's certainty (0 where absent): Pearson's r.

    The paper's Fig. 5b. NaN where a column or a certainty does not vary.
    """
    table = pd.DataFrame({c.name: readings[c.name].astype("float64") for c in mimic_clinical_schema().numeric})
    table["gender (M)"] = readings["gender"].map({"F": 0.0, "M": 1.0}).astype("float64")
    columns = list(table)
    for name in classes:
        key = f"certainty: {name}"
        table[name] = readings[key].fillna(0.0) if key in readings else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return table.corr(min_periods=3).loc[columns, list(classes)]


def draw_correlations(table: pd.DataFrame, readings: int, path: Path) -> None:
    """Draw the ``table`` of :func:`correlations`."""
    figure = matplotlib.figure.Figure(figsize=(1.5 + 1.15 * len(table.columns), 1.8 + 0.42 * len(table)), dpi=110)
    axes = figure.subplots()
    limit = max(0.1, float(np.nanmax(np.abs(table.to_numpy()), initial=0.0)))
    picture = axes.imshow(table.to_numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(table.columns)), table.columns, rotation=30, ha="right")
    axes.set_yticks(range(len(table)), table.index)
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        color = "white" if abs(value) > 0.65 * limit else "black"
        axes.text(
            column, row, "–" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", color=color, size=8
        )
    axes.set_title(f"Clinical column and certainty of a finding\nPearson's r, {readings} readings", size=10)
    figure.colorbar(picture, ax=axes, label="r")
    figure.savefig(path, bbox_inches="tight")


def write_details(folder: Path, splits: Splits, *, cohort: Cohort, synthetic: bool) -> dict[str, Any]:
    """Write the correlations as CSV and picture; return entries of the report."""
    readings, classes = cohort.readings, cohort.classes
    table = correlations(readings, classes)
    table.to_csv(folder / CORRELATION_FILE, float_format="%.4f", index_label="column")
    draw_correlations(table, len(readings), folder / CORRELATION_PICTURE)
    holders = {split: {name: _holders(records, number) for number, name in enumerate(classes, start=1)}
               for split, records in splits.items()}  # fmt: skip
    details = {
        "radiographs_by_match": cohort.radiograph_matches,
        "kept": {
            "readings": len(readings),
            "images": int(readings["dicom_id"].nunique()),
            "patients": int(readings["subject_id"].nunique()),
            "readings_without_triage_row": int((~readings["triaged"]).sum()),
            "readings_without_patient_row": int((~readings["known_patient"]).sum()),
        },
        "cleaning": cohort.cleaning.as_dict(),
        "cleaning_by_split": {name: _cleaned(cohort, records) for name, records in splits.items()},
        "changed": cohort.changed,
        "records_by_match": {
            name: {m: n for m in (*MATCHED, *UNMATCHED) if (n := sum(r.extra["match"] == m for r in records))}
            for name, records in splits.items()
        },
        "classes": holders,
    }
    tables = _tables(details, list(splits))
    rows = [(column, *("–" if np.isnan(r) else f"{r:.2f}" for r in values)) for column, *values in table.itertuples()]
    tables.append({"title": f"Clinical column and certainty (Pearson's r, all kept readings; {CORRELATION_PICTURE})",
                   "header": ["column", *classes], "rows": rows})  # fmt: skip
    return details | {"tables": tables} | ({"synthetic": True} if synthetic else {})


def _holders(records: Sequence[PreparedImage], category: int) -> dict[str, int]:
    """Count who has a class: its boxes, and the records and patients with at least one."""
    own = [(r, sum(a["category_id"] == category for a in r.annotations)) for r in records]
    holding = [r for r, n in own if n]
    return {"boxes": sum(n for _, n in own), "records": len(holding), "patients": len({r.patient_id for r in holding})}


def _cleaned(cohort: Cohort, records: Sequence[PreparedImage]) -> dict[str, dict[str, dict[str, int]]]:
    """Count what cleaning did to the triage rows of one split's visits, and to the ages of its readings."""
    stays = {r.extra["stay_id"] for r in records}
    log = clean_triage(cohort.triage[cohort.triage["stay_id"].isin(stays)])[1]
    ids = {i for r in records for i in r.extra["reading_id"].split()}
    of_split = cohort.readings["reading_id"].isin(ids)
    log.remove("age", outside(AGE), count=(of_split & cohort.readings["age_removed"]).sum())
    return log.as_dict()


def _tables(details: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Lay the entries out as tables of ``report.md``."""
    matches, by_split = details["radiographs_by_match"], details["cleaning_by_split"]
    kept = [(name.replace("_", " "), count) for name, count in (*details["kept"].items(), *details["changed"].items())]
    visits = [(m, matches[m], *(details["records_by_match"][s].get(m, 0) for s in names))
              for m in (*MATCHED, *UNMATCHED) if m in matches]  # fmt: skip
    classes = [(c, *(" / ".join(map(str, details["classes"][s][c].values())) for s in names))
               for c in details["classes"][names[0]]]  # fmt: skip
    cleaned = [
        (column, what, reason, count, *(by_split[s][what].get(column, {}).get(reason, 0) for s in names))
        for what, columns in details["cleaning"].items()
        for column, reasons in columns.items()
        for reason, count in reasons.items()
    ]
    tables = [
        ("Readings, and boxes that were changed", ["", "count"], kept),
        ("Images and visits", ["the image is", "images of the table", *(f"records, {s}" for s in names)], visits),
        ("Classes (boxes / records / patients)", ["class", *names], classes),
        ("Cleaning of the whole triage table, and of the visits of each split",
         ["column", "value was", "reason", "whole table", *names], cleaned),
    ]  # fmt: skip
    return [{"title": title, "header": header, "rows": rows} for title, header, rows in tables if rows]
