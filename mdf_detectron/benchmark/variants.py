"""The models that the benchmark compares, ready to take a training step or to look at one film."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from mdf_detectron.benchmark.plain_spatializer import PlainSpatializer
from mdf_detectron.engine.defaults import load_config
from mdf_detectron.engine.optimizer import build_optimizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Variant:
    """A config below configs/, overrides, and whether its spatializer is replaced by the plain one."""

    config: str
    opts: tuple = ()
    plain: bool = False


_MDF = "mimic_eye/mdf_net.yaml"


def _deconv(*opts: object, plain: bool = False) -> Variant:
    """With the paper's batch norm, so that all compute the same, in training too."""
    return Variant(_MDF, ("MODEL.CLINICAL.BATCH_RENORM", False, *opts), plain)


VARIANTS = {
    "image_only": Variant("mimic_eye/mask_rcnn.yaml"),
    "image_only_contiguous": Variant("mimic_eye/mask_rcnn.yaml", ("MODEL.TIMM.CHANNELS_LAST", False)),
    "plain": _deconv(plain=True),
    "deconv": _deconv(),
    "deconv_contiguous": _deconv("MODEL.SPATIALIZER.CHANNELS_LAST", False),
    "deconv_compiled": _deconv("MODEL.CLINICAL.COMPILE", True),
    "deconv_bfloat16": _deconv("MODEL.CLINICAL.AUTOCAST", True),
    "deconv_compiled_bfloat16": _deconv("MODEL.CLINICAL.COMPILE", True, "MODEL.CLINICAL.AUTOCAST", True),
    "deconv_checkpoint": _deconv("MODEL.SPATIALIZER.CHECKPOINT", True),
    "deconv_renorm": Variant(_MDF),
    "compact": Variant(_MDF, ("MODEL.CLINICAL.BRANCH", "compact")),
    "repeat": Variant(_MDF, ("MODEL.CLINICAL.BRANCH", "repeat")),
}


def make_model(name: str, device: str, image_size: int) -> tuple[CfgNode, nn.Module]:
    """Config and model of a variant, its clinical statistics set."""
    variant = VARIANTS[name]
    opts = ["MODEL.DEVICE", device, "INPUT.IMAGE_SIZE", image_size, *variant.opts]
    cfg = load_config(CONFIGS / variant.config, opts)
    torch.manual_seed(0)
    model = build_model(cfg)
    if variant.plain:
        branch = model.backbone.clinical_branch
        branch.spatializer = PlainSpatializer(branch.spatializer).to(device)
    encoder = model.backbone.clinical_encoder
    if encoder is not None:
        encoder.fit(torch.randn(32, encoder.num_numeric), torch.zeros(32, len(encoder.embeddings), dtype=torch.long))
    return cfg, model


def random_batch(cfg: CfgNode, count: int) -> list[dict]:
    """Random films with two boxes and masks each, and random rows."""
    side, rng = cfg.INPUT.IMAGE_SIZE, np.random.default_rng(0)
    batch = []
    for _ in range(count):
        corners = np.sort(rng.uniform(0.05, 0.95, (2, 2, 2)), axis=1).reshape(2, 4) * side
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + side / 16)
        instances = Instances((side, side))
        instances.gt_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
        instances.gt_classes = torch.tensor([0, 1])
        instances.gt_masks = PolygonMasks([[np.array([x0, y0, x1, y0, x1, y1, x0, y1])] for x0, y0, x1, y1 in corners])
        batch.append(
            {
                "image": torch.tensor(
                    rng.uniform(0, 255, (len(cfg.MODEL.PIXEL_MEAN), side, side)), dtype=torch.float32
                ),
                "instances": instances,
                "height": side,
                "width": side,
                "clinical_numeric": torch.tensor(rng.normal(size=len(cfg.MODEL.CLINICAL.NUMERIC)), dtype=torch.float32),
                "clinical_categorical": torch.zeros(len(cfg.MODEL.CLINICAL.CATEGORICAL), dtype=torch.long),
            }
        )
    return batch


def training_step(name: str, device: str, image_size: int, batch_size: int) -> Callable[[], None]:
    """Forward, backward and optimizer step of a variant on one fixed batch."""
    cfg, model = make_model(name, device, image_size)
    optimizer, batch = build_optimizer(cfg, model), random_batch(cfg, batch_size)
    model.train()

    def step() -> None:
        with EventStorage(0):
            loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inference_step(name: str, device: str, image_size: int, batch_size: int) -> Callable[[], None]:
    """One forward pass of a variant in evaluation."""
    cfg, model = make_model(name, device, image_size)
    model.eval()
    batch = [{k: v for k, v in x.items() if k != "instances"} for x in random_batch(cfg, batch_size)]

    def step() -> None:
        with torch.inference_mode():
            model(batch)

    return step
