"""Correlate every clinical column with every class (the paper's figure 5b), with intervals over patients.

Shapes: I images, B weightings, Q columns, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdf_detectron.data.annotations import Annotations
from mdf_detectron.data.prepared import SPLITS
from mdf_detectron.data.schema import ClinicalSchema, is_missing
from mdf_detectron.evaluation.statistics import NUM_RESAMPLES, bootstrap, interval


@dataclass(frozen=True)
class Correlations:
    """Pearson's r of Q columns and K classes.

    Attributes:
        values, low, high: (Q, K), in -1 to 1, with 95 % interval; NaN where undefined.
        images: (Q,), number of images with a value of the column.
        certainty: True if a class is measured by the readers' certainty, False if by its presence (0 or 1).
    """

    columns: Sequence[str]
    classes: Sequence[str]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    images: np.ndarray
    certainty: bool


def correlations(
    splits: Mapping[str, Annotations], schema: ClinicalSchema, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Correlations:
    """Correlate the records of all splits with the classes on their images.

    A class is the largest certainty of its boxes on an image, 0 without a box; if the data have no certainties, 1 or 0.
    A categorical column with two values is coded 0 and 1; with more, each value gets its own row.
    """
    images = [image for split in SPLITS for image in splits[split].images]
    names, columns = _columns(images, schema)
    findings, certainty = _findings(images, splits)
    keys = [str(image["patient_id"]) for image in images]
    patients = np.unique(keys, return_inverse=True)[1]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.hstack([weighted_correlation(column, findings, weights) for column in columns])

    values = statistic(np.ones((1, len(images))))[0]
    samples = bootstrap(statistic, patients, num_resamples, seed)
    counts = np.array([len(np.unique(patients[np.isfinite(column)])) for column in columns])
    shape = (len(columns), findings.shape[1])
    low, high = interval(samples, values, np.repeat(counts, shape[1]), bounds=(-1.0, 1.0))
    known = np.array([int(np.isfinite(column).sum()) for column in columns])
    return Correlations(names, splits["train"].class_names, values.reshape(shape), low.reshape(shape),
                        high.reshape(shape), known, certainty)  # fmt: skip


def weighted_correlation(column: np.ndarray, findings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute Pearson's r of a column with each class on weighted images, without images that lack a value.

    Args:
        column: (I,) float, NaN where missing.
        findings: (I, K).
        weights: (B, I).

    Returns:
        (B, K); NaN where the column or the class does not vary.
    """
    known = np.isfinite(column)
    x, y, weights = column[known], findings[known], weights[:, known]
    if not known.any():
        return np.full((len(weights), findings.shape[1]), np.nan)
    x, y = x - x.mean(), y - y.mean(axis=0)  # centering reduces rounding errors
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y = weights @ x[:, None] / total, weights @ y / total
        covariance = weights @ (x[:, None] * y) / total - mean_x * mean_y
        variance_x = weights @ (x**2)[:, None] / total - mean_x**2
        variance_y = weights @ y**2 / total - mean_y**2
        smallest = 1e-12
        defined = (variance_x > smallest) & (variance_y > smallest)
        return np.where(defined, covariance / np.sqrt(variance_x * variance_y), np.nan)


def _columns(images: Sequence[Mapping[str, Any]], schema: ClinicalSchema) -> tuple[list[str], list[np.ndarray]]:
    names, columns = [], []
    for column in schema.columns:
        raw = [(image.get("clinical") or {}).get(column.name) for image in images]
        numbers = np.array([np.nan if is_missing(value) else column.encode(value, column.name) for value in raw])
        if column.kind == "numeric" or len(column.vocabulary) < 2:
            names, columns = [*names, column.name], [*columns, numbers]
        elif len(column.vocabulary) == 2:
            names, columns = [*names, f"{column.name} = {column.vocabulary[1]}"], [*columns, numbers]
        else:
            for code, value in enumerate(column.vocabulary):
                names.append(f"{column.name} = {value}")
                columns.append(np.where(np.isnan(numbers), np.nan, numbers == code))
    return names, columns


def _findings(images: Sequence[Mapping[str, Any]], splits: Mapping[str, Annotations]) -> tuple[np.ndarray, bool]:
    place = {image["id"]: i for i, image in enumerate(images)}
    classes = {category["id"]: k for k, category in enumerate(splits["train"].categories)}
    boxes = [box for split in SPLITS for box in splits[split].annotations]
    certainty = bool(boxes) and all(isinstance(box.get("certainty"), (int, float)) for box in boxes)
    found = np.zeros((len(images), len(classes)))
    for box in boxes:
        at = place[box["image_id"]], classes[box["category_id"]]
        found[at] = max(found[at], box["certainty"] if certainty else 1.0)
    return found, certainty
