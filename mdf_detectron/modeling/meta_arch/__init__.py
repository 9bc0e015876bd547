"""Meta-architectures; importing this package registers them."""

from mdf_detectron.modeling.meta_arch.multimodal_rcnn import MultimodalRCNN
from mdf_detectron.modeling.meta_arch.multimodal_retinanet import MultimodalRetinaNet

__all__ = ["MultimodalRCNN", "MultimodalRetinaNet"]
