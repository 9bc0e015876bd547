"""3-D fusions; importing this package registers them."""

from mdf_detectron.modeling.fusion import concatenation, elementwise  # noqa: F401  (registration)
from mdf_detectron.modeling.fusion.build import FUSION_REGISTRY, FusedConvolution, build_fusion

__all__ = ["FUSION_REGISTRY", "FusedConvolution", "build_fusion"]
