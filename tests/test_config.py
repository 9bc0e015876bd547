"""Configs: every file loads, and every mistake is one clear message."""

from pathlib import Path

import pytest
from detectron2.config import get_cfg

from mdf_detectron.config import fuses_1d, fuses_3d
from mdf_detectron.config_file import load_config
from mdf_detectron.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Recipe-"))


@pytest.mark.parametrize("name", FILES)
def test_every_config_file_loads(name):
    load_config(CONFIGS / name)


def test_detectron2s_defaults_are_untouched():
    assert "CLINICAL" not in get_cfg().MODEL


def write(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    return tmp_path / "c.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [("MODEL:\n  CLINICAL:\n    NUMERICAL: [age]\n",
      r"c\.yaml: Non-existent config key: MODEL.CLINICAL.NUMERICAL; did you mean MODEL.CLINICAL.NUMERIC"),
     ("MODEL: !!python/object/apply:os.system ['true']\n", "not safe YAML"),
     ("SOLVER:\n  MAX_ITER: many\n", "c.yaml: Type mismatch"),
     ("MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n",
      "'GeneralizedRCNN' does not bring it; use one of .*'MultimodalRCNN'"),
     ("_BASE_: absent.yaml\n", "absent.yaml")],
)  # fmt: skip
def test_bad_files(tmp_path, text, message):
    base = "INPUT:\n  FORMAT: L\n" if "INPUT" in text else ""
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, base + text))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.NOPE", "1"], "Non-existent key: MODEL.NOPE"),
        (["SOLVER.MAX_ITERS", "1"], "SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER[?]"),
        (["MODEL.BASE_LR", "1"], "did you mean SOLVER.BASE_LR[?]"),
        (["MODEL.CLINICAL.VOCABULARIES", "[['F'], ['M']]"], "each column needs its list"),
        (["INPUT.FORMAT", "RGB"], "PIXEL_MEAN"),
        (["INPUT.FORMAT", "CMYK"], "INPUT.FORMAT is 'CMYK'; use one of"),
        (["INPUT.RANDOM_SCALE", "0.6"], r"RANDOM_SCALE is 0.6; use 0.0 to 0.5"),
        (["INPUT.RANDOM_JITTER", "[0.2]"], r"RANDOM_JITTER is \[0.2\]; use two numbers, contrast and brightness"),
        (["MODEL.CLINICAL.NUMERIC", "['age', 'age']"], r"name \['age'\] twice"),
        (["SOLVER.DECONV_LR_FACTORS", "[1.0]"], "DECONV_LR_FACTORS is .* two factors of at least 0"),
        (["SOLVER.DECONV_LR_FACTORS", "[1.0, -1.0]"], "DECONV_LR_FACTORS is .* two factors of at least 0"),
        (["MODEL.TIMM.BATCH_NORM", "[0.0, 0.1]"], "BATCH_NORM is .* it takes eps > 0"),
        (["MODEL.CLINICAL.DROPOUT_VALUE", "1.0"], "DROPOUT_VALUE is 1.0; use a probability"),
        (["CLINICAL_DIAGNOSTICS.NUM_IMAGES", "1"], "NUM_IMAGES is 1; expected 2 or more"),
        (["SOLVER.EMA_DECAY", "1.0"], "EMA_DECAY is 1.0; use a probability of at least 0 and below 1"),
        (["SOLVER.EMA_DECAY", "0.9", "TEST.PRECISE_BN.ENABLED", "True"], "averaged statistics; choose one"),
        (["SOLVER.OPTIMIZER", "Adam"], "SOLVER.OPTIMIZER is 'Adam'"),
        (["MODEL.BACKBONE.NAME", "build_timm_backbone"], "name the image's backbone in MODEL.IMAGE_BACKBONE.NAME"),
        (["INPUT.RANDOM_SATURATION", "0.2"], "RANDOM_SATURATION changes colors, and INPUT.FORMAT 'L' has none"),
        (["MODEL.META_ARCHITECTURE", "Nope"], "META_ARCHITECTURE is 'Nope'"),
        (["MODEL.LOSS_WEIGHTING.NAME", "kendall"], "LOSS_WEIGHTING.NAME is 'kendall'; use one of"),
        (["MODEL.SPATIALIZER.CHANNELS", "0"], "SPATIALIZER.CHANNELS is 0; expected more than 0"),
        (["MODEL.CLINICAL.EMBEDDING_DIM", "0"], "EMBEDDING_DIM is 0"),
        (["MODEL.CLINICAL.AUXILIARY_WEIGHT", "-0.5"], "AUXILIARY_WEIGHT is -0.5"),
        (["MODEL.CLINICAL.MISSING", "zero"], "MISSING is 'zero'; use one of"),
        (["MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", "True"], "AMP.ENABLED needs a GPU"),
        (["VALIDATION.PATIENCE", "2", "TEST.EVAL_PERIOD", "0"], "set TEST.EVAL_PERIOD"),
        (["DATASETS.VAL", "()", "VALIDATION.PATIENCE", "2"], "needs a validation split"),
        (["VALIDATION.PATIENCE", "-1"], "VALIDATION.PATIENCE is -1; expected 0 or more"),
        # what the fuzzer has found
        (["SOLVER.MAX_ITER", "None"], "SOLVER.MAX_ITER is None: expected a value as"),
        (["SOLVER.BASE_LR", "1e999"], "BASE_LR is inf: expected finite numbers"),
        (["SOLVER.MAX_ITER", "9" * 400], "too large"),
        (["SOLVER.MAX_ITER", "0"], "expected more than 0"),
        (["MODEL.PIXEL_MEAN", "['a']"], "expected a list of numbers"),
        (["MODEL.PIXEL_MEAN", "[...]"], "ellipsis is neither a number"),
        (["MODEL.CLINICAL.CATEGORICAL", "[['a']]"], "expected a list of names"),
        (["OUTPUT_DIR", "a\0b"], "legal characters"),
        (["MODEL.DEVICE.x", "1"], "config override"),
        (["SOLVER.STEPS", "-" * 50_000 + "1"], "config override"),
        *(([key, value], f"{key} is .*, which is not supported: ") for key, value in (
            ("INPUT.MIN_SIZE_TRAIN", "(640,)"), ("INPUT.CROP.ENABLED", "True"), ("INPUT.MASK_FORMAT", "rle"),
            ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"), ("TEST.AUG.ENABLED", "True"),
            ("MODEL.KEYPOINT_ON", "True"), ("DATALOADER.ASPECT_RATIO_GROUPING", "True"), ("INPUT.RANDOM_FLIP", "all"),
            ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"), ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
            ("DATASETS.PROPOSAL_FILES_TRAIN", "('p.pkl',)"), ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True"),
            ("TEST.KEYPOINT_OKS_SIGMAS", "[0.1]"), ("TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 38.5, 0.2]]"))),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "mimic_eye" / "mdf_net.yaml", opts)


def test_1d_fusion_needs_roi_heads_and_a_config_must_exist():
    with pytest.raises(ConfigError, match="no config file at"):
        load_config("absent.yaml")
    with pytest.raises(ConfigError, match="MultimodalRetinaNet has no RoI head"):
        load_config(CONFIGS / "mimic_eye" / "retinanet_mdf_net.yaml", ["MODEL.CLINICAL.FUSION_1D", "True"])


def test_pictures_that_are_not_drawn_are_refused(small_config):
    resnet = small_config("mimic_eye/mdf_net_resnet50_fpn.yaml", "MODEL.BACKBONE.FREEZE_AT", 2)
    assert resnet.MODEL.BACKBONE.FREEZE_AT == 2 and small_config("mimic_eye/mdf_net.yaml", "VIS_PERIOD", 5)
    with pytest.raises(ConfigError, match="VIS_PERIOD is 5, but MultimodalRetinaNet draws no images"):
        small_config("mimic_eye/retinanet.yaml", "VIS_PERIOD", 5)


def test_without_columns_no_fusion_is_left():
    none = ["MODEL.CLINICAL.NUMERIC", "[]", "MODEL.CLINICAL.CATEGORICAL", "[]", "MODEL.CLINICAL.VOCABULARIES", "[]"]
    cfg = load_config(CONFIGS / "mimic_eye" / "mdf_net.yaml", none)
    assert not fuses_3d(cfg) and not fuses_1d(cfg)
    one = load_config(CONFIGS / "mimic_eye" / "mdf_net.yaml", [*none[2:], "MODEL.CLINICAL.NUMERIC", "['age']"])
    assert fuses_3d(one) and fuses_1d(one)
