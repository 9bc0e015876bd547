"""RoI heads with 1-D fusion: the encoded record joins every flattened RoI (paper, equation 4: Flatten(Z̃^RoI) ∪ Z^C).

Shape letters: R RoIs of all images, D channels, P pooler resolution, Z width of the encoded record.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cross_entropy, shapes_to_tensor
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    FastRCNNConvFCHead,
    StandardROIHeads,
)
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from mdf_detectron.config import fuses_1d, fuses_logits
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.clinical_encoder import EncodedRecord, record_layout
from mdf_detectron.modeling.logit_fusion import LogitFusion, relative_boxes
from mdf_detectron.modeling.roi_align import use_separable_roi_align

Features = dict[str, Tensor]


@ROI_BOX_HEAD_REGISTRY.register()
class ClinicalFastRCNNConvFCHead(FastRCNNConvFCHead):
    """``FastRCNNConvFCHead`` whose first layer reads a flattened RoI and its image's encoded record.

    fc1(Flatten(Z̃^RoI) ∪ Z^C) = W·Flatten(Z̃^RoI) + W_record·Z^C + b (paper, equation 4). The RoI has about fifty times
    as many inputs, so each part is a layer with its own initialization and learning rate: in one weight matrix the
    record starts with a vanishing share of the output, and training may never find it.

    Args:
        input_shape: of a pooled RoI.
        record_dim: Z; 0 gives the parent, which reads no record.

    Attributes:
        reads_record: of the class: it can; of a head: its ``forward`` takes a record per RoI. Detectron2's own box
            heads lack the attribute.

    Raises:
        ConfigError: there are convolutions, or no fully connected layer.
    """

    reads_record = True

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        fc_dims: list[int],
        conv_norm: str = "",
        record_dim: int = 0,
    ):
        super().__init__(input_shape, conv_dims=conv_dims, fc_dims=fc_dims, conv_norm=conv_norm)
        self.reads_record = record_dim > 0
        if not self.reads_record:
            return
        if conv_dims or not fc_dims:
            raise ConfigError(
                "1-D fusion concatenates the record to flattened regions: it needs MODEL.ROI_BOX_HEAD.NUM_CONV 0 "
                f"and NUM_FC of at least 1, got {len(conv_dims)} and {len(fc_dims)}"
            )
        self.fc1_record = nn.Linear(record_dim, fc_dims[0], bias=False)
        # a tenth of the usual scale: the detector first has to unlearn the random offset of an untrained record
        nn.init.normal_(self.fc1_record.weight, std=0.1 / record_dim**0.5)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        record_dim = record_layout(cfg).dim if fuses_1d(cfg) else 0
        return {**super().from_config(cfg, input_shape), "record_dim": record_dim}

    def lr_groups(self) -> dict[str, str]:
        """Return the learning-rate groups of the parameters that have one (see ``engine/optimizer.py``)."""
        return {"fc1_record.weight": "clinical"} if self.reads_record else {}

    def joined_parts(self, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the RoI's and the record's share of the first layer, (R, out) each, for diagnostics."""
        region, record = inputs
        return self.fc1(region.flatten(1)), self.fc1_record(record)

    def forward(self, x: Tensor, record: Tensor | None = None) -> Tensor:
        """Compute (R, D, P, P) and, where records are read, (R, Z) → (R, out)."""
        if not self.reads_record:
            return super().forward(x)
        x = self.fc1(x.flatten(1)) + self.fc1_record(record)
        for layer in self.fcs[1:]:
            x = layer(x.relu())
        return x.relu()


class ClinicalBoxBranchMixin:
    """Hand the record to the box heads (1-D fusion); goes before Detectron2's RoI heads in a class's bases.

    Attributes:
        reads_record: ``forward`` takes the record; Detectron2's own heads lack the attribute.
    """

    reads_record = True

    @classmethod
    def loss_names(cls, cfg: CfgNode) -> list[str]:
        """Name the losses of the box branch."""
        return ["loss_cls", "loss_box_reg"]

    @configurable
    def __init__(self, *, logit_fusion: nn.Module | None = None, **parts: Any):
        super().__init__(**parts)
        self.logit_fusion = logit_fusion
        use_separable_roi_align(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super().from_config(cfg, input_shape)
        if fuses_logits(cfg):
            head = parts["box_heads" if "box_heads" in parts else "box_head"]
            stages = list(head) if isinstance(head, (list, nn.ModuleList)) else [head]
            channels = input_shape[parts["box_in_features"][0]].channels
            region_dim = channels * cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION**2
            sizes = record_layout(cfg).dim, cfg.MODEL.ROI_HEADS.NUM_CLASSES, region_dim
            fusions = [LogitFusion(*sizes, cfg.MODEL.CLINICAL.LOGITS_HIDDEN) for _ in stages]
            parts["logit_fusion"] = nn.ModuleList(fusions)
        return parts

    def forward(
        self,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        record: EncodedRecord | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Run the heads as the parent does, with the images' encoded records, or None where the model reads none."""
        if not self.training:
            found = self._forward_box(features, proposals, None, record)
            return self.forward_with_given_boxes(features, found), {}
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals, targets, record)
        losses |= self._forward_mask(features, proposals)
        losses |= self._forward_keypoint(features, proposals)
        return proposals, losses

    def _predictions(
        self, stage: int, head: nn.Module, predictor: nn.Module, regions: Tensor, proposals: list[Instances],
        record: EncodedRecord | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
        """Run a stage's box head and predictor on pooled RoIs (R, D, P, P), each with its image's record.

        Returns:
            the predictor's logits (R, K + 1) and box deltas, and what logit fusion added to the logits, or None.
        """
        if record is None:
            return *predictor(head(regions)), None
        # shapes_to_tensor keeps the number of RoIs variable in a trace
        counts = shapes_to_tensor([p.proposal_boxes.tensor.shape[0] for p in proposals], device=regions.device).long()
        reads = getattr(head, "reads_record", False)
        of_region = record.vector.repeat_interleave(counts, dim=0).to(regions.dtype) if reads else None
        features = head(regions, of_region) if reads else head(regions)
        logits, deltas = predictor(features)
        if self.logit_fusion is None:
            return logits, deltas, None
        places = relative_boxes(proposals).to(features.dtype)
        if record.fused is not None:
            boxes = [p.proposal_boxes for p in proposals]
            regions = self.box_pooler([record.fused[name] for name in self.box_in_features], boxes)
        added = self.logit_fusion[stage](record, counts, regions, places)
        added = F.pad(added.to(logits.dtype), (0, 1))  # background comes last
        return logits + added, deltas, added

    @staticmethod
    def _losses(
        predictor: nn.Module, predictions: tuple[Tensor, Tensor], added: Tensor | None, proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the predictor's losses; with logit fusion, the class loss is the mean of those with and without it.

        So what the image says stays a detector of its own, for records that are not there.
        """
        losses = predictor.losses(predictions, proposals)
        if added is not None:
            asked = predictor.sigmoid_cross_entropy_loss if predictor.use_sigmoid_ce else cross_entropy
            alone = asked(predictions[0] - added, torch.cat([p.gt_classes for p in proposals]))
            losses["loss_cls"] = (losses["loss_cls"] + alone * predictor.loss_weight.get("loss_cls", 1.0)) / 2
        return losses


@ROI_HEADS_REGISTRY.register()
class ClinicalROIHeads(ClinicalBoxBranchMixin, StandardROIHeads):
    """``StandardROIHeads`` with 1-D fusion where ``MODEL.CLINICAL.FUSION_1D`` is on."""

    def _forward_box(self, features, proposals, targets=None, record=None) -> dict[str, Tensor] | list[Instances]:
        maps = [features[name] for name in self.box_in_features]
        regions = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        *predictions, added = self._predictions(0, self.box_head, self.box_predictor, regions, proposals, record)
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self._losses(self.box_predictor, predictions, added, proposals)
        if self.train_on_pred_boxes:  # after the losses, which read the proposals
            with torch.no_grad():
                boxes = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for one, predicted in zip(proposals, boxes, strict=True):
                one.proposal_boxes = Boxes(predicted)
        return losses


@ROI_HEADS_REGISTRY.register()
class ClinicalCascadeROIHeads(ClinicalBoxBranchMixin, CascadeROIHeads):
    """``CascadeROIHeads`` with 1-D fusion before the box head of every stage."""

    @classmethod
    def loss_names(cls, cfg: CfgNode) -> list[str]:
        """Name the losses of the box branch at every stage."""
        names, stages = super().loss_names(cfg), range(len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS))
        return [f"{name}_stage{k}" for k in stages for name in names]

    def _forward_box(self, features, proposals, targets=None, record=None) -> dict[str, Tensor] | list[Instances]:
        """Run the stages as the parent does, which hands them no record."""
        maps = [features[name] for name in self.box_in_features]
        sizes = [p.image_size for p in proposals]
        stages, boxes = [], []
        for number, predictor in enumerate(self.box_predictor):
            if number:
                proposals = self._create_proposals_from_boxes(boxes, sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, number, targets)
            *predictions, added = self._run_stage(maps, proposals, number, record)
            boxes = predictor.predict_boxes(predictions, proposals)
            stages.append((predictor, predictions, added, proposals))
        if self.training:
            losses = {}
            for number, (predictor, *given) in enumerate(stages):
                with get_event_storage().name_scope(f"stage{number}"):
                    losses |= {f"{name}_stage{number}": loss for name, loss in self._losses(predictor, *given).items()}
            return losses
        of_stages = (predictor.predict_probs(found, given) for predictor, found, _, given in stages)
        probabilities = zip(*of_stages, strict=True)
        scores = [sum(of_image) * (1.0 / len(stages)) for of_image in probabilities]
        limits = predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image
        return fast_rcnn_inference(boxes, scores, sizes, *limits)[0]

    def _run_stage(
        self, features: list[Tensor], proposals: list[Instances], stage: int, record: EncodedRecord | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        regions = self.box_pooler(features, [p.proposal_boxes for p in proposals])
        if self.training:
            regions = _ScaleGradient.apply(regions, 1.0 / self.num_cascade_stages)
        return self._predictions(stage, self.box_head[stage], self.box_predictor[stage], regions, proposals, record)
