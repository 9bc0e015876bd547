"""The tables of a report, from the dicts of :mod:`~mdf_detectron.evaluation.summary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mdf_detectron.evaluation.summary import ALL
from mdf_detectron.fileio import csv_table, markdown_table

TABLE_TITLES = {
    "bbox_iobb": "boxes by IoBB",
    "bbox": "boxes by IoU",
    "segm_iobb": "masks by IoBB",
    "segm": "masks by IoU",
}


@dataclass(frozen=True)
class Table:
    """A table of text cells; ``name`` is its file name without ending."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def to_csv(self) -> str:
        return csv_table(self.header, self.rows)

    def to_markdown(self) -> str:
        return markdown_table(self.header, self.rows).rstrip("\n")


def build_tables(evaluation: dict[str, Any]) -> list[Table]:
    """All tables.

    Args:
        evaluation: ``{"models": {name: summary}, "comparison": {...} (optional)}``.
    """
    tables = []
    if evaluation.get("comparison"):
        tables += [
            _comparison(table, rows, list(evaluation["models"]))
            for table, rows in evaluation["comparison"]["differences"].items()
        ]
    for model, summary in evaluation["models"].items():
        tables += [_metrics(model, table, rows, summary) for table, rows in summary["metrics"].items()]
        tables += [_counts(model, summary), _confusion(model, summary), _froc(model, summary)]
        tables.append(_sweep(model, summary))
        if summary["subgroups"]:
            tables.append(_subgroups(model, summary))
    return tables


def number(value: float | None, digits: int = 1) -> str:
    """A number for people; a dash where it is not defined."""
    return "–" if value is None else f"{value:.{digits}f}"


def estimate(one: dict[str, float | None], digits: int = 1) -> str:
    """Value and interval."""
    if one["value"] is None:
        return "–"
    if one["low"] is None:
        return f"{number(one['value'], digits)} (no interval)"
    return f"{number(one['value'], digits)} ({number(one['low'], digits)} to {number(one['high'], digits)})"


def p_text(value: float | None, least: float | None) -> str:
    """A bootstrap p value; it cannot be smaller than the number of resamples lets it."""
    if value is None or least is None:
        return "–"
    return f"≤ {least:.2g}" if value <= least * 1.0001 else f"{value:.2g}"


def _metrics(model: str, table: str, rows: dict[str, dict], summary: dict) -> Table:
    per_class = [
        [name, str(count), *(estimate(rows[f"{m}-{name}"]) for m in ("AP50", "AR50", "AP", "AR"))]
        for name, count in summary["dataset"]["regions"].items()
    ]
    total = str(sum(summary["dataset"]["regions"].values()))
    return Table(
        name=f"{_slug(model)}_metrics_{table}",
        title=f"{model}: {TABLE_TITLES[table]}",
        header=["class", "regions", "AP50", "AR50", "AP 50:95", "AR 50:95"],
        rows=[*per_class, [ALL, total, *(estimate(rows[m]) for m in ("AP50", "AR50", "AP", "AR"))]],
        note="× 100, 95 % patient-level bootstrap intervals; 'all' is the mean over the classes that have regions.",
    )


def _comparison(table: str, rows: dict[str, dict], models: list[str]) -> Table:
    return Table(
        name=f"comparison_{table}",
        title=f"{models[1]} minus {models[0]}: {TABLE_TITLES[table]}",
        header=["metric", *models, "difference", "p"],
        rows=[
            [name, number(row["first"]), number(row["second"]), estimate(row), p_text(row["p_value"], row["least_p"])]
            for name, row in rows.items()
        ],
        note="Same images, same resamples for both; p is two-sided and not corrected for the number of rows.",
    )


def _counts(model: str, summary: dict) -> Table:
    tables = summary["counts"]
    first = next(iter(tables))
    return Table(
        name=f"{_slug(model)}_counts",
        title=f"{model}: found, made up, missed",
        header=["class", *(f"{c} ({TABLE_TITLES[t]})" for t in tables for c in ("TP", "FP", "FN"))],
        rows=[[name, *(str(tables[t][name][c]) for t in tables for c in ("tp", "fp", "fn"))] for name in tables[first]],
        note=f"Overlap 0.5, score ≥ {summary['protocol']['score_threshold']:g}.",
    )


def _confusion(model: str, summary: dict) -> Table:
    labels, matrix = summary["confusion"]["labels"], summary["confusion"]["matrix"]
    return Table(
        name=f"{_slug(model)}_confusion",
        title=f"{model}: which class was taken for which",
        header=["truth \\ prediction", *labels],
        rows=[[label, *map(str, row)] for label, row in zip(labels, matrix, strict=True)],
        note=f"IoBB 0.5, score ≥ {summary['protocol']['score_threshold']:g}; same-class pairs are matched first.",
    )


def _froc(model: str, summary: dict) -> Table:
    froc = summary["froc"]
    return Table(
        name=f"{_slug(model)}_froc",
        title=f"{model}: sensitivity at false positives an image",
        header=["class", *(f"{rate:g}" for rate in froc["rates"]), "mean"],
        rows=[
            [name, *(number(one["value"], 2) for one in curve["at"].values()), estimate(curve["mean"], 2)]
            for name, curve in froc["curves"].items()
        ],
        note=f"A hit: {HIT_TEXTS[froc['criterion']]}. Healthy images count.",
    )


def _sweep(model: str, summary: dict) -> Table:
    sweep = summary["sweep"]
    names = [name for name in TABLE_TITLES if name in sweep]
    rows = []
    for t, threshold in enumerate(sweep["thresholds"]):
        cells = [
            estimate({key: sweep[name][metric][key][t] for key in ("value", "low", "high")})
            for name in names
            for metric in ("AP", "AR")
        ]
        rows.append([f"{threshold:g}", *cells])
    return Table(
        name=f"{_slug(model)}_threshold_sweep",
        title=f"{model}: by overlap threshold",
        header=["threshold", *(f"{metric}, {TABLE_TITLES[name]}" for name in names for metric in ("AP", "AR"))],
        rows=rows,
        note="× 100, mean over the classes that have regions; 95 % patient-level bootstrap intervals.",
    )


HIT_TEXTS = {
    "iobb": "IoBB with a lesion of the class ≥ 0.5",
    "iou": "IoU with a lesion of the class ≥ 0.5",
    "center": "center within a lesion's box of the class",
}


def _subgroups(model: str, summary: dict) -> Table:
    return Table(
        name=f"{_slug(model)}_subgroups",
        title=f"{model}: for whom (boxes by IoBB)",
        header=["column", "group", "patients", "images", "regions", "AP50", "AR50", "caution"],
        rows=[
            [r["column"], r["group"], *(str(r[c]) for c in ("patients", "images", "regions")),
             estimate(r["AP50"]), estimate(r["AR50"]), r["warning"]]
            for r in summary["subgroups"]
        ],
        note="× 100, each group resampled by its own patients.",
    )  # fmt: skip


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)
