"""Parts of the model; importing this package registers them with Detectron2."""

# ruff: noqa: E402  (the check comes before the imports that need detectron2)
from mdf_detectron import require_detectron2

require_detectron2()

from mdf_detectron.modeling.backbones import TimmBackbone
from mdf_detectron.modeling.clinical_branches import CLINICAL_BRANCH_REGISTRY, DeconvolutionBranch
from mdf_detectron.modeling.clinical_encoder import ClinicalEncoder
from mdf_detectron.modeling.dual_backbone import DualBackbone
from mdf_detectron.modeling.fusions import FUSION_REGISTRY
from mdf_detectron.modeling.losses import HomoscedasticLossWeighting
from mdf_detectron.modeling.meta_arch import MultimodalMixin, MultimodalRCNN, MultimodalRetinaNet
from mdf_detectron.modeling.roi_heads import ClinicalCascadeROIHeads, ClinicalFastRCNNConvFCHead, ClinicalROIHeads
from mdf_detectron.modeling.spatializer import Spatializer

__all__ = [
    "CLINICAL_BRANCH_REGISTRY",
    "FUSION_REGISTRY",
    "ClinicalCascadeROIHeads",
    "ClinicalEncoder",
    "ClinicalFastRCNNConvFCHead",
    "ClinicalROIHeads",
    "DeconvolutionBranch",
    "DualBackbone",
    "HomoscedasticLossWeighting",
    "MultimodalMixin",
    "MultimodalRCNN",
    "MultimodalRetinaNet",
    "Spatializer",
    "TimmBackbone",
]
