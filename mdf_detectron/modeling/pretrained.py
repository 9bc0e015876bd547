"""Pretrained weights for a model's timm trunks, the image's and the clinical branch's.

They are loaded when a training starts, not when a model is built: a checkpoint holds its own and needs no network.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import nn

from mdf_detectron.config import TIMM_BACKBONES
from mdf_detectron.errors import ConfigError, shorten
from mdf_detectron.modeling.backbones import TimmTrunk, build_image_backbone, create_trunk

FROM_SCRATCH = "set MODEL.TIMM.PRETRAINED False and WEIGHTS_FILE '' to train from scratch"


def load_pretrained_trunks(cfg: CfgNode, model: nn.Module) -> int:
    """Load the weights of ``MODEL.TIMM.WEIGHTS_FILE`` or ``PRETRAINED`` into every timm trunk; return their number.

    With one input channel the first convolution is summed over its three: the same function of a gray image.

    Raises:
        ConfigError: there are no such weights, they belong to another model, there is no trunk, or random weights
            would be frozen.
    """
    t = cfg.MODEL.TIMM
    frozen = cfg.MODEL.BACKBONE.FREEZE_AT and cfg.MODEL.IMAGE_BACKBONE.NAME in TIMM_BACKBONES
    if frozen and not (t.PRETRAINED or t.WEIGHTS_FILE or cfg.MODEL.WEIGHTS):
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT {cfg.MODEL.BACKBONE.FREEZE_AT} would freeze random weights: set it 0, or name "
            "weights by MODEL.TIMM.WEIGHTS_FILE (mdf weights), MODEL.TIMM.PRETRAINED or MODEL.WEIGHTS"
        )
    if not (t.PRETRAINED or t.WEIGHTS_FILE):
        return 0
    trunks = [module for module in model.modules() if isinstance(module, TimmTrunk)]
    if not trunks:
        raise ConfigError(
            f"MODEL.TIMM asks for pretrained weights, but MODEL.IMAGE_BACKBONE.NAME '{cfg.MODEL.IMAGE_BACKBONE.NAME}' "
            "has no timm trunk; name its weights by MODEL.WEIGHTS"
        )
    found: dict[int, dict[str, torch.Tensor]] = {}
    for trunk in trunks:
        channels = trunk.options["in_chans"]
        if channels not in found:
            found[channels] = pretrained_weights(trunk, t.WEIGHTS_FILE)
        trunk.model.load_state_dict(found[channels])
    source = os.path.basename(t.WEIGHTS_FILE) or f"timm's '{t.NAME}'"
    logging.getLogger(__name__).info(f"Pretrained weights of {source} in {len(trunks)} trunk(s)")
    return len(trunks)


def fetch_pretrained(cfgs: Iterable[CfgNode]) -> None:
    """Load each trunk's weights once, so that they are in timm's cache; raise as :func:`load_pretrained_trunks`."""
    from huggingface_hub import constants

    asked = {(t.NAME, t.WEIGHTS_FILE): cfg for cfg in cfgs for t in [cfg.MODEL.TIMM] if t.PRETRAINED or t.WEIGHTS_FILE}
    if not all(file for _, file in asked) and not _answers(constants.ENDPOINT):
        if not any(Path(constants.HF_HUB_CACHE).glob("models--timm--*")):  # known before timm is imported
            raise ConfigError(
                f"{constants.ENDPOINT} does not answer, and its cache has none of timm's. Without a network, name "
                f"a file that was downloaded elsewhere by MODEL.TIMM.WEIGHTS_FILE, or {FROM_SCRATCH}"
            )
        # its cache answers at once, here and in the trainings' processes; without a network its retries take a minute
        os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
    for cfg in asked.values():
        load_pretrained_trunks(cfg, build_image_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))))


def _answers(url: str) -> bool:
    try:
        urlopen(Request(url, method="HEAD"), timeout=3).close()
    except OSError as error:
        return isinstance(error, HTTPError)
    return True


def pretrained_weights(trunk: TimmTrunk, weights_file: str = "") -> dict[str, torch.Tensor]:
    """Return pretrained weights under the names of ``trunk.model``.

    ``weights_file`` is a local timm weights file; empty: timm's own, from its cache or the network.
    """
    name, options = trunk.model_name, trunk.options
    if weights_file and not os.path.isfile(weights_file):
        raise ConfigError(f"MODEL.TIMM.WEIGHTS_FILE: no file at {weights_file}; or {FROM_SCRATCH}")
    source = weights_file or f"timm's pretrained weights of '{name}'"
    overlay = {"pretrained_cfg_overlay": {"file": weights_file}} if weights_file else {}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            start = create_trunk(name, options).state_dict()
            torch.manual_seed(0)
            loaded = create_trunk(name, options, pretrained=True, **overlay).state_dict()
    except Exception as error:  # network, hub, file or model: timm and its hub raise all kinds
        raise ConfigError(
            f"could not load {source}: {shorten(str(error), 200)}. Without a network, name a file that was downloaded "
            f"elsewhere by MODEL.TIMM.WEIGHTS_FILE, or {FROM_SCRATCH}"
        ) from None
    # timm silently keeps the random start of weights that a file lacks; both models here have the same one.
    random = [n for n, value in loaded.items() if value.dim() > 1 and torch.equal(value, start[n])]
    if random:
        raise ConfigError(
            f"{source} lacks {len(random)} weight(s) of '{name}' ({', '.join(random[:3])} …): it is not of this model"
        )
    return loaded
