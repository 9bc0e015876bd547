"""Every config key that this project adds to Detectron2's: its default, what it may be, and what it means.

One line a key; ``config_checks.py`` compares a config with them, and checks what concerns several keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

TIMM_BACKBONES = ("build_timm_backbone", "build_timm_fpn_backbone")
MISSING_OPTIONS = ("token", "median", "median_indicator")


class Allowed(NamedTuple):
    """What a key may be, beyond the type of its default.

    Attributes:
        text: the end of the message where it is something else.
        holds: whether a value is one of these.
    """

    text: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Allowed:
    """Allow numbers from ``low`` on."""
    return Allowed("expected more than 0" if low == 1 else f"expected {low} or more", lambda value: value >= low)


def between(low: float, high: float, what: str = "") -> Allowed:
    """Allow numbers of an interval, its ends included."""
    return Allowed(f"use {low} to {high}{what}", lambda value: low <= value <= high)


def one_of(*options: str) -> Allowed:
    """Allow one of several names."""
    return Allowed(f"use one of {options}", lambda value: value in options)


def any_of(*options: str) -> Allowed:
    """Allow a list of some of several names, each once."""
    return Allowed(
        f"use any of {options}, each once", lambda value: set(value) <= {*options} and len({*value}) == len(value)
    )


def pair(text: str, first: Callable[[float], bool], second: Callable[[float], bool], empty: bool = False) -> Allowed:
    """Allow two numbers, or none where ``empty``."""
    return Allowed(text, lambda value: empty and not value or len(value) == 2 and first(value[0]) and second(value[1]))


ANY = Allowed("", lambda value: True)
NAMES = Allowed("expected a list of names", lambda value: all(isinstance(name, str) for name in value))
PROBABILITY = Allowed("use a probability of at least 0 and below 1", lambda value: 0 <= value < 1)
_NOT_NEGATIVE = (lambda value: value >= 0,) * 2

KEYS: dict[str, tuple[Any, Allowed]] = {
    # Side of the square model input in pixels; the aspect ratio is ignored, as in the paper.
    "INPUT.IMAGE_SIZE": (512, at_least(1)),
    # Augmentation, in training, in addition to Detectron2's INPUT.RANDOM_FLIP; drawn uniformly; 0.0 is off. The image
    # is enlarged by a factor of 1 ± this,
    "INPUT.RANDOM_SCALE": (0.0, between(0.0, 0.5)),
    # moved by up to this fraction of its side (a finding of which less than a third stays in the image is dropped),
    "INPUT.RANDOM_SHIFT": (0.0, between(0.0, 0.5)),
    # and its gray values are stretched about their mean by 1 ± the first and shifted by up to the second of the range.
    "INPUT.RANDOM_JITTER": ([0.0, 0.0], pair("use two numbers, contrast and brightness, of 0.0 (off) to 0.5",
                                             *(lambda value: 0 <= value <= 0.5,) * 2)),
    # Folder of decoded images at INPUT.IMAGE_SIZE, one memory-mapped file a data set, made when it is first used (for
    # several machines by `mdf cache` before). For images that are larger than the input or slow to decode. Empty: none.
    "DATALOADER.DECODED_CACHE": ("", ANY),
    # Numeric columns of the clinical schema that the model reads, in input order. May be empty; without any column,
    # numeric or categorical, the model is the image-only one, whatever FUSION_3D and FUSION_1D say.
    "MODEL.CLINICAL.NUMERIC": ([], NAMES),
    # Categorical columns, in input order. May be empty.
    "MODEL.CLINICAL.CATEGORICAL": ([], NAMES),
    # The vocabulary of each, a list of lists in the same order. Leave it empty: it is then taken from the schema of the
    # data set (its prepared folder, else what the package knows of the collection), and a checkpoint keeps it.
    "MODEL.CLINICAL.VOCABULARIES": ([], ANY),
    # Width of the embedding of each categorical column (paper: 55, so that 9 numeric + 55 = 64).
    "MODEL.CLINICAL.EMBEDDING_DIM": (55, at_least(1)),
    # A missing value becomes: "token" (a learned value a column), "median" (of the train split) or
    # "median_indicator" (the median, plus one 0/1 input a numeric column that says it is missing).
    "MODEL.CLINICAL.MISSING": ("token", one_of(*MISSING_OPTIONS)),
    # Clinical dropout, in training: probability that a record is hidden as a whole, and that a value of another is. The
    # model then also answers where a part of the record, or all of it, is missing.
    "MODEL.CLINICAL.DROPOUT_RECORD": (0.0, PROBABILITY),
    "MODEL.CLINICAL.DROPOUT_VALUE": (0.0, PROBABILITY),
    # 3-D fusion: the record is fused with the image's feature maps, before the proposals.
    "MODEL.CLINICAL.FUSION_3D": (False, ANY),
    # 1-D fusion: the encoded record is concatenated to each flattened RoI before the box head.
    "MODEL.CLINICAL.FUSION_1D": (False, ANY),
    # How the record becomes maps: "deconv" (paper: a pseudo-image and a second backbone), "compact" (deconvolved
    # straight to the feature map's size, plus a repeated linear map), "repeat" (the repeated linear map alone), or a
    # class of CLINICAL_BRANCH_REGISTRY. The fusions that read the record itself (FiLM, CrossAttention) have no branch,
    # and read none of the branch's keys.
    "MODEL.CLINICAL.BRANCH": ("deconv", ANY),
    # Weight of an auxiliary loss, in training: every cell of the clinical maps predicts the classes in its image. Not
    # read where there is no clinical branch. The detector's losses alone teach the branch "deconv" late, or not at all.
    "MODEL.CLINICAL.AUXILIARY_WEIGHT": (0.0, at_least(0)),
    # Channels between the spatializer's stages (deconvolution + convolution). Each stage doubles the side; there are as
    # many as fit: 9 for 512 pixels. Where they do not end at the padded image's side, S is resized bilinearly.
    "MODEL.SPATIALIZER.CHANNELS": (64, at_least(1)),
    # A name in FUSION_REGISTRY: of two maps (the paper's four) ElementwiseSum, HadamardProduct, ConcatenationLinear,
    # ConcatenationConv; of a map and the record FiLM, CrossAttention.
    "MODEL.FUSION.NAME": ("ElementwiseSum", ANY),
    # Whether f_fused, a 3x3 convolution, follows the fusion (paper's equation 2; the released runs had none).
    "MODEL.FUSION.CONV": (True, ANY),
    # The backbone that reads the image (MODEL.BACKBONE.NAME is the dual one around it): "build_timm_backbone" (one
    # feature map, "p5" for stride 32), "build_timm_fpn_backbone" (a pyramid over MODEL.FPN.IN_FEATURES, named "c3" for
    # stride 8 and so on), or one of Detectron2's, "build_resnet_fpn_backbone" for one, with Detectron2's keys.
    "MODEL.IMAGE_BACKBONE.NAME": ("build_timm_backbone", ANY),
    # Any timm model that supports features_only.
    "MODEL.TIMM.NAME": ("mobilenetv3_small_100", ANY),
    # Stride of the one feature map that is used; the trunk ends there. A pyramid takes its levels from MODEL.FPN.
    "MODEL.TIMM.STRIDE": (32, at_least(1)),
    # Levels that a pyramid adds above its last: "none", "maxpool" (one, as in Mask R-CNN) or "p6p7" (two, RetinaNet).
    "MODEL.TIMM.FPN_TOP": ("none", one_of("none", "maxpool", "p6p7")),
    # Channels of the 3x3 convolution after the trunk (of a pyramid: MODEL.FPN.OUT_CHANNELS).
    "MODEL.TIMM.OUT_CHANNELS": (64, at_least(1)),
    # eps and momentum of the batch norms of a trunk that has some, the clinical branch's too; empty: timm's, for most
    # [0.00001, 0.1]. torchvision's MobileNetV3, which the paper used, has [0.001, 0.01].
    "MODEL.TIMM.BATCH_NORM": ([], pair("it takes eps > 0 and a momentum of 0 to 1, or nothing",
                                       lambda eps: eps > 0, lambda momentum: 0 <= momentum <= 1, empty=True)),
    # A training that starts (not one that is resumed) loads timm's pretrained weights into the image's trunk and the
    # clinical branch's: from the network, or from
    "MODEL.TIMM.PRETRAINED": (False, ANY),
    # a local timm weights file (.pth or .safetensors), used instead of the network.
    "MODEL.TIMM.WEIGHTS_FILE": ("", ANY),
    # "none" (the plain sum), "homoscedastic" (paper: sum of L/(2 a^2) + log a^2, log a^2 trained),
    # "homoscedastic_bounded" (with log(1 + a^2), which cannot go below zero) or "homoscedastic_released" (the same with
    # a itself trained: the authors' released code).
    "MODEL.LOSS_WEIGHTING.NAME": ("homoscedastic", one_of("none", "homoscedastic", "homoscedastic_bounded",
                                                          "homoscedastic_released")),
    # "SGD" (Detectron2's) or "AdamW".
    "SOLVER.OPTIMIZER": ("SGD", one_of("SGD", "AdamW")),
    # Learning-rate factor of the layers that read the record itself: the encoder, the record's inputs of the box head,
    # the fusions FiLM and CrossAttention, and the repeated linear map of a branch. Their inputs are few and their
    # gradients noisy; at the rate of an image's layers they have not moved when the training ends.
    "SOLVER.CLINICAL_LR_FACTOR": (1.0, at_least(0)),
    # Learning-rate factors of the branch "deconv": of its deep layers (spatializer and trunk), which carry the record
    # through as they start and lose it when they change fast, and of the last convolutions, which read it out of them.
    "SOLVER.DECONV_LR_FACTORS": ([1.0, 1.0], pair("it takes two factors of at least 0", *_NOT_NEGATIVE)),
    # A fully connected layer with more inputs than this learns at BASE_LR * this / inputs; 0 switches it off. AdamW
    # moves every weight by about the rate, so the output of a layer moves with its number of inputs (Yang et al.
    # 2021, "Tensor Programs V", table 8).
    "SOLVER.FULL_LR_FAN_IN": (0, at_least(0)),
    # Validation split: evaluated every TEST.EVAL_PERIOD iterations and after the last one. DATASETS.TEST is then
    # evaluated once, at the end, so that no choice is made on it. Empty: TEST.EVAL_PERIOD evaluates DATASETS.TEST.
    "DATASETS.VAL": ((), NAMES),
    # Also compute the losses on it (no gradient, same weights of the losses).
    "VALIDATION.LOSSES": (True, ANY),
    # What decides which checkpoint is model_best.pth: "<task>/<metric>" of the evaluator, or "total_loss" (less is
    # better).
    "VALIDATION.METRIC": ("bbox_iobb/AP50", ANY),
    # Training ends after this many validations without a better METRIC; 0: it does not.
    "VALIDATION.PATIENCE": (0, at_least(0)),
    # Experiment trackers that get the config and the scalars of metrics.json, as TensorBoard does, any of: "wandb",
    # "mlflow". Where to, and under which project, say their own environment variables.
    "TRACKERS": ([], any_of("wandb", "mlflow")),
    # Every this many iterations, and after the last, clinical/... scalars are written: the loss of fixed images with
    # their own records and with exchanged ones, and the size of each path where they are joined. 0: never.
    "CLINICAL_DIAGNOSTICS.PERIOD": (0, at_least(0)),
    # This many fixed images of the train split, one a patient.
    "CLINICAL_DIAGNOSTICS.NUM_IMAGES": (32, at_least(2)),
    # On a GPU: torch's deterministic operators, as far as it has them, and a warning for each other one. Slower. With a
    # SEED a training then repeats, and resumes, to the bit; on a CPU it does so without this key.
    "DETERMINISTIC": (False, ANY),
}  # fmt: skip


def add_mdf_config(cfg: CfgNode) -> None:
    """Add this project's keys to ``cfg`` (Detectron2's defaults are not changed; ``configs/Base-*.yaml`` sets them)."""
    for key, (default, _) in KEYS.items():
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node.setdefault(part, CfgNode())
        node[name] = list(default) if isinstance(default, list) else default


def columns_read(cfg: CfgNode) -> list[str]:
    """List the clinical columns that the model reads; none where it reads no record."""
    clinical = cfg.MODEL.CLINICAL
    return [*clinical.NUMERIC, *clinical.CATEGORICAL] if clinical.FUSION_3D or clinical.FUSION_1D else []


def reads_record(cfg: CfgNode) -> bool:
    """Whether the model reads the record, on either way."""
    return bool(columns_read(cfg))


def fuses_3d(cfg: CfgNode) -> bool:
    """Whether the record is fused with the feature maps."""
    return cfg.MODEL.CLINICAL.FUSION_3D and reads_record(cfg)


def fuses_1d(cfg: CfgNode) -> bool:
    """Whether the record is concatenated to the regions."""
    return cfg.MODEL.CLINICAL.FUSION_1D and reads_record(cfg)


def num_classes(cfg: CfgNode) -> tuple[str, int]:
    """Return the key of the number of classes of the config's meta-architecture, and its value."""
    key = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).num_classes_key
    return key, value_at(cfg, key)


def value_at(cfg: CfgNode, key: str) -> Any:
    """Return the value of a dotted key; None where there is none."""
    value: Any = cfg
    for part in key.split("."):
        value = value.get(part) if isinstance(value, CfgNode) else None
    return value


def flat_config(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a config to "NODE.KEY" → value; tuples become lists, between which YAML makes no difference."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= flat_config(value, f"{name}.") if isinstance(value, Mapping) else {name: _as_list(value)}
    return flat


def _as_list(value: Any) -> Any:
    return [_as_list(v) for v in value] if isinstance(value, (list, tuple)) else value
