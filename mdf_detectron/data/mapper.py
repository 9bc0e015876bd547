"""Map a dataset record to the model's input: image, boxes, masks and clinical record."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from mdf_detectron.data.augmentation import build_augmentations
from mdf_detectron.data.decoded_cache import DecodedCache
from mdf_detectron.data.readers import read_record_image
from mdf_detectron.data.schema import ClinicalSchema

LEAST_VISIBLE = 1 / 3
"""Smallest fraction of a box that must stay in the image to remain ground truth."""


def visible_share(annotation: dict[str, Any], transforms: T.TransformList, size: tuple[int, int]) -> float:
    """Return the fraction of an annotation's box inside the transformed image of (height, width) ``size``."""
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    left, top, right, bottom = transforms.apply_box(np.array([box]))[0]
    area = (right - left) * (bottom - top)
    width, height = min(right, size[1]) - max(left, 0), min(bottom, size[0]) - max(top, 0)
    return max(width, 0) * max(height, 0) / area if area > 0 else 0.0


class MultimodalDatasetMapper:
    """Map a Detectron2 dataset dict with a "clinical" entry to a training or test input.

    Args:
        is_train: attach ``instances``.
        augmentations: applied in order; the first is the resize.
        image_format: "L", "RGB" or "BGR".
        schema: the columns the model reads, in order.
        use_instance_mask: attach ``gt_masks``.
        mask_format: "polygon", or "bitmask", which also takes run-length encodings.
        caches: decoded images after the resize; images in none of them are decoded from their files.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation],
        image_format: str,
        schema: ClinicalSchema,
        use_instance_mask: bool,
        mask_format: str = "polygon",
        caches: Sequence[DecodedCache] = (),
    ):
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.after_resizing = T.AugmentationList(augmentations[1:])
        self.caches = tuple(caches)
        self.image_format = image_format
        self.schema = schema
        self.use_instance_mask = use_instance_mask
        self.mask_format = mask_format

    @classmethod
    def from_config(cls, cfg, is_train: bool, schema: ClinicalSchema):
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "schema": schema,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "mask_format": cfg.INPUT.MASK_FORMAT,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Returns:
            the record with ``image`` ((C, H, W) float32, 0–255), ``clinical_numeric`` ((A,) float32, NaN if missing),
            ``clinical_categorical`` ((B,) long, -1 if missing) and, if the record has annotations and ``is_train`` is
            set, ``instances`` (gt_boxes, gt_classes, gt_masks).

        Raises:
            ImageReadError: the file is unreadable, or has changed since preparation.
            DatasetError: the schema does not allow a value.
        """
        record = dict(record)  # shallow: below, values are replaced, never modified

        # 1. image and geometry
        record["image"], transforms = self._image_of(record)
        record.pop("sha256", None)

        # 2. clinical record, only the columns the model reads
        record.update(self.clinical_tensors(record))

        # 3. instances
        annotations = record.pop("annotations", None)
        if self.is_train and annotations is not None:
            record["instances"] = self._instances(annotations, transforms, tuple(record["image"].shape[1:]))
        return record

    def _image_of(self, record: dict[str, Any]) -> tuple[torch.Tensor, T.TransformList]:
        for cache in self.caches:
            found = cache.get(record["file_name"])
            if found is not None:
                height, width = found.pixels.shape[:2]
                resized = T.ResizeTransform(found.height, found.width, height, width)
                image, later = self._augmented(found.pixels, self.after_resizing)
                return image, T.TransformList([resized, *later.transforms])
        image = read_record_image(record, self.image_format)
        record["height"], record["width"] = image.shape[:2]
        return self.image_tensor(image)

    def image_tensor(self, image: np.ndarray) -> tuple[torch.Tensor, T.TransformList]:
        """Augment (H, W, C) uint8 or float32 pixels; return (C, h, w) float32, 0–255, and the geometric transforms."""
        return self._augmented(image, self.augmentations)

    @staticmethod
    def _augmented(image: np.ndarray, augmentations: T.AugmentationList) -> tuple[torch.Tensor, T.TransformList]:
        aug_input = T.AugInput(image)
        transforms = augmentations(aug_input)
        image = aug_input.image
        if image.ndim == 2:  # some transforms drop a lone channel
            image = image[:, :, None]
        pixels = np.array(image.transpose(2, 0, 1), order="C")  # a copy: a cache's pixels are read-only
        return torch.from_numpy(pixels).float(), transforms

    def clinical_tensors(self, record: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``clinical_numeric`` and ``clinical_categorical``; without a record all values are missing."""
        numeric, categorical = self.schema.encode(record.get("clinical"), str(record.get("file_name", "record")))
        return {
            "clinical_numeric": torch.tensor(numeric, dtype=torch.float32),
            "clinical_categorical": torch.tensor(categorical, dtype=torch.long),
        }

    def _instances(self, annotations: list[dict[str, Any]], transforms: T.TransformList, size: tuple[int, int]):
        left_out = () if self.use_instance_mask else ("segmentation",)
        kept = [{k: v for k, v in a.items() if k not in left_out} for a in annotations if not a.get("iscrowd", 0)]
        kept = [a for a in kept if visible_share(a, transforms, size) >= LEAST_VISIBLE]
        transformed = [utils.transform_instance_annotations(a, transforms, size) for a in kept]
        # transforms turn run-length encodings into bitmaps; polygons must then become bitmaps too
        bitmaps = [a for a in transformed if isinstance(a.get("segmentation"), np.ndarray)]
        for annotation in bitmaps:
            annotation["segmentation"] = annotation["segmentation"].copy()  # torch wants a writable array
        mask_format = "bitmask" if bitmaps else self.mask_format
        instances = utils.annotations_to_instances(transformed, size, mask_format=mask_format)
        return utils.filter_empty_instances(instances)
