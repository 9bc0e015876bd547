"""Charts of a training run (losses and generalization gap, the paper's figure 6a) and of record dependence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mdf_detectron.errors import ResultsError
from mdf_detectron.evaluation.record_dependence import RecordDependence
from mdf_detectron.report.charts import WIDTH

Series = dict[str, tuple[list[float], list[float]]]


def read_series(path: str | Path) -> Series:
    """Read the curves of a training log, one JSON object a line.

    Returns:
        name → (iterations, values), of all finite numbers.

    Raises:
        ResultsError: unreadable, a line that is no JSON object, or nothing in it.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as cause:
        raise ResultsError(f"{path}: cannot be read ({cause.strerror})") from None
    series: Series = {}
    for n, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            iteration = float(entry["iteration"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            raise ResultsError(f"{path}: line {n} is no JSON object with an iteration") from None
        for name, value in entry.items():
            if name != "iteration" and isinstance(value, (int, float)) and value == value:
                iterations, values = series.setdefault(name, ([], []))
                iterations.append(iteration)
                values.append(float(value))
    if not series:
        raise ResultsError(f"{path}: holds no training curve")
    return series


def training_curves(series: Series, metric: str = "bbox_iobb/AP50") -> Figure:
    """Draw losses on the left, and on the right the metric on every dataset that training evaluated on.

    Args:
        series: of :func:`read_series`; the metric's curves are those whose name is ``metric`` or ends with it.
    """
    losses = {n: xy for n, xy in series.items() if n == "total_loss" or n.split("/")[-1] in LOSSES}
    scores = {n: xy for n, xy in series.items() if n == metric or n.endswith("/" + metric)}
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained", dpi=120)
    for axes, curves, label, nothing in zip(
        figure.subplots(1, 2), (losses, scores), ("loss", f"{metric} (× 100)"), ("no loss", f"no {metric}"), strict=True
    ):
        for name, (x, y) in curves.items():
            axes.plot(x, y, label=name.removesuffix("/" + metric), marker="o" if len(x) < 30 else None, markersize=3)
        if curves:
            axes.legend(frameon=False, fontsize=7)
        else:
            axes.text(0.5, 0.5, f"{nothing} in the log", ha="center", transform=axes.transAxes, color="#888888")
        axes.grid(color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel="iteration", ylabel=label)
    return figure


LOSSES = ("total_loss", "validation_loss", "val_loss")


def record_dependence_chart(unchanged: float, changes: Sequence[RecordDependence], metric: str) -> Figure:
    """Draw the mean loss of each change as a bar, the single repeats as dots."""
    figure = Figure(figsize=(WIDTH, 1.4 + 0.32 * len(changes)), layout="constrained", dpi=120)
    axes = figure.subplots()
    places = np.arange(len(changes))
    axes.barh(places, [c.mean_loss for c in changes], color="#1f6f8b", height=0.6, label="mean")
    for place, change in zip(places, changes, strict=True):
        axes.plot(change.losses, [place] * len(change.losses), "o", color="black", markersize=3,
                  label="one permutation" if place == 0 else None)  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [f"{c.change}" for c in changes])
    axes.invert_yaxis()
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"loss of {metric} (× 100) with values of another patient, or removed")
    axes.set_title(f"Record dependence ({metric} {unchanged:.1f} with unchanged records)", fontsize=10)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return figure
