"""Configs of earlier versions: their keys are translated, so that old files, overrides and checkpoints still load.

Around a merge: :func:`accept_older_keys` before, :func:`translate_older_keys` behind it.
"""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

from mdf_detectron.config import fuses_1d, fuses_3d
from mdf_detectron.errors import ConfigError

EXECUTION_SWITCHES = {
    "MODEL.CLINICAL.AUTOCAST": "bfloat16",
    "MODEL.CLINICAL.COMPILE": "compile",
    "MODEL.SPATIALIZER.CHECKPOINT": "checkpoint",
}
"""Switches of earlier versions, and what each is in MODEL.CLINICAL.EXECUTION."""

CHANNELS_LAST = ("MODEL.SPATIALIZER.CHANNELS_LAST", "MODEL.TIMM.CHANNELS_LAST")
"""Switches that are always on: only the memory format of maps depended on them."""

BATCH_RENORM = "MODEL.CLINICAL.BATCH_RENORM"
"""A switch of the branch "deconv", which now always trains with batch norm; at inference it is the same function."""

_SWITCHES = (*EXECUTION_SWITCHES, *CHANNELS_LAST, BATCH_RENORM)

_OLDER_HEAD, _HEAD = "FastRCNNConvFCHead", "ClinicalFastRCNNConvFCHead"
"""Name of the box head in configs from when the record's part was added from outside of it, and its name since."""


def accept_older_keys(cfg: CfgNode) -> None:
    """Let keys of earlier versions be merged into ``cfg``."""
    for key in _SWITCHES:
        node, name = _node_of(cfg, key)
        node[name] = None


def translate_older_keys(cfg: CfgNode) -> None:
    """Turn what was merged under keys of earlier versions into today's, and say so; ``cfg`` has no such keys then.

    Raises:
        ConfigError: a switch that is neither True nor False.
    """
    logger = logging.getLogger(__name__)
    values = {}
    for key in _SWITCHES:
        node, name = _node_of(cfg, key)
        values[key] = node.pop(name)
        if values[key] not in (None, True, False):
            raise ConfigError(f"{key} is {values[key]!r}; it was a switch of earlier versions, True or False")
    for key, option in EXECUTION_SWITCHES.items():
        if values[key] and option not in cfg.MODEL.CLINICAL.EXECUTION:
            cfg.MODEL.CLINICAL.EXECUTION = [*cfg.MODEL.CLINICAL.EXECUTION, option]
            logger.warning(f"{key} True is now MODEL.CLINICAL.EXECUTION ['{option}']")
    for key in CHANNELS_LAST:
        if values[key] is False:
            logger.warning(f"{key} False has no effect: maps are always in channels_last memory format")
    if values[BATCH_RENORM] and cfg.MODEL.CLINICAL.BRANCH == "deconv" and fuses_3d(cfg):
        logger.warning(f"{BATCH_RENORM} True has no effect: the branch trains with batch norm; it infers as before")
    if fuses_1d(cfg) and cfg.MODEL.ROI_BOX_HEAD.NAME == _OLDER_HEAD:
        cfg.MODEL.ROI_BOX_HEAD.NAME = _HEAD
        logger.warning(f"MODEL.ROI_BOX_HEAD.NAME {_OLDER_HEAD} is {_HEAD} with MODEL.CLINICAL.FUSION_1D")


def _node_of(cfg: CfgNode, key: str) -> tuple[CfgNode, str]:
    *path, name = key.split(".")
    for part in path:
        cfg = cfg[part]
    return cfg, name
