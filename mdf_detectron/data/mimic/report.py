"""The cohort report: counts beyond the flow, the paper's Fig. 5b, and the charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd

from mdf_detectron.data.mimic.cleaning import clean_triage
from mdf_detectron.data.mimic.cohort import Cohort
from mdf_detectron.data.mimic.options import MimicOptions
from mdf_detectron.data.mimic_schema import mimic_clinical_schema
from mdf_detectron.data.prepared_folder import PreparedImage, markdown_table, summarize_splits

CORRELATION_FILE, CORRELATION_PICTURE, CLASS_PICTURE = "correlations.csv", "correlations.png", "class_counts.png"


def report_body(
    cohort: Cohort, splits: Mapping[str, Sequence[PreparedImage]], problems: Mapping, options: MimicOptions
) -> dict[str, Any]:
    """What the report says besides the flow (plain types only)."""
    schema = mimic_clinical_schema()
    return {
        "notes": options.notes(),
        "films_by_match": cohort.film_matches,
        "kept": {
            "readings": len(cohort.readings),
            "films": int(cohort.readings["dicom_id"].nunique()),
            "patients": int(cohort.readings["subject_id"].nunique()),
            "readings_by_match": cohort.readings["match"].value_counts().to_dict(),
            "readings_without_triage_row": int((~cohort.readings["triaged"]).sum()),
        },
        "cleaning": cohort.cleaning.as_dict(),
        "cleaning_by_split": {name: _cleaned(cohort, records) for name, records in splits.items()},
        "changed": cohort.changed,
        "problems": problems,
        "splits": summarize_splits(splits, options.classes, schema),
    }


def _cleaned(cohort: Cohort, records: Sequence[PreparedImage]) -> dict[str, dict[str, dict[str, int]]]:
    """What cleaning did to the triage rows of one split's visits."""
    stays = {r.extra["stay_id"] for r in records}
    return clean_triage(cohort.triage[cohort.triage["stay_id"].isin(stays)])[1].as_dict()


def correlations(readings: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Pearson's r of each clinical column (gender as M = 1) with each class's certainty (0 where absent), pairwise.

    The paper's Fig. 5b.  NaN where a column or a certainty does not vary.
    """
    table = pd.DataFrame({c.name: readings[c.name].astype("float64") for c in mimic_clinical_schema().numeric})
    table["gender (M)"] = readings["gender"].map({"F": 0.0, "M": 1.0}).astype("float64")
    columns = list(table)
    for name in classes:
        key = f"certainty: {name}"
        table[name] = readings[key].fillna(0.0) if key in readings else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return table.corr(min_periods=3).loc[columns, list(classes)]


def write_cohort_files(folder: Path, cohort: Cohort, summary: Mapping[str, Any], options: MimicOptions) -> None:
    """The correlations as CSV and picture, the class counts as a picture, and both tables in ``report.md``."""
    table = correlations(cohort.readings, options.classes)
    table.to_csv(folder / CORRELATION_FILE, float_format="%.4f", index_label="column")
    _draw_correlations(table, len(cohort.readings), folder / CORRELATION_PICTURE)
    _draw_class_counts(summary["splits"], folder / CLASS_PICTURE)
    with open(folder / "report.md", "a", encoding="utf-8") as file:
        file.write(_markdown(summary))


def _markdown(body: Mapping[str, Any]) -> str:
    match = markdown_table(("films of the table", "films"), list(body["films_by_match"].items()))
    rows = [
        (column, what, reason, count)
        for what in ("changed", "removed")
        for column, reasons in body["cleaning"][what].items()
        for reason, count in reasons.items()
    ]
    problems = [(kind, p["count"], p["first"][0]) for kind, p in body["problems"].items()]
    parts = [
        "\n## Films and visits\n", match,
        "\n## Cleaning of the whole triage table (age: of the kept readings)\n",
        markdown_table(("column", "value was", "reason", "cells"), rows),
        "\n## Skipped problems\n", markdown_table(("kind", "count", "the first"), problems or [("none", 0, "")]),
        f"\n## Clinical columns and certainty (Pearson)\n\n![correlations]({CORRELATION_PICTURE})\n",
        f"\n## Boxes per class and split\n\n![class counts]({CLASS_PICTURE})\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _draw_correlations(table: pd.DataFrame, readings: int, path: Path) -> None:
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


def _draw_class_counts(splits: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    names = list(next(iter(splits.values()))["boxes"])
    figure = matplotlib.figure.Figure(figsize=(2 + 1.2 * len(names), 3.6), dpi=110)
    axes = figure.subplots()
    width = 0.8 / len(splits)
    for k, (split, summary) in enumerate(splits.items()):
        x = np.arange(len(names)) + (k - (len(splits) - 1) / 2) * width
        label = f"{split} ({summary['images']} records, {summary['patients']} patients)"
        bars = axes.bar(x, list(summary["boxes"].values()), width, label=label)
        axes.bar_label(bars, size=7)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_ylabel("boxes")
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=len(splits))
    figure.savefig(path, bbox_inches="tight")
