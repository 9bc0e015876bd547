"""Fig. 5b of the paper, as a table and a picture, and the chart of class counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd

from mdf_detectron.data.mimic_schema import mimic_clinical_schema


def correlations(readings: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Pearson's r of each clinical column (gender as M = 1) with each class's certainty (0 where absent), pairwise.

    The paper's Fig. 5b.  NaN where a column or a certainty does not vary.
    """
    table = pd.DataFrame({c.name: readings[c.name].astype("float64") for c in mimic_clinical_schema().numeric})
    table["gender (M)"] = readings["gender"].map({"F": 0.0, "M": 1.0}).astype("float64")
    columns = list(table)
    for name in classes:
        key = f"certainty: {name}"
        table[name] = readings[key].fillna(0.0) if key in readings else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return table.corr(min_periods=3).loc[columns, list(classes)]


def draw_correlations(table: pd.DataFrame, readings: int, path: Path) -> None:
    """``table`` of :func:`correlations` as a picture."""
    figure = matplotlib.figure.Figure(figsize=(1.5 + 1.15 * len(table.columns), 1.8 + 0.42 * len(table)), dpi=110)
    axes = figure.subplots()
    limit = max(0.1, float(np.nanmax(np.abs(table.to_numpy()), initial=0.0)))
    picture = axes.imshow(table.to_numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(table.columns)), table.columns, rotation=30, ha="right")
    axes.set_yticks(range(len(table)), table.index)
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        color = "white" if abs(value) > 0.65 * limit else "black"
        axes.text(
            column, row, "–" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", color=color, size=8
        )
    axes.set_title(f"Clinical column and certainty of a finding\nPearson's r, {readings} readings", size=10)
    figure.colorbar(picture, ax=axes, label="r")
    figure.savefig(path, bbox_inches="tight")


def draw_class_counts(splits: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Boxes of each class and split; ``splits`` is the report's summary of them."""
    names = list(next(iter(splits.values()))["boxes"])
    figure = matplotlib.figure.Figure(figsize=(2 + 1.2 * len(names), 3.6), dpi=110)
    axes = figure.subplots()
    width = 0.8 / len(splits)
    for k, (split, summary) in enumerate(splits.items()):
        x = np.arange(len(names)) + (k - (len(splits) - 1) / 2) * width
        label = f"{split} ({summary['images']} records, {summary['patients']} patients)"
        bars = axes.bar(x, list(summary["boxes"].values()), width, label=label)
        axes.bar_label(bars, size=7)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_ylabel("boxes")
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=len(splits))
    figure.savefig(path, bbox_inches="tight")
