"""Meta-architectures; importing this package registers them."""

from mdf_detectron.modeling.meta_arch.multimodal_rcnn import MultimodalRCNN

__all__ = ["MultimodalRCNN"]
