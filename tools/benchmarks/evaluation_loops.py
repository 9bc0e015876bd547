"""AP and AR in plain Python loops, as the definition reads: what the evaluation's speed is measured against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

RECALL_POINTS = [0.01 * step for step in range(101)]
"""As floats these are COCO's, of which some lie a rounding error above the recall that they mean."""


def loop_ap_ar(
    annotations: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    thresholds: Sequence[float],
    max_dets: int = 10,
) -> list[list[tuple[float, float]]]:
    """Compute (AP, AR) by IoBB for each threshold and class (NaN for a class without ground truth); no crowds."""
    gt_boxes, detections = defaultdict(list), defaultdict(list)
    for a in annotations["annotations"]:
        gt_boxes[a["image_id"], a["category_id"]].append(a["bbox"])
    for p in predictions:
        detections[p["image_id"], p["category_id"]].append(p)
    out = []
    for threshold in thresholds:
        row = []
        for category in annotations["categories"]:
            outcomes, total = [], 0
            for image in sorted(annotations["images"], key=lambda i: i["id"]):
                boxes = gt_boxes[image["id"], category["id"]]
                total += len(boxes)
                outcomes += _match(detections[image["id"], category["id"]], boxes, threshold, max_dets)
            row.append(_ap_ar(outcomes, total))
        out.append(row)
    return out


def _match(found: list, boxes: list, threshold: float, max_dets: int) -> list[tuple[float, bool]]:
    used: set[int] = set()
    outcomes = []
    for p in sorted(found, key=lambda p: -p["score"])[:max_dets]:
        best, best_at = min(threshold, 1 - 1e-10), None
        for i, box in enumerate(boxes):
            value = _iobb(p["bbox"], box)
            if i not in used and value >= best:
                best, best_at = value, i
        if best_at is not None:
            used.add(best_at)
        outcomes.append((p["score"], best_at is not None))
    return outcomes


def _iobb(d, g) -> float:
    width = min(d[0] + d[2], g[0] + g[2]) - max(d[0], g[0])
    height = min(d[1] + d[3], g[1] + g[3]) - max(d[1], g[1])
    return width * height / (d[2] * d[3]) if width > 0 and height > 0 else 0.0


def _ap_ar(outcomes: list[tuple[float, bool]], total: int) -> tuple[float, float]:
    if total == 0:
        return float("nan"), float("nan")
    recalls, precisions, right = [], [], 0
    for n, (_, hit) in enumerate(sorted(outcomes, key=lambda o: -o[0]), start=1):
        right += hit
        recalls.append(right / total)
        precisions.append(right / n)
    for i in range(len(precisions) - 2, -1, -1):
        precisions[i] = max(precisions[i], precisions[i + 1])
    area, at = 0.0, 0
    for point in RECALL_POINTS:
        while at < len(recalls) and recalls[at] < point:
            at += 1
        area += precisions[at] if at < len(recalls) else 0.0
    return area / len(RECALL_POINTS), right / total
