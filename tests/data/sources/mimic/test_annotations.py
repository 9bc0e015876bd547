"""Boxes and masks of ellipses, by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.mimic.readings import choose_boxes, to_box

CLASSES = ("Atelectasis", "Consolidation")


def row(corners, clamped=None, label="Consolidation", certainty=4.0):
    x0, y0, x1, y1 = clamped or corners
    xmin, ymin, xmax, ymax = corners
    return SimpleNamespace(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax, x0=x0, y0=y0, x1=x1, y1=y1, label=label,
                           certainty=certainty)  # fmt: skip


def polygon_of(annotation):
    (flat,) = annotation["segmentation"]
    return np.array(flat).reshape(-1, 2)


def area_of(points):
    x, y = points.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_ellipse_inscribed_in_its_corners():
    annotation = to_box(row((100, 200, 300, 260)))
    assert annotation["bbox"] == [100, 200, 200, 60] and annotation["class"] == "Consolidation"
    assert annotation["certainty"] == 4
    points = polygon_of(annotation)
    on_it = ((points[:, 0] - 200) / 100) ** 2 + ((points[:, 1] - 230) / 30) ** 2
    assert np.abs(on_it - 1).max() < 1e-3
    assert area_of(points) == pytest.approx(np.pi * 100 * 30, rel=0.005)
    assert points.min(axis=0).tolist() == [100, 200] and points.max(axis=0).tolist() == [300, 260]


def test_ellipse_keeps_its_shape_and_is_cut_at_the_edge():
    points = polygon_of(to_box(row((-100, 200, 100, 260), (0, 200, 100, 260))))
    assert points[:, 0].min() == 0  # half of the ellipse is left, and its height is at the edge
    assert area_of(points) == pytest.approx(np.pi * 100 * 30 / 2, rel=0.005)


def test_mask_and_box_are_scaled_alike():
    annotation = to_box(row((100, 200, 300, 260)), scale=(0.5, 0.25))
    assert annotation["bbox"] == [50, 50, 100, 15]
    points = polygon_of(annotation)
    assert points.min(axis=0).tolist() == [50, 50] and points.max(axis=0).tolist() == [150, 65]


def test_box_as_mask():
    annotation = to_box(row((10, 20, 30, 60)), mask_shape="box")
    assert annotation["segmentation"] == [[10, 20, 30, 20, 30, 60, 10, 60]]


def test_each_pair_is_kept_or_dropped_for_one_reason():
    readings = pd.DataFrame({"reading_id": ["a"], "width": [100], "height": [50]})
    rows = [
        ("a", 0, "Atelectasis", 3, 10, 10, 20, 20),  # kept
        ("a", 1, "Fracture", 1, 10, 10, 20, 20),  # label first, certainty second
        ("a", 2, "Atelectasis", 2, 10, 10, 10, 20),  # certainty first, area second
        ("a", 3, "Atelectasis", 5, 10, 10, 10, 20),  # no area
        ("a", 4, "Atelectasis", 5, 30, 10, 20, 20),  # corners swapped
        ("a", 5, "Atelectasis", 5, 10, 50, 20, 60),  # below the image
        ("a", 6, "Consolidation", 5, 90, 40, 120, 60),  # clamped
        ("b", 0, "Atelectasis", 5, 10, 10, 20, 20),  # of a reading that is not kept
    ]
    columns = ["reading_id", "ellipse", "label", "certainty", "xmin", "ymin", "xmax", "ymax"]
    flow = Flow()
    chosen, changed = choose_boxes(pd.DataFrame(rows, columns=columns), readings, CLASSES, 3, flow)
    assert chosen["ellipse"].tolist() == [0, 6] and changed == {"boxes clamped to their image": 1}
    assert chosen[["x0", "y0", "x1", "y1"]].values.tolist() == [[10, 10, 20, 20], [90, 40, 100, 50]]
    dropped = {"label not among the classes": 1, "certainty below 3": 1, "without area": 2, "outside the image": 1}
    assert flow.stages == [{"stage": "boxes (ellipse and label)", "in": 7, "kept": 2, "dropped": dropped}]
