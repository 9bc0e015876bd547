"""The models that the fusion study compares: a config below configs/synthetic_cxr and overrides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "synthetic_cxr"


@dataclass(frozen=True)
class StudyVariant:
    """One model.

    Attributes:
        title: for the table.
        config: name of its config.
        opts: overrides.
    """

    title: str
    config: str
    opts: tuple[str, ...] = ()

    @property
    def config_file(self) -> Path:
        return CONFIGS / f"{self.config}.yaml"


def _fusion(title: str, name: str) -> StudyVariant:
    return StudyVariant(title, "msf_net_3d", ("MODEL.FUSION.NAME", name))


def _branch(title: str, name: str, config: str = "msf_net_3d") -> StudyVariant:
    return StudyVariant(title, config, ("MODEL.CLINICAL.BRANCH", name))


VARIANTS = {
    "image": StudyVariant("image alone", "mask_rcnn"),
    "sum": _fusion("3-D, sum, deconv", "ElementwiseSum"),
    "hadamard": _fusion("3-D, Hadamard product, deconv", "HadamardProduct"),
    "concat_linear": _fusion("3-D, concatenation + linear, deconv", "ConcatenationLinear"),
    "concat_conv": _fusion("3-D, concatenation + convolution, deconv", "ConcatenationConv"),
    "sum_batch_norm": StudyVariant(
        "3-D, sum, deconv with batch norm (paper)", "msf_net_3d", ("MODEL.CLINICAL.BATCH_RENORM", "False")
    ),
    "film": _fusion("3-D, FiLM", "FiLM"),
    "daft": _fusion("3-D, DAFT", "DAFT"),
    "cross_attention": _fusion("3-D, cross-attention", "CrossAttention"),
    "repeat": _branch("3-D, sum, repeat", "repeat"),
    "compact": _branch("3-D, sum, compact", "compact"),
    "row_1d": StudyVariant("1-D", "msf_net_1d"),
    "mdf_net": StudyVariant("MDF-Net: 3-D (sum, deconv) and 1-D", "mdf_net"),
    "mdf_net_bfloat16": StudyVariant("MDF-Net, branch in bfloat16", "mdf_net", ("MODEL.CLINICAL.AUTOCAST", "True")),
    "mdf_net_compact": _branch("MDF-Net, compact", "compact", "mdf_net"),
    "mdf_net_compact_dropout": StudyVariant(
        "MDF-Net, compact, clinical dropout",
        "mdf_net",
        ("MODEL.CLINICAL.BRANCH", "compact", "MODEL.CLINICAL.DROPOUT_ROW", "0.1", "MODEL.CLINICAL.DROPOUT_CELL", "0.3"),
    ),
}
"""The 3-D fusions stand alone, without the 1-D one beside them: together, either could hide that the other fails."""
