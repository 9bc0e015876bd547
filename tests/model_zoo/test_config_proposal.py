"""A config proposed from a folder: what follows from its boxes, classes, masks, columns and size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from mdf_detectron.cli import make_config
from mdf_detectron.config_file import load_config
from mdf_detectron.data.annotations import Annotations
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.errors import ConfigError, DatasetError
from mdf_detectron.model_zoo.config_proposal import FolderFacts, pixel_statistics, propose_config, read_folder

SCHEMA = ClinicalSchema(
    (ClinicalColumn("age", "numeric"), ClinicalColumn("const", "numeric"),
     ClinicalColumn("sex", "categorical", vocabulary=("F", "M")))
)  # fmt: skip


def facts(boxes, names=("mass", "nodule"), side=1024, images=400, mask=False, val=True):
    entries = [{"id": n, "file_name": f"{n}.png", "width": side, "height": side, "patient_id": str(n),
                "clinical": {"age": n % 50, "const": 3, "sex": "FM"[n % 2]}} for n in range(images)]  # fmt: skip
    annotations = [
        {
            "image_id": n % images,
            "category_id": 1 + n % 2,
            "bbox": list(box),
            **({"segmentation": mask} if mask else {}),
        }
        for n, box in enumerate(boxes)
    ]
    categories = [{"id": 1 + k, "name": name} for k, name in enumerate(names)]
    one = Annotations(entries, annotations, categories)
    empty = Annotations(entries, [], categories)
    return FolderFacts("own", {"train": one, "val": one if val else empty, "test": one}, SCHEMA, [110.0], [50.0])


def test_anchors_are_the_sizes_of_the_boxes_in_the_input():
    boxes = [(10, 10, s, 2 * s) for s in np.repeat([100, 200, 400], 50)]
    choices = propose_config(facts(boxes), image_size=512).values
    expected = sorted(np.sqrt(2) * np.array([100, 200, 400]) / 2)
    sizes = choices["MODEL.ANCHOR_GENERATOR.SIZES"][0]
    assert np.allclose(sizes, expected, atol=2) and choices["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] == [[2.0]]
    assert choices["MODEL.TIMM.STRIDE"] == 32 and choices["MODEL.RPN.IN_FEATURES"] == ["p5"]
    small = propose_config(facts([(0, 0, 40, 40)] * 9), image_size=512).values
    assert small["MODEL.TIMM.STRIDE"] == 16


@pytest.mark.parametrize("box, side, expected", [(500, 1024, 128), (100, 1024, 192), (20, 1024, 512), (20, 256, 256)])
def test_small_boxes_ask_for_a_larger_input_up_to_the_images_own(box, side, expected):
    assert propose_config(facts([(0, 0, box, box)] * 9, side=side)).values["INPUT.IMAGE_SIZE"] == expected


@pytest.mark.parametrize("names, flip, expected", [
    (("mass", "nodule"), True, "horizontal"), (("mass", "nodule"), False, "none"),
    (("Right Lung", "mass"), True, "none"), (("lung_L", "mass"), True, "none"),
    (("cleft", "bright"), True, "horizontal"),
])  # fmt: skip
def test_sided_classes_are_not_flipped(names, flip, expected):
    assert propose_config(facts([(0, 0, 99, 99)], names), flip=flip).values["INPUT.RANDOM_FLIP"] == expected


def test_masks_columns_validation_and_schedule():
    boxes = [(0, 0, 99, 99)] * 8
    choices = propose_config(facts(boxes, mask=[[0, 0, 9, 0, 9, 9]], images=4000))
    assert choices.values["MODEL.MASK_ON"] and choices.values["SOLVER.MAX_ITER"] == 20_000
    assert choices.values["MODEL.CLINICAL.NUMERIC"] == ["age"]
    assert "Left out (one value or none): const" in choices.reasons["MODEL.CLINICAL.NUMERIC"]
    plain = propose_config(facts(boxes, val=False, images=40)).values
    assert not plain["MODEL.MASK_ON"] and plain["DATASETS.VAL"] == [] and "VALIDATION.PATIENCE" not in plain
    assert plain["SOLVER.MAX_ITER"] == 600


def test_the_files_load_and_say_why(tiny_folder, tmp_path, capsys):
    register_prepared_folder(tiny_folder, "tiny_cxr")
    make_config.main([str(tiny_folder), "--out", str(tmp_path / "cfg")])
    assert "Can these data answer? 3 test patients with 3 ground-truth boxes, three seeds" in capsys.readouterr().out
    text = (tmp_path / "cfg" / "with_record.yaml").read_text()
    assert "# The classes: bright, dark." in text and "# Every box has a mask." in text
    cfg = load_config(tmp_path / "cfg" / "with_record.yaml")
    assert (cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (("tiny_cxr_train",), 2)
    assert cfg.MODEL.CLINICAL.FUSION_LOGITS and cfg.MODEL.CLINICAL.VOCABULARIES == [["F", "M"]]
    assert not load_config(tmp_path / "cfg" / "image_only.yaml").MODEL.CLINICAL.FUSION_LOGITS
    recommended = load_config("mimic_eye/logit_fusion.yaml").MODEL.CLINICAL
    for key in ("FUSION_LOGITS", "LOGITS_HIDDEN", "EMBEDDING_DIM", "DROPOUT_RECORD", "DROPOUT_VALUE"):
        assert cfg.MODEL.CLINICAL[key] == recommended[key], "own data are read as the recommended configs read MIMIC"
    assert "# The record is added to the class logits: the best of the fusions measured (docs/models.md).\n" in text
    assert yaml.safe_load(text)["OUTPUT_DIR"] == "output/tiny_cxr/with_record"
    with pytest.raises(ConfigError, match="--force"):
        make_config.main([str(tiny_folder), "--out", str(tmp_path / "cfg")])
    with pytest.raises(DatasetError, match="no folder 'annotations'"):
        read_folder(tmp_path)


def test_color_images_are_read_as_color(tmp_path):
    rng, paths, pixels = np.random.default_rng(1), [], []
    for n in range(3):
        one = rng.integers(0, 255, (8, 12, 3)).astype(np.uint8)
        one[..., 2] //= 4
        Image.fromarray(one if n else one[..., 0]).save(tmp_path / f"{n}.png")
        paths.append(tmp_path / f"{n}.png")
        pixels.append((one if n else one[..., :1].repeat(3, 2))[::4, ::4].reshape(-1, 3))
    mean, std = pixel_statistics(paths)
    slow = np.concatenate(pixels).astype(float)
    assert np.allclose(mean, slow.mean(axis=0)) and np.allclose(std, slow.std(axis=0))
    assert np.allclose(pixel_statistics(paths[:1]), [[pixels[0].mean()], [pixels[0].std()]])
    color = replace(facts([(0, 0, 99, 99)]), pixel_mean=mean, pixel_std=std)
    choices = propose_config(color).values
    assert choices["INPUT.FORMAT"] == "RGB" and choices["MODEL.PIXEL_MEAN"] == [round(m, 1) for m in mean]
    assert choices["INPUT.RANDOM_FLIP"] == "both" and choices["INPUT.RANDOM_QUARTER_TURNS"]
    for given in (propose_config(color, flip=False), propose_config(facts([(0, 0, 99, 99)], ("Left Lung", "a")))):
        assert given.values["INPUT.RANDOM_FLIP"] == "none" and "INPUT.RANDOM_QUARTER_TURNS" not in given.values
    assert "INPUT.FORMAT" not in given.values


def test_pixels_of_a_pretrained_trunk():
    color = replace(facts([(0, 0, 99, 99)]), pixel_mean=[1.0] * 3, pixel_std=[2.0] * 3)
    choices = propose_config(color, trunk="tf_efficientnet_lite0", weights="lite0.pth").values
    assert choices["MODEL.TIMM.NAME"] == "tf_efficientnet_lite0" and choices["MODEL.TIMM.WEIGHTS_FILE"] == "lite0.pth"
    assert choices["MODEL.PIXEL_MEAN"] == choices["MODEL.PIXEL_STD"] == [127.5] * 3
    assert choices["MODEL.BACKBONE.FREEZE_AT"] == 3 and "MODEL.BACKBONE.FREEZE_AT" not in propose_config(color).values
    gray = propose_config(facts([(0, 0, 99, 99)]), trunk="resnet50", weights="r.pth").values
    assert gray["MODEL.PIXEL_MEAN"] == [round((0.485 + 0.456 + 0.406) * 85, 1)]
    with pytest.raises(ConfigError, match="--trunk nothing: timm .* has no pretrained model of this name"):
        propose_config(color, trunk="nothing", weights="x.pth")
