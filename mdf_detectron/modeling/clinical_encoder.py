"""Clinical record → Z^C, the encoded record (paper: Z^C = f_Emb(X^Ccat) ∪ X^Cnum), and clinical dropout.

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
        vector: (N, Z) float, Z^C.
        present: (N, L) bool, False where the column is missing.
    """

    vector: Tensor
    present: Tensor


@dataclass(frozen=True)
class RecordLayout:
    """How a vector is made of its columns.

    Attributes:
        dim: Z.
        column_widths: length L; the columns' entries follow each other from the first entry of the vector on.
            What follows them (indicators of missing values) belongs to no column.
    """

    dim: int
    column_widths: tuple[int, ...]

    @classmethod
    def of_columns(cls, num_numeric: int, num_categorical: int, embedding_dim: int, missing: str) -> RecordLayout:
        """Lay out A numeric columns, B embedded ones, and A indicators with ``missing`` "median_indicator"."""
        widths = (1,) * num_numeric + (embedding_dim,) * num_categorical
        return cls(sum(widths) + (num_numeric if missing == "median_indicator" else 0), widths)

    def columns(self, vector: Tensor) -> list[Tensor]:
        """(N, Z) → L tensors (N, width)."""
        return list(vector[:, : sum(self.column_widths)].split(list(self.column_widths), dim=1))


def record_layout(cfg: CfgNode) -> RecordLayout:
    """Return the layout of the records that the model of a config encodes."""
    c = cfg.MODEL.CLINICAL
    return RecordLayout.of_columns(len(c.NUMERIC), len(c.CATEGORICAL), c.EMBEDDING_DIM, c.MISSING)


def present_columns(numeric: Tensor, categorical: Tensor) -> Tensor:
    """(N, A) float with NaN, (N, B) long with -1 → (N, A + B) bool."""
    return torch.cat([~torch.isnan(numeric), categorical != MISSING_CATEGORY], dim=1)


class ClinicalDropout(nn.Module):
    """Make records and single values missing at random; in evaluation it does nothing.

    Args:
        record_probability: that a record is hidden as a whole.
        value_probability: that a value of the other records is hidden, each on its own.
    """

    def __init__(self, record_probability: float = 0.0, value_probability: float = 0.0):
        super().__init__()
        for name, value in (("record_probability", record_probability), ("value_probability", value_probability)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        self.record_probability = record_probability
        self.value_probability = value_probability

    def forward(self, numeric: Tensor, categorical: Tensor) -> tuple[Tensor, Tensor]:
        """(N, A) float with NaN, (N, B) long with -1 → the same with more of both; the inputs stay as they are."""
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

    The statistics are buffers, so a checkpoint carries them; :meth:`fit` sets them from the train split.

    Args:
        num_numeric: A.
        vocabulary_sizes: number of values of each categorical column (length B).
        embedding_dim: E.
        missing: "token": a missing value becomes a learned number (numeric) or a learned vector (categorical);
            "median": the train split's median, and the train split's most frequent category;
            "median_indicator": the same, plus A inputs that are 1 where the value is missing.

    Attributes:
        layout: of the output; its width is D = A + B·E (+ A with indicators).
    """

    STATISTICS = {"mean": 0.0, "std": 1.0, "median": 0.0}
    """Buffers of the numeric columns, and their values until :meth:`fit`."""

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
        # parameters that nothing reads would stay without gradient, which distributed training refuses
        if missing == "token" and num_numeric:
            self.numeric_token = nn.Parameter(torch.zeros(num_numeric))
        if missing == "token" and vocabulary_sizes:
            means = [embedding.weight.detach().mean(dim=0) for embedding in self.embeddings]
            self.categorical_token = nn.Parameter(torch.stack(means))

    def lr_groups(self) -> dict[str, str]:
        """Return the learning-rate group of every parameter, see ``engine/optimizer.py``."""
        return dict.fromkeys((name for name, _ in self.named_parameters()), "clinical")

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
        """Set mean, standard deviation (n−1), median and mode from the records of the train split.

        Args:
            numeric: (M, A) float, NaN where missing.
            categorical: (M, B) long, -1 where missing.

        A column without two different values gets standard deviation 1; one without any value mean 0 too.
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
            numeric: (N, A) float in the schema's units, NaN where missing; infinite values are refused upstream.
            categorical: (N, B) long, -1 where missing.

        Returns:
            (N, D) float: standardized numeric columns, then embeddings, then indicators.

        Raises:
            RuntimeError: the statistics were neither fitted nor loaded.
            ValueError: records of other columns than the encoder was built for.
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
            fill = (self.median - self.mean) / self.std if self.missing != "token" else self.numeric_token
            parts = [torch.where(absent, fill.to(numeric.dtype), (numeric - self.mean) / self.std)]
        for i, embedding in enumerate(self.embeddings):
            parts.append(self._embed(i, embedding, categorical[:, i]))
        if self.missing == "median_indicator":
            parts.append(absent.to(numeric.dtype))
        return torch.cat(parts, dim=1)

    def check_records(self, numeric: Tensor, categorical: Tensor, where: list[str]) -> None:
        """Validate records on the host before :meth:`forward`; reading values back on a GPU would force a sync.

        Args:
            numeric: (N, A); NaN is a missing value, an infinite one a mistake that standardization would spread.
            categorical: (N, B); -1 is a missing value.
            where: N names for the message.

        Raises:
            ValueError: an infinite number, or a code outside of its vocabulary.
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
