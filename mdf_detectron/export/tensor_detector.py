"""A detector as one function of tensors, for export: Detectron2's inference without lists of images.

Detectron2 walks over the images of a batch in Python, so that a trace holds a fixed number of them. Here all images go
through every step together and each box carries the number of its image; what is computed is the same.

Shape letters: N images, C channels, H×W pixels, A numeric columns, B categorical columns, T candidates of an image,
R boxes of all images, K classes, P cells a side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from detectron2.layers import ROIAlign, shapes_to_tensor
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.structures import Boxes
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.meta_arch import MultimodalRCNN, MultimodalRetinaNet

IMAGE, NUMERIC, CATEGORICAL = "image", "clinical_numeric", "clinical_categorical"
"""Names of the inputs; a model without numeric or categorical columns lacks that one."""

BOXES, SCORES, CLASSES, IMAGE_INDEX, MASKS = "boxes", "scores", "classes", "image_index", "masks"
"""Names of the outputs; a model without masks lacks the last."""


class Candidates(NamedTuple):
    """Boxes of all images.

    Attributes:
        boxes: (R, 4) float, x0, y0, x1, y1 in pixels.
        scores: (R,) float.
        classes: (R,) long; of a proposal the number of its feature map.
        image: (R,) long, number of the image.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    image: Tensor

    def chosen(self, index: Tensor) -> Candidates:
        """Select by numbers or by a mask."""
        return Candidates(*(values[index] for values in self))


def suppressed(found: Candidates, groups: int, threshold: float, num_images: Tensor, limit: int) -> Candidates:
    """Suppress overlaps within each class of each image, and keep the best ``limit`` of an image.

    Args:
        groups: classes that there are.
        num_images: N, as a tensor.
        limit: below 0 all are kept.

    Returns:
        by falling score, all images together.
    """
    zero = found.boxes.new_zeros(1)
    corners = torch.cat([found.boxes.flatten(), zero])  # never empty
    apart = (found.image * groups + found.classes).to(found.boxes.dtype) * (corners.max() - corners.min() + 1)
    found = found.chosen(torchvision.ops.nms(found.boxes + apart[:, None], found.scores, threshold))
    if limit < 0:
        return found
    of_image = found.image[:, None] == torch.arange(num_images, device=found.image.device)[None]
    rank = of_image.long().cumsum(0).gather(1, found.image[:, None])[:, 0]
    return found.chosen(rank <= limit)


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip (…, 4) boxes to the image of ``size``, (2,) height and width."""
    limits = size.flip(0).repeat(2).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def without_empty(found: Candidates) -> Candidates:
    """Drop boxes without area, as Detectron2 does when it scales them to the original image."""
    return found.chosen((found.boxes[:, 2:] > found.boxes[:, :2]).all(dim=1))


class TensorDetector(nn.Module):
    """Images and records → detections, all tensors.

    Args:
        model: in evaluation; its parts are used, not copied.

    Raises:
        ConfigError: a part that this does not know; the message names it.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.detector = model
        padding = model.backbone.padding_constraints
        if padding.get("square_size", 0):
            raise ConfigError(f"export: a backbone that pads to a square is not supported ({padding})")
        self.divisor = model.backbone.size_divisibility
        encoder = model.backbone.clinical_encoder
        self.num_numeric = 0 if encoder is None else encoder.num_numeric
        self.num_categorical = 0 if encoder is None else len(encoder.embeddings)

    @property
    def input_names(self) -> list[str]:
        """Names of ``forward``'s arguments."""
        return [IMAGE, *[NUMERIC] * bool(self.num_numeric), *[CATEGORICAL] * bool(self.num_categorical)]

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns."""
        return [BOXES, SCORES, CLASSES, IMAGE_INDEX]

    def forward(self, image: Tensor, *record: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            image: (N, C, H, W) float32, 0–255, in the channel order of the config.
            record: (N, A) float32, NaN where missing; then (N, B) long, -1 where missing; without what has no column.

        Returns:
            of R detections by falling score, all images together: boxes (R, 4) in pixels of ``image``, scores (R,),
            classes (R,) long, number of the image (R,) long and, with masks, (R, P, P) probabilities within the box.
        """
        size = shapes_to_tensor([image.shape[2], image.shape[3]]).to(image.device)
        x = (image - self.detector.pixel_mean) / self.detector.pixel_std
        if self.divisor > 1:
            down, right = ((self.divisor - side % self.divisor) % self.divisor for side in x.shape[2:])
            x = F.pad(x, [0, right, 0, down])
        encoded = self._encoded(image, record)
        return self.detections(self.detector.backbone(x, encoded), encoded, size, image.shape[0])

    def _encoded(self, image: Tensor, record: Sequence[Tensor]) -> Any:
        if self.detector.backbone.clinical_encoder is None:
            return None
        given = dict(zip(self.input_names[1:], record, strict=True))
        numeric = given.get(NUMERIC, image.new_zeros(image.shape[0], 0))
        categorical = given.get(CATEGORICAL, image.new_zeros(image.shape[0], 0, dtype=torch.long))
        return self.detector.backbone.encode(numeric, categorical)

    def detections(self, features: dict[str, Tensor], encoded: Any, size: Tensor, num_images: Any) -> tuple:
        """Features → outputs."""
        raise NotImplementedError


class TensorRCNN(TensorDetector):
    """Of Faster, Mask and Cascade R-CNN."""

    def __init__(self, model: MultimodalRCNN):
        super().__init__(model)
        heads, proposals = model.roi_heads, model.proposal_generator
        _check_kind("the proposal generator", proposals, RPN)
        _check_kind("the RoI heads", heads, StandardROIHeads)
        self.cascade = isinstance(heads, CascadeROIHeads)
        if heads.keypoint_on:
            raise ConfigError("export: keypoints are not supported")
        self.box_pooler = heads.box_pooler
        self.masks = heads.mask_on
        if self.masks:
            _check_kind("the mask head", heads.mask_head, BaseMaskRCNNHead)
        for pooler in (self.box_pooler, *([heads.mask_pooler] if self.masks else [])):
            _check_kind("the region pooler", pooler, ROIPooler)
            for level in pooler.level_poolers:
                _check_kind("the region pooler's operator", level, ROIAlign)

    @property
    def output_names(self) -> list[str]:
        return [*super().output_names, *[MASKS] * self.masks]

    def detections(self, features: dict[str, Tensor], encoded: Any, size: Tensor, num_images: Any) -> tuple:
        """See the base."""
        heads = self.detector.roi_heads
        proposals = self._proposals(features, size, num_images)
        found = self._classified(features, encoded, proposals, size, num_images)
        if not self.masks:
            return tuple(found)
        maps = [features[name] for name in heads.mask_in_features]
        logits = heads.mask_head.layers(pooled(heads.mask_pooler, maps, found.boxes, found.image))
        if heads.mask_head.predictor.out_channels > 1:
            index = found.classes[:, None, None, None].expand(-1, 1, logits.shape[2], logits.shape[3])
            logits = logits.gather(1, index)
        return *found, logits[:, 0].sigmoid()

    def _proposals(self, features: dict[str, Tensor], size: Tensor, num_images: Any) -> Candidates:
        rpn = self.detector.proposal_generator
        maps = [features[name] for name in rpn.in_features]
        logits, deltas = rpn.rpn_head(maps)
        levels = []
        for level, (anchors, score, delta) in enumerate(zip(rpn.anchor_generator(maps), logits, deltas, strict=True)):
            score = score.permute(0, 2, 3, 1).flatten(1)  # (N, HWA), and (N, HWA, 4)
            delta = delta.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            levels.append(_best(score, delta, anchors.tensor, rpn.pre_nms_topk[False], level, rpn.box2box_transform))
        boxes, scores, number = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        boxes = clipped(boxes, size)
        sides = boxes[..., 2:] - boxes[..., :2]
        valid = (sides > rpn.min_box_size).all(dim=2) & torch.isfinite(boxes).all(dim=2) & torch.isfinite(scores)
        found = _flat(boxes, scores, number, num_images).chosen(valid.flatten())
        return suppressed(found, len(maps), rpn.nms_thresh, num_images, rpn.post_nms_topk[False])

    def _classified(
        self, features: dict[str, Tensor], encoded: Any, proposals: Candidates, size: Tensor, num_images: Any
    ) -> Candidates:
        heads = self.detector.roi_heads
        maps = [features[name] for name in heads.box_in_features]
        stages = zip(heads.box_head, heads.box_predictor, strict=True) if self.cascade else None
        boxes, probabilities = proposals.boxes, []
        for number, (head, predictor) in enumerate(stages or [(heads.box_head, heads.box_predictor)]):
            boxes = clipped(boxes, size) if number else boxes
            regions = pooled(self.box_pooler, maps, boxes, proposals.image)
            record = (encoded.vector[proposals.image],) if getattr(head, "reads_record", False) else ()
            scores, deltas = predictor(head(regions, *record))
            probabilities.append(scores.sigmoid() if predictor.use_sigmoid_ce else scores.softmax(dim=1))
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes)
        scores = sum(probabilities[1:], probabilities[0]) * (1.0 / len(probabilities))
        valid = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        wanted = (scores[:, :-1] > predictor.test_score_thresh) & valid[:, None]
        region, classes = wanted.nonzero().unbind(1)
        boxes = clipped(boxes.unflatten(1, (-1, 4)), size)
        boxes = boxes[region, classes] if boxes.shape[1] > 1 else boxes[region, 0]
        found = Candidates(boxes, scores[region, classes], classes, proposals.image[region])
        kinds, limit = heads.num_classes, predictor.test_topk_per_image
        return without_empty(suppressed(found, kinds, predictor.test_nms_thresh, num_images, limit))


class TensorRetinaNet(TensorDetector):
    """Of RetinaNet."""

    def detections(self, features: dict[str, Tensor], encoded: Any, size: Tensor, num_images: Any) -> tuple:
        """See the base."""
        net = self.detector
        maps = [features[name] for name in net.head_in_features]
        logits, deltas = net.head(maps)
        levels = []
        for anchors, score, delta in zip(net.anchor_generator(maps), logits, deltas, strict=True):
            score = score.unflatten(1, (-1, net.num_classes)).permute(0, 3, 4, 1, 2).flatten(1).sigmoid()  # (N, HWAK)
            delta = delta.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            levels.append(
                _best(score, delta, anchors.tensor, net.test_topk_candidates, None, net.box2box_transform,
                      net.num_classes)
            )  # fmt: skip
        boxes, scores, classes = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        found = _flat(boxes, scores, classes, num_images)
        found = found.chosen(found.scores > net.test_score_thresh)
        limit = net.max_detections_per_image
        found = suppressed(found, net.num_classes, net.test_nms_thresh, num_images, limit)
        return tuple(without_empty(found._replace(boxes=clipped(found.boxes, size))))


def _best(
    scores: Tensor, deltas: Tensor, anchors: Tensor, limit: int, level: int | None, transform: Any, classes: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode the best boxes of one feature map: (N, T, 4), scores (N, T), and ``level`` or the class (N, T).

    Args:
        scores: (N, anchors × classes).
        deltas: (N, anchors, 4).
        limit: T at most.
    """
    count = torch.clamp(shapes_to_tensor([scores.shape[1]]), max=limit)[0]
    scores, index = scores.topk(count if torch.jit.is_tracing() else int(count), dim=1)
    at = torch.div(index, classes, rounding_mode="floor")
    chosen = deltas.gather(1, at[:, :, None].expand(-1, -1, 4))
    boxes = transform.apply_deltas(chosen.flatten(0, 1), anchors[at.flatten()])
    number = index - at * classes if level is None else torch.full_like(index, level)
    return boxes.unflatten(0, (-1, scores.shape[1])), scores, number


def _flat(boxes: Tensor, scores: Tensor, classes: Tensor, num_images: Any) -> Candidates:
    image = torch.arange(num_images, device=scores.device)[:, None].expand_as(scores)
    return Candidates(boxes.flatten(0, 1), scores.flatten(), classes.flatten(), image.flatten())


def pooled(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
    """Pool (R, 4) boxes of the images (R,), each from the feature map that fits its size; (R, D, P, P)."""
    regions = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
    if len(maps) == 1:
        return _aligned(pooler.level_poolers[0], maps[0], regions)
    canonical = pooler.canonical_box_size, pooler.canonical_level
    levels = assign_boxes_to_levels([Boxes(boxes)], pooler.min_level, pooler.max_level, *canonical)
    at = [(levels == number).nonzero()[:, 0] for number in range(len(maps))]
    parts = [_aligned(p, x, regions[i]) for p, x, i in zip(pooler.level_poolers, maps, at, strict=True)]
    return torch.cat(parts)[torch.cat(at).argsort()]


def _aligned(level: ROIAlign, features: Tensor, regions: Tensor) -> Tensor:
    return torchvision.ops.roi_align(
        features, regions, level.output_size, level.spatial_scale, level.sampling_ratio, level.aligned
    )


def _check_kind(what: str, part: nn.Module, known: type[nn.Module]) -> None:
    if not isinstance(part, known):
        raise ConfigError(f"export: {what} is a {type(part).__name__}, which is not supported ({known.__name__} is)")


def build_tensor_detector(model: nn.Module) -> TensorDetector:
    """Make the tensor form of a model of this project.

    Raises:
        ConfigError: another kind of model, or one with a part that is not supported.
    """
    for kind, wrapper in ((MultimodalRCNN, TensorRCNN), (MultimodalRetinaNet, TensorRetinaNet)):
        if isinstance(model, kind):
            return wrapper(model).eval()
    raise ConfigError(f"export: models of kind {type(model).__name__} are not supported")
