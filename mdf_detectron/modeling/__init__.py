"""Model parts; importing this package registers them with Detectron2."""

from mdf_detectron.modeling.backbone import DualBackbone, TimmBackbone
from mdf_detectron.modeling.clinical_encoder import ClinicalEncoder
from mdf_detectron.modeling.fusion import FUSION_REGISTRY
from mdf_detectron.modeling.loss_weighting import HomoscedasticLossWeighting
from mdf_detectron.modeling.meta_arch import MultimodalRCNN, MultimodalRetinaNet
from mdf_detectron.modeling.roi_heads import ClinicalCascadeROIHeads, ClinicalROIHeads
from mdf_detectron.modeling.spatializer import Spatializer

__all__ = [
    "FUSION_REGISTRY",
    "ClinicalCascadeROIHeads",
    "ClinicalEncoder",
    "ClinicalROIHeads",
    "DualBackbone",
    "HomoscedasticLossWeighting",
    "MultimodalRCNN",
    "MultimodalRetinaNet",
    "Spatializer",
    "TimmBackbone",
]
