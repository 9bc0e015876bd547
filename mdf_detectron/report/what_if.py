"""Tables and charts of what-if studies: findings before and after, scores over a column's values, contributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdf_detectron.fileio import markdown_table
from mdf_detectron.report.charts import style_axes

COLORS = ("#1f6f8b", "#d1495b", "#8a6bbf", "#5c8a3a", "#b8860b", "#555555")


def change_table(matched: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate the findings before and after a change of the record.

    Args:
        matched: JSON forms of :class:`~mdf_detectron.inference.what_if.MatchedFinding`.
    """

    def shown(one: Mapping[str, Any], when: str) -> str:
        score = one[f"score_{when}"]
        return "–" if score is None else f"{score:.3f}{' *' if one[f'above_threshold_{when}'] else ''}"

    rows = [(one["class"], *(shown(one, when) for when in ("before", "after"))) for one in matched]
    return markdown_table(("finding (* above its threshold)", "before", "after"), rows)


def sweep_chart(
    column: str, unit: str, values: Sequence[Any], scores: np.ndarray, names: Sequence[str], own: Any, note: str
) -> Figure:
    """Draw the score of each finding over the values of one column.

    Args:
        scores: (values, findings).
        own: the study's own value, or None.
        note: below the chart.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    numeric = all(isinstance(value, (int, float)) for value in values)
    places = list(values) if numeric else list(range(len(values)))
    for f, name in enumerate(names):
        axes.plot(places, scores[:, f], "o-", color=COLORS[f % len(COLORS)], label=name)
    if not numeric:
        axes.set_xticks(places, values)
    if own is not None:
        at = own if numeric else list(values).index(own) if own in values else None
        if at is not None:
            axes.axvline(at, color="#999999", linestyle="--", linewidth=1, label=f"own value: {own}")
    axes.set(ylim=(0, 1), ylabel="score", xlabel=f"{column} ({unit})" if unit else column)
    axes.legend(frameon=False, fontsize=8)
    return _finish(figure, [axes], note)


def contribution_chart(
    columns: Sequence[str], values: np.ndarray, labels: Sequence[str], names: Sequence[str], note: str
) -> Figure:
    """Draw the contribution of every column to the score of each finding, one panel a finding.

    Args:
        values: (findings, columns).
        labels: of the columns, with the study's values.
    """
    count = len(names)
    figure = Figure(figsize=(3.2 + 3.0 * count, 1.3 + 0.32 * len(columns)), layout="constrained", dpi=120)
    panels = np.atleast_1d(figure.subplots(1, count, sharey=True))
    limit = max(float(np.abs(values).max(initial=0.0)), 0.05) * 1.1
    for f, axes in enumerate(panels):
        colors = [COLORS[1] if v < 0 else COLORS[0] for v in values[f]]
        axes.barh(range(len(columns)), values[f], color=colors)
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.set(xlim=(-limit, limit), xlabel="contribution to the score")
        axes.set_title(names[f], fontsize=9)
        axes.set_yticks(range(len(columns)), labels, fontsize=8)
    panels[0].invert_yaxis()  # shared: the first column on top
    return _finish(figure, panels, note)


def _finish(figure: Figure, panels: Sequence[Any], note: str) -> Figure:
    for axes in panels:
        style_axes(axes)
    figure.supxlabel(note, fontsize=7, color="#555555", wrap=True)
    return figure
