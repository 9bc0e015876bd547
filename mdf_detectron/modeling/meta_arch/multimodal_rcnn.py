"""The thin meta-architecture: brings the clinical row to the backbone, and weighs the losses."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from mdf_detectron.modeling.loss_weighting import build_loss_weighting
from mdf_detectron.modeling.multimodal_input import MultimodalInput


class MultimodalMixin:
    """What a Detectron2 meta-architecture lacks: a second input, and weighted losses.

    The list of images that ``preprocess_image`` returns carries a :class:`MultimodalInput` in the place of its
    tensor; the forward of the parent hands it to the backbone unread.
    """

    loss_weighting: nn.Module | None

    def preprocess_image(self, batched_inputs: list[dict[str, Tensor]]) -> ImageList:
        """Normalize and pad the images, and stack the rows.

        Raises:
            KeyError: an input without a clinical row; the mapper gives an all-missing row where there is none.
        """
        images = super().preprocess_image(batched_inputs)
        rows = []
        for key in ("clinical_numeric", "clinical_categorical"):
            if any(key not in x for x in batched_inputs):
                raise KeyError(
                    f"an input has no '{key}': use mdf_detectron's MultimodalDatasetMapper for this loader "
                    "(a study without a row gets one with every value missing)"
                )
            rows.append(torch.stack([self._move_to_current_device(x[key]) for x in batched_inputs]))
        return ImageList(MultimodalInput(images.tensor, *rows), images.image_sizes)

    def forward(self, batched_inputs: list[dict[str, Tensor]]):
        """As the parent's; in training the losses are weighted and the raw ones logged as ``raw/<name>``."""
        outputs = super().forward(batched_inputs)
        if not self.training or self.loss_weighting is None:
            return outputs
        if has_event_storage():
            storage = get_event_storage()
            for name, value in outputs.items():
                storage.put_scalar(f"raw/{name}", value.detach(), smoothing_hint=True)
        return self.loss_weighting(outputs)


@META_ARCH_REGISTRY.register()
class MultimodalRCNN(MultimodalMixin, GeneralizedRCNN):
    """``GeneralizedRCNN`` over images and clinical rows.

    Inputs are Detectron2's dicts with, in addition, ``clinical_numeric`` ((A,) float, NaN where missing) and
    ``clinical_categorical`` ((B,) long, -1 where missing).
    """

    @configurable
    def __init__(self, *, loss_weighting: nn.Module | None = None, **parts):
        super().__init__(**parts)
        self.loss_weighting = loss_weighting

    @classmethod
    def from_config(cls, cfg):
        names = ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"]
        if "Cascade" in cfg.MODEL.ROI_HEADS.NAME:
            stages = range(len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS))
            names = names[:2] + [f"{n}_stage{k}" for k in stages for n in ("loss_cls", "loss_box_reg")]
        if cfg.MODEL.MASK_ON:
            names.append("loss_mask")
        return {**super().from_config(cfg), "loss_weighting": build_loss_weighting(cfg, names)}
