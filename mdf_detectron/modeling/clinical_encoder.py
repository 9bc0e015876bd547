"""Clinical encoder (record → Z^C; paper: Z^C = f_Emb(X^Ccat) ∪ X^Cnum) and clinical dropout.

Shape letters: N records, A numeric columns, B categorical columns, L = A + B columns, E embedding width, Z width of the
encoded record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from mdf_detectron.config import MISSING_OPTIONS
from mdf_detectron.data.schema import MISSING_CATEGORY


class EncodedRecord(NamedTuple):
    """A batch of encoded records.

    Attributes:
        vector: Z^C, (N, Z) float.
        present: (N, L) bool, False where a value is missing.
        log_odds: (N, K) float, how much a record changes the log odds of each class; None without logit fusion.
        fused: with 3-D and logit fusion the fused feature maps, by name, which the head of logit fusion reads.
    """

    vector: Tensor
    present: Tensor
    log_odds: Tensor | None = None
    fused: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class RecordLayout:
    """Which entries of an encoded record belong to which column.

    Attributes:
        dim: Z.
        column_widths: entries of each of the L columns, in order from the first entry of the vector; the rest
            (indicators of missing values) belongs to no column.
    """

    dim: int
    column_widths: tuple[int, ...]

    @classmethod
    def of_columns(cls, num_numeric: int, num_categorical: int, embedding_dim: int, missing: str) -> RecordLayout:
        """Lay out A numeric columns, B embedded ones, and A indicators with ``missing`` "median_indicator"."""
        widths = (1,) * num_numeric + (embedding_dim,) * num_categorical
        return cls(sum(widths) + (num_numeric if missing == "median_indicator" else 0), widths)

    def columns(self, vector: Tensor) -> list[Tensor]:
        """Split (N, Z) into L tensors (N, width)."""
        return list(vector[:, : sum(self.column_widths)].split(list(self.column_widths), dim=1))


def record_layout(cfg: CfgNode) -> RecordLayout:
    """Return the layout of the encoded records of a config's model."""
    c = cfg.MODEL.CLINICAL
    return RecordLayout.of_columns(len(c.NUMERIC), len(c.CATEGORICAL), c.EMBEDDING_DIM, c.MISSING)


def present_columns(numeric: Tensor, categorical: Tensor) -> Tensor:
    """Return where values are present: (N, A) float with NaN, (N, B) long with -1 → (N, L) bool."""
    return torch.cat([~torch.isnan(numeric), categorical != MISSING_CATEGORY], dim=1)


class ClinicalDropout(nn.Module):
    """Hide whole records and single values at random in training.

    Args:
        record_probability: probability, in [0, 1), that a record is hidden as a whole.
        value_probability: the same for each value of the other records, independently.
    """

    def __init__(self, record_probability: float = 0.0, value_probability: float = 0.0):
        super().__init__()
        for name, value in (("record_probability", record_probability), ("value_probability", value_probability)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        self.record_probability = record_probability
        self.value_probability = value_probability

    def forward(self, numeric: Tensor, categorical: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, A) float and (N, B) long with more values NaN and -1; the inputs are not changed."""
        if not self.training or not (self.record_probability or self.value_probability):
            return numeric, categorical
        count, width = numeric.shape
        values = torch.rand(count, width + categorical.shape[1], device=numeric.device) < self.value_probability
        hidden = values | (torch.rand(count, 1, device=numeric.device) < self.record_probability)
        return (
            numeric.masked_fill(hidden[:, :width], math.nan),
            categorical.masked_fill(hidden[:, width:], MISSING_CATEGORY),
        )

    def extra_repr(self) -> str:
        return f"record_probability={self.record_probability}, value_probability={self.value_probability}"


class ClinicalEncoder(nn.Module):
    """Standardize numeric columns by the train split, embed categorical ones, and concatenate.

    The statistics are buffers, kept in checkpoints; :meth:`fit` sets them.

    Args:
        num_numeric: A.
        vocabulary_sizes: number of values of each of the B categorical columns.
        embedding_dim: E.
        missing: "token": a missing value becomes a learned number (numeric) or a learned vector (categorical);
            "median": the train split's median or most frequent category;
            "median_indicator": the same, plus A inputs that are 1 where the value is missing;
            "raw_mean": the mean or most frequent category, and numeric columns stay in their units.

    Attributes:
        layout: of the output; its width is Z = A + B·E (+ A with indicators).
    """

    lr_group = "clinical"
    STATISTICS = {"mean": 0.0, "std": 1.0, "median": 0.0}
    """Buffers of the numeric columns, and their values before :meth:`fit`."""

    @configurable
    def __init__(self, *, num_numeric: int, vocabulary_sizes: list[int], embedding_dim: int, missing: str = "token"):
        super().__init__()
        if missing not in MISSING_OPTIONS:
            raise ValueError(f"missing={missing!r} is not one of {MISSING_OPTIONS}")
        if num_numeric + len(vocabulary_sizes) == 0:
            raise ValueError("a clinical encoder needs at least one column")
        self.num_numeric = num_numeric
        self.missing = missing
        self.embeddings = nn.ModuleList(nn.Embedding(size, embedding_dim) for size in vocabulary_sizes)
        self.layout = RecordLayout.of_columns(num_numeric, len(vocabulary_sizes), embedding_dim, missing)
        for name, value in self.STATISTICS.items():
            self.register_buffer(name, torch.full((num_numeric,), value))
        self.register_buffer("mode", torch.zeros(len(vocabulary_sizes), dtype=torch.long))
        self.register_buffer("fitted", torch.tensor(False))
        # only where they are read: distributed training refuses parameters without a gradient
        if missing == "token" and num_numeric:
            self.numeric_token = nn.Parameter(torch.zeros(num_numeric))
        if missing == "token" and vocabulary_sizes:
            means = [embedding.weight.detach().mean(dim=0) for embedding in self.embeddings]
            self.categorical_token = nn.Parameter(torch.stack(means))

    @classmethod
    def from_config(cls, cfg):
        c = cfg.MODEL.CLINICAL
        return {
            "num_numeric": len(c.NUMERIC),
            "vocabulary_sizes": [len(v) for v in c.VOCABULARIES],
            "embedding_dim": c.EMBEDDING_DIM,
            "missing": c.MISSING,
        }

    @torch.no_grad()
    def fit(self, numeric: Tensor, categorical: Tensor) -> None:
        """Set mean, standard deviation (n−1), median and mode from the train split's records, given as to ``forward``.

        A column without two different values gets standard deviation 1, one without any value also mean 0.
        """
        for i in range(self.num_numeric):
            values = numeric[:, i][~torch.isnan(numeric[:, i])].double()
            if len(values):
                self.mean[i] = values.mean()
                self.median[i] = values.quantile(0.5)
            if len(values) > 1 and values.std() > 0:
                self.std[i] = values.std()
        for i, embedding in enumerate(self.embeddings):
            codes = categorical[:, i][categorical[:, i] != MISSING_CATEGORY]
            if len(codes):
                self.mode[i] = codes.bincount(minlength=embedding.num_embeddings).argmax()
        self.fitted.fill_(True)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Encode records.

        Args:
            numeric: (N, A) float in the schema's units, NaN where missing; :meth:`check_records` refuses infinite ones.
            categorical: (N, B) long, -1 where missing.

        Returns:
            (N, Z) float: numeric columns, then embeddings, then indicators.

        Raises:
            RuntimeError: the statistics were neither fitted nor loaded.
            ValueError: the number of columns is not the encoder's.
        """
        if not self.fitted:
            raise RuntimeError(
                "the clinical statistics are not set: train first, load a checkpoint of this project, "
                "or call ClinicalEncoder.fit on the train split's records"
            )
        self._check_width(numeric, categorical)
        absent = torch.isnan(numeric)
        parts = [numeric]
        if self.num_numeric:
            raw = self.missing == "raw_mean"
            mean, std, center = (0.0, 1.0, self.mean) if raw else (self.mean, self.std, self.median)
            fill = (center - mean) / std if self.missing != "token" else self.numeric_token
            parts = [torch.where(absent, fill.to(numeric.dtype), (numeric - mean) / std)]
        for i, embedding in enumerate(self.embeddings):
            parts.append(self._embed(i, embedding, categorical[:, i]))
        if self.missing == "median_indicator":
            parts.append(absent.to(numeric.dtype))
        return torch.cat(parts, dim=1)

    def check_records(self, numeric: Tensor, categorical: Tensor, where: list[str]) -> None:
        """Validate the records of :meth:`forward` on the host; reading values back from a GPU would force a sync.

        Raises:
            ValueError: an infinite number, a code outside its vocabulary, or another number of columns; the message
                starts with the record's name in ``where``.
        """
        self._check_width(numeric, categorical)
        for record, column in torch.isinf(numeric).nonzero().tolist():
            raise ValueError(
                f"{where[record]}: clinical_numeric[{column}] is {float(numeric[record, column])}; "
                "a value must be finite, or NaN where it is missing"
            )
        sizes = torch.tensor([embedding.num_embeddings for embedding in self.embeddings])
        codes = categorical.cpu()
        for record, column in ((codes < MISSING_CATEGORY) | (codes >= sizes)).nonzero().tolist():
            raise ValueError(
                f"{where[record]}: clinical_categorical[{column}] is {int(codes[record, column])}; a code must be "
                f"below {int(sizes[column])}, the size of its vocabulary, or {MISSING_CATEGORY} where the value is "
                "missing"
            )

    def _check_width(self, numeric: Tensor, categorical: Tensor) -> None:
        widths, expected = (numeric.shape[1], categorical.shape[1]), (self.num_numeric, len(self.embeddings))
        if widths != expected:
            raise ValueError(
                f"records have {widths[0]} numeric and {widths[1]} categorical column(s), the model reads "
                f"{expected[0]} and {expected[1]}: use a mapper with the model's own columns "
                "(MODEL.CLINICAL.NUMERIC and CATEGORICAL)"
            )

    def _embed(self, column: int, embedding: nn.Embedding, codes: Tensor) -> Tensor:
        absent = codes == MISSING_CATEGORY
        if self.missing != "token":
            return embedding(torch.where(absent, self.mode[column], codes))
        embedded = embedding(codes.clamp(min=0))
        return torch.where(absent[:, None], self.categorical_token[column], embedded)
