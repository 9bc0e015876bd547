"""Values of a config that are no values of their key: null, not finite, of another kind than the default's, too large.

yacs compares the outermost type only, and lets null through for every key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from detectron2.config import CfgNode, get_cfg

from mdf_detectron.config import add_mdf_config, value_at
from mdf_detectron.errors import ConfigError, shorten

_MOST_VALUES = 10_000
_LARGEST = 10**12
"""No count, size or rate of a config is beyond it."""

_POSITIVE = ("SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "INPUT.IMAGE_SIZE", "MODEL.ROI_HEADS.NUM_CLASSES",
             "MODEL.RETINANET.NUM_CLASSES", "TEST.DETECTIONS_PER_IMAGE", "SOLVER.CHECKPOINT_PERIOD")  # fmt: skip
_NOT_NEGATIVE = ("SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY", "SOLVER.WARMUP_ITERS", "DATALOADER.NUM_WORKERS",
                 "TEST.EVAL_PERIOD", "MODEL.BACKBONE.FREEZE_AT", "VIS_PERIOD", "SOLVER.MOMENTUM")  # fmt: skip

_NAMES = ("MODEL.CLINICAL.NUMERIC", "MODEL.CLINICAL.CATEGORICAL", "MODEL.CLINICAL.EXECUTION", "DATASETS.TRAIN",
          "DATASETS.VAL", "DATASETS.TEST", "TRACKERS")  # fmt: skip


def check_values(cfg: CfgNode) -> None:
    """Raise :class:`ConfigError` for the first key whose value is no value of it."""
    for key, default in _leaves(_defaults()):
        value = value_at(cfg, key)
        problem = _problem(value, default)
        if not problem and key in _NAMES and not all(isinstance(name, str) for name in value):
            problem = "expected a list of names"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not problem and number and (key in _POSITIVE and value <= 0 or key in _NOT_NEGATIVE and value < 0):
            problem = "expected more than 0" if key in _POSITIVE else "expected 0 or more"
        if problem:
            raise ConfigError(f"{key} is {shorten(value)}: {problem}")


@cache
def _defaults() -> CfgNode:
    cfg = get_cfg()
    add_mdf_config(cfg)
    return cfg


def _leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _problem(value: Any, default: Any) -> str:
    """Say what is wrong with a value, given the key's default; an empty text if nothing is."""
    if value is None and default is not None:
        return f"expected a value as {shorten(default)}"
    values = _flat(value)
    if len(values) > _MOST_VALUES:
        return f"expected at most {_MOST_VALUES:,} values"
    for one in values:
        if isinstance(one, (int, float)) and not abs(one) <= _LARGEST:
            return "expected finite numbers" if isinstance(one, float) and not math.isfinite(one) else "too large"
        if isinstance(one, str) and ("\0" in one or one != one.encode(errors="ignore").decode()):
            return "expected text of legal characters"
        if not isinstance(one, (int, float, str, type(None))):
            return f"a {type(one).__name__} is neither a number, nor a text, nor a list of them"
    wanted = {_kind(one) for one in _flat(default)}
    found = {_kind(one) for one in values}
    if isinstance(default, (list, tuple)) and len(wanted) == 1 and not found <= wanted:
        return f"expected a list of {wanted.pop()}s, as {shorten(default)}"
    return ""


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, (int, float)) else "text" if isinstance(value, str) else "null"


def _flat(value: Any) -> list[Any]:
    """List what stands in nested lists, of any depth."""
    flat, left = [], [value]
    while left and len(flat) <= _MOST_VALUES:
        one = left.pop()
        if isinstance(one, (list, tuple)):
            left += one
        else:
            flat.append(one)
    return flat
