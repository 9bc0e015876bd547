"""3-D fusions; importing this package registers them."""

from mdf_detectron.modeling.fusion import (  # noqa: F401  (registration)
    concatenation,
    cross_attention,
    elementwise,
    modulation,
)
from mdf_detectron.modeling.fusion.build import FUSION_REGISTRY, FusedConvolution, Fusion, build_fusion, fusion_class

__all__ = ["FUSION_REGISTRY", "FusedConvolution", "Fusion", "build_fusion", "fusion_class"]
