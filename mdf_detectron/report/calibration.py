"""The calibration of a model's scores: reliability diagram and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure

from mdf_detectron.evaluation.calibration import POOLED
from mdf_detectron.report.tables import Table, number

COLORS = {"before": "#1f6f8b", "after": "#d1495b"}
MODEL_COLORS = (*COLORS.values(), "#8a6bbf", "#5c8a3a")
"""Of models, in order; a fifth has the first again."""


def calibration_chart(models: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the reliability of the scores of one or two models, all classes together.

    Args:
        models: model name → summary with a "calibration".
    """
    diagrams = {name: one["calibration"]["classes"][POOLED] for name, one in models.items() if one.get("calibration")}
    labels = [f"{name}: ECE {number(one['error'], 3)}" for name, one in diagrams.items()]
    return _diagram(list(zip(labels, diagrams.values(), cycle(MODEL_COLORS), strict=False)), list(diagrams.values()))


def reliability_diagram(calibration: Mapping[str, Any]) -> Figure:
    """Draw accuracy against confidence, before and after temperature scaling, and the number of detections.

    Args:
        calibration: of :func:`~mdf_detectron.model_zoo.publishing.calibration`.
    """
    names = {"before": "scores", "after": f"after temperature {calibration['temperature']:.2f}"}
    lines = [
        (f"{name}: ECE {calibration[key]['error']:.3f}", calibration[key], COLORS[key]) for key, name in names.items()
    ]
    return _diagram(lines, [calibration["before"]])


def _diagram(lines: Sequence[tuple[str, Mapping[str, Any], str]], counted: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one line a diagram (label, diagram, color), and below the number of detections of ``counted``."""
    figure = Figure(figsize=(5.2, 5.6), layout="constrained", dpi=120)
    axes, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="perfect")
    for label, one, color in lines:
        points = [(c, a) for c, a in zip(one["confidence"], one["accuracy"], strict=True) if c is not None]
        axes.plot(*(zip(*points, strict=True) if points else ([], [])), "o-", color=color, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of true positives", title="Reliability of the scores")
    axes.legend(frameon=False, fontsize=8)
    for number_, one in enumerate(counted):
        width = (one["edges"][1] - one["edges"][0]) * 0.9 / len(counted)
        starts = [low + number_ * width for low in one["edges"][:-1]]
        below.bar(starts, one["counts"], width=width, align="edge", color=MODEL_COLORS[number_ % len(MODEL_COLORS)])
    below.set(xlabel="score", ylabel="detections")
    for one in (axes, below):
        one.grid(color="#eeeeee")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure


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
