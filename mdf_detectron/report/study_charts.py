"""The charts of a study of many trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mdf_detectron.evaluation.estimates import Row, number
from mdf_detectron.report.charts import (
    COLORS,
    WIDTH,
    draw_points,
    legend_below,
    make_panels,
    name_rows,
    shift_of,
    wrap_text,
)

PUBLISHED = {"marker": "D", "linestyle": "none", "color": "#222222", "markerfacecolor": "none", "markersize": 6}


def metrics_by_variant(
    rows: Mapping[str, Mapping[str, Row]], published: Mapping[str, Mapping[str, float]], of: str
) -> Figure:
    """Draw metrics of every variant as points with intervals, one panel a metric, published values as diamonds.

    Args:
        rows: title of a variant → metric → estimate; all variants have the same metrics.
        published: title → metric → value.
        of: what the intervals cover.
    """
    metrics = list(next(iter(rows.values())))
    figure, panels = make_panels(len(metrics), columns=2, height=1.0 + 0.36 * len(rows))
    for p, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
        draw_points(axes, range(len(rows)), [one[metric] for one in rows.values()], COLORS[0], "this study")
        known = [(published[t][metric], i) for i, t in enumerate(rows) if metric in published.get(t, {})]
        if any(published.values()):
            axes.plot(*(zip(*known, strict=True) if known else ([], [])), **PUBLISHED, label="published")
        axes.set(xlim=(-3, 122), xlabel=f"{metric} (× 100)", title=metric)
        axes.set_xticks(np.arange(0, 101, 20))
        name_rows(axes, rows if p % 2 == 0 else [""] * len(rows), 30)
    legend_below(figure, panels[0], title=of)
    return figure


def metrics_by_state(rows: Mapping[str, Mapping[str, Row]], metric: str, of: str) -> Figure:
    """Draw one metric of every variant and state of its records.

    Args:
        rows: title of a variant → state → estimate; a variant that reads no record has one state.
    """
    states = list(dict.fromkeys(state for one in rows.values() for state in one))
    figure, (axes,) = make_panels(1, columns=1, height=1.0 + (0.2 + 0.14 * len(states)) * len(rows))
    for s, state in enumerate(states):
        there = [
            (i + shift_of(s, len(states)) * 1.6, one[state]) for i, one in enumerate(rows.values()) if state in one
        ]
        draw_points(
            axes,
            *zip(*there, strict=True),
            COLORS[s] if s < len(COLORS) else f"C{s + 1}",
            f"record: {state}",
            text=False,
        )
    name_rows(axes, rows, 34)
    axes.set(xlabel=f"{metric} (× 100)")
    legend_below(figure, axes, title=of)
    return figure


def differences_chart(rows: Mapping[str, Row], label: str, of: str, hollow: Sequence[bool] | None = None) -> Figure:
    """Draw differences with intervals around a line at 0; hollow points are of small groups."""
    figure, (axes,) = make_panels(1, columns=1, height=1.0 + 0.3 * len(rows))
    draw_points(axes, range(len(rows)), list(rows.values()), COLORS[0], label, hollow, text=False)
    axes.axvline(0, color="#222222", linewidth=0.8)
    name_rows(axes, rows, 60)
    axes.set(xlabel=label)
    legend_below(figure, axes, title=of)
    return figure


def train_against_test(rows: Mapping[str, tuple[Row, Row]], metric: str, of: str) -> Figure:
    """Draw a metric on images of the train split and on the test split of every variant."""
    figure, (axes,) = make_panels(1, columns=1, height=1.1 + 0.5 * len(rows))
    for part, label in enumerate(("training images", "test images")):
        heights = [i + shift_of(part, 2) for i in range(len(rows))]
        draw_points(axes, heights, [pair[part] for pair in rows.values()], COLORS[1 - part], label)
    name_rows(axes, rows, 34)
    axes.set(xlim=(-3, 112), xlabel=f"{metric} (× 100)")
    legend_below(figure, axes, title=of)
    return figure


def correlation_matrix(columns: Sequence[str], classes: Sequence[str], values: np.ndarray, clear: np.ndarray) -> Figure:
    """Draw correlations as a matrix; those whose interval leaves out 0 are bold.

    Args:
        values: (Q, K) of columns and classes, NaN where undefined.
        clear: (Q, K) bool.
    """
    figure = Figure(
        figsize=(min(WIDTH, 2.6 + 1.0 * len(classes)), 1.9 + 0.34 * len(columns)), layout="constrained", dpi=120
    )
    axes = figure.subplots()
    most = max(0.1, float(np.nanmax(np.abs(values), initial=0.0)))
    image = axes.imshow(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        text = number(None if np.isnan(value) else float(value), 2)
        color = "white" if abs(value) > 0.7 * most else "#222222"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=color,
                  fontweight="bold" if clear[i, j] else "normal")  # fmt: skip
    axes.set_yticks(range(len(columns)), columns, fontsize=8)
    wrapped = [wrap_text(name, 16) for name in classes]
    axes.set_xticks(range(len(classes)), wrapped, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label="Pearson's r")
    return figure
