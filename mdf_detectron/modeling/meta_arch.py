"""Meta-architectures over images and clinical records: two-stage detectors (R-CNN) and RetinaNet.

Shape letters: A numeric columns, B categorical columns.
"""

import traceback
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import move_device_like
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN
from detectron2.modeling import build_model as build_by_registry
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from mdf_detectron.config import fuses_logits, num_classes
from mdf_detectron.errors import ConfigError, UserError, short_text
from mdf_detectron.modeling.clinical_encoder import EncodedRecord, record_layout
from mdf_detectron.modeling.initialization import start_as_torch
from mdf_detectron.modeling.logit_fusion import LogitFusion
from mdf_detectron.modeling.losses import FindingsFromRecord, build_loss_weighting

Inputs = list[dict[str, Any]]


class MultimodalMixin:
    """Add clinical records and weighted losses to one of Detectron2's meta-architectures.

    A registered class names this mixin before the meta-architecture in its bases, and sets:

    Attributes:
        num_classes_key: config key of its number of classes.
        in_features_keys: config keys of the feature maps that its parts read.
        has_roi_heads: whether it has, as :class:`MultimodalRCNN`, RoI heads (for 1-D fusion) and proposals (for
            ``VIS_PERIOD`` to draw).
    """

    num_classes_key: str
    in_features_keys: tuple[str, ...] = ()
    has_roi_heads = False

    @configurable
    def __init__(
        self,
        *,
        loss_weighting: nn.Module | None = None,
        findings_from_record: FindingsFromRecord | None = None,
        **parts: Any,
    ):
        super().__init__(**parts)
        self.loss_weighting = loss_weighting
        self.findings_from_record = findings_from_record

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        parts = super().from_config(cfg)
        parts["loss_weighting"] = build_loss_weighting(cfg, cls.loss_names(cfg))
        if cfg.MODEL.CLINICAL.AUXILIARY_WEIGHT and parts["backbone"].clinical_branch is not None:
            parts["findings_from_record"] = FindingsFromRecord(
                channels={name: shape.channels for name, shape in parts["backbone"].output_shape().items()},
                num_classes=num_classes(cfg)[1],
                weight=cfg.MODEL.CLINICAL.AUXILIARY_WEIGHT,
            )
        if cfg.MODEL.TORCH_INITIALIZATION:
            start_as_torch(nn.ModuleList(part for part in parts.values() if isinstance(part, nn.Module)))
        return parts

    @staticmethod
    def loss_names(cfg: CfgNode) -> list[str]:
        """Name the parent's training losses."""
        raise NotImplementedError

    def encode_records(self, batched_inputs: Inputs) -> EncodedRecord | None:
        """Stack, check and encode the clinical records of a batch; return None where the model reads none.

        Raises:
            KeyError: an input without a clinical record (for a study without one the mapper gives an all-missing one).
            ValueError: another number of columns than the model's, an infinite value, or a code outside its vocabulary.
        """
        tensors = []
        for key in ("clinical_numeric", "clinical_categorical"):
            if any(key not in x for x in batched_inputs):
                raise KeyError(
                    f"an input has no '{key}': use mdf_detectron's MultimodalDatasetMapper for this loader "
                    "(a study without a record gets one with every value missing)"
                )
            tensors.append(torch.stack([x[key] for x in batched_inputs]))
        encoder = self.backbone.clinical_encoder
        if encoder is None:
            return None
        encoder.check_records(*tensors, [str(x.get("file_name", f"input {i}")) for i, x in enumerate(batched_inputs)])
        return self.backbone.encode(*(move_device_like(x, encoder.mean) for x in tensors))

    def auxiliary_losses(self, maps: dict[str, Tensor], targets: list[Instances]) -> dict[str, Tensor]:
        """Return the losses next to the detector's; no loss weighting applies to them."""
        if self.findings_from_record is None:
            return {}
        return {"loss_findings_from_record": self.findings_from_record(maps, [x.gt_classes for x in targets])}

    def weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weight the losses, and log the raw ones as ``raw/<name>``."""
        if self.loss_weighting is None:
            return losses
        if has_event_storage():
            storage = get_event_storage()
            for name, value in losses.items():
                storage.put_scalar(f"raw/{name}", value.detach(), smoothing_hint=True)
        return self.loss_weighting(losses)


@META_ARCH_REGISTRY.register()
class MultimodalRCNN(MultimodalMixin, GeneralizedRCNN):
    """``GeneralizedRCNN`` (Faster, Mask and Cascade R-CNN) over images and clinical records.

    Inputs are Detectron2's dicts plus ``clinical_numeric``, (A,) float, NaN where missing, and
    ``clinical_categorical``, (B,) long, -1 where missing.
    """

    num_classes_key = "MODEL.ROI_HEADS.NUM_CLASSES"
    in_features_keys = ("MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES")
    has_roi_heads = True

    @staticmethod
    def loss_names(cfg: CfgNode) -> list[str]:
        """Name the losses of proposals, of boxes (by the RoI heads' ``loss_names``) and of masks, if any."""
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
        names = heads.loss_names(cfg) if hasattr(heads, "loss_names") else ["loss_cls", "loss_box_reg"]
        masks = ["loss_mask"] if cfg.MODEL.MASK_ON else []
        return ["loss_rpn_cls", "loss_rpn_loc", *names, *masks]

    def forward(self, batched_inputs: Inputs):
        """Run the parent's forward pass; backbone and heads read the record, and training losses are weighted."""
        if not self.training:
            return self.inference(batched_inputs)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        images, features, maps, record = self.read(batched_inputs)
        proposals, proposal_losses = self.proposal_generator(images, features, targets)
        _, detector_losses = self.roi_heads(images, features, proposals, targets, **self.arguments_of_heads(record))
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**self.weighted({**detector_losses, **proposal_losses}), **self.auxiliary_losses(maps, targets)}

    def inference(
        self, batched_inputs: Inputs, detected_instances: list[Instances] | None = None, do_postprocess: bool = True
    ):
        """Detect as the parent does; see there for ``detected_instances`` (masks for given boxes)."""
        assert not self.training
        images, features, _, record = self.read(batched_inputs)
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            results, _ = self.roi_heads(images, features, proposals, None, **self.arguments_of_heads(record))
        else:
            detected_instances = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, detected_instances)
        return self._postprocess(results, batched_inputs, images.image_sizes) if do_postprocess else results

    def read(self, batched_inputs: Inputs) -> tuple[ImageList, dict[str, Tensor], dict[str, Tensor], EncodedRecord]:
        """Return a batch's images, features, clinical maps and encoded records (None where the model reads none)."""
        images, record = self.preprocess_image(batched_inputs), self.encode_records(batched_inputs)
        return images, *self.backbone.features_for_logits(images.tensor, record)

    def arguments_of_heads(self, record: EncodedRecord | None) -> dict[str, EncodedRecord]:
        """Return the RoI heads' arguments beyond Detectron2's: the record, for heads that read it."""
        return {"record": record} if record is not None and getattr(self.roi_heads, "reads_record", False) else {}


@META_ARCH_REGISTRY.register()
class MultimodalRetinaNet(MultimodalMixin, RetinaNet):
    """``RetinaNet`` over images and clinical records (3-D fusion on every level); inputs as ``MultimodalRCNN``'s."""

    num_classes_key = "MODEL.RETINANET.NUM_CLASSES"
    in_features_keys = ("MODEL.RETINANET.IN_FEATURES",)

    @configurable
    def __init__(self, *, logit_fusion: LogitFusion | None = None, **parts: Any):
        super().__init__(**parts)
        self.logit_fusion = logit_fusion

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if cfg.MODEL.MASK_ON:
            raise ConfigError("MultimodalRetinaNet gives boxes only: set MODEL.MASK_ON False")
        parts, clinical = super().from_config(cfg), cfg.MODEL.CLINICAL
        if fuses_logits(cfg):
            sizes = record_layout(cfg).dim, num_classes(cfg)[1]
            parts["logit_fusion"] = LogitFusion(*sizes, hidden=clinical.LOGITS_HIDDEN)
        return parts

    @staticmethod
    def loss_names(cfg: CfgNode) -> list[str]:
        """Name the losses of classes and boxes."""
        return ["loss_cls", "loss_box_reg"]

    def forward(self, batched_inputs: Inputs):
        """Run the parent's forward pass; the backbone reads the record, and training losses are weighted."""
        images = self.preprocess_image(batched_inputs)
        record = self.encode_records(batched_inputs)
        features, maps = self.backbone.features_and_maps(images.tensor, record)
        features = [features[name] for name in self.head_in_features]
        logits, deltas = self.head(features)
        alone, predictions = (logits, deltas), (logits, deltas)
        if self.logit_fusion is not None:  # (N, anchors·K, H, W), an anchor's classes side by side
            added = self.logit_fusion.of_images(record).repeat(1, self.anchor_generator.num_cell_anchors[0])
            predictions = [x + added[:, :, None, None].to(x.dtype) for x in logits], deltas
        if self.training:
            targets = [x["instances"].to(self.device) for x in batched_inputs]
            normalizer = getattr(self, "loss_normalizer", 100)  # Detectron2's start
            losses = self.forward_training(images, features, predictions, targets)
            if self.logit_fusion is not None:  # as in the RoI heads; a step moves the running normalizer once
                self.loss_normalizer = normalizer
                of_image = self.forward_training(images, features, alone, targets)["loss_cls"]
                losses["loss_cls"] = (losses["loss_cls"] + of_image) / 2
            return {**self.weighted(losses), **self.auxiliary_losses(maps, targets)}
        found = self.forward_inference(images, features, predictions)
        return [
            {"instances": detector_postprocess(one, x.get("height", size[0]), x.get("width", size[1]))}
            for one, x, size in zip(found, batched_inputs, images.image_sizes, strict=True)
        ]


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model of a config on its device; raise :class:`ConfigError`, cause chained, if a part refuses."""
    try:
        return build_by_registry(cfg)
    except UserError:
        raise
    except Exception as cause:  # each part of a model checks in its own way: asserts, KeyErrors, RuntimeErrors
        last = traceback.extract_tb(cause.__traceback__)[-1]
        text = f"{type(cause).__name__}: {short_text(cause)} ({Path(last.filename).name}, line {last.lineno})"
        raise ConfigError(f"the model of this config cannot be built: {text}") from cause
