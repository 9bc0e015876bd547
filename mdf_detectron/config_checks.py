"""Check a config before anything is built: types, ranges, contradictions, and values that would be ignored.

yacs compares the outermost type only, and accepts null for every key.
"""

import math
from functools import cache
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.utils.registry import Registry

from mdf_detectron import config
from mdf_detectron.errors import ConfigError, find_doubled, shorten

_MOST_VALUES = 10_000
_LARGEST = 10**12
"""Largest absolute number in a config."""

_DETECTRON2_KEYS: dict[str, config.Allowed] = {
    **dict.fromkeys(("DATASETS.TRAIN", "DATASETS.TEST"), config.NAMES),
    **dict.fromkeys(
        ("SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.CHECKPOINT_PERIOD", "MODEL.ROI_HEADS.NUM_CLASSES",
         "MODEL.RETINANET.NUM_CLASSES", "TEST.DETECTIONS_PER_IMAGE"), config.at_least(1)
    ),
    **dict.fromkeys(
        ("SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY", "SOLVER.WARMUP_ITERS", "SOLVER.MOMENTUM", "DATALOADER.NUM_WORKERS",
         "TEST.EVAL_PERIOD", "MODEL.BACKBONE.FREEZE_AT", "VIS_PERIOD"), config.at_least(0)
    ),
    "INPUT.FORMAT": config.one_of("L", "RGB", "BGR"),
}  # fmt: skip
"""What Detectron2's keys may be, beyond their type."""

_DEFAULT_SIZE = "set INPUT.IMAGE_SIZE: inputs are square, and their aspect ratio is ignored, as in the paper"
_PROPOSALS = "proposals are computed from the image and the record"
_KEYPOINTS = "keypoints are not supported"
_NOT_HONORED: tuple[tuple[str, tuple, str], ...] = (
    *((f"INPUT.{name}", (default,), _DEFAULT_SIZE) for name, default in (
        ("MIN_SIZE_TRAIN", (800,)), ("MAX_SIZE_TRAIN", 1333), ("MIN_SIZE_TEST", 800), ("MAX_SIZE_TEST", 1333),
        ("MIN_SIZE_TRAIN_SAMPLING", "choice"))),
    ("INPUT.CROP.ENABLED", (False,), "use RANDOM_SCALE and RANDOM_SHIFT, which keep the input's size"),
    ("INPUT.RANDOM_FLIP", ("none", "horizontal", "vertical", "both"), "use none, horizontal, vertical or both"),
    ("INPUT.MASK_FORMAT", ("polygon", "bitmask"), "use polygon, or bitmask for run-length encoded masks"),
    ("DATALOADER.SAMPLER_TRAIN", ("TrainingSampler", "RepeatFactorTrainingSampler"), "use one of these two"),
    ("DATALOADER.ASPECT_RATIO_GROUPING", (False,), "all inputs have one aspect ratio"),
    ("MODEL.LOAD_PROPOSALS", (False,), _PROPOSALS),
    ("MODEL.PROPOSAL_GENERATOR.NAME", ("RPN",), _PROPOSALS + " by RPN"),
    ("DATASETS.PROPOSAL_FILES_TRAIN", ((),), _PROPOSALS),
    ("DATASETS.PROPOSAL_FILES_TEST", ((),), _PROPOSALS),
    ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", (False,), "the federated loss needs class counts that these data sets do not "
     "declare; for rare classes use DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler"),
    ("MODEL.KEYPOINT_ON", (False,), _KEYPOINTS),
    ("TEST.KEYPOINT_OKS_SIGMAS", ([],), _KEYPOINTS),
    ("TEST.AUG.ENABLED", (False,), "test-time augmentation does not know the record"),
    ("TEST.EXPECTED_RESULTS", ([],), "compare results.json with what you expect"),
)  # fmt: skip
"""Detectron2's keys that are honored for some values only: key, these values, advice."""


def check_config(cfg: CfgNode) -> None:
    """Raise :class:`ConfigError` for the first value that its key cannot have or that contradicts others."""
    for key, default in _defaults().items():
        _check_value(key, config.value_at(cfg, key), default)
    _check_model(cfg)
    for key, allowed, advice in _NOT_HONORED:
        if (value := config.value_at(cfg, key)) not in allowed:
            raise ConfigError(f"{key} is {value!r}, which is not supported: {advice}")
    _check_columns(cfg)
    if cfg.MODEL.CLINICAL.FUSION_1D:
        _check_fusion_1d(cfg)
    if cfg.MODEL.CLINICAL.FUSION_LOGITS and META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).has_roi_heads:
        why = "MODEL.CLINICAL.FUSION_LOGITS is on"
        _check_registered(cfg, "MODEL.ROI_HEADS.NAME", ROI_HEADS_REGISTRY, "reads_record", why, "read the record")
        if cfg.MODEL.CLINICAL.FUSION_3D and not cfg.MODEL.CLINICAL.LOGITS_HIDDEN:
            raise ConfigError(
                "MODEL.CLINICAL.FUSION_3D is on, but with FUSION_LOGITS only the small head reads the fused map, and "
                "LOGITS_HIDDEN is 0: set it to 64, or FUSION_3D to False"
            )
    _check_training(cfg)


def check_device(device: str) -> None:
    """Raise :class:`ConfigError` for a device that torch does not know or this machine does not have."""
    try:
        known = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"the device is {shorten(device)}; expected cpu, cuda or cuda:1") from None
    if known.type == "cuda" and (known.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"MODEL.DEVICE is {device}, but this machine has {count} GPU(s); set MODEL.DEVICE cpu")


def _check_value(key: str, value: Any, default: Any) -> None:
    if problem := _problem(value, default):
        raise ConfigError(f"{key} is {shorten(value)}: {problem}")
    allowed = config.KEYS[key][1] if key in config.KEYS else _DETECTRON2_KEYS.get(key)
    try:
        holds = allowed is None or allowed.holds(value)
    except TypeError:  # a value of another kind than the key's
        holds = False
    if not holds:
        raise ConfigError(f"{key} is {shorten(value)}; {allowed.text}")


def _check_model(cfg: CfgNode) -> None:
    model = cfg.MODEL
    why = "every detector here brings the record to the backbone (without fusion it is Detectron2's own)"
    _check_registered(cfg, "MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY, "num_classes_key", why, "bring it")
    if model.BACKBONE.NAME != "build_dual_backbone":
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is '{model.BACKBONE.NAME}'; leave build_dual_backbone there and name the image's "
            "backbone in MODEL.IMAGE_BACKBONE.NAME"
        )
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    if len(model.PIXEL_MEAN) != channels or len(model.PIXEL_STD) != channels:
        raise ConfigError(
            f"INPUT.FORMAT '{cfg.INPUT.FORMAT}' has {channels} channel(s), but MODEL.PIXEL_MEAN and PIXEL_STD "
            f"have {len(model.PIXEL_MEAN)} and {len(model.PIXEL_STD)} values"
        )
    if cfg.INPUT.RANDOM_SATURATION and channels == 1:
        raise ConfigError("INPUT.RANDOM_SATURATION changes colors, and INPUT.FORMAT 'L' has none: set it 0.0")


def _check_columns(cfg: CfgNode) -> None:
    clinical = cfg.MODEL.CLINICAL
    if clinical.VOCABULARIES and len(clinical.CATEGORICAL) != len(clinical.VOCABULARIES):
        raise ConfigError(
            f"MODEL.CLINICAL.CATEGORICAL names {len(clinical.CATEGORICAL)} column(s), "
            f"MODEL.CLINICAL.VOCABULARIES holds {len(clinical.VOCABULARIES)}; each column needs its "
            "list of values, or leave them empty: they are then the data set's"
        )
    names = [*clinical.NUMERIC, *clinical.CATEGORICAL]
    if doubled := find_doubled(names):
        raise ConfigError(f"MODEL.CLINICAL.NUMERIC and CATEGORICAL name {doubled} twice; name each column once")


def _check_fusion_1d(cfg: CfgNode) -> None:
    """Refuse 1-D fusion where the detector, its RoI heads or its box head do not read the record."""
    name = cfg.MODEL.META_ARCHITECTURE
    if not META_ARCH_REGISTRY.get(name).has_roi_heads:
        raise ConfigError(
            f"MODEL.CLINICAL.FUSION_1D is on, but {name} has no RoI head to join the record to; "
            "switch it off, 3-D fusion works with every detector"
        )
    for key, registry in (
        ("MODEL.ROI_HEADS.NAME", ROI_HEADS_REGISTRY),
        ("MODEL.ROI_BOX_HEAD.NAME", ROI_BOX_HEAD_REGISTRY),
    ):
        _check_registered(cfg, key, registry, "reads_record", "MODEL.CLINICAL.FUSION_1D is on", "read the record")


def _check_registered(cfg: CfgNode, key: str, registry: Registry, attribute: str, why: str, does: str) -> None:
    """Refuse a name that is not registered, or whose class lacks the attribute."""
    name = config.value_at(cfg, key)
    able = sorted(other for other, part in registry if hasattr(part, attribute))
    if name not in registry:
        raise ConfigError(f"{key} is '{name}', which is not registered; use one of {able}")
    if name not in able:
        raise ConfigError(f"{why}, but {key} '{name}' does not {does}; use one of {able}")


def _check_training(cfg: CfgNode) -> None:
    if cfg.VALIDATION.PATIENCE and not cfg.DATASETS.VAL:
        raise ConfigError("VALIDATION.PATIENCE needs a validation split: set DATASETS.VAL")
    if cfg.VALIDATION.PATIENCE and not cfg.TEST.EVAL_PERIOD:
        raise ConfigError("VALIDATION.PATIENCE counts validations: set TEST.EVAL_PERIOD to their period")
    if cfg.SOLVER.EMA_DECAY and cfg.TEST.PRECISE_BN.ENABLED:
        raise ConfigError(
            "TEST.PRECISE_BN.ENABLED measures the trained weights' statistics, SOLVER.EMA_DECAY evaluates averaged "
            "weights with averaged statistics; choose one"
        )
    name = cfg.MODEL.META_ARCHITECTURE
    if cfg.VIS_PERIOD and not META_ARCH_REGISTRY.get(name).has_roi_heads:
        raise ConfigError(f"VIS_PERIOD is {cfg.VIS_PERIOD}, but {name} draws no images in training: set it 0")
    if cfg.SOLVER.AMP.ENABLED and (cfg.MODEL.DEVICE == "cpu" or not torch.cuda.is_available()):
        raise ConfigError(
            "SOLVER.AMP.ENABLED needs a GPU: a CPU without bfloat16 arithmetic takes 12 times as long for a step, one "
            "that has it gets wrong gradients for convolutions of the smallest maps (torch 2.14); set it False"
        )


@cache
def _defaults() -> dict[str, Any]:
    cfg = get_cfg()
    config.add_mdf_config(cfg)
    return config.flat_config(cfg)


def _problem(value: Any, default: Any) -> str:
    """Return what is wrong with a value's type or content, given the key's default; empty if nothing is."""
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
    """Flatten lists nested to any depth, up to about ``_MOST_VALUES`` values."""
    flat, left = [], [value]
    while left and len(flat) <= _MOST_VALUES:
        one = left.pop()
        if isinstance(one, (list, tuple)):
            left += one
        else:
            flat.append(one)
    return flat
