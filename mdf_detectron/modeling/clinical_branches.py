"""Branches that turn the encoded record into maps as large as the image's feature maps (``MODEL.CLINICAL.BRANCH``).

Shape letters: N records, Z width of the encoded record, H×W pixels of the model's input, D channels and h×w cells of
a map.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.backbones import TimmBackbone, build_image_backbone
from mdf_detectron.modeling.spatializer import RECTIFIER_MARGIN, Spatializer

START_SCALE = 0.08
"""Factor on the usual initialization of the layers that output the maps."""

Size = tuple[int, int]
Features = dict[str, ShapeSpec]

CLINICAL_BRANCH_REGISTRY = Registry("CLINICAL_BRANCH")
CLINICAL_BRANCH_REGISTRY.__doc__ = """
Branches that make maps of the encoded record.

A registered class is a :class:`ClinicalBranch`, built as ``cls(cfg, in_dim, image_shape, features)`` (Z, channels of
the model's input, channels and strides of the image's maps).
"""
SHORT_NAMES = {"deconv": "DeconvolutionBranch", "compact": "CompactBranch", "repeat": "RepeatBranch"}
"""Names of this project's own branches in configs."""


class ClinicalBranch(nn.Module):
    """Base of the branches."""

    def forward(self, encoded: Tensor, image_size: Size, sizes: dict[str, Size]) -> dict[str, Tensor]:
        """Turn encoded records (N, Z), float32, into a map (N, D, h, w) under each name.

        Args:
            image_size: (H, W).
            sizes: (h, w) of each of the image's maps, by name.
        """
        raise NotImplementedError

    def start_near(self, neutral: float) -> None:
        """Make the untrained branch's maps start near ``neutral``, where the layers that output them are known."""
        raise NotImplementedError


@CLINICAL_BRANCH_REGISTRY.register()
class RepeatBranch(ClinicalBranch):
    """A linear map of the record, repeated over each feature map.

    Args:
        in_dim: Z.
        channels: D of each map, by name.
    """

    lr_group = "clinical"

    @configurable
    def __init__(self, *, in_dim: int, channels: dict[str, int]):
        super().__init__()
        self.projections = nn.ModuleDict({name: nn.Linear(in_dim, width) for name, width in channels.items()})

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, image_shape: ShapeSpec, features: Features) -> dict[str, Any]:
        return {"in_dim": in_dim, "channels": _channels(features)}

    def forward(self, encoded: Tensor, image_size: Size, sizes: dict[str, Size]) -> dict[str, Tensor]:
        return {
            name: projection(encoded)[:, :, None, None].expand(-1, -1, *sizes[name])
            for name, projection in self.projections.items()
        }

    def start_near(self, neutral: float) -> None:
        start_near(self.projections.values(), neutral)


@CLINICAL_BRANCH_REGISTRY.register()
class CompactBranch(ClinicalBranch):
    """The record deconvolved to the size of the finest feature map, plus the repeated record; no second backbone.

    The repeated record is the short path and learns first; the deconvolved one adds what depends on position. Group
    norm replaces the paper's batch norm, which on such small maps makes a record's code depend on the other records of
    the batch. Coarser maps are means of the finest one.

    Args:
        spatializer: its stages reach the finest map's side, or near it.
        spatial_channels: channels out of the spatializer.
        repeat: the short path.
        channels: D of each map, by name.
    """

    @configurable
    def __init__(
        self, *, spatializer: Spatializer, spatial_channels: int, repeat: RepeatBranch, channels: dict[str, int]
    ):
        super().__init__()
        self.spatializer = spatializer
        self.repeat = repeat
        self.projections = nn.ModuleDict(
            {name: nn.Conv2d(spatial_channels, width, kernel_size=1) for name, width in channels.items()}
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, image_shape: ShapeSpec, features: Features) -> dict[str, Any]:
        side = cfg.INPUT.IMAGE_SIZE // min(shape.stride for shape in features.values())
        num_stages, channels = max(1, side.bit_length() - 1), cfg.MODEL.SPATIALIZER.CHANNELS
        options = {**_spatializer_options(cfg, in_dim), "num_stages": num_stages, "norm": "GN"}
        return {
            "spatializer": Spatializer(out_channels=channels, num_uniform=num_stages, **options),
            "spatial_channels": channels,
            "repeat": RepeatBranch(in_dim=in_dim, channels=_channels(features)),
            "channels": _channels(features),
        }

    def forward(self, encoded: Tensor, image_size: Size, sizes: dict[str, Size]) -> dict[str, Tensor]:
        finest = self.spatializer(encoded, max(sizes.values()))
        repeated = self.repeat(encoded, image_size, sizes)
        return {
            name: repeated[name] + projection(F.adaptive_avg_pool2d(finest, sizes[name]))
            for name, projection in self.projections.items()
        }

    def start_near(self, neutral: float) -> None:
        self.repeat.start_near(neutral)
        start_near(self.projections.values(), 0.0)


@CLINICAL_BRANCH_REGISTRY.register()
class DeconvolutionBranch(ClinicalBranch):
    """The paper's branch: a pseudo-image of the input's size, read by its own backbone (equations 1 and 2).

    The backbone's stride determines the maps' size. An untrained backbone scrambles a record beyond what the
    detector can read, so it starts nearly linear: norms that contain their activation (of MobileNet, EfficientNet,
    DenseNet) start with a bias that keeps it from cutting.

    Args:
        spatializer: S = f_spa(Z^C).
        backbone: C = f_clinical(S).
        start_linear: start the backbone this way; not with pretrained weights.
    """

    @configurable
    def __init__(self, *, spatializer: Spatializer, backbone: Backbone, start_linear: bool = True):
        super().__init__()
        self.spatializer = spatializer
        self.backbone = backbone
        if start_linear:
            _start_linear(backbone)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, image_shape: ShapeSpec, features: Features) -> dict[str, Any]:
        num_stages, m = max(1, cfg.INPUT.IMAGE_SIZE.bit_length() - 1), cfg.MODEL
        options = {**_spatializer_options(cfg, in_dim), "num_stages": num_stages}
        return {
            "spatializer": Spatializer(out_channels=image_shape.channels, **options),
            "backbone": build_image_backbone(_trained_from_scratch(cfg), image_shape),
            "start_linear": not (m.TIMM.PRETRAINED or m.TIMM.WEIGHTS_FILE or m.TORCH_INITIALIZATION),
        }

    def lr_groups(self) -> dict[str, str]:
        """Return the learning-rate group of each parameter, deep or readout (see ``engine/optimizer.py``)."""
        read_out = {id(p) for layer in self.output_layers() for p in layer.parameters()}
        return {n: "deconv_out" if id(p) in read_out else "deconv_deep" for n, p in self.named_parameters()}

    def forward(self, encoded: Tensor, image_size: Size, sizes: dict[str, Size]) -> dict[str, Tensor]:
        return self.backbone(self.spatializer(encoded, image_size))

    def start_near(self, neutral: float) -> None:
        start_near([layer for layer in self.output_layers() if layer.bias is not None], neutral)

    def output_layers(self) -> list[nn.Module]:
        """Return the convolutions that output the maps, where known: of this project's backbone or a pyramid."""
        if isinstance(self.backbone, TimmBackbone):
            return [self.backbone.conv]
        if isinstance(self.backbone, FPN):
            top = [m for m in (self.backbone.top_block or nn.Identity()).modules() if isinstance(m, nn.Conv2d)]
            return [*self.backbone.output_convs, *top]
        return []


def _start_linear(backbone: nn.Module) -> None:
    from timm.layers import BatchNormAct2d  # slow to import

    for module in backbone.modules():
        if isinstance(module, BatchNormAct2d) and not isinstance(module.act, nn.Identity):
            nn.init.constant_(module.bias, RECTIFIER_MARGIN)


def _trained_from_scratch(cfg: CfgNode) -> CfgNode:
    """Copy a config without frozen layers: pretrained weights are for images, not for pseudo-images."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        cfg.MODEL.RESNETS.NORM = "BN"
    return cfg


def start_near(layers: Iterable[nn.Module], neutral: float) -> None:
    """Scale down the weights of the layers that output a branch's maps, so that these start near ``neutral``."""
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(START_SCALE)
            layer.bias.fill_(neutral)


def build_clinical_branch(
    cfg: CfgNode, in_dim: int, image_shape: ShapeSpec, features: dict[str, ShapeSpec], neutral: float = 0.0
) -> ClinicalBranch:
    """Build the branch that ``MODEL.CLINICAL.BRANCH`` names; raise :class:`ConfigError` if there is none.

    Args:
        in_dim: Z.
        image_shape: channels of the model's input.
        features: channels and strides of the image's maps, by name.
        neutral: value near which the maps start.
    """
    name = SHORT_NAMES.get(cfg.MODEL.CLINICAL.BRANCH, cfg.MODEL.CLINICAL.BRANCH)
    if name not in CLINICAL_BRANCH_REGISTRY:
        known = sorted(key for key, _ in CLINICAL_BRANCH_REGISTRY)
        raise ConfigError(f"MODEL.CLINICAL.BRANCH is '{name}'; use one of {list(SHORT_NAMES)} or {known}")
    branch = CLINICAL_BRANCH_REGISTRY.get(name)(cfg, in_dim, image_shape, features)
    branch.start_near(neutral)
    return branch


def _spatializer_options(cfg: CfgNode, in_dim: int) -> dict[str, Any]:
    """Collect the :class:`Spatializer` arguments that every branch takes from the config."""
    return {"in_dim": in_dim, "channels": cfg.MODEL.SPATIALIZER.CHANNELS}


def _channels(features: dict[str, ShapeSpec]) -> dict[str, int]:
    return {name: shape.channels for name, shape in features.items()}
