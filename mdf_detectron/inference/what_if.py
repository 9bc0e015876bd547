"""Compare findings of one image under different records, and attribute scores to columns.

A changed answer shows an association that the model learned, not a cause: changing a patient's value by treatment does
not give the patient the findings of another record.

Contributions compare a study's record with background records. Each column of these is drawn independently from the
training quantiles or frequencies in the checkpoint, which holds no records and so no dependence between columns.

ablation: score − mean score with that column's value drawn from the background (exact, one column at a time).
shapley:  Shapley values (captum's permutation sampling); they sum to score − mean score of the background.

Shape letters: F findings, R records, L columns that the model reads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mdf_detectron.checkpoint.contents import PROBABILITIES
from mdf_detectron.errors import DatasetError, UserError
from mdf_detectron.evaluation.matching import overlap_matrix, to_sizes
from mdf_detectron.inference.findings import DetectedFinding, StudyFindings
from mdf_detectron.inference.predictor import Predictor, PreparedStudy

DISCLAIMER = (
    "This is the model's association between the record and its findings, and no cause: it does not say how the "
    "patient or the image would change."
)

LEAST_OVERLAP = 0.5
"""Two boxes of one class with at least this IoU are the same finding."""

TRACKED_SCORE, TRACKED_DETECTIONS = 0.001, 100
"""While findings are tracked the model reports detections of at least this score, at most this many per image."""

METHODS = ("shapley", "ablation")

_BATCH = 16


@dataclass(frozen=True)
class MatchedFinding:
    """A finding before and after a change of the record; None if it is not reported."""

    before: DetectedFinding | None
    after: DetectedFinding | None

    def to_dict(self) -> dict[str, Any]:
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
    """Return a copy of a record with values set and columns hidden (made missing).

    Raises DatasetError if the model does not read a column, or if a column is both set and hidden.
    """
    names = [*(changes or {}), *hidden]
    if unread := sorted(set(names) - set(predictor.columns)):
        raise DatasetError(f"the model does not read {unread}; it reads {predictor.columns or 'the image only'}")
    if both := sorted(set(changes or {}) & set(hidden)):
        raise DatasetError(f"{both} are both changed and hidden")
    return {**(record or {}), **(changes or {}), **dict.fromkeys(hidden)}


def match_findings(before: Sequence[DetectedFinding], after: Sequence[DetectedFinding]) -> list[MatchedFinding]:
    """Pair findings of one class greedily by IoU, at least :data:`LEAST_OVERLAP`; the rest stay unpaired.

    Pairs are in descending order of their higher score.
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
    return overlap_matrix(*map(to_sizes, boxes), overlap="iou")


def scores_of(
    predictor: Predictor, study: PreparedStudy, targets: Sequence[DetectedFinding], records: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Return the scores of findings, (R, F), under other records.

    A finding's score is the highest of its class's detections with an IoU of at least :data:`LEAST_OVERLAP`; 0 if none
    reaches :data:`TRACKED_SCORE`.

    Args:
        study: only its image is used.
        targets: F findings.
        records: R records.
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
    """Temporarily let the model report detections from :data:`TRACKED_SCORE`, without masks."""
    wanted = {"mask_on": False, "test_score_thresh": TRACKED_SCORE}
    wanted |= dict.fromkeys(("test_topk_per_image", "max_detections_per_image"), TRACKED_DETECTIONS)
    changes = [(m, name, value) for m in model.modules() for name, value in wanted.items() if name in vars(m)]
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
    """Return the scores of findings, (len(values), F), while one column takes several values."""
    records = [changed_record(predictor, record, {column: value}) for value in values]
    return scores_of(predictor, study, targets, records)


def sweep_values(predictor: Predictor, words: Sequence[str]) -> tuple[str, list[Any]]:
    """Parse a sweep: COLUMN FROM TO COUNT or, for a categorical column, COLUMN and values (none means all).

    Raises DatasetError if the model does not read the column, or if its schema does not allow a value.
    """
    column = next((column for column in predictor.read_columns if column.name == words[0]), None)
    if column is None:
        raise DatasetError(f"--sweep {words[0]}: the model reads {predictor.columns or 'the image only'}")
    if column.kind == "categorical":
        values: list[Any] = list(words[1:]) or list(column.vocabulary)
    else:
        try:
            first, last, count = float(words[1]), float(words[2]), int(words[3])
            if len(words) != 4 or not 2 <= count <= 200:
                raise ValueError
        except (ValueError, IndexError):
            raise DatasetError(f"--sweep {' '.join(words)}: expected COLUMN FROM TO COUNT, COUNT 2 to 200") from None
        values = [float(v) for v in np.linspace(first, last, count)]
    for value in values:
        column.parse(value, "--sweep")
    return column.name, values


Scores = Callable[[np.ndarray, int], np.ndarray]
"""(mask (R, L) bool, background number) → scores (R, F); the study's own value where True, else the background's."""


@dataclass(frozen=True)
class Contributions:
    """Contributions to the scores of F findings.

    Attributes:
        columns: L names.
        values: (F, L).
        scores: (F,), with the study's record.
        background: (F,), mean over the background records.
        method: one of :data:`METHODS`.
    """

    columns: list[str]
    values: np.ndarray
    scores: np.ndarray
    background: np.ndarray
    method: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "columns": self.columns,
            "values": self.values.tolist(),
            "scores": self.scores.tolist(),
            "background_scores": self.background.tolist(),
        }


def background_records(predictor: Predictor, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw records, each column independently from its training distribution, missing as often as in training."""
    rng = np.random.default_rng(seed)
    training = predictor.contents["training"]
    records: list[dict[str, Any]] = [{} for _ in range(count)]
    for column in predictor.read_columns:
        seen = training["columns"][column.name]
        missing = rng.random(count) >= seen["count"] / max(training["images"], 1)
        if not seen["count"]:
            values: Sequence[Any] = [None] * count
        elif column.kind == "numeric":
            values = np.interp(rng.random(count), PROBABILITIES, seen["quantiles"]).tolist()
        else:
            names, weights = list(seen["frequencies"]), np.array(list(seen["frequencies"].values()), dtype=float)
            values = [names[i] for i in rng.choice(len(names), count, p=weights / weights.sum())]
        for record, value, absent in zip(records, values, missing, strict=True):
            record[column.name] = None if absent else value
    return records


def contributions(
    predictor: Predictor,
    study: PreparedStudy,
    record: Mapping[str, Any] | None,
    targets: Sequence[DetectedFinding],
    *,
    method: str = "shapley",
    num_background: int = 8,
    num_permutations: int = 32,
    seed: int = 0,
) -> Contributions:
    """Attribute the scores of findings to the columns of the record.

    Args:
        targets: F findings of the study with this record.
        num_background: number of background records.
        num_permutations: total for "shapley"; more are more exact.

    Raises:
        DatasetError: the model reads no column, or the method is unknown.
        UserError: "shapley" without captum installed.
    """
    columns = predictor.columns
    if not columns:
        raise DatasetError("the model reads the image only; no column contributes to its findings")
    if method not in METHODS:
        raise DatasetError(f"method '{method}' is not one of {METHODS}")
    background = background_records(predictor, num_background, seed)
    own = record or {}

    def scores(present: np.ndarray, number: int) -> np.ndarray:
        mixed = [
            {name: (own if shown else background[number]).get(name) for name, shown in zip(columns, one, strict=True)}
            for one in present
        ]
        return scores_of(predictor, study, targets, mixed)

    whole = scores(np.ones((1, len(columns)), dtype=bool), 0)[0]
    nothing = np.mean([scores(np.zeros((1, len(columns)), dtype=bool), b)[0] for b in range(num_background)], axis=0)
    if method == "ablation":
        values = ablation_values(scores, len(columns), num_background)
    else:
        values = shapley_values(scores, len(columns), len(targets), num_background, num_permutations, seed)
    return Contributions(list(columns), values, whole, nothing, method)


def ablation_values(scores: Scores, num_columns: int, num_background: int) -> np.ndarray:
    """Return (F, L): the mean drop of each score when one column takes the background's value."""
    present = np.vstack([np.ones((1, num_columns), dtype=bool), ~np.eye(num_columns, dtype=bool)])
    mean = np.mean([scores(present, number) for number in range(num_background)], axis=0)
    return (mean[:1] - mean[1:]).T


def shapley_values(
    scores: Scores, num_columns: int, num_targets: int, num_background: int, num_permutations: int, seed: int
) -> np.ndarray:
    """Sample Shapley values (F, L) with captum, dividing the permutations among the background records."""
    try:
        from captum.attr import ShapleyValueSampling
    except ImportError:
        raise UserError("Shapley values need captum: pip install 'mdf_detectron[explain]', or use ablation") from None
    each = max(1, round(num_permutations / num_background))
    ones, zeros = torch.ones(1, num_columns), torch.zeros(1, num_columns)
    out = np.zeros((num_targets, num_columns))
    known: dict[tuple[int, bytes], np.ndarray] = {}
    for number in range(num_background):

        def forward(rows: torch.Tensor, target: int, number: int = number) -> torch.Tensor:
            present = rows.numpy() > 0.5
            keys = [(number, row.tobytes()) for row in present]
            new = list({key: row for key, row in zip(keys, present, strict=True) if key not in known}.items())
            if new:
                found = scores(np.array([row for _, row in new]), number)
                known.update({key: found[i] for i, (key, _) in enumerate(new)})
            return torch.tensor([known[key][target] for key in keys], dtype=torch.float64)

        for target in range(num_targets):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + number)  # same permutations for every finding, so that known scores are reused
                values = ShapleyValueSampling(forward).attribute(
                    ones, baselines=zeros, additional_forward_args=(target,), n_samples=each, perturbations_per_eval=16
                )
            out[target] += values[0].double().numpy() / num_background
    return out
