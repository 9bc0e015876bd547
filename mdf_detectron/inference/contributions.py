"""How much each column of a record contributes to the score of a finding, against the training distribution.

The background is drawn from the training quantiles and frequencies in the checkpoint, each column by itself: a
checkpoint holds no records, so dependence between columns is not part of it.

ablation: score − mean score with that column's value drawn from the background (exact, one column at a time).
shapley:  Shapley values (captum's permutation sampling): they add up to score − mean score of the background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mdf_detectron.checkpoint.contents import PROBABILITIES
from mdf_detectron.errors import DatasetError, UserError
from mdf_detectron.inference.findings import DetectedFinding
from mdf_detectron.inference.predictor import Predictor, PreparedStudy
from mdf_detectron.inference.what_if import changed_record, scores_of

METHODS = ("shapley", "ablation")
NUM_BACKGROUND = 8
NUM_PERMUTATIONS = 32

Scores = Callable[[np.ndarray, int], np.ndarray]
"""(R, L) bool, background number → (R, F) scores, columns that are True with the study's own value."""


@dataclass(frozen=True)
class Contributions:
    """Contributions to the scores of F findings.

    Attributes:
        columns: L names.
        values: (F, L).
        scores, background: (F,) score with the study's record, and mean score with the background's.
        method: of :data:`METHODS`.
    """

    columns: list[str]
    values: np.ndarray
    scores: np.ndarray
    background: np.ndarray
    method: str


def background_records(predictor: Predictor, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw records from the training distribution, each column by itself, missing as often as in training."""
    rng = np.random.default_rng(seed)
    training = predictor.contents["training"]
    kinds = {column.name: column for column in predictor.schema.columns}
    records: list[dict[str, Any]] = [{} for _ in range(count)]
    for name in predictor.columns:
        seen = training["columns"][name]
        missing = rng.random(count) >= seen["count"] / max(training["images"], 1)
        if not seen["count"]:
            values: Sequence[Any] = [None] * count
        elif kinds[name].kind == "numeric":
            values = np.interp(rng.random(count), PROBABILITIES, seen["quantiles"]).tolist()
        else:
            names, weights = list(seen["frequencies"]), np.array(list(seen["frequencies"].values()), dtype=float)
            values = [names[i] for i in rng.choice(len(names), count, p=weights / weights.sum())]
        for record, value, absent in zip(records, values, missing, strict=True):
            record[name] = None if absent else value
    return records


def contributions(
    predictor: Predictor,
    study: PreparedStudy,
    record: Mapping[str, Any] | None,
    targets: Sequence[DetectedFinding],
    *,
    method: str = "shapley",
    num_background: int = NUM_BACKGROUND,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> Contributions:
    """Explain the scores of findings by the columns of the record.

    Args:
        targets: F findings of the study with this record.
        num_background: records that are drawn.
        num_permutations: of "shapley", in all; more are more exact.

    Raises:
        DatasetError: an image-only model, which reads no column.
        UserError: "shapley" without captum installed.
    """
    columns = predictor.columns
    if not columns:
        raise DatasetError("the model reads the image only; no column contributes to its findings")
    if method not in METHODS:
        raise DatasetError(f"method '{method}' is not one of {METHODS}")
    background = background_records(predictor, num_background, seed)
    own = changed_record(predictor, record)

    def scores(present: np.ndarray, number: int) -> np.ndarray:
        mixed = [
            {
                name: (own.get(name) if here else background[number][name])
                for name, here in zip(columns, row, strict=True)
            }
            for row in present
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
    """Replace one column at a time; returns (F, L)."""
    present = np.vstack([np.ones((1, num_columns), dtype=bool), ~np.eye(num_columns, dtype=bool)])
    mean = np.mean([scores(present, number) for number in range(num_background)], axis=0)
    return (mean[:1] - mean[1:]).T


def shapley_values(
    scores: Scores, num_columns: int, num_targets: int, num_background: int, num_permutations: int, seed: int
) -> np.ndarray:
    """Sample Shapley values with captum, the permutations divided among the background records; returns (F, L)."""
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
                torch.manual_seed(seed + number)  # the same permutations for every finding: known scores are used
                values = ShapleyValueSampling(forward).attribute(
                    ones, baselines=zeros, additional_forward_args=(target,), n_samples=each, perturbations_per_eval=16
                )
            out[target] += values[0].double().numpy() / num_background
    return out
