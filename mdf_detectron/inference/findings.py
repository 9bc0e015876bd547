"""The answer for one study: its findings, the record that the model read, and what was missing or unusual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.errors import UserError
from mdf_detectron.evaluation.calibration import calibrated


@dataclass(frozen=True)
class DetectedFinding:
    """One detection.

    Attributes:
        score: in [0, 1].
        probability: the score after temperature scaling; None if the checkpoint holds no calibration.
        box: x0, y0, x1, y1 in pixels of the original image.
        above_threshold: whether the score reaches the class's operating threshold.
        mask: (H, W) bool in the original image, or None.
    """

    class_index: int
    class_name: str
    score: float
    probability: float | None
    box: tuple[float, float, float, float]
    above_threshold: bool
    mask: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without the mask (:meth:`StudyFindings.to_coco` has it)."""
        out = {"class": self.class_name, "score": self.score, "box": list(self.box)}
        if self.probability is not None:
            out["probability"] = self.probability
        return {**out, "above_threshold": self.above_threshold}


@dataclass(frozen=True)
class StudyFindings:
    """A model's answer for one study.

    Attributes:
        pixels: (H, W, C) uint8, the image as read.
        record: value of each column that the model read; None if missing.
        missing: columns that the model reads but that had no value.
        notes: unusual input, such as a value outside the training range or a column that the model does not read.
        thresholds: operating threshold of each class, by name; infinity reports nothing of that class.
        threshold_source: where the thresholds come from, as text.
        instances: Detectron2's, on the CPU, in descending order of score; boxes in pixels of the original image.
        category_ids: id of each class in COCO files.
        columns: columns that the model reads.
        temperature: of the stored calibration; None if there is none.
    """

    image: str
    pixels: np.ndarray
    record: dict[str, Any]
    missing: list[str]
    notes: list[str]
    thresholds: dict[str, float]
    threshold_source: str
    instances: Instances
    class_names: Sequence[str]
    category_ids: Sequence[Any]
    columns: Sequence[ClinicalColumn]
    temperature: float | None = None

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def above_threshold(self) -> list[DetectedFinding]:
        """Detections whose score reaches the operating threshold of their class."""
        return [finding for finding in self.findings if finding.above_threshold]

    @cached_property
    def findings(self) -> list[DetectedFinding]:
        """All detections, in descending order of score."""
        scores = self.instances.scores.tolist()
        boxes = self.instances.pred_boxes.tensor.tolist()
        masks = self.instances.pred_masks.numpy() if self.instances.has("pred_masks") else [None] * len(scores)
        out = []
        for index, score, box, mask in zip(self.instances.pred_classes.tolist(), scores, boxes, masks, strict=True):
            name = self.class_names[index]
            probability = None if self.temperature is None else float(calibrated(score, self.temperature))
            above = score >= self.thresholds[name]
            out.append(DetectedFinding(index, name, score, probability, tuple(box), above, mask))
        return out

    def to_dict(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "record": dict(self.record),
            "missing": list(self.missing),
            "notes": list(self.notes),
            "operating_threshold": {"source": self.threshold_source, **self.thresholds},
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def to_coco(self, image_id: Any = None) -> list[dict[str, Any]]:
        """Return all detections as COCO results, as the evaluator of a training run writes them.

        Args:
            image_id: id of the image in the annotation file; None uses its name.
        """
        instances = Instances(self.instances.image_size, **self.instances.get_fields())
        if instances.has("pred_masks"):
            instances.pred_masks = instances.pred_masks.numpy()  # numpy 2 warns if Detectron2 converts tensors
        results = instances_to_coco_json(instances, self.image if image_id is None else image_id)
        return [{**result, "category_id": self.category_ids[result["category_id"]]} for result in results]

    def draw(self, path: str | Path, other: StudyFindings | None = None, titles: Sequence[str] = ()) -> Path:
        """Write a PNG of the image with the detections above their threshold, next to the clinical record.

        Args:
            other: findings of the same image to show next to these, such as those without the record.
            titles: one per panel; by default the number of findings.

        Raises:
            UserError: ``other`` is of an image of another size.
        """
        from mdf_detectron.report.images import Panel, record_text, save_panels  # matplotlib takes a while to import

        shown = [self] if other is None else [self, other]
        if other is not None and other.pixels.shape != self.pixels.shape:
            raise UserError("only findings of the same image can be drawn side by side")
        default = [f"{len(one.above_threshold)} finding(s) above threshold" for one in shown]
        panels = [
            Panel(
                title,
                boxes=[finding.box for finding in one.above_threshold],
                classes=[finding.class_index for finding in one.above_threshold],
                scores=[finding.score for finding in one.above_threshold],
            )
            for one, title in zip(shown, titles or default, strict=True)
        ]
        text = record_text(ClinicalSchema(tuple(self.columns)), self.record)
        return save_panels(path, self.pixels, panels, self.class_names, text)
