"""Results of trainings with different seeds: read, summarized, and shown as table and chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdf_detectron.errors import ResultsError
from mdf_detectron.evaluation.metrics import METRICS
from mdf_detectron.evaluation.statistics import difference_over_seeds, flat_metrics, mean_over_seeds
from mdf_detectron.fileio import read_json
from mdf_detectron.report.charts import COLORS, WIDTH
from mdf_detectron.report.tables import TABLE_TITLES, Table


def read_runs(files: Sequence[Path]) -> list[dict[str, float]]:
    """Read "table/metric" → value of each results file.

    Raises:
        ResultsError: a file without metrics, or given twice.
    """
    doubled = [str(f) for i, f in enumerate(files) if f.resolve() in [g.resolve() for g in files[:i]]]
    if doubled:
        raise ResultsError(f"{doubled[0]} is given twice; every seed has a results file of its own")
    runs = []
    for path in files:
        data = read_json(path, ResultsError)
        metrics = flat_metrics(data) if isinstance(data, dict) else {}
        if not metrics:
            raise ResultsError(
                f"{path}: holds no metrics by table; name results.json of a training or metrics.json of "
                "tools/evaluate.py"
            )
        runs.append(metrics)
    return runs


def summarize_seeds(models: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Summarize every metric that is defined in all runs.

    Args:
        models: name → runs, of one or two models.

    Returns:
        ``{"models": {name: {metric: mean_over_seeds, with the "values"}}, "left_out": metrics that only some of the
        runs have, "differences": {metric: difference_over_seeds} (of two models, second minus first)}``.

    Raises:
        ResultsError: no metric is in all runs.
    """
    every = [run for runs in models.values() for run in runs]
    shared = [name for name in every[0] if all(name in run for run in every)]
    if not shared:
        raise ResultsError("no metric is defined in all of the results; are they of the same dataset?")
    out: dict[str, Any] = {
        "models": {
            model: {
                name: {**mean_over_seeds([run[name] for run in runs]), "values": [run[name] for run in runs]}
                for name in shared
            }
            for model, runs in models.items()
        },
        "left_out": sorted({name for run in every for name in run} - set(shared)),
    }
    if len(models) == 2:
        first, second = models.values()
        out["differences"] = {
            name: difference_over_seeds([r[name] for r in first], [r[name] for r in second]) for name in shared
        }
    return out


def seed_table(summary: dict[str, Any]) -> Table:
    """Build the table: mean, standard deviation and interval of each metric and model, and the difference."""
    models, differences = summary["models"], summary.get("differences")
    header = [
        "metric",
        *(f"{name}: mean ± std (95 %)" for name in models),
        *(["difference", "p"] if differences else []),
    ]
    rows = []
    for metric in next(iter(models.values())):
        row = [metric, *(_mean_text(one[metric]) for one in models.values())]
        if differences:
            d = differences[metric]
            row += [_interval_text(d["value"], d["low"], d["high"]), _p_text(d["p_value"])]
        rows.append(row)
    runs = ", ".join(f"{name}: {next(iter(one.values()))['runs']} runs" for name, one in models.items())
    return Table("seeds", "Over seeds", header, rows, f"{runs}; Student's t intervals (difference: Welch's), × 100.")


def seed_chart(summary: dict[str, Any], metrics: Sequence[str] | None = None) -> Figure:
    """Draw the charted metrics of every table: each run as a dot, the mean and its interval as a diamond and a line.

    Args:
        metrics: "table/metric" of those to draw instead; absent ones are left out.
    """
    models = summary["models"]
    charted = metrics or [f"{table}/{metric.name}" for table in TABLE_TITLES for metric in METRICS if metric.charted]
    shown = [name for name in charted if name in next(iter(models.values()))]
    figure = Figure(figsize=(WIDTH, 1.5 + 0.5 * len(shown) * len(models)), layout="constrained", dpi=120)
    axes = figure.subplots()
    for k, (name, one) in enumerate(models.items()):
        runs = next(iter(one.values()))["runs"]
        for i, metric in enumerate(shown):
            height = i + (k - (len(models) - 1) / 2) * 0.36
            s = one[metric]
            axes.plot(s["values"], [height + 0.11] * len(s["values"]), "o", color=COLORS[k], markersize=3, alpha=0.6)
            if np.isfinite(s["low"]):
                axes.plot([s["low"], s["high"]], [height, height], color=COLORS[k], linewidth=1.6)
            label = f"{name} ({runs} seeds)" if i == 0 else None
            axes.plot(s["mean"], height, "D", color=COLORS[k], markersize=5, label=label)
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("× 100; diamond and line: mean and 95 % interval over seeds, dots: single runs")
    axes.set_title("Variation over training seeds")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _mean_text(s: dict[str, float]) -> str:
    if s["runs"] == 1:
        return f"{s['mean']:.1f} (1 run)"
    return f"{s['mean']:.1f} ± {s['std']:.1f} ({s['low']:.1f} to {s['high']:.1f})"


def _interval_text(value: float, low: float, high: float) -> str:
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if np.isfinite(low) else f"{value:+.1f}"


def _p_text(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
