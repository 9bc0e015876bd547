"""Random model inputs, for tests and benchmarks."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances, PolygonMasks


def random_batch(cfg: CfgNode, count: int) -> list[dict]:
    """Random images with two boxes and masks each, and random records."""
    side, rng = cfg.INPUT.IMAGE_SIZE, np.random.default_rng(0)
    batch = []
    for _ in range(count):
        corners = np.sort(rng.uniform(0.05, 0.95, (2, 2, 2)), axis=1).reshape(2, 4) * side
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + side / 16)
        instances = Instances((side, side))
        instances.gt_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
        instances.gt_classes = torch.tensor([0, 1])
        instances.gt_masks = PolygonMasks([[np.array([x0, y0, x1, y0, x1, y1, x0, y1])] for x0, y0, x1, y1 in corners])
        batch.append({
            "image": torch.tensor(rng.uniform(0, 255, (len(cfg.MODEL.PIXEL_MEAN), side, side)), dtype=torch.float32),
            "instances": instances, "height": side, "width": side,
            "clinical_numeric": torch.tensor(rng.normal(size=len(cfg.MODEL.CLINICAL.NUMERIC)), dtype=torch.float32),
            "clinical_categorical": torch.zeros(len(cfg.MODEL.CLINICAL.CATEGORICAL), dtype=torch.long),
        })  # fmt: skip
    return batch
