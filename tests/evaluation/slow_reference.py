"""Independent references: plain Python loops, written from the definitions, sharing no code with the package."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pycocotools.mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def slow_overlap(d, g, kind):
    """Overlap of two XYWH boxes."""
    width = min(d[0] + d[2], g[0] + g[2]) - max(d[0], g[0])
    height = min(d[1] + d[3], g[1] + g[3]) - max(d[1], g[1])
    if width <= 0 or height <= 0:
        return 0.0
    inside = width * height
    if kind == "iobb":
        return inside / (d[2] * d[3])
    return inside / (d[2] * d[3] + g[2] * g[3] - inside)


def slow_matches(annotations, predictions, class_id, kind, threshold, max_dets):
    """Outcome of every detection of a class: [(score, "right" | "wrong" | "ignored")], and the number to be found."""
    outcomes, to_find = [], 0
    for image in sorted(annotations["images"], key=lambda i: i["id"]):
        gt_boxes = [
            a for a in annotations["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], class_id)
        ]
        found = [p for p in predictions if (p["image_id"], p["category_id"]) == (image["id"], class_id)]
        found = sorted(found, key=lambda p: -p["score"])[:max_dets]
        used = set()
        to_find += sum(not r.get("iscrowd") for r in gt_boxes)
        for p in found:
            best, best_at = -1.0, None
            for i, r in enumerate(gt_boxes):
                value = slow_overlap(p["bbox"], r["bbox"], kind)
                if not r.get("iscrowd") and i not in used and value >= threshold and value >= best:
                    best, best_at = value, i
            on_crowd = any(
                r.get("iscrowd") and slow_overlap(p["bbox"], r["bbox"], "iobb") >= threshold for r in gt_boxes
            )
            if best_at is not None:
                used.add(best_at)
            outcomes.append((p["score"], "right" if best_at is not None else "ignored" if on_crowd else "wrong"))
    return outcomes, to_find


def slow_ap_ar(outcomes, to_find):
    """101-point AP and recall, from the definition: at each recall, the best precision at that recall or a higher."""
    if to_find == 0:
        return float("nan"), float("nan")
    points, right, wrong = [], 0, 0
    for _, outcome in sorted(outcomes, key=lambda o: -o[0]):
        right += outcome == "right"
        wrong += outcome == "wrong"
        if outcome != "ignored":
            points.append((right / to_find, right / (right + wrong)))
    total = 0.0
    for step in np.linspace(0, 1, 101):
        total += max((precision for recall, precision in points if recall >= step), default=0.0)
    return total / 101, right / to_find


class IoBBCOCOeval(COCOeval):
    """pycocotools' own evaluation with the overlap exchanged."""

    def computeIoU(self, imgId, catId):  # noqa: N802, N803
        gt, dt = self._gts[imgId, catId], self._dts[imgId, catId]
        if not gt and not dt:
            return []
        dt = [dt[i] for i in np.argsort([-d["score"] for d in dt], kind="mergesort")][: self.params.maxDets[-1]]
        part = "segmentation" if self.params.iouType == "segm" else "bbox"
        return mask_utils.iou([d[part] for d in dt], [g[part] for g in gt], [1] * len(gt))


def pycocotools_ap_ar(annotations, predictions, kind, thresholds, max_dets, iou_type="bbox", area=(0, 1e10)):
    """(T, K) AP and AR by pycocotools; NaN where it says -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**annotations, "annotations": [dict(a) for a in annotations["annotations"]], "info": {}}
        coco.createIndex()
        results = coco.loadRes([dict(p) for p in predictions])
        evaluation = (COCOeval if kind == "iou" else IoBBCOCOeval)(coco, results, iou_type)
        evaluation.params.maxDets = [max_dets]
        evaluation.params.iouThrs = np.asarray(thresholds)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(area)], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    recall = evaluation.eval["recall"][:, :, 0, 0]
    return np.where(precision.min(axis=1) < 0, np.nan, precision.mean(axis=1)), np.where(recall < 0, np.nan, recall)


def slow_unmatched(annotations, predictions, kind, threshold):
    """Same-class matching of predictions with everything that stays alone: (pairs, predictions, ground-truth boxes)."""
    pairs, lonely, missed = [], [], []
    for image in annotations["images"]:
        for category in annotations["categories"]:
            here = (image["id"], category["id"])
            gt_boxes = [a for a in annotations["annotations"] if (a["image_id"], a["category_id"]) == here]
            found = [p for p in predictions if (p["image_id"], p["category_id"]) == here]
            used = set()
            for p in sorted(found, key=lambda p: -p["score"]):
                fits = [
                    (slow_overlap(p["bbox"], r["bbox"], kind), i)
                    for i, r in enumerate(gt_boxes)
                    if not r["iscrowd"] and i not in used and slow_overlap(p["bbox"], r["bbox"], kind) >= threshold
                ]
                on_crowd = any(
                    r["iscrowd"] and slow_overlap(p["bbox"], r["bbox"], "iobb") >= threshold for r in gt_boxes
                )
                if fits:
                    used.add(max(fits)[1])
                    pairs.append((category["id"], category["id"]))
                elif not on_crowd:
                    lonely.append(p)
            missed += [r for i, r in enumerate(gt_boxes) if not r["iscrowd"] and i not in used]
    return pairs, lonely, missed


def slow_confusion(annotations, predictions, score_threshold, kind, threshold):
    """(K + 1, K + 1) confusion matrix; category ids are 1 … K."""
    classes = len(annotations["categories"])
    matrix = np.zeros((classes + 1, classes + 1), dtype=int)
    sure = [p for p in predictions if p["score"] >= score_threshold]
    pairs, lonely, missed = slow_unmatched(annotations, sure, kind, threshold)
    missed.sort(key=lambda r: r["id"])  # of equally covered boxes the last in the file is taken
    used = []
    for p in sorted(lonely, key=lambda p: (-p["score"], p["category_id"])):
        best, best_value = None, threshold
        for r in missed:
            if r["image_id"] == p["image_id"] and not any(r is u for u in used):
                value = slow_overlap(p["bbox"], r["bbox"], kind)
                if value >= best_value:
                    best, best_value = r, value
        if best is None:
            pairs.append((classes + 1, p["category_id"]))
        else:
            used.append(best)
            pairs.append((best["category_id"], p["category_id"]))
    pairs += [(r["category_id"], classes + 1) for r in missed if not any(r is u for u in used)]
    for truth, prediction in pairs:
        matrix[truth - 1, prediction - 1] += 1
    return matrix


def slow_froc_points(annotations, predictions, class_ids, near):
    """{score: (false positives an image, sensitivity)}, counting everything anew at every score.

    ``near(prediction box, region box, iscrowd)``: (is it a hit, how good a one).
    """
    points = {}
    to_find = [a for a in annotations["annotations"] if not a["iscrowd"] and a["category_id"] in class_ids]
    for score in sorted({p["score"] for p in predictions if p["category_id"] in class_ids}, reverse=True):
        hits = false = 0
        for image in annotations["images"]:
            for category in class_ids:
                here = (image["id"], category)
                gt_boxes = [a for a in annotations["annotations"] if (a["image_id"], a["category_id"]) == here]
                detections = [
                    p for p in predictions if (p["image_id"], p["category_id"]) == here and p["score"] >= score
                ]
                used = set()
                for detection in sorted(detections, key=lambda p: -p["score"]):
                    close = [(*near(detection["bbox"], r["bbox"], r["iscrowd"]), i) for i, r in enumerate(gt_boxes)]
                    free = [(v, i) for hit, v, i in close if hit and i not in used and not gt_boxes[i]["iscrowd"]]
                    if free:
                        used.add(max(free)[1])
                        hits += 1
                    elif not any(hit for hit, _, _ in close):
                        false += 1
        points[score] = (false / len(annotations["images"]), hits / len(to_find) if to_find else float("nan"))
    return points
