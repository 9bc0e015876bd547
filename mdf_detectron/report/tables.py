"""The tables of a report, from the dicts of :mod:`~mdf_detectron.evaluation.summary`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mdf_detectron.evaluation.estimates import estimate, number, p_text
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
    """A table of text; ``name`` is its file name without ending."""

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
    """Build all tables of an evaluation.

    Args:
        evaluation: of :func:`~mdf_detectron.evaluation.summary.evaluate_models`.
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
        if summary.get("calibration"):
            tables.append(_calibration(model, summary["calibration"]))
        if summary.get("stored"):
            tables += _stored(model, summary["stored"])
        tables.append(_sweep(model, summary))
        if summary["subgroups"]:
            tables.append(_subgroups(model, summary))
    return tables


def has_intervals(summary: dict[str, Any]) -> bool:
    """Tell whether there are two patients with a ground-truth box, which resampling needs."""
    return summary["dataset"]["patients_with_boxes"] >= 2


def _metrics(model: str, table: str, rows: dict[str, dict], summary: dict) -> Table:
    listed, boxes = summary["metric_list"], summary["dataset"]["boxes"]

    def values(suffix: str, shown: Callable[[dict], bool]) -> list[str]:
        return [estimate(rows[one["name"] + suffix]) if shown(one) else "" for one in listed]

    per_class = [[name, str(n), *values(f"-{name}", lambda one: one["per_class"])] for name, n in boxes.items()]
    return Table(
        name=f"{_slug(model)}_metrics_{table}",
        title=f"{model}: {TABLE_TITLES[table]}",
        header=["class", "ground-truth boxes", *(one["heading"] for one in listed)],
        rows=[*per_class, [ALL, str(sum(boxes.values())), *values("", lambda one: True)]],
        note="× 100, 95 % patient-level bootstrap intervals; 'all' is the mean over the classes with ground-truth "
        "boxes.",
    )


def _comparison(table: str, rows: dict[str, dict], models: list[str]) -> Table:
    return Table(
        name=f"comparison_{table}",
        title=f"{models[1]} minus {models[0]}: {TABLE_TITLES[table]}",
        header=["metric", *models, "difference", "p"],
        rows=[
            [name, number(row["first"]), number(row["second"]), estimate(row), p_text(row)]
            for name, row in rows.items()
        ],
        note="Paired test on the same images and resamples; p is two-sided and not corrected for multiple comparisons.",
    )


def _counts(model: str, summary: dict) -> Table:
    tables = summary["counts"]
    first = next(iter(tables))
    return Table(
        name=f"{_slug(model)}_counts",
        title=f"{model}: TP, FP and FN",
        header=["class", *(f"{c} ({TABLE_TITLES[t]})" for t in tables for c in ("TP", "FP", "FN"))],
        rows=[[name, *(str(tables[t][name][c]) for t in tables for c in ("tp", "fp", "fn"))] for name in tables[first]],
        note=f"Overlap 0.5, score ≥ {summary['protocol']['score_threshold']:g}.",
    )


def _confusion(model: str, summary: dict) -> Table:
    labels, matrix = summary["confusion"]["labels"], summary["confusion"]["matrix"]
    return Table(
        name=f"{_slug(model)}_confusion",
        title=f"{model}: confusion matrix",
        header=["truth \\ predicted", *labels],
        rows=[[label, *map(str, row)] for label, row in zip(labels, matrix, strict=True)],
        note=f"IoBB 0.5, score ≥ {summary['protocol']['score_threshold']:g}; same-class pairs are matched first.",
    )


def _froc(model: str, summary: dict) -> Table:
    froc = summary["froc"]
    return Table(
        name=f"{_slug(model)}_froc",
        title=f"{model}: free-response ROC (FROC), sensitivity at false positives an image",
        header=["class", *(f"{rate:g}" for rate in froc["rates"]), "mean"],
        rows=[
            [name, *(number(one["value"], 2) for one in curve["at"].values()), estimate(curve["mean"], 2)]
            for name, curve in froc["curves"].items()
        ],
        note=f"True positive: {CRITERION_TEXTS[froc['criterion']]}. Healthy images count.",
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
        title=f"{model}: AP and AR by overlap threshold",
        header=["threshold", *(f"{metric}, {TABLE_TITLES[name]}" for name in names for metric in ("AP", "AR"))],
        rows=rows,
        note="× 100, mean over the classes with ground-truth boxes; 95 % patient-level bootstrap intervals.",
    )


def _calibration(model: str, calibration: dict) -> Table:
    rows = []
    for name, one in calibration["classes"].items():
        total = sum(one["counts"])
        means = [
            sum(c * m for c, m in zip(one["counts"], one[key], strict=True) if c) / total if total else None
            for key in ("confidence", "accuracy")
        ]
        rows.append([name, str(total), *(number(m, 3) for m in means), number(one["error"], 3)])
    return Table(
        name=f"{_slug(model)}_calibration",
        title=f"{model}: calibration of the scores",
        header=["class", "detections", "mean score", "share of true positives", "expected calibration error"],
        rows=rows,
        note=f"True positive: {CRITERION_TEXTS[calibration['criterion']]}. Error: mean distance of score and share of "
        "true positives, in ten bins.",
    )


def _stored(model: str, stored: dict) -> list[Table]:
    """What the thresholds and the temperature of the checkpoint do on these images."""
    tables = []
    if stored["operating_point"]:
        rows = [
            [
                name,
                "reports none" if one["threshold"] is None else number(one["threshold"], 3),
                *(
                    number(one[when][key], 2)
                    for key in ("false_positives", "sensitivity")
                    for when in ("chosen", "here")
                ),
                str(one["boxes"]),
            ]
            for name, one in stored["operating_point"]["classes"].items()
        ]
        header = ["class", "threshold", "false positives an image when chosen", "here", "sensitivity when chosen",
                  "here", "ground-truth boxes here"]  # fmt: skip
        note = f"Thresholds of the checkpoint, chosen for {stored['operating_point']['source']}."
        tables.append(
            Table(
                f"{_slug(model)}_operating_point", f"{model}: operating thresholds on these images", header, rows, note
            )
        )
    if stored["calibration"]:
        one = stored["calibration"]
        row = [number(one["temperature"], 2), number(one["error"], 3), number(one["error_after"], 3)]
        header = ["temperature", "expected calibration error of the scores", "after temperature scaling"]
        note = f"Temperature of the checkpoint, fitted on {one['source']}; the errors are on these images."
        tables.append(
            Table(f"{_slug(model)}_temperature", f"{model}: temperature scaling on these images", header, [row], note)
        )
    return tables


CRITERION_TEXTS = {
    "iobb": "IoBB with a ground-truth box of the class ≥ 0.5",
    "iou": "IoU with a ground-truth box of the class ≥ 0.5",
    "center": "center within a ground-truth box of the class",
}


def _subgroups(model: str, summary: dict) -> Table:
    listed = [one for one in summary["metric_list"] if one["in_subgroups"]]
    counts = ("patients", "images", "boxes")
    return Table(
        name=f"{_slug(model)}_subgroups",
        title=f"{model}: subgroup analysis (boxes by IoBB)",
        header=["column", "group", "patients", "images", "ground-truth boxes", *(m["heading"] for m in listed), "note"],
        rows=[
            [
                *(row["column"], row["group"], *(str(row[count]) for count in counts)),
                *(estimate(row["metrics"][one["name"]]) for one in listed),
                row["warning"],
            ]
            for row in summary["subgroups"]
        ],
        note="× 100, each group resampled by its own patients.",
    )


def operating_point_table(operating_point: Mapping[str, Any]) -> Table:
    """Make the table of thresholds, with what they do on the validation data."""
    return Table(
        name="operating_point",
        title="Operating thresholds",
        header=["class", "threshold", "false positives an image", "sensitivity", "ground-truth boxes"],
        rows=[
            [
                name,
                "reports none" if point["threshold"] is None else number(point["threshold"], 3),
                number(point["false_positives"], 2),
                number(point["sensitivity"], 2),
                str(point["boxes"]),
            ]
            for name, point in operating_point["classes"].items()
        ],
        note=f"Chosen for {operating_point['source']}; on other data they will differ.",
    )


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)
