"""The calibration of a model's scores: reliability diagram and table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from mdf_detectron.report.tables import Table, number

COLORS = {"before": "#1f6f8b", "after": "#d1495b"}


def reliability_diagram(calibration: Mapping[str, Any]) -> Figure:
    """Draw accuracy against confidence, before and after temperature scaling, and the number of detections.

    Args:
        calibration: of :func:`~mdf_detectron.engine.publishing.calibration`.
    """
    figure = Figure(figsize=(5.2, 5.6), layout="constrained", dpi=120)
    axes, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="perfect")
    names = {"before": "scores", "after": f"after temperature {calibration['temperature']:.2f}"}
    for key, name in names.items():
        one = calibration[key]
        points = [(c, a) for c, a in zip(one["confidence"], one["accuracy"], strict=True) if c is not None]
        axes.plot(*zip(*points, strict=True), "o-", color=COLORS[key], label=f"{name}: ECE {one['error']:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of true positives", title="Reliability of the scores")
    axes.legend(frameon=False, fontsize=8)
    before = calibration["before"]
    centers = [(low + high) / 2 for low, high in zip(before["edges"], before["edges"][1:], strict=False)]
    below.bar(centers, before["counts"], width=0.9 / len(centers), color=COLORS["before"])
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
