"""Meta-architectures over images and clinical records: two-stage detectors (R-CNN) and RetinaNet."""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.loss_weighting import build_loss_weighting


class MultimodalInput(NamedTuple):
    """Takes the place of the image tensor between ``preprocess_image`` and the backbone.

    Attributes:
        image: (N, C, H, W) float, normalized and padded.
        clinical_numeric: (N, A) float in the schema's units, NaN where missing.
        clinical_categorical: (N, B) long, -1 where missing.
    """

    image: Tensor
    clinical_numeric: Tensor
    clinical_categorical: Tensor

    @property
    def device(self) -> torch.device:
        return self.image.device


class MultimodalMixin:
    """Put before a meta-architecture of Detectron2; the class then names its losses in ``loss_names``.

    The list of images that ``preprocess_image`` returns carries a :class:`MultimodalInput` in the place of its
    tensor; the forward of the parent hands it to the backbone unread.
    """

    @configurable
    def __init__(self, *, loss_weighting: nn.Module | None = None, **parts):
        super().__init__(**parts)
        self.loss_weighting = loss_weighting

    @classmethod
    def from_config(cls, cfg: CfgNode):
        return {**super().from_config(cfg), "loss_weighting": build_loss_weighting(cfg, cls.loss_names(cfg))}

    @staticmethod
    def loss_names(cfg: CfgNode) -> list[str]:
        """Names of the losses that the parent gives in training."""
        raise NotImplementedError

    def preprocess_image(self, batched_inputs: list[dict[str, Tensor]]) -> ImageList:
        """Normalize and pad the images, and stack the rows.

        Raises:
            KeyError: an input without a clinical row; the mapper gives an all-missing row where there is none.
            ValueError: rows of other columns than the model's, an infinite value, or a code outside its vocabulary.
        """
        images = super().preprocess_image(batched_inputs)
        rows = []
        for key in ("clinical_numeric", "clinical_categorical"):
            if any(key not in x for x in batched_inputs):
                raise KeyError(
                    f"an input has no '{key}': use mdf_detectron's MultimodalDatasetMapper for this loader "
                    "(a study without a row gets one with every value missing)"
                )
            rows.append(torch.stack([x[key] for x in batched_inputs]))
        encoder = getattr(self.backbone, "clinical_encoder", None)
        if encoder is not None:
            encoder.check_rows(*rows, [str(x.get("file_name", f"input {i}")) for i, x in enumerate(batched_inputs)])
        return ImageList(MultimodalInput(images.tensor, *map(self._move_to_current_device, rows)), images.image_sizes)

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

    @staticmethod
    def loss_names(cfg: CfgNode) -> list[str]:
        """Of the proposals, of the boxes (of every stage of a cascade) and of the masks, if there are any."""
        names = ["loss_rpn_cls", "loss_rpn_loc"]
        stages = [""]
        if "Cascade" in cfg.MODEL.ROI_HEADS.NAME:
            stages = [f"_stage{k}" for k in range(len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS))]
        names += [f"{name}{stage}" for stage in stages for name in ("loss_cls", "loss_box_reg")]
        return [*names, "loss_mask"] if cfg.MODEL.MASK_ON else names


@META_ARCH_REGISTRY.register()
class MultimodalRetinaNet(MultimodalMixin, RetinaNet):
    """``RetinaNet`` over images and clinical rows, with 3-D fusion on every level; inputs as ``MultimodalRCNN``'s."""

    @classmethod
    def from_config(cls, cfg: CfgNode):
        if cfg.MODEL.MASK_ON:
            raise ConfigError("MultimodalRetinaNet gives boxes only: set MODEL.MASK_ON False")
        return super().from_config(cfg)

    @staticmethod
    def loss_names(cfg: CfgNode) -> list[str]:
        """Focal loss of the classes, and of the boxes."""
        return ["loss_cls", "loss_box_reg"]
