"""The dual backbone: image features fused with the spatialized clinical row (paper, Fig. 7b).

Shape letters: N images, C channels, H×W pixels, s stride, D channels of the feature map, Z width of the encoded row.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from mdf_detectron.modeling.backbone.timm_backbone import build_timm_backbone
from mdf_detectron.modeling.clinical_branch import ClinicalBranch, build_clinical_branch
from mdf_detectron.modeling.clinical_encoder import ClinicalEncoder
from mdf_detectron.modeling.fusion import build_fusion
from mdf_detectron.modeling.multimodal_input import MultimodalInput

CLINICAL_FEATURE = "clinical"
"""Name of the encoded row among the features, read by the RoI heads with 1-D fusion."""


class DualBackbone(Backbone):
    """Image features, fused with the clinical row where asked.

    Args:
        image_backbone: I = f_CXR(image).
        clinical_encoder: Z^C; None for an image-only model.
        clinical_branch: the encoded row as maps, C; None without 3-D fusion.
        fusions: one a feature map, under its name; given together with the clinical branch.
    """

    def __init__(
        self,
        *,
        image_backbone: Backbone,
        clinical_encoder: ClinicalEncoder | None = None,
        clinical_branch: ClinicalBranch | None = None,
        fusions: dict[str, nn.Module] | None = None,
    ):
        super().__init__()
        if (clinical_branch is None) != (fusions is None):
            raise ValueError("3-D fusion needs a clinical branch and fusions together")
        if clinical_branch is not None and clinical_encoder is None:
            raise ValueError("3-D fusion needs a clinical encoder")
        if fusions is not None and set(fusions) != set(image_backbone.output_shape()):
            raise ValueError(f"fusions {sorted(fusions)} do not match features {sorted(image_backbone.output_shape())}")
        self.image_backbone = image_backbone
        self.clinical_encoder = clinical_encoder
        self.clinical_branch = clinical_branch
        self.fusions = None if fusions is None else nn.ModuleDict(fusions)

    @property
    def size_divisibility(self) -> int:
        return self.image_backbone.size_divisibility

    def output_shape(self) -> dict[str, ShapeSpec]:
        """The image backbone's, and "clinical" (channels Z, no stride) where there is an encoder."""
        shapes = dict(self.image_backbone.output_shape())
        if self.clinical_encoder is not None:
            shapes[CLINICAL_FEATURE] = ShapeSpec(channels=self.clinical_encoder.output_dim)
        return shapes

    def forward(self, x: MultimodalInput) -> dict[str, Tensor]:
        """Features by name, each (N, D, H/s, W/s), and "clinical" (N, Z) where there is an encoder."""
        features = self.image_backbone(x.image)
        if self.clinical_encoder is None:
            return features
        encoded = self.clinical_encoder(x.clinical_numeric, x.clinical_categorical)
        if self.clinical_branch is not None:
            sizes = {name: tuple(feature.shape[-2:]) for name, feature in features.items()}
            clinical = self.clinical_branch(encoded, tuple(x.image.shape[-2:]), sizes)
            features = {name: self.fusions[name](features[name], clinical[name]) for name in features}
        return {**features, CLINICAL_FEATURE: encoded}


@BACKBONE_REGISTRY.register()
def build_dual_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DualBackbone:
    """Build a :class:`DualBackbone`; ``MODEL.CLINICAL.FUSION_3D`` and ``FUSION_1D`` decide on its parts."""
    clinical = cfg.MODEL.CLINICAL
    parts = {"image_backbone": build_timm_backbone(cfg, input_shape)}
    if clinical.FUSION_3D or clinical.FUSION_1D:
        parts["clinical_encoder"] = ClinicalEncoder(cfg)
    if clinical.FUSION_3D:
        shapes = parts["image_backbone"].output_shape()
        encoded_dim = parts["clinical_encoder"].output_dim
        parts["clinical_branch"] = build_clinical_branch(cfg, encoded_dim, input_shape, shapes)
        parts["fusions"] = {name: build_fusion(cfg, shape.channels) for name, shape in shapes.items()}
    return DualBackbone(**parts)
