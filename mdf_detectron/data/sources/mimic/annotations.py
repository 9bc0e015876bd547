"""Readers' ellipses → boxes and masks: one box per (ellipse, label), clamped to its image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.mimic.readings import CORNERS

MASK_SHAPES = ("ellipse", "box")
OFF_IMAGE, NO_AREA = "outside the image", "without area"
POLYGON_POINTS = 48


def choose_boxes(
    ellipses: pd.DataFrame, readings: pd.DataFrame, classes: Sequence[str], min_certainty: int, flow: Flow
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The (ellipse, label) pairs that become boxes, clamped to their image.

    Args:
        ellipses, readings: of :mod:`~mdf_detectron.data.sources.mimic.readings`; only pairs of ``readings`` count.
        classes: labels to keep; the others are counted as dropped.
        min_certainty: least certainty, 1–5.
        flow: gets the stage "boxes (ellipse and label)".

    Returns:
        The chosen rows with ``x0, y0, x1, y1`` (clamped pixels) besides what came in, and counts of what was
        changed without being dropped (clamped boxes).
    """
    size = readings.set_index("reading_id")[["width", "height"]]
    pairs = ellipses[ellipses["reading_id"].isin(size.index)]
    pairs = pairs.assign(**{side: pairs["reading_id"].map(size[side]) for side in size})
    x0, x1 = pairs["xmin"].clip(0, pairs["width"]), pairs["xmax"].clip(0, pairs["width"])
    y0, y1 = pairs["ymin"].clip(0, pairs["height"]), pairs["ymax"].clip(0, pairs["height"])
    no_area = (pairs["xmax"] - pairs["xmin"] < 1) | (pairs["ymax"] - pairs["ymin"] < 1)
    reason = np.select(
        [~pairs["label"].isin(classes), pairs["certainty"] < min_certainty, no_area, (x1 - x0 < 1) | (y1 - y0 < 1)],
        ["label not among the classes", f"certainty below {min_certainty}", NO_AREA, OFF_IMAGE],
        "",
    )
    kept = reason == ""
    chosen = pairs.assign(x0=x0, y0=y0, x1=x1, y1=y1)[kept]
    flow.add("boxes (ellipse and label)", len(pairs), len(chosen), Counter(reason[~kept].tolist()))
    given = chosen[list(CORNERS)].to_numpy()
    clamped = int((given != chosen[["x0", "y0", "x1", "y1"]].to_numpy()).any(axis=1).sum())
    return chosen, {"boxes clamped to their image": clamped}


def to_annotation(
    box, classes: Sequence[str], mask_shape: str = "ellipse", scale: tuple[float, float] = (1, 1)
) -> dict[str, Any]:
    """A COCO annotation of one row of :func:`choose_boxes`.

    Args:
        box: row with ``label``, ``certainty``, the corners as written and clamped.
        mask_shape: "ellipse" (inscribed in the corners as written, cut at the image's edge) or "box".
        scale: of x and y, from the image's pixels to the prepared image's.
    """
    x0, y0, x1, y1 = box.x0 * scale[0], box.y0 * scale[1], box.x1 * scale[0], box.y1 * scale[1]
    if mask_shape == "ellipse":
        angles = np.linspace(0, 2 * np.pi, POLYGON_POINTS, endpoint=False)
        xs = (box.xmin + box.xmax) / 2 + (box.xmax - box.xmin) / 2 * np.cos(angles)
        ys = (box.ymin + box.ymax) / 2 + (box.ymax - box.ymin) / 2 * np.sin(angles)
        points = np.stack([np.clip(xs * scale[0], x0, x1), np.clip(ys * scale[1], y0, y1)], axis=1)
    elif mask_shape == "box":
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    else:
        raise ValueError(f"mask shape '{mask_shape}' is not one of {MASK_SHAPES}")
    return {
        "bbox": [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)],
        "category_id": list(classes).index(box.label) + 1,
        "segmentation": [points.round(2).ravel().tolist()],
        "certainty": int(box.certainty),
    }
