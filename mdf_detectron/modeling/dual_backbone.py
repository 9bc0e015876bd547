"""The dual backbone: image features fused with the clinical record (paper, Fig. 7b).

Shape letters: N images, C channels, H×W pixels, s stride and D channels of a feature map, A numeric and B categorical
columns.
"""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone
from torch import Tensor, nn

from mdf_detectron.config import fuses_3d, fuses_logits, num_classes, reads_record, value_at
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.backbones import build_image_backbone
from mdf_detectron.modeling.clinical_branches import ClinicalBranch, Size, build_clinical_branch
from mdf_detectron.modeling.clinical_encoder import ClinicalDropout, ClinicalEncoder, EncodedRecord, present_columns
from mdf_detectron.modeling.fusions import MAP, FusedConvolution, build_fusion, fusion_class
from mdf_detectron.modeling.record_model import RecordModel


class DualBackbone(Backbone):
    """Compute image features, fused with the clinical record where ``fusions`` are given.

    Args:
        image_backbone: I = f_CXR(image).
        clinical_encoder: computes Z^C; None for an image-only model.
        clinical_dropout: hides records and values in training; None hides nothing.
        record_model: tells each class from the record alone, for logit fusion.
        fusions: one per feature map, by name; None without 3-D fusion.
        clinical_branch: computes the clinical maps for fusions of two maps; None for fusions that read the record.
    """

    def __init__(
        self,
        *,
        image_backbone: Backbone,
        clinical_encoder: ClinicalEncoder | None = None,
        clinical_dropout: ClinicalDropout | None = None,
        record_model: RecordModel | None = None,
        fusions: dict[str, FusedConvolution] | None = None,
        clinical_branch: ClinicalBranch | None = None,
    ):
        super().__init__()
        read_maps = [] if fusions is None else [f for f in fusions.values() if MAP in f.fusion.reads]
        if bool(read_maps) != (clinical_branch is not None):
            raise ValueError("fusions that read a map need a clinical branch, and a clinical branch needs such fusions")
        if fusions is not None and clinical_encoder is None:
            raise ValueError("3-D fusion needs a clinical encoder")
        if fusions is not None and set(fusions) != set(image_backbone.output_shape()):
            raise ValueError(f"fusions {sorted(fusions)} do not match features {sorted(image_backbone.output_shape())}")
        self.image_backbone = image_backbone
        self.clinical_encoder = clinical_encoder
        self.clinical_dropout = clinical_dropout
        self.record_model = record_model
        self.clinical_branch = clinical_branch
        self.fusions = None if fusions is None else nn.ModuleDict(fusions)

    @property
    def size_divisibility(self) -> int:
        return self.image_backbone.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.image_backbone.padding_constraints

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.image_backbone.output_shape()

    def encode(self, numeric: Tensor, categorical: Tensor) -> EncodedRecord:
        """Encode records, (N, A) float with NaN and (N, B) long with -1, in training after clinical dropout."""
        if self.clinical_dropout is not None:
            numeric, categorical = self.clinical_dropout(numeric, categorical)
        log_odds = None if self.record_model is None else self.record_model.log_odds_ratio(numeric, categorical)
        present = present_columns(numeric, categorical)
        return EncodedRecord(self.clinical_encoder(numeric, categorical), present, log_odds)

    def forward(self, image: Tensor, record: EncodedRecord | None = None) -> dict[str, Tensor]:
        return self.features_and_maps(image, record)[0]

    def features_for_logits(
        self, image: Tensor, record: EncodedRecord | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], EncodedRecord | None]:
        """Return features, clinical maps and record; with logit fusion the fused features go with the record.

        The detector then reads the image alone, and only the head of logit fusion reads what is fused.
        """
        features = self.image_backbone(image)
        fused, maps = self._fuse(features, image, record)
        if self.record_model is None:
            return fused, maps, record
        return features, maps, record._replace(fused=fused if self.fusions is not None else None)

    def features_and_maps(
        self, image: Tensor, record: EncodedRecord | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute features by name, (N, D, H/s, W/s) each, and clinical maps of the same names and shapes, if any.

        ``image`` is (N, C, H, W) float, normalized and padded; 3-D fusion needs the N records of :meth:`encode`.
        """
        return self._fuse(self.image_backbone(image), image, record)

    def _fuse(
        self, features: dict[str, Tensor], image: Tensor, record: EncodedRecord | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        maps: dict[str, Tensor] = {}
        if self.fusions is None:
            return features, maps
        if self.clinical_branch is not None:
            sizes = {name: tuple(feature.shape[-2:]) for name, feature in features.items()}
            maps = self._clinical_maps(record.vector, tuple(image.shape[-2:]), sizes)
        fused = {name: self.fusions[name](feature, maps.get(name), record) for name, feature in features.items()}
        return fused, maps

    def _clinical_maps(self, encoded: Tensor, image_size: Size, sizes: dict[str, Size]) -> dict[str, Tensor]:
        """Compute the branch's maps, at inference once per distinct record (a study's views share one)."""
        shared = not (self.training or torch.is_grad_enabled() or torch.jit.is_tracing()) and len(encoded) > 1
        if not shared:
            return self.clinical_branch(encoded, image_size, sizes)
        distinct, place = torch.unique(encoded, dim=0, return_inverse=True)
        if len(distinct) == len(encoded):
            return self.clinical_branch(encoded, image_size, sizes)
        maps = self.clinical_branch(distinct, image_size, sizes)
        return {name: x.index_select(0, place) for name, x in maps.items()}


@BACKBONE_REGISTRY.register()
def build_dual_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DualBackbone:
    """Build a :class:`DualBackbone` with the parts that ``MODEL.CLINICAL.FUSION_3D`` and ``FUSION_1D`` need."""
    clinical = cfg.MODEL.CLINICAL
    parts = {"image_backbone": build_image_backbone(cfg, input_shape)}
    _check_in_features(cfg, sorted(parts["image_backbone"].output_shape()))
    if reads_record(cfg):
        parts["clinical_encoder"] = ClinicalEncoder(cfg)
        parts["clinical_dropout"] = ClinicalDropout(clinical.DROPOUT_RECORD, clinical.DROPOUT_VALUE)
    if fuses_logits(cfg):
        sizes = [len(vocabulary) for vocabulary in clinical.VOCABULARIES]
        parts["record_model"] = RecordModel(len(clinical.NUMERIC), sizes, num_classes(cfg)[1])
    if fuses_3d(cfg):
        shapes, layout = parts["image_backbone"].output_shape(), parts["clinical_encoder"].layout
        parts["fusions"] = {name: build_fusion(cfg, shape.channels, layout) for name, shape in shapes.items()}
        fusion = fusion_class(cfg)
        if MAP in fusion.reads:
            parts["clinical_branch"] = build_clinical_branch(cfg, layout.dim, input_shape, shapes, fusion.neutral)
    return DualBackbone(**parts)


def _check_in_features(cfg: CfgNode, features: list[str]) -> None:
    """Raise :class:`ConfigError` if the detector reads a feature map that the image backbone does not have."""
    for key in META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).in_features_keys:
        asked = list(value_at(cfg, key))
        if not set(asked) <= set(features):
            raise ConfigError(
                f"{key} is {asked}, the image backbone gives {features} (named by the log2 of their "
                "stride); make them agree, with as many MODEL.ANCHOR_GENERATOR.SIZES"
            )
