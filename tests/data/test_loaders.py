"""Keys of Detectron2 that decide which images are trained on, and how masks are read."""

import shutil
from itertools import islice

import pytest
from detectron2.structures import BitMasks, PolygonMasks

from mdf_detectron.cli import train
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.loaders import build_train_loader, records_of
from mdf_detectron.errors import ConfigError

TINY = ["MODEL.CLINICAL.NUMERIC", ["age"], "MODEL.ROI_HEADS.NUM_CLASSES", 2, "INPUT.IMAGE_SIZE", 64,
        "DATASETS.TRAIN", ("tiny_cxr_train",), "DATASETS.TEST", ("tiny_cxr_test",)]  # fmt: skip


@pytest.fixture
def tiny_config(small_config, tiny_folder):
    register_prepared_folder(tiny_folder, "tiny_cxr")
    return lambda *opts: small_config("synthetic_cxr/mdf_net.yaml", *TINY, *opts)


def batches(cfg, count=8):
    return [x for batch in islice(iter(build_train_loader(cfg)), count) for x in batch]


def test_healthy_images_are_kept_unless_the_config_drops_them(tiny_config):
    healthy = {r["image_id"] for r in records_of(["tiny_cxr_train"]) if not r["annotations"]}
    assert len(healthy) == 1
    assert healthy & {x["image_id"] for x in batches(tiny_config())}
    assert not healthy & {x["image_id"] for x in batches(tiny_config("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True))}


def test_repeat_factors(tiny_config):
    """Every class is in half of the images: with a threshold of one each image with a box comes 1.41 times."""
    opts = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 1.0]
    sampler = build_train_loader(tiny_config(*opts)).dataset.sampler.sampler
    factors = sampler._int_part + sampler._frac_part
    of_class = {0: 3 / 8, 1: 4 / 8}
    expected = [max([(1 / of_class[a["category_id"]]) ** 0.5 for a in r["annotations"]], default=1.0)
                for r in records_of(["tiny_cxr_train"])]  # fmt: skip
    assert factors.tolist() == pytest.approx(expected)


def test_masks_are_polygons_or_bitmaps(tiny_config):
    for value, kind in (("polygon", PolygonMasks), ("bitmask", BitMasks)):
        found = [x["instances"] for x in batches(tiny_config("INPUT.MASK_FORMAT", value), 2) if len(x["instances"])]
        assert found and all(isinstance(one.gt_masks, kind) for one in found)


@pytest.mark.parametrize(
    ("key", "value"),
    [("INPUT.MIN_SIZE_TRAIN", (640,)), ("INPUT.CROP.ENABLED", True), ("INPUT.MASK_FORMAT", "rle"),
     ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"), ("TEST.AUG.ENABLED", True),
     ("MODEL.KEYPOINT_ON", True), ("DATALOADER.ASPECT_RATIO_GROUPING", True), ("INPUT.RANDOM_FLIP", "both"),
     ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"), ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
     ("DATASETS.PROPOSAL_FILES_TRAIN", ("p.pkl",)), ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True),
     ("TEST.KEYPOINT_OKS_SIGMAS", [0.1]), ("TEST.EXPECTED_RESULTS", [["bbox", "AP", 38.5, 0.2]])],
)  # fmt: skip
def test_what_would_be_ignored_is_refused(tiny_config, key, value):
    with pytest.raises(ConfigError, match=f"{key} is .*, which is not supported: "):
        tiny_config(key, value)


def test_layers_that_cannot_be_frozen_and_pictures_that_are_not_drawn_are_refused(small_config, tiny_config):
    with pytest.raises(ConfigError, match="FREEZE_AT is 2, but build_timm_backbone freezes no layer"):
        tiny_config("MODEL.BACKBONE.FREEZE_AT", 2)
    resnet = small_config("mimic_eye/mdf_net_resnet50_fpn.yaml", "MODEL.BACKBONE.FREEZE_AT", 2)
    assert resnet.MODEL.BACKBONE.FREEZE_AT == 2
    with pytest.raises(ConfigError, match="VIS_PERIOD is 5, but MultimodalRetinaNet draws no images"):
        small_config("mimic_eye/retinanet.yaml", "VIS_PERIOD", 5)
    assert tiny_config("VIS_PERIOD", 5).VIS_PERIOD == 5


def test_vocabularies_come_from_the_data_set(small_config, tiny_config):
    assert tiny_config().MODEL.CLINICAL.VOCABULARIES == [["F", "M"]]
    assert small_config("mimic_eye/mdf_net.yaml").MODEL.CLINICAL.VOCABULARIES == [["F", "M"]]
    with pytest.raises(ConfigError, match=r"the values of \['gender'\] are not known: none of .*nowhere_train"):
        small_config("mimic_eye/mdf_net.yaml", "DATASETS.TRAIN", ("nowhere_train",), "DATASETS.TEST", ("nowhere_test",))
    given = small_config("mimic_eye/mdf_net.yaml", "MODEL.CLINICAL.VOCABULARIES", [["M", "F", "X"]])
    assert given.MODEL.CLINICAL.VOCABULARIES == [["M", "F", "X"]]


def test_a_training_opens_each_annotation_file_once(tiny_folder, tmp_path, monkeypatch, openings):
    """Checks, statistics, contents, loaders, losses, two validations and the test read what was parsed at the start."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folder = shutil.copytree(tiny_folder, tmp_path / "once_cxr")
    names = [v for s in ("train", "val", "test") for v in (f"DATASETS.{s.upper()}", f"('once_cxr_{s}',)")]
    opts = ["MODEL.DEVICE", "cpu", "MODEL.CLINICAL.NUMERIC", "['age']", "MODEL.ROI_HEADS.NUM_CLASSES", "2",
            "INPUT.IMAGE_SIZE", "64", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "1", "SOLVER.STEPS", "()",
            "SOLVER.MAX_ITER", "10", "TEST.EVAL_PERIOD", "5", "VALIDATION.TRAIN_IMAGES", "2", *names]  # fmt: skip
    with openings(folder) as counts:
        train.main(["--config-file", "synthetic_cxr/mdf_net_compact.yaml", *opts, "OUTPUT_DIR", str(tmp_path / "out")])
    assert (tmp_path / "out" / "results.json").is_file()
    files = {f"annotations/{s}.json": 1 for s in ("train", "val", "test")}
    assert {name: count for name, count in counts.items() if name.startswith("annotations/")} == files
    assert counts["clinical_schema.yaml"] <= 2
