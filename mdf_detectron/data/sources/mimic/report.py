"""The cohort report: what matched, what was cleaned, what each split and class holds, and the paper's Fig. 5b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import PreparedImage, summarize_splits
from mdf_detectron.data.sources.mimic.cleaning import AGE_RANGE, clean_triage
from mdf_detectron.data.sources.mimic.cohort import Cohort
from mdf_detectron.data.sources.mimic.options import MimicOptions
from mdf_detectron.data.sources.mimic.schema import mimic_clinical_schema
from mdf_detectron.data.sources.mimic.visits import MATCHED, UNMATCHED
from mdf_detectron.fileio import markdown_table


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


def draw_correlations(table: pd.DataFrame, readings: int, path: Path) -> None:
    """``table`` of :func:`correlations` as a picture."""
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


def draw_class_counts(splits: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Boxes of each class and split; ``splits`` is the report's summary of them."""
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


CORRELATION_FILE, CORRELATION_PICTURE, CLASS_PICTURE = "correlations.csv", "correlations.png", "class_counts.png"


Splits = Mapping[str, Sequence[PreparedImage]]


def report_body(cohort: Cohort, splits: Splits, problems: Mapping, options: MimicOptions) -> dict[str, Any]:
    """What the report says besides the flow (plain types only)."""
    readings = cohort.readings
    return {
        "notes": options.notes(),
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
        "problems": problems,
        "splits": summarize_splits(splits, options.classes, mimic_clinical_schema()),
        "records_by_match": {
            name: {
                match: n for match in (*MATCHED, *UNMATCHED) if (n := sum(r.extra["match"] == match for r in records))
            }
            for name, records in splits.items()
        },
        "classes": {
            split: {name: _holders(records, number) for number, name in enumerate(options.classes, start=1)}
            for split, records in splits.items()
        },
    }


def _holders(records: Sequence[PreparedImage], category: int) -> dict[str, int]:
    """Who has a class: its boxes, and the records and patients with at least one."""
    own = [(r, sum(a["category_id"] == category for a in r.annotations)) for r in records]
    holding = [r for r, n in own if n]
    return {"boxes": sum(n for _, n in own), "records": len(holding), "patients": len({r.patient_id for r in holding})}


def _cleaned(cohort: Cohort, records: Sequence[PreparedImage]) -> dict[str, dict[str, dict[str, int]]]:
    """What cleaning did to the triage rows of one split's visits, and to the ages of its readings."""
    stays = {r.extra["stay_id"] for r in records}
    log = clean_triage(cohort.triage[cohort.triage["stay_id"].isin(stays)])[1]
    ids = {i for r in records for i in r.extra["reading_id"].split()}
    of_split = cohort.readings["reading_id"].isin(ids)
    log.add("removed", "age", AGE_RANGE, (of_split & cohort.readings["age_removed"]).sum())
    return log.as_dict()


def write_cohort_files(folder: Path, cohort: Cohort, summary: Mapping[str, Any], options: MimicOptions) -> None:
    """The correlations as CSV and picture, the class counts as a picture, and the tables in ``report.md``."""
    table = correlations(cohort.readings, options.classes)
    table.to_csv(folder / CORRELATION_FILE, float_format="%.4f", index_label="column")
    draw_correlations(table, len(cohort.readings), folder / CORRELATION_PICTURE)
    draw_class_counts(summary["splits"], folder / CLASS_PICTURE)
    with open(folder / "report.md", "a", encoding="utf-8") as file:
        file.write(_markdown(summary))


def _markdown(body: Mapping[str, Any]) -> str:
    kept = [(name.replace("_", " "), count) for name, count in body["kept"].items()]
    kept += list(body["changed"].items())
    matches = [m for m in (*MATCHED, *UNMATCHED) if m in body["radiographs_by_match"]]
    rows = [
        (m, body["radiographs_by_match"][m], *(s.get(m, 0) for s in body["records_by_match"].values())) for m in matches
    ]
    names = list(body["splits"])
    problems = [(kind, p["count"], p.get("first", ["(--show-values)"])[0]) for kind, p in body["problems"].items()]
    parts = [
        "\n## What was kept\n", markdown_table(("", "count"), kept),
        "## Images and visits\n",
        markdown_table(("the image lies", "images of the table", *(f"records, {n}" for n in names)), rows),
        "## Classes (boxes / records / patients)\n", _class_table(body["classes"]),
        f"![class counts]({CLASS_PICTURE})\n",
        "## Cleaning\n\nCells of the whole triage table, and of the visits of each split; ages of the kept readings.\n",
        _cleaning_table(body, names),
        "## Skipped problems\n", markdown_table(("kind", "count", "the first"), problems or [("none", 0, "")]),
        "## Clinical columns and certainty (Pearson's r, all kept readings)\n",
        f"![correlations]({CORRELATION_PICTURE})\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _class_table(classes: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    names = list(next(iter(classes.values())))
    cells = [[" / ".join(str(n) for n in split[name].values()) for split in classes.values()] for name in names]
    return markdown_table(("class", *classes), [(name, *row) for name, row in zip(names, cells, strict=True)])


def _cleaning_table(body: Mapping[str, Any], names: Sequence[str]) -> str:
    by_split = [body["cleaning_by_split"][name] for name in names]
    rows = [
        (column, what, reason, count, *(split[what].get(column, {}).get(reason, 0) for split in by_split))
        for what in ("changed", "removed")
        for column, reasons in body["cleaning"][what].items()
        for reason, count in reasons.items()
    ]
    return markdown_table(("column", "value was", "reason", "whole table", *names), rows or [("none", *[""] * 3)])
