"""Draw the charts of an evaluation, a training log and calibration, without pyplot's global state.

Charts of an evaluation take ``{model name: summary}``, see :mod:`~mdf_detectron.evaluation.summary`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdf_detectron.errors import ResultsError
from mdf_detectron.evaluation.calibration import POOLED
from mdf_detectron.evaluation.estimates import estimate, number
from mdf_detectron.evaluation.metrics import HEADLINE
from mdf_detectron.evaluation.summary import ALL
from mdf_detectron.fileio import read_text
from mdf_detectron.report.panels import (
    COLORS,
    colored,
    draw_matrix,
    draw_points,
    legend_below,
    make_panels,
    metric_panels,
    shift_of,
    style_axes,
    wrap_text,
    write_empty,
)
from mdf_detectron.report.tables import CRITERION_TEXTS, has_intervals

OUTCOMES = {"tp": ("TP", "#3a8f5c"), "fp": ("FP", "#d1495b"), "fn": ("FN", "#b9b9b9")}

WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1}

PLOTTED_LOSSES = ("total_loss", "validation_loss", "val_loss")

Models = dict[str, dict[str, Any]]


def all_charts(models: Models) -> dict[str, Figure]:
    """Draw every chart for which there are data: file name without suffix → figure."""
    charts = {}
    if any(one["charted"] for one in next(iter(models.values()))["metric_list"]):
        charts["metrics"] = metric_intervals(models)
    charts |= {
        "precision_recall": precision_recall(models),
        "froc": froc(models),
        "threshold_sweep": threshold_sweep(models),
        "counts": counts(models),
    }
    for number_, (name, summary) in enumerate(models.items()):
        suffix = "" if len(models) == 1 else f"_{number_ + 1}"
        charts[f"confusion{suffix}"] = confusion(name, summary)
    if all(summary.get("calibration") for summary in models.values()):
        charts["calibration"] = calibration_chart(models)
    if any(summary["subgroups"] for summary in models.values()):
        charts["subgroups"] = subgroup_forest(models)
    return charts


def metric_intervals(models: Models) -> Figure:
    """Draw the charted metrics by IoBB with intervals, per class and overall; one panel per metric."""
    summary = next(iter(models.values()))
    boxes = summary["dataset"]["boxes"]
    labels = [f"{wrap_text(name, 24)} ({count})" for name, count in boxes.items()] + [f"{ALL} ({sum(boxes.values())})"]
    metrics = {}
    for metric in (one for one in summary["metric_list"] if one["charted"]):
        keys = [f"{metric['name']}-{name}" if metric["per_class"] else None for name in boxes] + [metric["name"]]
        metrics[metric["heading"]] = {
            name: [one["metrics"]["bbox_iobb"][key] if key else None for key in keys] for name, one in models.items()
        }
    return metric_panels(labels, metrics, f"by IoBB, {_intervals(summary)}; in brackets: ground-truth boxes")


def precision_recall(models: Models) -> Figure:
    """Draw precision against recall for each class at IoBB 0.5."""
    boxes = next(iter(models.values()))["dataset"]["boxes"]
    figure, panels = make_panels(len(boxes))
    for axes, (class_name, count) in zip(panels, boxes.items(), strict=True):
        for m, color, name, summary in colored(models):
            curve = summary["precision_recall"]["bbox_iobb"][class_name]
            if count and curve["recall"]:
                axes.plot([0, *curve["recall"]], [curve["precision"][0], *curve["precision"]], color=color,
                          label=name, drawstyle="steps-post")  # fmt: skip
            else:
                axes.plot([], [], color=color, label=name)
            one = summary["metrics"]["bbox_iobb"][f"{HEADLINE[1]}-{class_name}"]
            axes.text(0.98, 1.0 - 0.09 * m, f"{HEADLINE[1]} {estimate(one)}", color=color, ha="right", va="top",
                      fontsize=8, transform=axes.transAxes, bbox=WHITE)  # fmt: skip
        if not count:
            write_empty(axes, "no ground-truth boxes")
        # leave room above precision 1 for one line of text per model
        axes.set(xlim=(0, 1.02), ylim=(0, 1.08 + 0.13 * len(models)), xlabel="recall", ylabel="precision")
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_title(f"{wrap_text(class_name, 34)}\n({count} ground-truth boxes)")
    legend_below(figure, panels[0], title=f"IoBB 0.5; {HEADLINE[1]} with {_intervals(next(iter(models.values())))}")
    return figure


def froc(models: Models) -> Figure:
    """Draw the free-response ROC (FROC) of all classes pooled and of each class."""
    first = next(iter(models.values()))
    rates, boxes = first["froc"]["rates"], first["dataset"]["boxes"]
    figure, panels = make_panels(len(boxes) + 1)
    for axes, class_name in zip(panels, [ALL, *boxes], strict=True):
        count = sum(boxes.values()) if class_name == ALL else boxes[class_name]
        for m, color, name, summary in colored(models):
            curve = summary["froc"]["curves"][class_name]
            drawn = count > 0
            x = np.array(curve["false_positives"] if drawn else [], dtype=float)
            y = np.array(curve["sensitivity"] if drawn else [], dtype=float)
            x, y = np.append(np.maximum(x, rates[0] / 4), rates[-1] * 2 if drawn else []), np.append(y, y[-1:])
            axes.plot(x, y, color=color, label=name, drawstyle="steps-post")
            for rate, one in zip(rates, curve["at"].values(), strict=True):
                if one["low"] is not None:
                    at = rate * 2 ** (shift_of(m, len(models)) / 2)
                    axes.plot([at, at], [one["low"], one["high"]], color=color, linewidth=1, alpha=0.6)
        if not count:
            write_empty(axes, "no ground-truth boxes")
        axes.set_xscale("log", base=2)
        axes.set_xticks(rates, [f"{r:g}" if r >= 1 else f"1/{round(1 / r)}" for r in rates])
        axes.minorticks_off()
        axes.set(xlim=(rates[0] / 1.4, rates[-1] * 1.4), ylim=(0, 1.05))
        axes.set(xlabel="false positives an image", ylabel="sensitivity")
        axes.set_title(
            f"{'all, pooled' if class_name == ALL else wrap_text(class_name, 34)}\n({count} ground-truth boxes)"
        )
    images, healthy = first["dataset"]["images"], first["dataset"]["healthy_images"]
    legend_below(
        figure,
        panels[0],
        f"{images} images, {healthy} healthy; true positive: {CRITERION_TEXTS[first['froc']['criterion']]}",
    )
    return figure


def threshold_sweep(models: Models) -> Figure:
    """Draw mean AP and AR against the overlap threshold, by IoBB and by IoU."""
    figure, panels = make_panels(2)
    styles = {"bbox_iobb": ("IoBB", "-"), "bbox": ("IoU", "--")}
    for axes, metric in zip(panels, ("AP", "AR"), strict=True):
        for _, color, name, summary in colored(models):
            for table, (overlap, style) in styles.items():
                curve = {k: np.array(v, dtype=float) for k, v in summary["sweep"][table][metric].items()}
                x, label = summary["sweep"]["thresholds"], f"{name}, {overlap}"
                axes.plot(x, curve["value"], style, color=color, label=label)
                if table == "bbox_iobb":
                    axes.fill_between(x, curve["low"], curve["high"], color=color, alpha=0.15, linewidth=0)
        axes.set(xlim=(0, 1), ylim=(0, 105), xlabel="overlap threshold", ylabel=f"{metric} (× 100)")
    first = next(iter(models.values()))
    boxes = sum(first["dataset"]["boxes"].values())
    legend_below(
        figure, panels[0], title=f"{boxes} ground-truth boxes, mean over classes; bands: {_intervals(first)}, by IoBB"
    )
    return figure


def counts(models: Models) -> Figure:
    """Draw TP, FP and FN of each class (the paper's figure 2b)."""
    first = next(iter(models.values()))
    classes = list(first["dataset"]["boxes"])
    figure, panels = make_panels(len(models), columns=min(2, len(models)), height=0.5 * len(classes) + 1.6)
    shown = [c for s in models.values() for n, c in s["counts"]["bbox_iobb"].items() if n != ALL]
    most = max((max(c[k], c["interval"][k][1] or 0) for c in shown for k in OUTCOMES), default=1)
    for axes, (name, summary) in zip(panels, models.items(), strict=True):
        rows = summary["counts"]["bbox_iobb"]
        for o, (outcome, (label, color)) in enumerate(OUTCOMES.items()):
            values = [rows[c][outcome] for c in classes]
            heights = np.arange(len(classes)) + 0.27 * (o - 1)
            axes.barh(heights, values, 0.25, color=color, label=label)
            for height, value, class_name in zip(heights, values, classes, strict=True):
                low, high = rows[class_name]["interval"][outcome]
                if low is not None:
                    axes.plot([low, high], [height, height], color="#444444", linewidth=0.8)
                axes.text(max(high or 0, value) + 0.02 * most, height, f"{value:g}", va="center", fontsize=7)
        total = rows[ALL]
        axes.set_yticks(np.arange(len(classes)), [wrap_text(c) for c in classes])
        axes.set(xlim=(0, 1.15 * max(most, 1)), xlabel="ground-truth boxes or detections")
        axes.set_title(f"{wrap_text(name, 34)}\nTP {total['tp']:g}, FP {total['fp']:g}, FN {total['fn']:g}")
        axes.invert_yaxis()
    legend_below(
        figure, panels[0], f"IoBB 0.5, score ≥ {first['protocol']['score_threshold']:g}; lines: {_intervals(first)}"
    )
    return figure


def confusion(name: str, summary: dict[str, Any]) -> Figure:
    """Draw the confusion matrix, shaded by the share of the true class (row)."""
    labels, matrix = summary["confusion"]["labels"], np.array(summary["confusion"]["matrix"])
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    texts = matrix.astype(str).astype(object)
    texts[-1, -1] = ""
    figure = draw_matrix(share, labels, labels, texts=texts, colors="Blues", limits=(0, 1), row_height=0.62)
    axes, threshold = figure.axes[0], summary["protocol"]["score_threshold"]
    axes.set(xlabel="predicted", ylabel="truth")
    axes.set_title(f"{wrap_text(name, 34)}\nIoBB 0.5, score ≥ {threshold:g}", fontsize=9)
    return figure


def subgroup_forest(models: Models) -> Figure:
    """Draw the metrics of the subgroup analysis, one panel per metric; hollow points are small groups."""
    first = next(s for s in models.values() if s["subgroups"])
    rows, listed = first["subgroups"], [one for one in first["metric_list"] if one["in_subgroups"]]
    labels = [f"{r['column']}: {r['group']}  ({r['patients']} / {r['boxes']})" for r in rows]
    height = 1.1 + (0.24 + 0.1 * (len(models) - 1)) * len(rows)
    figure, panels = make_panels(len(listed), columns=min(2, len(listed)), height=height)
    starts = [i for i in range(1, len(rows)) if rows[i]["column"] != rows[i - 1]["column"]]
    for p, (axes, metric) in enumerate(zip(panels, listed, strict=True)):
        for m, color, name, summary in colored(models):
            own = summary["subgroups"]
            small = [bool(r["warning"]) for r in own]
            estimates = [r["metrics"][metric["name"]] for r in own]
            draw_points(
                axes, np.arange(len(rows)) + shift_of(m, len(models)), estimates, color, name, small, text=False
            )
            whole = summary["metrics"][HEADLINE[0]][metric["name"]]["value"]
            if whole is not None:
                axes.axvline(whole, color=color, linewidth=0.8, linestyle=":")
        for start in starts:
            axes.axhline(start - 0.5, color="#cccccc", linewidth=0.6)
        axes.set_yticks(np.arange(len(rows)), labels if p % 2 == 0 else [""] * len(rows), fontsize=7)
        axes.set(xlim=(-3, 103), ylim=(len(rows) - 0.4, -0.6), xlabel=f"{metric['heading']} by IoBB (× 100)")
        axes.set_title(metric["heading"])
    legend_below(
        figure,
        panels[0],
        title=f"{_intervals(first)}; in brackets: patients / ground-truth boxes; hollow: small group; "
        "dotted: all images",
    )
    return figure


def calibration_chart(models: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the reliability of the scores of one or two models, all classes together."""
    diagrams = {name: one["calibration"]["classes"][POOLED] for name, one in models.items() if one.get("calibration")}
    return _reliability(diagrams, list(diagrams.values()))


def reliability_diagram(calibration: Mapping[str, Any]) -> Figure:
    """Draw :func:`~mdf_detectron.model_zoo.publishing.calibration` before and after temperature scaling."""
    after = f"after temperature {calibration['temperature']:.2f}"
    return _reliability({"scores": calibration["before"], after: calibration["after"]}, [calibration["before"]])


def _reliability(diagrams: Mapping[str, Mapping[str, Any]], counted: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw a line for each diagram, and below it the detection counts of ``counted``."""
    figure = Figure(figsize=(5.2, 5.6), layout="constrained", dpi=120)
    axes, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="perfect")
    for _, color, name, one in colored(diagrams):
        points = [(c, a) for c, a in zip(one["confidence"], one["accuracy"], strict=True) if c is not None]
        label = f"{name}: ECE {number(one['error'], 3)}"
        axes.plot(*(zip(*points, strict=True) if points else ([], [])), "o-", color=color, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of true positives", title="Reliability of the scores")
    axes.legend(frameon=False, fontsize=8)
    for m, one in enumerate(counted):
        width = (one["edges"][1] - one["edges"][0]) * 0.9 / len(counted)
        starts = [low + m * width for low in one["edges"][:-1]]
        below.bar(starts, one["counts"], width=width, align="edge", color=COLORS[m % len(COLORS)])
    below.set(xlabel="score", ylabel="detections")
    for one in (axes, below):
        style_axes(one)
    return figure


Series = dict[str, tuple[list[float], list[float]]]


def read_series(path: str | Path) -> Series:
    """Read the curves of a training log (JSON lines): name → (iterations, values), without NaN."""
    series: Series = {}
    for n, line in enumerate(read_text(path, ResultsError).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            iteration = float(entry["iteration"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            raise ResultsError(f"{path}: line {n} is not a JSON object with an iteration") from None
        for name, value in entry.items():
            if name != "iteration" and isinstance(value, (int, float)) and value == value:
                iterations, values = series.setdefault(name, ([], []))
                iterations.append(iteration)
                values.append(float(value))
    if not series:
        raise ResultsError(f"{path}: holds no training curve")
    return series


def training_curves(series: Series, metric: str = "bbox_iobb/AP50") -> Figure:
    """Draw the losses and, next to them, the metric on every dataset that was evaluated during training.

    The metric's curves in ``series`` are named ``metric`` or end in ``/`` and ``metric``.
    """
    losses = {n: xy for n, xy in series.items() if n == "total_loss" or n.split("/")[-1] in PLOTTED_LOSSES}
    scores = {n: xy for n, xy in series.items() if n == metric or n.endswith("/" + metric)}
    figure, panels = make_panels(2, height=3.1)
    labels = ("loss", f"{metric} (× 100)")
    for axes, curves, label, what in zip(panels, (losses, scores), labels, ("loss", metric), strict=True):
        for name, (x, y) in curves.items():
            axes.plot(x, y, label=name.removesuffix("/" + metric), marker="o" if len(x) < 30 else None, markersize=3)
        if curves:
            axes.legend(frameon=False, fontsize=7)
        else:
            write_empty(axes, f"no {what} in the log")
        axes.set(xlabel="iteration", ylabel=label)
    return figure


def _intervals(summary: dict[str, Any]) -> str:
    """Describe the intervals of a chart, or why there are none."""
    return "95 % intervals" if has_intervals(summary) else "no intervals (fewer than two patients)"
