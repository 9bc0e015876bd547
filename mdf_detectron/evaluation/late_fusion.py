"""Late fusion: multiply the odds of any detector's scores by what the record alone says of each class.

logit(s') = logit(s) + w_k · log(odds of class k in the image given the record / odds of class k), for a detection of
class k with score s. Where look and record are independent given the class and scores are probabilities, w = 1 is
Bayes' theorem. The exponents w are fitted on a validation split. A slope and an intercept of the scores are left to
`mdf publish`, which calibrates them: within a class they change no order, so no metric of an AP.

Shapes: N records, I images, K classes, D detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from mdf_detectron.data.catalog import load_schema
from mdf_detectron.data.loaders import classes_in_images, dataset_classes, encoded_records, records_of
from mdf_detectron.errors import DatasetError, ResultsError
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.scoring import match_table
from mdf_detectron.modeling.record_model import RecordModel, fit_logistic, sigmoid

LEAST_HITS = 20
"""True positives on the validation split, in all or of a class, below which no exponent is fitted to them."""

HIGHEST_EXPONENT = 2.0

LOWEST_SCORE = 1e-9
"""Scores are clipped to [this, 1 - this] before their logit is taken."""


class RecordOdds:
    """The record model of a prepared data set, for the images of its other splits.

    Args:
        train: registered train split.
        columns: names of clinical columns; None for all of the schema.

    Attributes:
        schema: of the columns, numeric ones first.
        class_names: K.
        without_example: names of the classes that are in no training image or in all: the record says nothing of them.

    Raises:
        ConfigError: the data set is not registered.
        DatasetError: it is not prepared, or its schema lacks a column.
    """

    def __init__(self, train: str, columns: Sequence[str] | None = None) -> None:
        records = records_of([train])
        path = MetadataCatalog.get(train).clinical_schema_file
        schema = load_schema(path)
        wanted = schema.names if columns is None else list(columns)
        schema.check_names(wanted, str(path))
        if not wanted:
            raise DatasetError(f"{path}: no clinical column, so there is no record to fuse with")
        kinds = ([c.name for c in kind if c.name in wanted] for kind in (schema.numeric, schema.categorical))
        self.schema, self.class_names = schema.subset(*kinds), dataset_classes(train)
        sizes = [len(column.vocabulary) for column in self.schema.categorical]
        self.model = RecordModel(len(self.schema.numeric), sizes, len(self.class_names))
        present, patients = classes_in_images([train])
        fit = self.model.fit(*encoded_records(self.schema, records), present, patients)
        self.without_example = [self.class_names[k] for k in np.flatnonzero(np.isnan(fit.penalty))]

    def __call__(self, records: Sequence[Mapping[str, Any]], image_ids: Sequence[Any]) -> np.ndarray:
        """Compute the log odds ratio of each class in each image: (I, K); 0 for an image without any value.

        Args:
            records: dataset dicts of all the images, perhaps with changed records.
            image_ids: I, the order of the result.
        """
        ratios = self.model.log_odds_ratio(*encoded_records(self.schema, records)).double().numpy()
        rows = dict(zip((one["image_id"] for one in records), ratios, strict=True))
        return np.array([rows[image_id] for image_id in image_ids]).reshape(-1, len(self.class_names))

    def of_split(self, dataset: str, ground_truth: GroundTruth) -> np.ndarray:
        """Compute the same of a registered split, in the order of its ground truth."""
        return self(records_of([dataset]), ground_truth.image_ids)


@dataclass(frozen=True)
class Exponents:
    """Exponents of the record's odds ratio.

    Attributes:
        values: (K,).
        hits: (K,) true positives that they were fitted to.
        note: one line that says how they were chosen.
    """

    values: np.ndarray
    hits: np.ndarray
    note: str

    @classmethod
    def one(cls, num_classes: int, why: str, hits: np.ndarray | None = None) -> Exponents:
        """Return exponents of 1, which nothing was fitted for."""
        return cls(np.ones(num_classes), np.zeros(num_classes, int) if hits is None else hits, f"exponent 1: {why}")


def fit_exponents(
    ground_truth: GroundTruth, detections: Detections, log_odds: np.ndarray, by_class: bool = True
) -> Exponents:
    """Fit the exponent of each class on a validation split.

    A logistic regression tells the true positives (IoBB of at least 0.5, each box once) by the logit of the score and
    the log odds ratio; their coefficients' ratio is the exponent, from 0 to :data:`HIGHEST_EXPONENT`. A class with
    fewer than :data:`LEAST_HITS` true positives gets the exponent of all classes together; with fewer in all it is 1.

    Args:
        log_odds: (I, K) of :class:`RecordOdds`.
        by_class: False gives every class the exponent of all together.
    """
    found = match_table(ground_truth, detections, "bbox_iobb", thresholds=[0.5])
    used, classes = ~found.ignored[0], ground_truth.num_classes
    hit, category = found.true_positive[0][used], found.category[used]
    hits = np.bincount(category[hit], minlength=classes)
    if hits.sum() < LEAST_HITS:
        why = f"{hits.sum()} true positives on the validation split, {LEAST_HITS} are needed to fit one"
        return Exponents.one(classes, why, hits)
    x = np.column_stack([_logit(found.scores[used]), log_odds[found.image[used], category]])
    shared = _exponent(np.hstack([x, np.eye(classes)[category][:, 1:]]), hit)
    if not by_class:
        note = f"one exponent fitted to {hits.sum()} true positives of the validation split"
        return Exponents(np.full(classes, shared), hits, note)
    values = [_exponent(x[category == k], hit[category == k]) if hits[k] >= LEAST_HITS else shared
              for k in range(classes)]  # fmt: skip
    few = [name for name, count in zip(ground_truth.class_names, hits, strict=True) if count < LEAST_HITS]
    note = f"exponents fitted to {hits.sum()} true positives of the validation split"
    note += f"; {', '.join(few)}: fewer than {LEAST_HITS}, so that of all classes together" if few else ""
    return Exponents(np.array(values), hits, note)


def _exponent(x: np.ndarray, hit: np.ndarray) -> float:
    """Return the weight of the second column of (D, ≥ 2) in units of the first one's; 1 where that is undefined."""
    if hit.all() or not x[:, 1].any():
        return 1.0
    slope, weight = fit_logistic(x, hit.astype(float), penalty=0.1)[1][:2]
    return float(np.clip(weight / slope, 0, HIGHEST_EXPONENT)) if slope > 1e-3 else 1.0


def fuse_scores(detections: Detections, log_odds: np.ndarray, exponents: np.ndarray) -> Detections:
    """Update the scores of detections by the (I, K) log odds ratios, with an exponent for each class."""
    added = (log_odds * exponents)[detections.image, detections.category]
    return replace(detections, scores=sigmoid(_logit(detections.scores) + added))


def _logit(scores: np.ndarray) -> np.ndarray:
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        raise ResultsError(
            f"late fusion needs scores that are probabilities: {scores[outside][0]:g} is not in [0, 1] "
            f"({outside.sum()} such detections)"
        )
    clipped = np.clip(scores, LOWEST_SCORE, 1 - LOWEST_SCORE)
    return np.log(clipped) - np.log1p(-clipped)
