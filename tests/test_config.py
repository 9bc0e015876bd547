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
    [
        ("MODEL:\n  CLINICAL:\n    NUMERICAL: [age]\n", r"c\.yaml: Non-existent config key: MODEL.CLINICAL.NUMERICAL"),
        ("MODEL: !!python/object/apply:os.system ['true']\n", "not safe YAML"),
        ("SOLVER:\n  MAX_ITER: many\n", "c.yaml: Type mismatch"),
        (
            "MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n",
            "'GeneralizedRCNN' does not bring it; use one of .*'MultimodalRCNN'",
        ),
        ("_BASE_: absent.yaml\n", "absent.yaml"),
    ],
)
def test_bad_files(tmp_path, text, message):
    base = "INPUT:\n  FORMAT: L\n" if "INPUT" in text else ""
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, base + text))


def test_bad_overrides():
    config = CONFIGS / "mimic_eye" / "mdf_net.yaml"
    with pytest.raises(ConfigError, match="no config file at"):
        load_config("absent.yaml")
    with pytest.raises(ConfigError, match="Non-existent key: MODEL.NOPE"):
        load_config(config, ["MODEL.NOPE", "1"])
    with pytest.raises(ConfigError, match="each column needs its list"):
        load_config(config, ["MODEL.CLINICAL.VOCABULARIES", "[['F'], ['M']]"])
    with pytest.raises(ConfigError, match="PIXEL_MEAN"):
        load_config(config, ["INPUT.FORMAT", "RGB"])
    with pytest.raises(ConfigError, match=r"name \['age'\] twice"):
        load_config(config, ["MODEL.CLINICAL.NUMERIC", "['age', 'age']"])
    with pytest.raises(ConfigError, match="compile and checkpoint exclude each other"):
        load_config(config, ["MODEL.CLINICAL.EXECUTION", "['compile', 'checkpoint']"])
    with pytest.raises(ConfigError, match=r"EXECUTION is \['fast'\]; use any of"):
        load_config(config, ["MODEL.CLINICAL.EXECUTION", "['fast']"])
    for factors in ("[1.0]", "[1.0, -1.0]"):
        with pytest.raises(ConfigError, match="DECONV_LR_FACTORS is .* two factors of at least 0"):
            load_config(config, ["SOLVER.DECONV_LR_FACTORS", factors])
    with pytest.raises(ConfigError, match="DROPOUT_VALUE is 1.0"):
        load_config(config, ["MODEL.CLINICAL.DROPOUT_VALUE", "1.0"])
    with pytest.raises(ConfigError, match="MultimodalRetinaNet has no RoI head"):
        load_config(CONFIGS / "mimic_eye" / "retinanet_mdf_net.yaml", ["MODEL.CLINICAL.FUSION_1D", "True"])
    with pytest.raises(ConfigError, match="NUM_IMAGES of at least 2"):
        load_config(config, ["CLINICAL_DIAGNOSTICS.NUM_IMAGES", "1"])


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.OPTIMIZER", "Adam"], "SOLVER.OPTIMIZER is 'Adam'"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "'StandardROIHeads' does not read the record"),
        (["MODEL.BACKBONE.NAME", "build_timm_backbone"], "name the image's backbone in MODEL.IMAGE_BACKBONE.NAME"),
        (["MODEL.META_ARCHITECTURE", "Nope"], "META_ARCHITECTURE is 'Nope'"),
        (["MODEL.LOSS_WEIGHTING.NAME", "kendall"], "LOSS_WEIGHTING.NAME is 'kendall'; use one of"),
        (["MODEL.SPATIALIZER.NUM_STAGES", "0"], "NUM_STAGES and CHANNELS must be at least 1"),
        (["MODEL.CLINICAL.EMBEDDING_DIM", "0"], "EMBEDDING_DIM is 0"),
        (["MODEL.CLINICAL.AUXILIARY_WEIGHT", "-0.5"], "AUXILIARY_WEIGHT is -0.5"),
        (["MODEL.CLINICAL.MISSING", "zero"], "MISSING is 'zero'; use one of"),
        (
            ["MODEL.CLINICAL.BRANCH", "repeat", "MODEL.CLINICAL.EXECUTION", "['checkpoint']"],
            "'repeat' has no spatializer",
        ),
        (["MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", "True"], "AMP.ENABLED needs a GPU"),
    ],
)
def test_values_that_do_not_fit(opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "mimic_eye" / "mdf_net.yaml", opts)


def test_without_columns_no_fusion_is_left():
    none = ["MODEL.CLINICAL.NUMERIC", "[]", "MODEL.CLINICAL.CATEGORICAL", "[]", "MODEL.CLINICAL.VOCABULARIES", "[]"]
    cfg = load_config(CONFIGS / "mimic_eye" / "mdf_net.yaml", none)
    assert not fuses_3d(cfg) and not fuses_1d(cfg)
    one = load_config(CONFIGS / "mimic_eye" / "mdf_net.yaml", [*none[2:], "MODEL.CLINICAL.NUMERIC", "['age']"])
    assert fuses_3d(one) and fuses_1d(one)
