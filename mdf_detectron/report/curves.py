"""Charts of a training run: losses and generalization gap, the paper's figure 6a."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from mdf_detectron.errors import ResultsError
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
