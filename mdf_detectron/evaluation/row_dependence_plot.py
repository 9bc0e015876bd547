"""The chart of the row's worth: what the score loses with each change to the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mdf_detectron.evaluation.row_dependence import RowDependence

WIDTH = 8.0


def row_dependence_chart(unchanged: float, changes: Sequence[RowDependence], metric: str) -> Figure:
    """Mean loss of each change as a bar, the single repeats as dots."""
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
    axes.set_xlabel(f"loss of {metric} (× 100) when these values belong to another patient, or are removed")
    axes.set_title(f"What the clinical row is worth ({metric} {unchanged:.1f} with the rows as they are)", fontsize=10)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return figure
