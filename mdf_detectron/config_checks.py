"""Config values that contradict each other or would be ignored: one line each, before anything is built."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.utils.registry import Registry

from mdf_detectron.config import (
    EXECUTION_OPTIONS,
    LOSS_WEIGHTINGS,
    MISSING_OPTIONS,
    TIMM_BACKBONES,
    TRACKERS,
    value_at,
)
from mdf_detectron.config_values import check_values
from mdf_detectron.errors import ConfigError


def _check_validation(cfg: CfgNode) -> None:
    v = cfg.VALIDATION
    if (v.PATIENCE > 0 or v.TRAIN_IMAGES > 0) and not cfg.DATASETS.VAL:
        raise ConfigError("VALIDATION.PATIENCE and TRAIN_IMAGES need a validation split: set DATASETS.VAL")
    if v.PATIENCE > 0 and cfg.TEST.EVAL_PERIOD <= 0:
        raise ConfigError("VALIDATION.PATIENCE counts validations: set TEST.EVAL_PERIOD to their period")
    if min(v.PATIENCE, v.TRAIN_IMAGES, v.MIN_DELTA) < 0:
        raise ConfigError("VALIDATION.PATIENCE, TRAIN_IMAGES and MIN_DELTA must not be negative")


def check_config(cfg: CfgNode) -> None:
    """Raise :class:`ConfigError` for values that contradict each other, before anything is built."""
    check_values(cfg)
    _check_model(cfg)
    _check_clinical(cfg)
    _check_input(cfg)
    _check_detectron2_keys(cfg)
    _check_validation(cfg)
    if cfg.CLINICAL_DIAGNOSTICS.PERIOD < 0 or cfg.CLINICAL_DIAGNOSTICS.NUM_IMAGES < 2:
        raise ConfigError("CLINICAL_DIAGNOSTICS needs a PERIOD of at least 0 and NUM_IMAGES of at least 2")
    factors = cfg.SOLVER.DECONV_LR_FACTORS
    if len(factors) != 2 or min(factors) < 0:
        raise ConfigError(f"SOLVER.DECONV_LR_FACTORS is {factors}; it takes two factors of at least 0")
    if len({*cfg.TRACKERS} & {*TRACKERS}) != len(cfg.TRACKERS):
        raise ConfigError(f"TRACKERS is {cfg.TRACKERS}; use any of {TRACKERS}, each once")
    if cfg.SOLVER.OPTIMIZER not in ("SGD", "AdamW"):
        raise ConfigError(f"SOLVER.OPTIMIZER is '{cfg.SOLVER.OPTIMIZER}'; use SGD or AdamW")


def _check_clinical(cfg: CfgNode) -> None:
    clinical = cfg.MODEL.CLINICAL
    if clinical.VOCABULARIES and len(clinical.CATEGORICAL) != len(clinical.VOCABULARIES):
        raise ConfigError(
            f"MODEL.CLINICAL.CATEGORICAL names {len(clinical.CATEGORICAL)} column(s), "
            f"MODEL.CLINICAL.VOCABULARIES holds {len(clinical.VOCABULARIES)}; each column needs its "
            "list of values, or leave them empty: they are then the data set's"
        )
    if clinical.MISSING not in MISSING_OPTIONS:
        raise ConfigError(f"MODEL.CLINICAL.MISSING is '{clinical.MISSING}'; use one of {MISSING_OPTIONS}")
    execution = clinical.EXECUTION
    if not set(execution) <= set(EXECUTION_OPTIONS):
        raise ConfigError(f"MODEL.CLINICAL.EXECUTION is {execution}; use any of {EXECUTION_OPTIONS}")
    if {"compile", "checkpoint"} <= set(execution):
        raise ConfigError(
            "MODEL.CLINICAL.EXECUTION: compile and checkpoint exclude each other, stages that are recomputed cannot be "
            "compiled; leave one out"
        )
    if clinical.BRANCH == "repeat" and {"compile", "checkpoint"} & set(execution):
        raise ConfigError(
            f"MODEL.CLINICAL.EXECUTION is {execution}, but the branch 'repeat' has no spatializer; leave compile and "
            "checkpoint out"
        )
    names = [*clinical.NUMERIC, *clinical.CATEGORICAL]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"MODEL.CLINICAL.NUMERIC and CATEGORICAL name {doubled} twice; name each column once")
    for key in ("DROPOUT_RECORD", "DROPOUT_VALUE"):
        if not 0 <= clinical[key] < 1:
            raise ConfigError(f"MODEL.CLINICAL.{key} is {clinical[key]}; use a probability of at least 0 and below 1")
    if clinical.AUXILIARY_WEIGHT < 0:
        raise ConfigError(f"MODEL.CLINICAL.AUXILIARY_WEIGHT is {clinical.AUXILIARY_WEIGHT}; use 0 (off) or more")
    if clinical.CATEGORICAL and clinical.EMBEDDING_DIM < 1:
        raise ConfigError(f"MODEL.CLINICAL.EMBEDDING_DIM is {clinical.EMBEDDING_DIM}; use at least 1")
    if clinical.FUSION_1D:
        _check_fusion_1d(cfg)


def _check_fusion_1d(cfg: CfgNode) -> None:
    """Ask the detector, its RoI heads and its box head whether they read the record."""
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
    name = value_at(cfg, key)
    able = sorted(other for other, part in registry if hasattr(part, attribute))
    if name not in registry:
        raise ConfigError(f"{key} is '{name}', which is not registered; use one of {able}")
    if name not in able:
        raise ConfigError(f"{why}, but {key} '{name}' does not {does}; use one of {able}")


def _check_model(cfg: CfgNode) -> None:
    model = cfg.MODEL
    why = "every detector here brings the record to the backbone (without fusion it is Detectron2's own)"
    _check_registered(cfg, "MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY, "num_classes_key", why, "bring it")
    if model.BACKBONE.NAME != "build_dual_backbone":
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is '{model.BACKBONE.NAME}'; leave build_dual_backbone there and name the image's "
            "backbone in MODEL.IMAGE_BACKBONE.NAME"
        )
    if model.LOSS_WEIGHTING.NAME not in LOSS_WEIGHTINGS:
        raise ConfigError(f"MODEL.LOSS_WEIGHTING.NAME is '{model.LOSS_WEIGHTING.NAME}'; use one of {LOSS_WEIGHTINGS}")
    norm = model.TIMM.BATCH_NORM
    if norm and not (len(norm) == 2 and norm[0] > 0 and 0 <= norm[1] <= 1):
        raise ConfigError(f"MODEL.TIMM.BATCH_NORM is {norm}; it takes eps > 0 and a momentum of 0 to 1, or nothing")
    if model.SPATIALIZER.NUM_STAGES < 1 or model.SPATIALIZER.CHANNELS < 1:
        raise ConfigError("MODEL.SPATIALIZER.NUM_STAGES and CHANNELS must be at least 1")
    if cfg.SOLVER.AMP.ENABLED and (model.DEVICE == "cpu" or not torch.cuda.is_available()):
        raise ConfigError(
            "SOLVER.AMP.ENABLED needs a GPU: a CPU without bfloat16 arithmetic takes 12 times as long for a step of "
            "the whole model (measured); on one that has it (AVX512-BF16, AMX), MODEL.CLINICAL.EXECUTION ['bfloat16'] "
            "computes the clinical branch in bfloat16"
        )


def _check_input(cfg: CfgNode) -> None:
    if cfg.INPUT.FORMAT not in ("L", "RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT is '{cfg.INPUT.FORMAT}'; use L, RGB or BGR")
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    if len(cfg.MODEL.PIXEL_MEAN) != channels or len(cfg.MODEL.PIXEL_STD) != channels:
        raise ConfigError(
            f"INPUT.FORMAT '{cfg.INPUT.FORMAT}' has {channels} channel(s), but MODEL.PIXEL_MEAN and PIXEL_STD "
            f"have {len(cfg.MODEL.PIXEL_MEAN)} and {len(cfg.MODEL.PIXEL_STD)} values"
        )
    for key in ("RANDOM_SCALE", "RANDOM_SHIFT", "RANDOM_CONTRAST", "RANDOM_BRIGHTNESS"):
        if not 0 <= cfg.INPUT[key] <= 0.5:
            raise ConfigError(f"INPUT.{key} is {cfg.INPUT[key]}; use 0.0 (off) to 0.5")


_DEFAULT_SIZE = "set INPUT.IMAGE_SIZE: inputs are square, and their aspect ratio is ignored, as in the paper"
_PROPOSALS = "proposals are computed from the image and the record"
_KEYPOINTS = "keypoints are not supported"
_NOT_HONORED: tuple[tuple[str, tuple, str], ...] = (
    ("INPUT.MIN_SIZE_TRAIN", ((800,),), _DEFAULT_SIZE),
    ("INPUT.MAX_SIZE_TRAIN", (1333,), _DEFAULT_SIZE),
    ("INPUT.MIN_SIZE_TEST", (800,), _DEFAULT_SIZE),
    ("INPUT.MAX_SIZE_TEST", (1333,), _DEFAULT_SIZE),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", ("choice",), _DEFAULT_SIZE),
    ("INPUT.CROP.ENABLED", (False,), "use RANDOM_SCALE and RANDOM_SHIFT, which keep the input's size"),
    ("INPUT.RANDOM_FLIP", ("none", "horizontal", "vertical"), "use none, horizontal or vertical"),
    ("INPUT.MASK_FORMAT", ("polygon", "bitmask"), "use polygon, or bitmask for run-length encoded masks"),
    ("DATALOADER.SAMPLER_TRAIN", ("TrainingSampler", "RepeatFactorTrainingSampler"), "use one of these two"),
    ("DATALOADER.ASPECT_RATIO_GROUPING", (False,), "all inputs have one aspect ratio"),
    ("MODEL.LOAD_PROPOSALS", (False,), _PROPOSALS),
    ("MODEL.PROPOSAL_GENERATOR.NAME", ("RPN",), _PROPOSALS + " by RPN"),
    ("DATASETS.PROPOSAL_FILES_TRAIN", ((),), _PROPOSALS),
    ("DATASETS.PROPOSAL_FILES_TEST", ((),), _PROPOSALS),
    (
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
        (False,),
        "the federated loss needs class counts that these data sets do not declare; for rare classes use "
        "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler",
    ),
    ("MODEL.KEYPOINT_ON", (False,), _KEYPOINTS),
    ("TEST.KEYPOINT_OKS_SIGMAS", ([],), _KEYPOINTS),
    ("TEST.AUG.ENABLED", (False,), "test-time augmentation does not know the record"),
    ("TEST.EXPECTED_RESULTS", ([],), "compare results.json with what you expect"),
)
"""Keys of Detectron2 that this project honors for some values only, these values, and what to do."""


def _check_detectron2_keys(cfg: CfgNode) -> None:
    """Refuse values that would be ignored, or fail later."""
    for key, allowed, advice in _NOT_HONORED:
        value = cfg
        for part in key.split("."):
            value = value[part]
        if value not in allowed:
            raise ConfigError(f"{key} is {value!r}, which is not supported: {advice}")
    if cfg.MODEL.BACKBONE.FREEZE_AT and cfg.MODEL.IMAGE_BACKBONE.NAME in TIMM_BACKBONES:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}, but {cfg.MODEL.IMAGE_BACKBONE.NAME} freezes "
            "no layer: set it 0, or use a ResNet of Detectron2's"
        )
    name = cfg.MODEL.META_ARCHITECTURE
    if cfg.VIS_PERIOD > 0 and not META_ARCH_REGISTRY.get(name).has_roi_heads:
        raise ConfigError(f"VIS_PERIOD is {cfg.VIS_PERIOD}, but {name} draws no images in training: set it 0")
