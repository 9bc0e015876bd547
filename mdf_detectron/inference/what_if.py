"""The same image with another record: which findings come, go or change their score.

What changes is the model's answer. It shows an association that the model learned, and no cause: a patient whose value
is changed by treatment does not get the findings of another record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from mdf_detectron.errors import DatasetError
from mdf_detectron.evaluation.matching import overlap_matrix
from mdf_detectron.inference.findings import DetectedFinding, StudyFindings
from mdf_detectron.inference.predictor import Predictor, PreparedStudy

DISCLAIMER = (
    "This is the model's association between the record and its findings, and no cause: it does not say how the "
    "patient or the image would change."
)

LEAST_OVERLAP = 0.5
"""IoU of two boxes of one class that are the same finding."""

TRACKED_SCORE, TRACKED_DETECTIONS = 0.001, 100
"""While a finding is tracked the model reports detections from this score on, so many an image."""

_BATCH = 16


@dataclass(frozen=True)
class MatchedFinding:
    """A finding before and after a change of the record; None where it is not reported."""

    before: DetectedFinding | None
    after: DetectedFinding | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        either = self.after or self.before
        scores = [one.score if one else None for one in (self.before, self.after)]
        return {
            "class": either.class_name,
            "box": list(either.box),
            "score_before": scores[0],
            "score_after": scores[1],
            "above_threshold_before": bool(self.before and self.before.above_threshold),
            "above_threshold_after": bool(self.after and self.after.above_threshold),
        }


def changed_record(
    predictor: Predictor,
    record: Mapping[str, Any] | None,
    changes: Mapping[str, Any] | None = None,
    hidden: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a record with values set, and columns hidden (made missing).

    Raises:
        DatasetError: a column that the model does not read, or one that is both set and hidden.
    """
    names = [*(changes or {}), *hidden]
    if unread := sorted(set(names) - set(predictor.columns)):
        raise DatasetError(f"the model does not read {unread}; it reads {predictor.columns or 'the image only'}")
    if both := sorted(set(changes or {}) & set(hidden)):
        raise DatasetError(f"{both} are both changed and hidden")
    return {**(record or {}), **(changes or {}), **dict.fromkeys(hidden)}


def match_findings(before: Sequence[DetectedFinding], after: Sequence[DetectedFinding]) -> list[MatchedFinding]:
    """Pair findings of one class by falling IoU, at least :data:`LEAST_OVERLAP`; the rest stays single.

    Returns:
        by falling score, the higher one of the two.
    """
    overlaps = _iou(before, after)
    pairs = [
        (overlaps[i, j], i, j)
        for i, one in enumerate(before)
        for j, other in enumerate(after)
        if one.class_index == other.class_index and overlaps[i, j] >= LEAST_OVERLAP
    ]
    partner: dict[int, int] = {}
    for _, i, j in sorted(pairs, key=lambda p: -p[0]):
        if i not in partner and j not in partner.values():
            partner[i] = j
    matched = [MatchedFinding(one, after[partner[i]] if i in partner else None) for i, one in enumerate(before)]
    matched += [MatchedFinding(None, other) for j, other in enumerate(after) if j not in partner.values()]
    return sorted(matched, key=lambda m: -max(one.score for one in (m.before, m.after) if one))


def _iou(first: Sequence[DetectedFinding], second: Sequence[DetectedFinding]) -> np.ndarray:
    boxes = [np.array([one.box for one in side], dtype=np.float64).reshape(-1, 4) for side in (first, second)]
    xywh = [np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in boxes]
    return overlap_matrix(*xywh, overlap="iou")


def scores_of(
    predictor: Predictor,
    study: PreparedStudy,
    targets: Sequence[DetectedFinding],
    records: Sequence[Mapping[str, Any]],
) -> np.ndarray:
    """Follow findings through other records.

    Args:
        study: the image.
        targets: findings to follow; the score of one is that of the surest detection of its class at its place.
        records: R.

    Returns:
        (R, len(targets)): 0 where the model reports nothing there, not even with a score of
        :data:`TRACKED_SCORE`.
    """
    out = np.zeros((len(records), len(targets)))
    with _tracking(predictor.model):
        for begin in range(0, len(records), _BATCH):
            batch = [predictor.with_record(study, record) for record in records[begin : begin + _BATCH]]
            for r, found in enumerate(predictor.predict(batch), start=begin):
                out[r] = _scores_at(targets, found)
    return out


def _scores_at(targets: Sequence[DetectedFinding], found: StudyFindings) -> np.ndarray:
    detections = found.findings
    overlaps = _iou(targets, detections)
    same = np.array([[t.class_index == d.class_index for d in detections] for t in targets], dtype=bool)
    scores = np.array([d.score for d in detections])
    near = (overlaps >= LEAST_OVERLAP) & same.reshape(overlaps.shape)
    return np.where(near, scores[None, :], 0.0).max(axis=1, initial=0.0)


@contextmanager
def _tracking(model: nn.Module) -> Iterator[None]:
    """Let the model report detections of any score, without masks, while the block runs."""
    changes: list[tuple[Any, str, Any]] = []
    if hasattr(model, "roi_heads"):
        changes.append((model.roi_heads, "mask_on", False))
        found = model.roi_heads.box_predictor
        for predictor in found if isinstance(found, nn.ModuleList) else [found]:
            changes += [
                (predictor, "test_score_thresh", TRACKED_SCORE),
                (predictor, "test_topk_per_image", TRACKED_DETECTIONS),
            ]
    else:
        changes += [
            (model, "test_score_thresh", TRACKED_SCORE),
            (model, "max_detections_per_image", TRACKED_DETECTIONS),
        ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def sweep(
    predictor: Predictor,
    study: PreparedStudy,
    record: Mapping[str, Any] | None,
    targets: Sequence[DetectedFinding],
    column: str,
    values: Sequence[Any],
) -> np.ndarray:
    """Follow findings while one column takes several values; returns (len(values), len(targets)) scores."""
    records = [changed_record(predictor, record, {column: value}) for value in values]
    return scores_of(predictor, study, targets, records)
