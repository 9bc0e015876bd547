"""The models that the benchmark compares, ready to take a training step or to look at one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from mdf_detectron.config_file import load_config
from mdf_detectron.data.random_inputs import random_batch
from mdf_detectron.engine.optimizer import build_optimizer
from mdf_detectron.modeling.deconv_fast.spatializer import Spatializer


@dataclass(frozen=True)
class Variant:
    """A config below configs/, overrides, and whether its spatializer is replaced by the plain one."""

    config: str
    opts: tuple = ()
    plain: bool = False


_MDF = "mimic_eye/mdf_net_deconv.yaml"
_PAPER = ("MODEL.CLINICAL.EMBEDDING_DIM", 55, "MODEL.CLINICAL.AUXILIARY_WEIGHT", 0.0)


def _deconv(*opts: object, plain: bool = False) -> Variant:
    """With the paper's encoded record and losses."""
    return Variant(_MDF, (*_PAPER, *opts), plain)


VARIANTS = {
    "image_only": Variant("mimic_eye/mask_rcnn.yaml"),
    "plain": _deconv(plain=True),
    "deconv": _deconv(),
    "deconv_compiled": _deconv("MODEL.CLINICAL.EXECUTION", ["compile"]),
    "deconv_bfloat16": _deconv("MODEL.CLINICAL.EXECUTION", ["bfloat16"]),
    "deconv_compiled_bfloat16": _deconv("MODEL.CLINICAL.EXECUTION", ["compile", "bfloat16"]),
    "deconv_checkpoint": _deconv("MODEL.CLINICAL.EXECUTION", ["checkpoint"]),
    "compact": Variant("mimic_eye/mdf_net.yaml"),
    "repeat": Variant(_MDF, ("MODEL.CLINICAL.BRANCH", "repeat")),
}


def make_model(name: str, device: str, image_size: int) -> tuple[CfgNode, nn.Module]:
    """Config and model of a variant, its clinical statistics set."""
    variant = VARIANTS[name]
    opts = ["MODEL.DEVICE", device, "INPUT.IMAGE_SIZE", image_size, *variant.opts]
    cfg = load_config(variant.config, opts)
    torch.manual_seed(0)
    model = build_model(cfg)
    if variant.plain:
        branch = model.backbone.clinical_branch
        branch.spatializer = PlainSpatializer(branch.spatializer).to(device)
    encoder = model.backbone.clinical_encoder
    if encoder is not None:
        encoder.fit(torch.randn(32, encoder.num_numeric), torch.zeros(32, len(encoder.embeddings), dtype=torch.long))
    return cfg, model


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


class PlainSpatializer(nn.Module):
    """Torch's own deconvolution, batch norm and ReLU out of place, contiguous memory; nothing folded.

    Args:
        spatializer: gives the widths and the weights (copied).
    """

    def __init__(self, spatializer: Spatializer):
        super().__init__()
        self.stages = nn.Sequential(*(_plain_stage(stage) for stage in spatializer.stages))
        self.load_state_dict(spatializer.state_dict())

    def forward(self, encoded: Tensor, size: tuple[int, int]) -> Tensor:
        """As ``Spatializer.forward``."""
        x = self.stages(encoded[:, :, None, None])
        return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear")


def _plain_stage(stage: nn.Sequential) -> nn.Sequential:
    deconvolution, convolution = stage[0], stage[3]
    channels = deconvolution.out_channels
    layers = [
        nn.ConvTranspose2d(deconvolution.in_channels, channels, kernel_size=2, stride=2),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, convolution.out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(convolution.out_channels),
    ]
    return nn.Sequential(*layers, *([] if stage.last else [nn.ReLU()]))
