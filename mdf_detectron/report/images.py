"""Draw radiographs with boxes and masks, next to the clinical record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.transforms import Bbox

from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.fileio import write_figure
from mdf_detectron.report import CLASS_COLORS


@dataclass
class Panel:
    """One of several images side by side.

    Attributes:
        boxes: (n, 4) XYXY in pixels of the image.
        classes, scores: of each box; no scores for ground truth.
        polygons: for each box a list of flat [x1, y1, …] polygons; may be empty.
    """

    title: str
    boxes: Sequence[Sequence[float]]
    classes: Sequence[int]
    scores: Sequence[float] | None = None
    polygons: Sequence[Sequence[Sequence[float]]] = field(default_factory=list)


def record_text(schema: ClinicalSchema, record: Mapping[str, Any] | None) -> str:
    """Format a clinical record, one column per line, with units and "missing" for missing values."""
    lines = []
    for column in schema.columns:
        value = (record or {}).get(column.name)
        shown = "missing" if value is None else f"{value:g} {column.unit}" if column.kind == "numeric" else str(value)
        lines.append(f"{column.name:<15} {shown}")
    return "\n".join(lines)


def save_panels(
    path: str | Path, image: np.ndarray, panels: Sequence[Panel], class_names: Sequence[str], record: str
) -> Path:
    """Write a PNG file with the image in each panel, the record at the right and the classes below.

    ``image`` is (H, W) or (H, W, 1 or 3) uint8, ``record`` the text of :func:`record_text`.
    """
    width = 3.4 * len(panels) + 2.8
    ratios = [3.4] * len(panels) + [2.8]
    figure = Figure(figsize=(width, 4.4), dpi=100)
    FigureCanvasAgg(figure)  # needed to measure the labels
    axes = figure.subplots(1, len(panels) + 1, width_ratios=ratios)
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, image, panel)
    axes[-1].axis("off")
    axes[-1].set_title("clinical record", fontsize=11)
    axes[-1].text(0, 0.98, record, family="monospace", fontsize=8, va="top", transform=axes[-1].transAxes)
    shown = sorted({c for panel in panels for c in panel.classes})
    handles = [Rectangle((0, 0), 1, 1, color=CLASS_COLORS[c % len(CLASS_COLORS)], label=class_names[c]) for c in shown]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    for axis in axes[:-1]:
        _separate_labels(axis)
    return write_figure(path, figure)


def _draw(axis, image: np.ndarray, panel: Panel) -> None:
    axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    axis.set_title(panel.title, fontsize=11)
    axis.axis("off")
    for polygons, class_index in zip(panel.polygons, panel.classes, strict=False):
        for polygon in polygons:
            points = np.asarray(polygon).reshape(-1, 2)
            axis.add_patch(Polygon(points, color=CLASS_COLORS[class_index % len(CLASS_COLORS)], alpha=0.18, lw=0))
    scores = panel.scores if panel.scores is not None else [None] * len(panel.boxes)
    drawn = list(zip(panel.boxes, panel.classes, scores, strict=True))
    for (x0, y0, x1, y1), class_index, score in sorted(drawn, key=lambda d: d[2] or 0):  # the highest score on top
        color = CLASS_COLORS[class_index % len(CLASS_COLORS)]
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=color, lw=1.6))
        if score is not None:
            axis.text(x0, y0 - 2, f"{score:.2f}", color="black", fontsize=7, va="bottom",
                      bbox={"facecolor": color, "pad": 0.8, "lw": 0})  # fmt: skip


def _separate_labels(axis) -> None:
    """Move the scores of a panel inside it and apart; call this when the layout is final."""
    placed: list[Bbox] = []
    inside = axis.get_window_extent()
    step = axis.transData.inverted()
    for label in reversed(axis.texts):  # the highest score first: it stays in place
        extent = label.get_window_extent().padded(2)
        down = max(extent.y1 - inside.y1, 0)
        left = min(max(extent.x1 - inside.x1, 0), max(extent.x0 - inside.x0, 0))
        extent = extent.translated(-left, -down)
        for _ in placed:
            below = [other.y0 for other in placed if other.overlaps(extent)]
            if not below:
                break
            extent = extent.translated(0, min(below) - extent.y1 - 1)
        placed.append(extent)
        # Text is anchored at its lower left corner; the extent has 2 pixels of padding.
        label.set_position(step.transform((extent.x0 + 2, extent.y0 + 2)))
