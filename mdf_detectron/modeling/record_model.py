"""Which classes an image holds, from its clinical record alone: an additive model, one logistic regression a class.

Shape letters: N records, A numeric columns, B categorical columns, K classes, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mdf_detectron.data.schema import MISSING_CATEGORY
from mdf_detectron.modeling.clinical_encoder import present_columns

KNOTS = 6
"""Most knots of a numeric column; they lie at quantiles of the training split's values."""

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, np.inf)
"""Ridge penalties to choose from by cross-validation; with the last one the record says nothing."""

FOLDS = 5

STEPS = 50
"""Most steps of Newton's method; it usually takes fewer than ten."""


@dataclass(frozen=True)
class RecordFit:
    """What was fitted.

    Attributes:
        penalty: (K,) chosen for each class; NaN where a class is in no image or in all.
        held_out: (N, K) probability of each class, from the fold's model that has not seen the record's patient.
    """

    penalty: np.ndarray
    held_out: np.ndarray


class RecordModel(nn.Module):
    """logit P(class k in image | record) = b_k + Σ_columns f_kc(value of column c).

    f of a numeric column is linear between knots and constant outside of them; f of a categorical column has a value
    for each word; a missing value has its own. Of a record without any value the model says the prior.

    Args:
        num_numeric: A.
        vocabulary_sizes: number of values of each categorical column (length B).
        num_classes: K.
    """

    def __init__(self, num_numeric: int, vocabulary_sizes: Sequence[int], num_classes: int):
        super().__init__()
        self.vocabulary_sizes = list(vocabulary_sizes)
        features = num_numeric * KNOTS + sum(self.vocabulary_sizes) + len(self.vocabulary_sizes)
        self.register_buffer("knots", torch.zeros(num_numeric, KNOTS))
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("weight", torch.zeros(num_classes, features))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("prior", torch.full((num_classes,), 0.5))

    def features(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """(N, A) float with NaN, (N, B) long with -1 → (N, F) float, each in [0, 1], NaN for ramps of missing values.

        Of a numeric column: KNOTS - 1 ramps, each from 0 to 1 between two knots (their weights are the rises of the
        piecewise linear f), then whether the value is missing. Of a categorical one: a 0/1 a word, then missing.
        """
        value = numeric.to(self.knots.dtype)[:, :, None]
        low, high = self.knots[:, :-1], self.knots[:, 1:]
        width = torch.where(high > low, high - low, torch.ones_like(high))
        ramps = ((value - low) / width).clamp(0, 1) * (high > low)
        parts = [torch.cat([ramps, torch.isnan(value).to(ramps.dtype)], dim=2).flatten(1)]
        for size, codes in zip(self.vocabulary_sizes, categorical.unbind(1), strict=True):
            words = torch.where(codes == MISSING_CATEGORY, size, codes)[:, None]
            parts.append((words == torch.arange(size + 1, device=words.device)).to(ramps.dtype))
        return torch.cat(parts, dim=1)

    def log_odds_ratio(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Compute how much a record changes the odds of each class: logit P(k | record) - logit P(k).

        Returns:
            (N, K) float; 0 for records without any value.
        """
        features = self.features(numeric, categorical) - self.center
        centered = torch.where(torch.isnan(features), torch.zeros_like(features), features)
        change = centered @ self.weight.T + self.bias - torch.logit(self.prior)
        present = present_columns(numeric, categorical).sum(dim=1, keepdim=True) > 0
        return change * present.to(change.dtype)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """(N, A) float with NaN, (N, B) long with -1 → (N, K) probability that the class is in the record's image."""
        return torch.sigmoid(torch.logit(self.prior) + self.log_odds_ratio(numeric, categorical))

    @torch.no_grad()
    def fit(self, numeric: Tensor, categorical: Tensor, present: np.ndarray, groups: Sequence[str]) -> RecordFit:
        """Fit by penalized likelihood; the penalty of each class by cross-validation over groups.

        Args:
            numeric, categorical: records of the training split.
            present: (N, K) bool, classes in the record's image.
            groups: N patients; one is never in two folds.
        """
        self._place_knots(numeric)
        features = self.features(numeric, categorical)
        self.center.copy_(torch.nan_to_num(features.nanmean(dim=0), nan=0.0))
        x = torch.nan_to_num(features - self.center, nan=0.0).double().cpu().numpy()
        y = np.asarray(present, dtype=np.float64)
        # half an image more of each kind: the odds of a class in no image, or in all, stay finite
        self.prior.copy_(torch.from_numpy((y.sum(axis=0) + 0.5) / (len(y) + 1)))
        fold = patient_folds(groups)
        penalties, held_out = np.full(y.shape[1], np.nan), np.empty_like(y)
        for k in range(y.shape[1]):
            self.bias[k] = torch.logit(self.prior[k])
            held_out[:, k] = self.prior[k].item()
            if 0 < y[:, k].sum() < len(y):
                penalties[k], held_out[:, k] = _best_penalty(x, y[:, k], fold)
                bias, weight = fit_logistic(x, y[:, k], penalties[k])
                self.bias[k], self.weight[k] = bias, torch.from_numpy(weight).to(self.weight)
        return RecordFit(penalties, held_out)

    def _place_knots(self, numeric: Tensor) -> None:
        """At quantiles of the values; those that coincide make a ramp that is always 0."""
        for column, values in enumerate(numeric.double().unbind(1)):
            values = values[~torch.isnan(values)]
            if len(values):
                places = torch.linspace(0.02, 0.98, KNOTS, dtype=values.dtype, device=values.device)
                self.knots[column] = values.quantile(places).to(self.knots)


def patient_folds(groups: Sequence[str]) -> np.ndarray:
    """Deal groups to folds: (N,) fold of each record, the same for the same groups in any order."""
    names, number = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    return order[number] % FOLDS


def _best_penalty(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> tuple[float, np.ndarray]:
    """Choose the penalty with the least held-out log loss; return it and the held-out probabilities (N,)."""
    best = (np.inf, PENALTIES[-1], np.full(len(y), y.mean()))
    fits: list[tuple[float, np.ndarray] | None] = [None] * FOLDS  # of the next larger penalty: a near start
    for penalty in PENALTIES[::-1]:
        held_out = np.empty(len(y))
        for one in range(FOLDS):
            inside = fold != one
            bias, weight = fits[one] = fit_logistic(x[inside], y[inside], penalty, fits[one])
            held_out[~inside] = sigmoid(bias + x[~inside] @ weight)
        p = np.clip(held_out, 1e-9, 1 - 1e-9)
        loss = -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))
        best = min(best, (loss, penalty, held_out), key=lambda one: one[0])
    return best[1], best[2]


def fit_logistic(
    x: np.ndarray, y: np.ndarray, penalty: float, start: tuple[float, np.ndarray] | None = None
) -> tuple[float, np.ndarray]:
    """Minimize -log likelihood + penalty/2 · |weight|² by Newton's method; the bias is not penalized.

    Args:
        x: (N, F); y: (N,) 0 or 1.
        start: bias and weight near the minimum, if known.
    """
    width = x.shape[1]
    x = x if np.isfinite(penalty) else x[:, :0]
    z = np.column_stack([np.ones(len(x)), x])
    ridge = np.full(z.shape[1], penalty)
    ridge[0] = 1e-6  # only so that a fold without a positive has a minimum
    beta = np.zeros(z.shape[1])
    beta[0] = np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5))
    if start is not None:
        beta[0], beta[1:] = start[0], start[1][: len(beta) - 1]
    for _ in range(STEPS):
        p = sigmoid(z @ beta)
        gradient = z.T @ (p - y) + ridge * beta
        curvature = (z * (p * (1 - p))[:, None]).T @ z + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        step /= max(1.0, np.abs(step).max() / 5.0)  # far from the minimum, Newton's step can overshoot
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return float(beta[0]), np.pad(beta[1:], (0, width - x.shape[1]))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Compute 1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
