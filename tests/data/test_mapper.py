"""The mapper and the loaders: geometry, rows, healthy images, every file type, refusals."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.intensity import change_depth
from mdf_detectron.data.loaders import (
    build_test_loader,
    build_train_loader,
    model_schema,
    train_clinical_records,
)
from mdf_detectron.data.mapper import MultimodalDatasetMapper
from mdf_detectron.data.readers import read_radiograph, write_png
from mdf_detectron.errors import ConfigError, DatasetError, ImageReadError

TINY = ["MODEL.CLINICAL.NUMERIC", ["temperature", "age"], "MODEL.ROI_HEADS.NUM_CLASSES", 2]


@pytest.fixture
def tiny_config(small_config, tiny_folder):
    register_prepared_folder(tiny_folder, "tiny_cxr")
    datasets = ["DATASETS.TRAIN", ("tiny_cxr_train",), "DATASETS.TEST", ("tiny_cxr_test",)]
    return lambda *opts: small_config("synthetic_cxr/mdf_net.yaml", *TINY, *datasets, *opts)


def test_train_input_by_hand(tiny_config, tiny_folder):
    cfg = tiny_config("INPUT.RANDOM_FLIP", "none", "INPUT.IMAGE_SIZE", 160)
    mapper = MultimodalDatasetMapper(cfg, is_train=True, schema=model_schema(cfg, "tiny_cxr_train"))
    record = {
        "file_name": str(tiny_folder / "images" / "train_2.png"),
        "width": 96,
        "height": 80,
        "clinical": {"age": 42.0, "temperature": None, "gender": "M"},
        "annotations": [
            {"bbox": [24, 20, 48, 40], "bbox_mode": 1, "category_id": 1, "segmentation": [[24, 20, 72, 20, 72, 60]]}
        ],
    }
    out = mapper(record)
    assert out["image"].shape == (1, 160, 160) and out["image"].dtype == torch.float32
    # 96×80 → 160×160: x by 5/3, y by 2
    assert out["instances"].gt_boxes.tensor[0].tolist() == pytest.approx([40.0, 40.0, 120.0, 120.0])
    # the order is the config's, not the schema's
    assert math.isnan(out["clinical_numeric"][0]) and out["clinical_numeric"][1] == 42.0
    assert out["clinical_categorical"].tolist() == [1]
    assert "annotations" in record, "the record itself must stay as it was"


def test_a_record_without_a_row_is_all_missing(tiny_config, tiny_folder):
    cfg = tiny_config()
    mapper = MultimodalDatasetMapper(cfg, is_train=False, schema=model_schema(cfg, "tiny_cxr_test"))
    out = mapper({"file_name": str(tiny_folder / "images" / "test_1.png"), "width": 96, "height": 80})
    assert out["clinical_numeric"].isnan().all() and out["clinical_categorical"].tolist() == [-1]
    assert "instances" not in out


def test_loaders_give_rows_in_training_and_test_and_keep_healthy_radiographs(tiny_config):
    cfg = tiny_config("SOLVER.IMS_PER_BATCH", 4)
    stream = iter(build_train_loader(cfg))
    batches = [next(stream) for _ in range(2)]
    names = {x["file_name"].rsplit("/", 1)[1] for b in batches for x in b}
    assert names == {f"train_{i}.png" for i in range(8)}
    assert any(len(x["instances"]) == 0 for b in batches for x in b)
    test = [x for batch in build_test_loader(cfg, "tiny_cxr_test") for x in batch]
    assert len(test) == 4 and all("clinical_numeric" in x for x in test)


def test_statistics_come_from_the_train_split(tiny_config):
    numeric, categorical = train_clinical_records(tiny_config())
    assert sorted(numeric[:, 1].tolist()) == [40.0 + i for i in range(8)]
    assert numeric[:, 0].isnan().sum() == 1
    assert sorted(categorical[:, 0].tolist()) == [0] * 4 + [1] * 4


def test_schema_refusals(tiny_config):
    with pytest.raises(DatasetError, match="no numeric column 'lactate'"):
        model_schema(tiny_config("MODEL.CLINICAL.NUMERIC", ["lactate"]), "tiny_cxr_train")
    with pytest.raises(DatasetError, match="VOCABULARIES says"):
        model_schema(tiny_config("MODEL.CLINICAL.VOCABULARIES", [["M", "F"]]), "tiny_cxr_train")
    with pytest.raises(ConfigError, match="is not registered"):
        model_schema(tiny_config(), "no_such_set")


def test_an_illegal_value_names_file_and_column(tiny_config, tiny_folder):
    cfg = tiny_config()
    mapper = MultimodalDatasetMapper(cfg, is_train=False, schema=model_schema(cfg, "tiny_cxr_test"))
    with pytest.raises(DatasetError, match=r"x\.png: column 'temperature' is 300"):
        mapper.clinical_tensors({"file_name": "x.png", "clinical": {"temperature": 300}})
    with pytest.raises(DatasetError, match="inf"):
        mapper.clinical_tensors({"file_name": "x.png", "clinical": {"age": math.inf}})


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "LA"])
def test_every_common_file_type_reads_as_gray(mode, tmp_path):
    gray = np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    image.save(tmp_path / "x.png")
    out = read_radiograph(tmp_path / "x.png")
    assert out.shape == (6, 8, 1) and out.dtype == np.uint8
    assert np.abs(out[:, :, 0].astype(int) - gray).max() <= 1
    assert read_radiograph(tmp_path / "x.png", "BGR").shape == (6, 8, 3)


def test_unreadable_images_name_the_file(tmp_path):
    with pytest.raises(ImageReadError, match="no image file at .*absent.png"):
        read_radiograph(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ImageReadError, match="cannot read image .*text.png"):
        read_radiograph(tmp_path / "text.png")


def triangle_resize(values, length):
    """Antialiased bilinear resize of the first axis, one output at a time."""
    scale, rows = len(values) / length, []
    reach = max(scale, 1.0)
    for place in range(length):
        centers = np.arange(len(values)) + 0.5
        weights = np.maximum(0, 1 - np.abs(centers - (place + 0.5) * scale) / reach)
        rows.append((weights[:, None] * values).sum(axis=0) / weights.sum())
    return np.array(rows)


@pytest.mark.parametrize("side", [32, 160])
def test_16_bit_images_are_resized_with_the_filter_of_8_bit_ones(side, tiny_config, tmp_path):
    cfg = tiny_config("INPUT.IMAGE_SIZE", side)
    mapper = MultimodalDatasetMapper(cfg, is_train=False, schema=model_schema(cfg, "tiny_cxr_test"))
    deep = np.random.default_rng(0).integers(0, 65536, (80, 96)).astype(np.uint16)
    write_png(tmp_path / "deep.png", deep)
    write_png(tmp_path / "flat.png", change_depth(deep, 8))
    images = [
        mapper({"file_name": str(tmp_path / name), "width": 96, "height": 80})["image"][0].numpy()
        for name in ("deep.png", "flat.png")
    ]
    expected = triangle_resize(triangle_resize(deep / 257, side).T, side).T
    assert images[0].dtype == np.float32 and np.abs(images[0] - expected).max() < 1e-2
    assert np.abs(images[1] - expected).max() <= 1.5 and np.array_equal(images[1], images[1].round())
