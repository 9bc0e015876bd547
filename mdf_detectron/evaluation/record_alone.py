"""What the clinical record alone tells about the classes in an image, before any training.

Each prediction is of a model that has not seen the record's patient (cross-validation over patients). Scores of two
folds' models have different scales, so only images of one fold are compared.

Shape letters: N images, A numeric columns, B categorical columns, K classes, W weightings of the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mdf_detectron.data.schema import MISSING_CATEGORY, ClinicalSchema
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.estimates import Estimator, FoldedImages, Row, concatenate_folds, estimate
from mdf_detectron.evaluation.statistics import NUM_RESAMPLES, patients_of

if TYPE_CHECKING:  # tables and pages need no torch
    from mdf_detectron.modeling.record_model import RecordFit, RecordModel

NEARLY_ALL = 0.95
"""AUC of a single column from which on it may be the outcome in disguise."""

LEAK = 0.55
"""Low end of the interval of the missing values' AUC above which they are said to tell something."""

FEWEST = 10
"""Images with a class, and without, that are needed to say so of a column."""

BINS = 20
"""Bins of a numeric column on its own, at quantiles."""

KINDS = {"record": "the record", "trees": "boosted trees", "missing": "which values are missing"}


@dataclass(frozen=True)
class RecordAlone:
    """What the record alone tells of each class.

    Attributes:
        images: (K,) number of images with the class.
        rows: "record" (the additive record model), "trees" (boosted trees), "missing" (the record model of which values
            are missing) → class → AUC in [0, 1] with its interval over patients.
        telling: (column, class, AUC) of single columns with at least :data:`NEARLY_ALL`.
    """

    images: np.ndarray
    rows: Mapping[str, Mapping[str, Row]]
    telling: Sequence[tuple[str, str, float]]

    @property
    def warnings(self) -> list[str]:
        """Name what may be a leak, one sentence each."""
        lines = [f"Column '{column}' alone tells nearly all of {name} (AUC {value:.2f}): is it known before the image "
                 "is read, or is it the outcome in disguise?" for column, name, value in self.telling]  # fmt: skip
        for name, row in self.rows["missing"].items():
            if row["low"] is not None and row["low"] > LEAK:
                lines.append(f"Which values are missing tells of {name} (AUC {estimate(row, 2)}): a leak, if values "
                             "are taken or written because of what the image shows.")  # fmt: skip
        return lines


def record_alone(truth: GroundTruth, schema: ClinicalSchema, num_resamples: int = NUM_RESAMPLES) -> RecordAlone:
    """Measure what the records of ``truth`` tell of its classes; ``schema`` has the columns to use."""
    from mdf_detectron.modeling.record_model import patient_folds

    images, present = concatenate_folds({0: truth}), classes_present(truth)
    numeric, categorical = _encode(truth, schema)
    known = np.where(np.isnan(numeric), numeric, 0), np.minimum(categorical, 0)
    fold = patient_folds(patients_of(truth))
    scores = {
        "record": _fit(truth, schema, numeric, categorical)[1].held_out,
        "trees": _trees(numeric, categorical, present, fold),
        "missing": _fit(truth, schema, *known)[1].held_out,
    }
    sizes, estimator = pair_sizes(images, present), Estimator(images, num_resamples)
    rows = {
        name: estimator.rows(truth.class_names, {0: [partial(auc, one, present, fold=fold)]}, sizes, highest=1.0)
        for name, one in scores.items()
    }
    columns = {c.name: _bins(numeric[:, n]) for n, c in enumerate(schema.numeric)}
    columns |= {c.name: categorical[:, n] + 1 for n, c in enumerate(schema.categorical)}
    return RecordAlone(present.sum(axis=0), rows, list(_telling(columns, truth.class_names, present, fold)))


def classes_present(truth: GroundTruth) -> np.ndarray:
    """Find the classes in each image: (N, K) bool."""
    present = np.zeros((truth.num_images, truth.num_classes), dtype=bool)
    present[truth.image, truth.category] = True
    return present


def image_scores(truth: GroundTruth, detections: Detections) -> np.ndarray:
    """Find the highest score of each class in each image: (N, K), below all scores without a detection."""
    found = np.full((truth.num_images, truth.num_classes), detections.scores.min(initial=0.0) - 1)
    np.maximum.at(found, (detections.image, detections.category), detections.scores)
    return found


def pair_sizes(images: FoldedImages, present: np.ndarray) -> np.ndarray:
    """Count the patients on which the AUC of each class depends, of those with and those without it the fewer: (K,)."""
    return np.array([images.count_patients(np.array([own, ~own])).min() for own in present.T], dtype=np.int64)


def auc(scores: np.ndarray, present: np.ndarray, weights: np.ndarray, fold: np.ndarray | None = None) -> np.ndarray:
    """Compute the area under the ROC curve of each class by ranks.

    It is the share of pairs, of an image with the class and one without, in which the first has the higher score; ties
    count half, and an image as often as its weight says.

    Args:
        scores, present: (N, K).
        weights: (W, N).
        fold: (N,); only pairs within a fold count. None: all pairs.

    Returns:
        (W, K) in [0, 1]; NaN without a pair.
    """
    fold = np.zeros(len(scores)) if fold is None else fold
    right, pairs = np.zeros((2, len(weights), scores.shape[1]))
    for one, k in ((one, k) for one in np.unique(fold) for k in range(scores.shape[1])):
        inside = np.flatnonzero(fold == one)
        inside = inside[np.argsort(scores[inside, k], kind="stable")]
        starts = np.flatnonzero(np.diff(scores[inside, k], prepend=-np.inf))
        ones, zeros = (np.add.reduceat(weights[:, inside] * kind, starts, axis=1)
                       for kind in (present[inside, k], ~present[inside, k]))  # fmt: skip
        right[:, k] += (ones * (np.cumsum(zeros, axis=1) - zeros / 2)).sum(axis=1)
        pairs[:, k] += ones.sum(axis=1) * zeros.sum(axis=1)
    return np.divide(right, pairs, out=np.full_like(right, np.nan), where=pairs > 0)


def record_scores(train: GroundTruth, truth: GroundTruth, schema: ClinicalSchema) -> np.ndarray:
    """Predict from the records of ``truth``, by a record model fitted on ``train``: (N, K) probabilities."""
    import torch

    model, _ = _fit(train, schema, *_encode(train, schema))
    return model(*map(torch.from_numpy, _encode(truth, schema))).numpy()


def _fit(
    truth: GroundTruth, schema: ClinicalSchema, numeric: np.ndarray, categorical: np.ndarray
) -> tuple[RecordModel, RecordFit]:
    import torch

    from mdf_detectron.modeling.record_model import RecordModel

    model = RecordModel(numeric.shape[1], [len(c.vocabulary) for c in schema.categorical], truth.num_classes)
    records = map(torch.from_numpy, (numeric, categorical))
    return model, model.fit(*records, classes_present(truth), patients_of(truth))


def _encode(truth: GroundTruth, schema: ClinicalSchema) -> tuple[np.ndarray, np.ndarray]:
    """Encode the records: (N, A) float32, NaN where missing, and (N, B) int64, -1 where missing."""
    images = truth.images
    return schema.encode_all((image.get("clinical") for image in images), (str(image["id"]) for image in images))


def _trees(numeric: np.ndarray, categorical: np.ndarray, present: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Predict the classes of each fold by boosted trees of the others: (N, K) probabilities."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = np.hstack([numeric, np.where(categorical == MISSING_CATEGORY, np.nan, categorical)])
    words = (np.arange(x.shape[1]) >= numeric.shape[1]) & (np.nan_to_num(x).max(axis=0) < 255)  # its largest category
    settings = {"max_iter": 120, "learning_rate": 0.05, "max_leaf_nodes": 8, "early_stopping": False, "random_state": 0}
    out = np.empty(present.shape)
    for one, k in ((one, k) for one in np.unique(fold) for k in range(present.shape[1])):
        inside, own = fold == one, present[fold != one, k]
        varied = [len(np.unique(column[~np.isnan(column)])) > 1 for column in x[~inside].T]
        out[inside, k] = (own.sum() + 0.5) / (len(own) + 1)
        if 0 < own.sum() < len(own) and any(varied):
            trees = HistGradientBoostingClassifier(categorical_features=words[varied], **settings)
            out[inside, k] = trees.fit(x[~inside][:, varied], own).predict_proba(x[inside][:, varied])[:, 1]
    return out


def _bins(values: np.ndarray) -> np.ndarray:
    """Number the bins of a numeric column at its quantiles: (N,) from 1, 0 where the value is missing."""
    known = ~np.isnan(values)
    edges = np.quantile(values[known], np.linspace(0, 1, BINS + 1)[1:-1]) if known.any() else []
    return np.where(known, 1 + np.searchsorted(edges, values), 0)


def _telling(
    columns: Mapping[str, np.ndarray], names: Sequence[str], present: np.ndarray, fold: np.ndarray
) -> Iterator[tuple[str, str, float]]:
    """Find the columns that tell nearly all of a class, by the class's share in the same bin of the other folds."""
    for column, codes in columns.items():
        for name, own in zip(names, present.T, strict=True):
            scores = np.zeros((len(own), 1))
            for one in np.unique(fold):
                inside = fold == one
                hits, counts = (np.bincount(codes[~inside], w, codes.max() + 1) for w in (own[~inside], None))
                scores[inside, 0] = ((hits + own.mean()) / (counts + 1))[codes[inside]]
            value = float(auc(scores, own[:, None], np.ones((1, len(own))), fold)[0, 0])
            if value >= NEARLY_ALL and min(own.sum(), (~own).sum()) >= FEWEST:
                yield column, name, value
