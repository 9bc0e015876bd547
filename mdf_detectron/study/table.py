"""The table and the chart of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdf_detectron.data.prepared_folder import markdown_table
from mdf_detectron.evaluation.seeds import mean_over_seeds
from mdf_detectron.study.runs import ROW_STATES
from mdf_detectron.study.variants import VARIANTS

TASK, METRIC = "bbox_iobb", "AP50"
COLORS = {"full": "#1f6f8b", "half": "#7fb3c4", "none": "#c9c9c9", "shuffled": "#d98a5f"}


def scores_by_variant(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """{variant: {row state: AP50 by IoBB of each seed}}, in the order of the study."""
    out: dict[str, dict[str, list[float]]] = {}
    for name in VARIANTS:
        own = sorted((r for r in runs if r["variant"] == name), key=lambda r: r["seed"])
        if own:
            out[name] = {s: [r["rows"][s][TASK][METRIC] for r in own] for s in ROW_STATES if s in own[0]["rows"]}
    return out


def study_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a variant a row; AP50 by IoBB of each state of the rows, with the spread over seeds."""
    rows = []
    for name, scores in scores_by_variant(runs).items():
        cells = [_cell(scores[state]) if state in scores else "–" for state in ROW_STATES]
        rows.append((VARIANTS[name].title, *cells))
    return markdown_table(("model", "full row", "half of each row", "no row", "rows shuffled"), rows)


def _cell(values: Sequence[float]) -> str:
    m = mean_over_seeds(values)
    return f"{m['mean']:.1f}" if m["runs"] == 1 else f"{m['mean']:.1f} ± {m['std']:.1f}"


def study_chart(runs: Sequence[Mapping[str, Any]], oracle: Mapping[str, float], num_seeds: int) -> Figure:
    """AP50 of every variant as bars by the state of the rows, single seeds as dots, the oracle's ceilings as lines."""
    scores = scores_by_variant(runs)
    figure = Figure(figsize=(9.0, 1.9 + 0.55 * len(scores)), layout="constrained", dpi=110)
    axes = figure.subplots()
    places = np.arange(len(scores))
    for number, state in enumerate(ROW_STATES):
        at = [p + (number - 1.5) * 0.2 for p, s in zip(places, scores.values(), strict=True) if state in s]
        values = [s[state] for s in scores.values() if state in s]
        axes.barh(at, [np.mean(v) for v in values], height=0.18, color=COLORS[state], label=f"row: {state}", zorder=2)
        if num_seeds > 1:
            points = [(v, a) for a, vs in zip(at, values, strict=True) for v in vs]
            axes.plot(*zip(*points, strict=True), "k.", markersize=3, zorder=3)
    for kind, style in (("image", ":"), ("both", "-")):
        title = f"oracle, {'image alone' if kind == 'image' else 'image and row'} ({oracle[kind]:.1f})"
        axes.axvline(oracle[kind], color="black", linestyle=style, linewidth=1, label=title, zorder=1)
    axes.set_yticks(places, [VARIANTS[name].title for name in scores])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"AP50 by IoBB (× 100), synthetic test split, {num_seeds} seed(s)")
    axes.grid(axis="x", color="#eeeeee", zorder=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
