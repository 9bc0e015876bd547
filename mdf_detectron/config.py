"""Config keys that this project adds to Detectron2's: default, allowed values and meaning.

``config_checks.py`` compares a config with them and checks what concerns several keys.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

TIMM_BACKBONES = ("build_timm_backbone", "build_timm_fpn_backbone")
MISSING_OPTIONS = ("token", "median", "median_indicator", "raw_mean")


class Allowed(NamedTuple):
    """Test ``holds(value)`` beyond the type of the default; ``text`` ends the message where it fails."""

    text: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Allowed:
    """Allow numbers of ``low`` or more."""
    return Allowed("expected more than 0" if low == 1 else f"expected {low} or more", lambda value: value >= low)


def between(low: float, high: float, what: str = "") -> Allowed:
    """Allow numbers in an interval, ends included."""
    return Allowed(f"use {low} to {high}{what}", lambda value: low <= value <= high)


def one_of(*options: str) -> Allowed:
    """Allow one of several names."""
    return Allowed(f"use one of {options}", lambda value: value in options)


def pair(text: str, first: Callable[[float], bool], second: Callable[[float], bool], empty: bool = False) -> Allowed:
    """Allow a list of two numbers, or an empty list where ``empty``."""
    return Allowed(text, lambda value: empty and not value or len(value) == 2 and first(value[0]) and second(value[1]))


ANY = Allowed("", lambda value: True)
NAMES = Allowed("expected a list of names", lambda value: all(isinstance(name, str) for name in value))
PROBABILITY = Allowed("use a probability of at least 0 and below 1", lambda value: 0 <= value < 1)
_NOT_NEGATIVE = (lambda value: value >= 0,) * 2

KEYS: dict[str, tuple[Any, Allowed]] = {
    # Side of the square model input in pixels; the aspect ratio is ignored, as in the paper.
    "INPUT.IMAGE_SIZE": (512, at_least(1)),
    # Training augmentation next to Detectron2's INPUT.RANDOM_FLIP, drawn uniformly; 0.0 is off.
    # Scale factor of the image: 1 ± this.
    "INPUT.RANDOM_SCALE": (0.0, between(0.0, 0.5)),
    # Shift, as a fraction of the side; an annotation with less than a third left in the image is dropped.
    "INPUT.RANDOM_SHIFT": (0.0, between(0.0, 0.5)),
    # Turn by 0, 1, 2 or 3 quarters, for images without an up and down (dermoscopy, never chests).
    "INPUT.RANDOM_QUARTER_TURNS": (False, ANY),
    # Contrast (factor 1 ± the first, about the mean) and brightness (± the second, as a fraction of the gray range).
    "INPUT.RANDOM_JITTER": ([0.0, 0.0], pair("use two numbers, contrast and brightness, of 0.0 (off) to 0.5",
                                             *(lambda value: 0 <= value <= 0.5,) * 2)),
    # Saturation of color images: each pixel's difference from its gray value times 1 ± this.
    "INPUT.RANDOM_SATURATION": (0.0, between(0.0, 0.5)),
    # Folder for images decoded to INPUT.IMAGE_SIZE, one memory-mapped file per data set, written on first use (for
    # several machines: by `mdf cache` beforehand). Helps where images are large or slow to decode. Empty: no cache.
    "DATALOADER.DECODED_CACHE": ("", ANY),
    # Numeric columns of the clinical schema that the model reads, in input order. With no column of either kind the
    # model is image-only, whatever the fusions say.
    "MODEL.CLINICAL.NUMERIC": ([], NAMES),
    # Categorical columns, in input order.
    "MODEL.CLINICAL.CATEGORICAL": ([], NAMES),
    # Their vocabularies, a list of lists in the same order. Empty: taken from the schema of the data set (its prepared
    # folder, else what the package knows of the collection), and kept in the checkpoint.
    "MODEL.CLINICAL.VOCABULARIES": ([], ANY),
    # Embedding width of each categorical column (paper: 55, so that 9 numeric + 55 = 64).
    "MODEL.CLINICAL.EMBEDDING_DIM": (55, at_least(1)),
    # What replaces a missing value: "token" (learned per column), "median" (of the train split; for a categorical
    # column its most frequent value), "median_indicator" (the same, plus a 0/1 input per numeric column) or "raw_mean"
    # (the mean, and numbers are not standardized: the authors' reading).
    "MODEL.CLINICAL.MISSING": ("token", one_of(*MISSING_OPTIONS)),
    # Clinical dropout in training: probability that a record is hidden as a whole, and that a value of the others is.
    # It prepares the model for records that are missing in part or entirely.
    "MODEL.CLINICAL.DROPOUT_RECORD": (0.0, PROBABILITY),
    "MODEL.CLINICAL.DROPOUT_VALUE": (0.0, PROBABILITY),
    # 3-D fusion: fuse the record with the image's feature maps, before the proposals; with logit fusion of an R-CNN for
    # its small head alone, while the detector reads the image.
    "MODEL.CLINICAL.FUSION_3D": (False, ANY),
    # 1-D fusion: concatenate the encoded record to each flattened RoI before the box head.
    "MODEL.CLINICAL.FUSION_1D": (False, ANY),
    # Logit fusion: add what the record says of each class to its logit. It starts as late fusion, from a record model
    # that is fitted before training (the logarithm of the odds ratio of each class), and learns the rest.
    "MODEL.CLINICAL.FUSION_LOGITS": (False, ANY),
    # Hidden units of the small head of region and record that learns the rest. 0: the record model alone, which is late
    # fusion.
    "MODEL.CLINICAL.LOGITS_HIDDEN": (64, at_least(0)),
    # How the record becomes maps: "deconv" (paper: a pseudo-image and a second backbone), "compact" (deconvolved to the
    # feature map's size, plus a repeated linear map), "repeat" (the repeated linear map alone), or a class of
    # CLINICAL_BRANCH_REGISTRY. Fusions that read the record itself (FiLM, CrossAttention) ignore the branch's keys.
    "MODEL.CLINICAL.BRANCH": ("deconv", ANY),
    # Weight of an auxiliary training loss: every cell of the clinical maps predicts the classes in its image. Ignored
    # without a clinical branch. The detector's losses alone teach the branch "deconv" late, or not at all.
    "MODEL.CLINICAL.AUXILIARY_WEIGHT": (0.0, at_least(0)),
    # Channels between the spatializer's stages. Each stage doubles the side, as many as fit: 9 for 512 pixels. Where
    # they do not end at the padded image's side, the pseudo-image is resized bilinearly.
    "MODEL.SPATIALIZER.CHANNELS": (64, at_least(1)),
    # A class of FUSION_REGISTRY. Of two maps (the paper's four): ElementwiseSum, HadamardProduct, ConcatenationLinear,
    # ConcatenationConv. Of a map and the record: FiLM, CrossAttention.
    "MODEL.FUSION.NAME": ("ElementwiseSum", ANY),
    # Whether a 3x3 convolution (f_fused) follows the fusion (paper, equation 2; the released runs had none).
    "MODEL.FUSION.CONV": (True, ANY),
    # The image's backbone within the dual one (MODEL.BACKBONE.NAME): "build_timm_backbone" (one feature map, "p5" for
    # stride 32), "build_timm_fpn_backbone" (a pyramid over MODEL.FPN.IN_FEATURES, "c3" for stride 8), or one of
    # Detectron2's, such as "build_resnet_fpn_backbone", with Detectron2's keys.
    "MODEL.IMAGE_BACKBONE.NAME": ("build_timm_backbone", ANY),
    # Any timm model that supports features_only.
    "MODEL.TIMM.NAME": ("mobilenetv3_small_100", ANY),
    # Stride of the feature map at which the trunk ends. A pyramid takes its levels from MODEL.FPN instead.
    "MODEL.TIMM.STRIDE": (32, at_least(1)),
    # Coarser levels added to a pyramid: "none", "maxpool" (one, as in Mask R-CNN) or "p6p7" (two, as in RetinaNet).
    "MODEL.TIMM.FPN_TOP": ("none", one_of("none", "maxpool", "p6p7")),
    # Channels of the 3x3 convolution after the trunk. A pyramid reads MODEL.FPN.OUT_CHANNELS instead.
    "MODEL.TIMM.OUT_CHANNELS": (64, at_least(1)),
    # eps and momentum of the trunks' batch norms, the clinical branch's too. Empty: timm's, mostly [0.00001, 0.1];
    # torchvision's MobileNetV3, which the paper used, has [0.001, 0.01].
    "MODEL.TIMM.BATCH_NORM": ([], pair("it takes eps > 0 and a momentum of 0 to 1, or nothing",
                                       lambda eps: eps > 0, lambda momentum: 0 <= momentum <= 1, empty=True)),
    # Load timm's pretrained weights, from its cache or the network, into the image's trunk and the clinical branch's
    # when a training starts (not when it resumes).
    "MODEL.TIMM.PRETRAINED": (False, ANY),
    # The same from a local timm weights file (.pth or .safetensors) instead of the network. Empty: no file.
    "MODEL.TIMM.WEIGHTS_FILE": ("", ANY),
    # "none" (plain sum), "homoscedastic" (paper: sum of L/(2 a^2) + log a^2, log a^2 trained) or
    # "homoscedastic_released" (log(1 + a^2) instead, never negative, and a trained: the authors' code).
    "MODEL.LOSS_WEIGHTING.NAME": ("homoscedastic", one_of("none", "homoscedastic", "homoscedastic_released")),
    # Initialize heads, spatializer, fusion and the convolutions after the trunks as torch and torchvision do (the
    # authors' code), instead of so that the record is read from the start.
    "MODEL.TORCH_INITIALIZATION": (False, ANY),
    # Weight decay of the trained loss weights.
    "SOLVER.WEIGHT_DECAY_LOSS_WEIGHTS": (0.0, at_least(0)),
    # Run each batch in this many parts, for one optimizer step: the memory of a part. Without batch norm and sampled
    # regions the step is the whole batch's; with them, statistics and means are each part's. 1: all at once.
    "SOLVER.ACCUMULATE": (1, at_least(1)),
    # Average the weights over the iterations with this decay (0.99 to 0.9999; about 1 / (1 - decay) iterations count):
    # validation, test and every checkpoint use the average, the optimizer goes on from its own weights. 0.0: off.
    "SOLVER.EMA_DECAY": (0.0, PROBABILITY),
    # "SGD" (Detectron2's) or "AdamW".
    "SOLVER.OPTIMIZER": ("SGD", one_of("SGD", "AdamW")),
    # Learning-rate factor of the layers that read the record itself: the encoder, the box head's record inputs, FiLM
    # and CrossAttention, and a branch's repeated linear map. Their inputs are few and their gradients noisy: at the
    # rate of the image's layers they have hardly moved when training ends.
    "SOLVER.CLINICAL_LR_FACTOR": (1.0, at_least(0)),
    # Learning-rate factors of the branch "deconv": of its deep layers (spatializer and trunk), which pass the record
    # through at the start and lose it when they change fast, and of the last convolutions, which read it out.
    "SOLVER.DECONV_LR_FACTORS": ([1.0, 1.0], pair("it takes two factors of at least 0", *_NOT_NEGATIVE)),
    # A fully connected layer with more inputs than this learns at BASE_LR * this / inputs; 0: off. AdamW moves each
    # weight by about the rate, a layer's output by that times its inputs (Yang et al. 2021, "Tensor Programs V").
    "SOLVER.FULL_LR_FAN_IN": (0, at_least(0)),
    # Validation split, evaluated every TEST.EVAL_PERIOD iterations and at the end; DATASETS.TEST is then evaluated at
    # the end only, so that no choice is made on it. Empty: TEST.EVAL_PERIOD evaluates DATASETS.TEST.
    "DATASETS.VAL": ((), NAMES),
    # Also compute the training losses on the validation split.
    "VALIDATION.LOSSES": (True, ANY),
    # What selects model_best.pth: "<task>/<metric>" of the evaluator, or "total_loss" (lower is better).
    "VALIDATION.METRIC": ("bbox_iobb/AP50", ANY),
    # Stop training after this many validations without a better METRIC; 0: never.
    "VALIDATION.PATIENCE": (0, at_least(0)),
    # Write clinical/... scalars every this many iterations and after the last: the loss of fixed images with their own
    # and with exchanged records, and the size of each path where the two are joined. 0: never.
    "CLINICAL_DIAGNOSTICS.PERIOD": (0, at_least(0)),
    # Number of these fixed images of the train split, one per patient.
    "CLINICAL_DIAGNOSTICS.NUM_IMAGES": (32, at_least(2)),
    # On a GPU: use torch's deterministic operators where there are some, with a warning for each other one. Slower. A
    # training with a SEED then repeats and resumes bit for bit; on a CPU it does so without this key.
    "DETERMINISTIC": (False, ANY),
}  # fmt: skip


def add_mdf_config(cfg: CfgNode) -> None:
    """Add this project's keys to ``cfg``; Detectron2's defaults stay (``configs/Base-*.yaml`` sets them)."""
    for key, (default, _) in KEYS.items():
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node.setdefault(part, CfgNode())
        node[name] = list(default) if isinstance(default, list) else default


def columns_read(cfg: CfgNode) -> list[str]:
    """List the clinical columns that the model reads; empty for an image-only model."""
    clinical = cfg.MODEL.CLINICAL
    fuses = clinical.FUSION_3D or clinical.FUSION_1D or clinical.FUSION_LOGITS
    return [*clinical.NUMERIC, *clinical.CATEGORICAL] if fuses else []


def reads_record(cfg: CfgNode) -> bool:
    """Return whether the model reads the record by any fusion."""
    return bool(columns_read(cfg))


def fuses_3d(cfg: CfgNode) -> bool:
    """Return whether the record is fused with the feature maps."""
    return cfg.MODEL.CLINICAL.FUSION_3D and reads_record(cfg)


def fuses_1d(cfg: CfgNode) -> bool:
    """Return whether the record is concatenated to the flattened RoIs."""
    return cfg.MODEL.CLINICAL.FUSION_1D and reads_record(cfg)


def fuses_logits(cfg: CfgNode) -> bool:
    """Return whether the record is added to the class logits."""
    return cfg.MODEL.CLINICAL.FUSION_LOGITS and reads_record(cfg)


def learns_from_record(cfg: CfgNode) -> bool:
    """Return whether training taught the model what to make of a record: false where it has the record model alone."""
    return fuses_3d(cfg) or fuses_1d(cfg) or (fuses_logits(cfg) and cfg.MODEL.CLINICAL.LOGITS_HIDDEN > 0)


def num_classes(cfg: CfgNode) -> tuple[str, int]:
    """Return key and value of the number of classes of the config's meta-architecture."""
    key = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).num_classes_key
    return key, value_at(cfg, key)


def value_at(cfg: CfgNode, key: str) -> Any:
    """Return the value of a dotted key, or None."""
    value: Any = cfg
    for part in key.split("."):
        value = value.get(part) if isinstance(value, CfgNode) else None
    return value


def without_paths(cfg: CfgNode) -> CfgNode:
    """Return a copy in which absolute paths, paths out of the folder and URLs are cut to their last component."""
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in cfg.items():
        cfg[key] = without_paths(value) if isinstance(value, CfgNode) else _cut(value)
    return cfg


def _cut(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_cut(one) for one in value)
    outside = isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "..")) or "://" in value)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if outside else value


def flat_config(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a config to "NODE.KEY" → value; tuples become lists, as YAML does not distinguish them."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= flat_config(value, f"{name}.") if isinstance(value, Mapping) else {name: _as_list(value)}
    return flat


def _as_list(value: Any) -> Any:
    return [_as_list(v) for v in value] if isinstance(value, (list, tuple)) else value
