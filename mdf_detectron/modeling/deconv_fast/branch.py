"""The paper's clinical branch: a deconvolved pseudo-image, read by a backbone of its own (equations 1 and 2).

Whatever makes it fast or trainable (its operators and start) is in this folder; a model sees this class only.

Shape letters: as in ``clinical_branches.py``.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from torch import Tensor, nn

from mdf_detectron.modeling.backbones import TimmBackbone, build_image_backbone
from mdf_detectron.modeling.clinical_branches import (
    CLINICAL_BRANCH_REGISTRY,
    ClinicalBranch,
    Features,
    Size,
    spatializer_options,
    start_near,
)
from mdf_detectron.modeling.deconv_fast.spatializer import RECTIFIER_MARGIN, Spatializer


@CLINICAL_BRANCH_REGISTRY.register()
class DeconvolutionBranch(ClinicalBranch):
    """The paper's: a pseudo-image of the input's size, read by a backbone of its own (equations 1 and 2).

    An untrained backbone scrambles a record beyond what the detector can read.  So it starts nearly linear: norms that
    contain their activation (of MobileNet, EfficientNet, DenseNet) start with a bias that keeps it from cutting.

    Args:
        spatializer: S = f_spa(Z^C).
        backbone: C = f_clinical(S).
        start_linear: start the backbone so; not with pretrained weights.
    """

    @configurable
    def __init__(self, *, spatializer: Spatializer, backbone: Backbone, start_linear: bool = True):
        super().__init__()
        self.spatializer = spatializer
        self.backbone = backbone
        if start_linear:
            _start_linear(backbone)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, image_shape: ShapeSpec, features: Features) -> dict[str, Any]:
        options = {**spatializer_options(cfg, in_dim), "num_stages": cfg.MODEL.SPATIALIZER.NUM_STAGES}
        return {
            "spatializer": Spatializer(out_channels=image_shape.channels, **options),
            "backbone": build_image_backbone(_trained_from_scratch(cfg), image_shape),
            "start_linear": not (cfg.MODEL.TIMM.PRETRAINED or cfg.MODEL.TIMM.WEIGHTS_FILE),
        }

    def lr_groups(self) -> dict[str, str]:
        """Learning-rate group of every parameter, see ``engine/optimizer.py``: deep, or of the layers that read out."""
        read_out = {id(p) for layer in self.output_layers() for p in layer.parameters()}
        return {n: "deconv_out" if id(p) in read_out else "deconv_deep" for n, p in self.named_parameters()}

    def spread(self, encoded: Tensor, image_size: Size, sizes: dict[str, Size]) -> dict[str, Tensor]:
        """As :meth:`ClinicalBranch.forward`; the backbone's own stride decides on the size."""
        return self.backbone(self.spatializer(encoded, image_size))

    def start_near(self, neutral: float) -> None:
        """For this project's backbone, and for a pyramid without norms."""
        start_near([layer for layer in self.output_layers() if layer.bias is not None], neutral)

    def output_layers(self) -> list[nn.Module]:
        """The convolutions that give the maps, where they are known: of this project's backbone and of a pyramid."""
        if isinstance(self.backbone, TimmBackbone):
            return [self.backbone.conv]
        if isinstance(self.backbone, FPN):
            top = [m for m in (self.backbone.top_block or nn.Identity()).modules() if isinstance(m, nn.Conv2d)]
            return [*self.backbone.output_convs, *top]
        return []


def _start_linear(backbone: nn.Module) -> None:
    from timm.layers import BatchNormAct2d  # slow to import

    for module in backbone.modules():
        if isinstance(module, BatchNormAct2d) and not isinstance(module.act, nn.Identity):
            nn.init.constant_(module.bias, RECTIFIER_MARGIN)


def _trained_from_scratch(cfg: CfgNode) -> CfgNode:
    """Without frozen layers: pretrained weights are those of images, and the pseudo-image is none."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        cfg.MODEL.RESNETS.NORM = "BN"
    return cfg
