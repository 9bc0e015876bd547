"""RoI heads; importing this package registers them."""

from mdf_detectron.modeling.roi_heads.clinical_pooler import ClinicalROIPooler
from mdf_detectron.modeling.roi_heads.clinical_roi_heads import ClinicalCascadeROIHeads, ClinicalROIHeads

__all__ = ["ClinicalCascadeROIHeads", "ClinicalROIHeads", "ClinicalROIPooler"]
