"""Build the tables of a report from the dicts of :mod:`~mdf_detectron.evaluation.summary`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mdf_detectron.evaluation.estimates import Row, Verdict, estimate, number, p_text
from mdf_detectron.evaluation.record_alone import KINDS, RecordAlone
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
    """A table of text; ``name`` is its file name without suffix."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def to_csv(self) -> str:
        return csv_table(self.header, self.rows)

    def to_markdown(self) -> str:
        return markdown_table(self.header, self.rows).rstrip("\n")


CRITERION_TEXTS = {
    "iobb": "IoBB with a ground-truth box of the class ≥ 0.5",
    "iou": "IoU with a ground-truth box of the class ≥ 0.5",
    "center": "center within a ground-truth box of the class",
}


def build_tables(evaluation: dict[str, Any]) -> list[Table]:
    """Build all tables of :func:`~mdf_detectron.evaluation.summary.evaluate_models`."""
    tables = []
    if evaluation.get("comparison"):
        models = list(evaluation["models"])
        note = (
            "Paired test on the same images and resamples; p is two-sided and not corrected for multiple comparisons."
        )
        tables += [
            difference_table(f"comparison_{table}", f"{models[1]} minus {models[0]}: {TABLE_TITLES[table]}", "metric",
                             rows, models, note)
            for table, rows in evaluation["comparison"]["differences"].items()
        ]  # fmt: skip
    for model, summary in evaluation["models"].items():
        parts = [_metrics(table, rows, summary) for table, rows in summary["metrics"].items()]
        parts += [_counts(summary), _confusion(summary), _froc(summary["froc"])]
        if summary.get("calibration"):
            parts.append(_calibration(summary["calibration"]))
        if summary.get("stored"):
            parts += _stored(summary["stored"])
        parts.append(_sweep(summary["sweep"]))
        if summary["subgroups"]:
            parts.append(_subgroups(summary))
        slug = "".join(c if c.isalnum() or c in "-_" else "_" for c in model)
        tables += [replace(one, name=f"{slug}_{one.name}", title=f"{model}: {one.title}") for one in parts]
    return tables


def difference_table(
    name: str,
    title: str,
    heading: str,
    rows: Mapping[str, Row],
    sides: Sequence[str],
    note: str,
    trainings: Sequence[str] = (),
) -> Table:
    """Build a table of differences: verdict, both values, interval, p value and, if known, corrected p value.

    Args:
        heading: of the first column.
        rows: name → estimate.
        sides: names of the first and the second side.
        trainings: text for each row; empty if each side has one training.
    """
    corrected = any(row.get("corrected") is not None for row in rows.values())
    header = [heading, "verdict", *sides, "difference", "p", *(["corrected p"] if corrected else []),
              *(["trainings"] if trainings else [])]  # fmt: skip
    values = []
    for n, (label, row) in enumerate(rows.items()):
        values.append([label, Verdict.of(row).word, number(row["first"]), number(row["second"]), estimate(row),
                       p_text(row), *([number(row["corrected"], 3)] if corrected else []),
                       *trainings[n : n + 1]])  # fmt: skip
    return Table(name, title, header, values, note)


def has_intervals(summary: dict[str, Any]) -> bool:
    """Return whether two patients have a ground-truth box, as resampling requires."""
    return summary["dataset"]["patients_with_boxes"] >= 2


def _metrics(table: str, rows: dict[str, dict], summary: dict) -> Table:
    listed, boxes = summary["metric_list"], summary["dataset"]["boxes"]

    def values(suffix: str, shown: Callable[[dict], bool]) -> list[str]:
        return [estimate(rows[one["name"] + suffix]) if shown(one) else "" for one in listed]

    per_class = [[name, str(n), *values(f"-{name}", lambda one: one["per_class"])] for name, n in boxes.items()]
    return Table(
        name=f"metrics_{table}",
        title=TABLE_TITLES[table],
        header=["class", "ground-truth boxes", *(one["heading"] for one in listed)],
        rows=[*per_class, [ALL, str(sum(boxes.values())), *values("", lambda one: True)]],
        note="× 100, 95 % patient-level bootstrap intervals; 'all' is the mean over the classes with ground-truth "
        "boxes.",
    )


def _counts(summary: dict) -> Table:
    tables = summary["counts"]
    header = ["class", *(f"{c} ({TABLE_TITLES[t]})" for t in tables for c in ("TP", "FP", "FN"))]
    names = next(iter(tables.values()))
    rows = [[name, *(str(tables[t][name][c]) for t in tables for c in ("tp", "fp", "fn"))] for name in names]
    note = f"Overlap 0.5, score ≥ {summary['protocol']['score_threshold']:g}."
    return Table("counts", "TP, FP and FN", header, rows, note)


def _confusion(summary: dict) -> Table:
    labels, matrix = summary["confusion"]["labels"], summary["confusion"]["matrix"]
    rows = [[label, *map(str, row)] for label, row in zip(labels, matrix, strict=True)]
    note = f"IoBB 0.5, score ≥ {summary['protocol']['score_threshold']:g}; same-class pairs are matched first."
    return Table("confusion", "confusion matrix", ["truth \\ predicted", *labels], rows, note)


def _froc(froc: dict) -> Table:
    return Table(
        name="froc",
        title="free-response ROC (FROC), sensitivity at false positives an image",
        header=["class", *(f"{rate:g}" for rate in froc["rates"]), "mean"],
        rows=[
            [name, *(number(one["value"], 2) for one in curve["at"].values()), estimate(curve["mean"], 2)]
            for name, curve in froc["curves"].items()
        ],
        note=f"True positive: {CRITERION_TEXTS[froc['criterion']]}. Healthy images count.",
    )


def _sweep(sweep: dict) -> Table:
    columns = [(name, metric) for name in TABLE_TITLES if name in sweep for metric in ("AP", "AR")]
    rows = []
    for t, threshold in enumerate(sweep["thresholds"]):
        of_column = (sweep[name][metric] for name, metric in columns)
        rows.append([f"{threshold:g}", *(estimate({key: one[key][t] for key in one}) for one in of_column)])
    header = ["threshold", *(f"{metric}, {TABLE_TITLES[name]}" for name, metric in columns)]
    note = "× 100, mean over the classes with ground-truth boxes; 95 % patient-level bootstrap intervals."
    return Table("threshold_sweep", "AP and AR by overlap threshold", header, rows, note)


def _calibration(calibration: dict) -> Table:
    rows = []
    for name, one in calibration["classes"].items():
        total = sum(one["counts"])
        means = [
            sum(c * m for c, m in zip(one["counts"], one[key], strict=True) if c) / total if total else None
            for key in ("confidence", "accuracy")
        ]
        rows.append([name, str(total), *(number(m, 3) for m in means), number(one["error"], 3)])
    return Table(
        name="calibration",
        title="calibration of the scores",
        header=["class", "detections", "mean score", "share of true positives", "expected calibration error"],
        rows=rows,
        note=f"True positive: {CRITERION_TEXTS[calibration['criterion']]}. Error: mean distance of score and share of "
        "true positives, in ten bins.",
    )


def _stored(stored: dict) -> list[Table]:
    """Build the tables of the checkpoint's thresholds and temperature, applied to these images."""
    tables = []
    if stored["operating_point"]:
        columns = [(when, key) for key in ("false_positives", "sensitivity") for when in ("chosen", "here")]
        rows = [
            [name, _threshold(one), *(number(one[when][key], 2) for when, key in columns), str(one["boxes"])]
            for name, one in stored["operating_point"]["classes"].items()
        ]
        header = ["class", "threshold", "false positives an image when chosen", "here", "sensitivity when chosen",
                  "here", "ground-truth boxes here"]  # fmt: skip
        note = f"Thresholds of the checkpoint, chosen for {stored['operating_point']['source']}."
        tables.append(Table("operating_point", "operating thresholds on these images", header, rows, note))
    if stored["calibration"]:
        one = stored["calibration"]
        row = [number(one["temperature"], 2), number(one["error"], 3), number(one["error_after"], 3)]
        header = ["temperature", "expected calibration error of the scores", "after temperature scaling"]
        note = f"Temperature of the checkpoint, fitted on {one['source']}; the errors are on these images."
        tables.append(Table("temperature", "temperature scaling on these images", header, [row], note))
    return tables


def _threshold(point: Mapping[str, Any]) -> str:
    return "reports none" if point["threshold"] is None else number(point["threshold"], 3)


def _subgroups(summary: dict) -> Table:
    listed = [one for one in summary["metric_list"] if one["in_subgroups"]]
    rows = [
        [row["column"], row["group"], *(str(row[count]) for count in ("patients", "images", "boxes")),
         *(estimate(row["metrics"][one["name"]]) for one in listed), row["warning"]]
        for row in summary["subgroups"]
    ]  # fmt: skip
    header = ["column", "group", "patients", "images", "ground-truth boxes", *(m["heading"] for m in listed), "note"]
    note = "× 100, each group resampled by its own patients."
    return Table("subgroups", "subgroup analysis (boxes by IoBB)", header, rows, note)


def operating_point_table(operating_point: Mapping[str, Any]) -> Table:
    """Build the table of thresholds with their results on validation data."""
    rows = [
        [name, _threshold(one), number(one["false_positives"], 2), number(one["sensitivity"], 2), str(one["boxes"])]
        for name, one in operating_point["classes"].items()
    ]
    header = ["class", "threshold", "false positives an image", "sensitivity", "ground-truth boxes"]
    note = f"Chosen for {operating_point['source']}; on other data they will differ."
    return Table("operating_point", "Operating thresholds", header, rows, note)


def record_alone_table(alone: RecordAlone) -> Table:
    """Build the table of what the record alone tells of each class."""
    rows = [
        [name, str(count), *(estimate(alone.rows[kind][name], 2) for kind in KINDS)]
        for name, count in zip(alone.rows["record"], alone.images.tolist(), strict=True)
    ]
    note = (
        "AUC of telling the training images with a class from those without, by cross-validation over patients, with "
        "95 % intervals over patients: by the record (an additive logistic model), boosted trees, and by which values "
        "are missing. 0.5 is chance."
    )
    header = ["class", "images with it", *KINDS.values()]
    return Table("record_alone", "What the record alone tells before any training", header, rows, note)
