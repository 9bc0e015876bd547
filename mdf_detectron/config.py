"""Every config key that this project adds to Detectron2's, in one place; `config_checks.py` checks their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

LOSS_WEIGHTINGS = ("none", "homoscedastic", "homoscedastic_bounded", "homoscedastic_released")
TIMM_BACKBONES = ("build_timm_backbone", "build_timm_fpn_backbone")
EXECUTION_OPTIONS = ("bfloat16", "compile", "checkpoint")
MISSING_OPTIONS = ("token", "median", "median_indicator")
TRACKERS = ("wandb", "mlflow")


def add_mdf_config(cfg: CfgNode) -> None:
    """Add this project's keys to ``cfg`` (Detectron2's defaults are not changed; ``configs/Base-*.yaml`` sets them)."""
    _add_input(cfg)
    _add_clinical(cfg)
    _add_image_backbone(cfg)
    _add_losses_and_solver(cfg)
    _add_validation(cfg)
    _add_diagnostics(cfg)
    # On a GPU: torch's deterministic operators, as far as it has them, and a warning for each other one. Slower. With a
    # SEED a training then repeats, and resumes, to the bit; on a CPU it does so without this key.
    cfg.DETERMINISTIC = False


def _add_input(cfg: CfgNode) -> None:
    # Side of the square model input in pixels; the aspect ratio is ignored, as in the paper.
    cfg.INPUT.IMAGE_SIZE = 512
    # Augmentation, in training, besides Detectron2's INPUT.RANDOM_FLIP; drawn uniformly; 0.0 is off. The image is
    # enlarged by a factor of 1 ± RANDOM_SCALE and moved by up to RANDOM_SHIFT of its side (a finding of which less than
    # a third stays in the image is no ground truth there); its gray values are stretched about their mean by
    # 1 ± RANDOM_CONTRAST and shifted by up to RANDOM_BRIGHTNESS of the full range.
    cfg.INPUT.RANDOM_SCALE = 0.0
    cfg.INPUT.RANDOM_SHIFT = 0.0
    cfg.INPUT.RANDOM_CONTRAST = 0.0
    cfg.INPUT.RANDOM_BRIGHTNESS = 0.0
    # Folder of decoded images at INPUT.IMAGE_SIZE, one memory-mapped file a data set, made when it is first used (for
    # several machines by `mdf cache` before). For images that are larger than the input or slow to decode. Empty: none.
    cfg.DATALOADER.DECODED_CACHE = ""


def _add_clinical(cfg: CfgNode) -> None:
    c = cfg.MODEL.CLINICAL = CfgNode()
    # Numeric columns of the clinical schema that the model reads, in input order. May be empty; without any column,
    # numeric or categorical, the model is the image-only one, whatever FUSION_3D and FUSION_1D say.
    c.NUMERIC = []
    # Categorical columns, in input order. May be empty.
    c.CATEGORICAL = []
    # The vocabulary of each, a list of lists in the same order. Leave it empty: it is then taken from the schema of the
    # data set (its prepared folder, else what the package knows of the collection), and a checkpoint keeps it.
    c.VOCABULARIES = []
    # Width of the embedding of each categorical column (paper: 55, so that 9 numeric + 55 = 64).
    c.EMBEDDING_DIM = 55
    # A missing value becomes: "token" (a learned value a column), "median" (of the train split) or
    # "median_indicator" (the median, plus one 0/1 input a numeric column that says it is missing).
    c.MISSING = "token"
    # Clinical dropout, in training: probability that a record is hidden as a whole, and that a value of another is. The
    # model then also answers where a part of the record, or all of it, is missing.
    c.DROPOUT_RECORD = 0.0
    c.DROPOUT_VALUE = 0.0
    # 3-D fusion: the record is fused with the image's feature maps, before the proposals.
    c.FUSION_3D = False
    # How the record becomes maps: "deconv" (paper: a pseudo-image and a second backbone), "compact" (deconvolved
    # straight to the feature map's size, beside a repeated linear map; its number of stages follows from that size) or
    # "repeat" (the repeated linear map alone). The fusions that read the record itself (FiLM, CrossAttention)
    # have no branch, and read none of the branch's keys.
    c.BRANCH = "deconv"
    # How the branch is computed, any of: "bfloat16" (the maps it gives are float32); "compile" (torch.compile of its
    # spatializer: faster steps after a first one that takes minutes; on a CPU it needs a C++ compiler) or "checkpoint"
    # (the spatializer's stages are recomputed in the backward pass instead of stored: less memory, more time).
    c.EXECUTION = []
    # Weight of an auxiliary loss, in training: every cell of the clinical maps predicts the classes in its image. Not
    # read where there is no clinical branch. The detector's losses alone teach the branch "deconv" late, or not at all.
    c.AUXILIARY_WEIGHT = 0.0
    # 1-D fusion: the encoded record is concatenated to each flattened RoI before the box head.
    c.FUSION_1D = False

    s = cfg.MODEL.SPATIALIZER = CfgNode()
    # Deconvolution + convolution stages; each doubles the side, so 9 give 512. Where 2**NUM_STAGES is not the
    # padded image's side, the pseudo-image is resized bilinearly.
    s.NUM_STAGES = 9
    # Channels between the stages.
    s.CHANNELS = 64

    f = cfg.MODEL.FUSION = CfgNode()
    # A name in FUSION_REGISTRY: of two maps (the paper's four) ElementwiseSum, HadamardProduct, ConcatenationLinear,
    # ConcatenationConv; of a map and the record FiLM, CrossAttention.
    f.NAME = "ElementwiseSum"
    # Whether f_fused, a 3x3 convolution, follows the fusion (paper's equation 2; the released runs had none).
    f.CONV = True


def _add_image_backbone(cfg: CfgNode) -> None:
    # The backbone that reads the image (MODEL.BACKBONE.NAME is the dual one around it): "build_timm_backbone" (one
    # feature map, "p5" for stride 32), "build_timm_fpn_backbone" (a pyramid over MODEL.FPN.IN_FEATURES, named "c3" for
    # stride 8 and so on), or one of Detectron2's, "build_resnet_fpn_backbone" for one, with Detectron2's keys.
    cfg.MODEL.IMAGE_BACKBONE = CfgNode()
    cfg.MODEL.IMAGE_BACKBONE.NAME = "build_timm_backbone"

    t = cfg.MODEL.TIMM = CfgNode()
    # Any timm model that supports features_only.
    t.NAME = "mobilenetv3_small_100"
    # Stride of the one feature map that is used; the trunk ends there. A pyramid takes its levels from MODEL.FPN.
    t.STRIDE = 32
    # Levels that a pyramid adds above its last: "none", "maxpool" (one, as in Mask R-CNN) or "p6p7" (two, RetinaNet).
    t.FPN_TOP = "none"
    # Channels of the 3x3 convolution behind the trunk (of a pyramid: MODEL.FPN.OUT_CHANNELS).
    t.OUT_CHANNELS = 64
    # eps and momentum of the batch norms of a trunk that has some, the clinical branch's too; empty: timm's, for most
    # [0.00001, 0.1]. torchvision's MobileNetV3, which the paper used, has [0.001, 0.01].
    t.BATCH_NORM = []
    # A training that starts (not one that is resumed) loads timm's pretrained weights into the image's trunk and the
    # clinical branch's: from the network, or from
    t.PRETRAINED = False
    # a local timm weights file (.pth or .safetensors), used instead of the network.
    t.WEIGHTS_FILE = ""


def _add_losses_and_solver(cfg: CfgNode) -> None:
    w = cfg.MODEL.LOSS_WEIGHTING = CfgNode()
    # "none" (the plain sum), "homoscedastic" (paper: sum of L/(2 a^2) + log a^2, log a^2 trained),
    # "homoscedastic_bounded" (with log(1 + a^2), which cannot go below zero) or "homoscedastic_released" (the same with
    # a itself trained: the authors' released code).
    w.NAME = "homoscedastic"
    # "SGD" (Detectron2's) or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # AdamW's decay rates of its running mean and mean square of the gradient. A first layer's early gradients are
    # much larger than its later ones; with 0.999 they hold its steps small for a thousand iterations.
    cfg.SOLVER.BETAS = [0.9, 0.99]
    # Learning-rate factor of the layers that read the record itself: the encoder, the record's inputs of the box head,
    # the fusions FiLM and CrossAttention, and the repeated linear map of a branch. Their inputs are few and their
    # gradients noisy; at the rate of an image's layers they have not moved when the training ends.
    cfg.SOLVER.CLINICAL_LR_FACTOR = 1.0
    # Learning-rate factors of the branch "deconv": of its deep layers (spatializer and trunk), which carry the record
    # through as they start and lose it when they change fast, and of the last convolutions, which read it out of them.
    cfg.SOLVER.DECONV_LR_FACTORS = [1.0, 1.0]
    # A fully connected layer with more inputs than this learns at BASE_LR * this / inputs; 0 switches it off. AdamW
    # moves every weight by about the rate, so the output of a layer moves with its number of inputs (Yang et al.
    # 2021, "Tensor Programs V", table 8).
    cfg.SOLVER.FULL_LR_FAN_IN = 0


def _add_validation(cfg: CfgNode) -> None:
    # Validation split: evaluated every TEST.EVAL_PERIOD iterations and after the last one. DATASETS.TEST is then
    # evaluated once, at the end, so that no choice is made on it. Empty: TEST.EVAL_PERIOD evaluates DATASETS.TEST.
    cfg.DATASETS.VAL = ()
    v = cfg.VALIDATION = CfgNode()
    # Also compute the losses on it (no gradient, same weights of the losses).
    v.LOSSES = True
    # So many images of the train split, always the same, are evaluated too: the generalization gap.
    v.TRAIN_IMAGES = 0
    # What decides: "<task>/<metric>" of the evaluator, or "total_loss" (less is better).
    v.METRIC = "bbox_iobb/AP50"
    # Keep the checkpoint with the best METRIC as model_best.pth.
    v.SAVE_BEST = True
    # Training ends after so many validations without a METRIC better by more than MIN_DELTA; 0: it does not.
    v.PATIENCE = 0
    v.MIN_DELTA = 0.0


def _add_diagnostics(cfg: CfgNode) -> None:
    # Experiment trackers that get the config and the scalars of metrics.json beside TensorBoard, any of: "wandb",
    # "mlflow". Where to, and under which project, say their own environment variables.
    cfg.TRACKERS = []
    d = cfg.CLINICAL_DIAGNOSTICS = CfgNode()
    # Every so many iterations, and after the last, clinical/... scalars are written: the loss of fixed images with
    # their own records and with exchanged ones, and the size of each path where they are joined. 0: never.
    d.PERIOD = 0
    # So many fixed images of the train split, one a patient.
    d.NUM_IMAGES = 32


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
