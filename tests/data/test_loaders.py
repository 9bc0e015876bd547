"""From records to the model's inputs: the mapper, the loaders, the stream that resumes, and what is read once."""

import math
import random
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BitMasks, PolygonMasks
from tiny_training import DATA, SMALL, datasets, words

from mdf_detectron.cli import train
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.intensity import change_depth
from mdf_detectron.data.loaders import (
    ResumableSampler,
    SeededByPlace,
    StreamIndex,
    build_test_loader,
    build_train_loader,
    derive_seed,
    model_schema,
    records_of,
    seeded,
    train_clinical_records,
)
from mdf_detectron.data.mapper import MultimodalDatasetMapper
from mdf_detectron.data.raster import write_png
from mdf_detectron.errors import ConfigError, DatasetError

TINY = [*DATA, "MODEL.CLINICAL.NUMERIC", ["temperature", "age"], *datasets("tiny_cxr", "train", "test")]


@pytest.fixture
def tiny_config(small_config, tiny_folder):
    register_prepared_folder(tiny_folder, "tiny_cxr")
    return lambda *opts: small_config("synthetic_cxr/mdf_net.yaml", *TINY, *opts)


@pytest.fixture
def mapper(tiny_config):
    """``mapper(*opts, is_train=False)`` of a config on the tiny folder."""

    def make(*opts, is_train=False):
        cfg = tiny_config(*opts)
        return MultimodalDatasetMapper(cfg, is_train=is_train, schema=model_schema(cfg, "tiny_cxr_train"))

    return make


def batches(cfg, count=8):
    return [x for batch in islice(iter(build_train_loader(cfg)), count) for x in batch]


def test_train_input_by_hand(mapper, tiny_folder):
    record = {
        "file_name": str(tiny_folder / "images" / "train_2.png"),
        "width": 96,
        "height": 80,
        "clinical": {"age": 42.0, "temperature": None, "gender": "M"},
        "annotations": [
            {"bbox": [24, 20, 48, 40], "bbox_mode": 1, "category_id": 1, "segmentation": [[24, 20, 72, 20, 72, 60]]}
        ],
    }
    out = mapper("INPUT.RANDOM_FLIP", "none", "INPUT.IMAGE_SIZE", 160, is_train=True)(record)
    assert out["image"].shape == (1, 160, 160) and out["image"].dtype == torch.float32
    # 96×80 → 160×160: x by 5/3, y by 2
    assert out["instances"].gt_boxes.tensor[0].tolist() == pytest.approx([40.0, 40.0, 120.0, 120.0])
    # the order is the config's, not the schema's
    assert math.isnan(out["clinical_numeric"][0]) and out["clinical_numeric"][1] == 42.0
    assert out["clinical_categorical"].tolist() == [1]
    assert "annotations" in record, "the record itself must stay as it was"


def test_a_study_without_a_record_is_all_missing(mapper, tiny_folder):
    out = mapper()({"file_name": str(tiny_folder / "images" / "test_1.png"), "width": 96, "height": 80})
    assert out["clinical_numeric"].isnan().all() and out["clinical_categorical"].tolist() == [-1]
    assert "instances" not in out


def test_loaders_give_records_in_training_and_test_and_keep_healthy_images(tiny_config):
    images = batches(tiny_config("SOLVER.IMS_PER_BATCH", 4), 2)
    assert {x["file_name"].rsplit("/", 1)[1] for x in images} == {f"train_{i}.png" for i in range(8)}
    assert sum(len(x["instances"]) == 0 for x in images) == 1
    test = [x for batch in build_test_loader(tiny_config(), "tiny_cxr_test") for x in batch]
    assert len(test) == 4 and all("clinical_numeric" in x for x in test)
    without = batches(tiny_config("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True))
    assert without and all(len(x["instances"]) for x in without)


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


@pytest.mark.parametrize(("column", "value", "message"), [("temperature", 300, "is 300"), ("age", math.inf, "inf")])
def test_an_illegal_value_names_file_and_column(mapper, column, value, message):
    with pytest.raises(DatasetError, match=rf"x\.png: column '{column}' .*{message}"):
        mapper().clinical_tensors({"file_name": "x.png", "clinical": {column: value}})


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
def test_16_bit_images_are_resized_with_the_filter_of_8_bit_ones(side, mapper, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (80, 96)).astype(np.uint16)
    write_png(tmp_path / "deep.png", deep)
    write_png(tmp_path / "flat.png", change_depth(deep, 8))
    images = [
        mapper("INPUT.IMAGE_SIZE", side)({"file_name": str(tmp_path / name)})["image"][0].numpy()
        for name in ("deep.png", "flat.png")
    ]
    expected = triangle_resize(triangle_resize(deep / 257, side).T, side).T
    assert images[0].dtype == np.float32 and np.abs(images[0] - expected).max() < 1e-2
    assert np.abs(images[1] - expected).max() <= 1.5 and np.array_equal(images[1], images[1].round())


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
    opts = words(*SMALL, "SOLVER.IMS_PER_BATCH", 1, "SOLVER.MAX_ITER", 10, "TEST.EVAL_PERIOD", 5, *datasets("once_cxr"))
    with openings(folder) as counts:
        train.main(["--config-file", "synthetic_cxr/mdf_net_compact.yaml", *opts, "OUTPUT_DIR", str(tmp_path / "out")])
    assert (tmp_path / "out" / "results.json").is_file()
    files = {f"annotations/{s}.json": 1 for s in ("train", "val", "test")}
    assert {name: count for name, count in counts.items() if name.startswith("annotations/")} == files
    assert counts["clinical_schema.yaml"] <= 2


def sampler(rank=0, world=1, size=5):
    inner = TrainingSampler(size, seed=3)
    inner._rank, inner._world_size = rank, world
    return ResumableSampler(inner, rank, world)


def taken(one, count):
    return [(int(i), i.place) for i in islice(iter(one), count)]


def test_a_skipped_stream_is_the_rest_of_the_whole_one():
    whole, rest = sampler(), sampler()
    rest.skip(7)
    assert taken(rest, 6) == taken(whole, 13)[7:]
    assert [place for _, place in taken(whole, 4)] == [0, 1, 2, 3]


def test_processes_share_one_stream():
    whole = taken(sampler(), 12)
    parts = [sampler(rank, 2) for rank in range(2)]
    assert sorted(taken(parts[0], 6) + taken(parts[1], 6), key=lambda x: x[1]) == whole
    parts[1].skip(4)
    assert taken(parts[1], 2) == [whole[5], whole[7]]
    with pytest.raises(ValueError, match="5 images cannot be shared by 2 processes"):
        parts[0].skip(5)


class Noise:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def test_random_operations_follow_from_seed_and_place_alone():
    data = SeededByPlace(Noise(), seed=1)
    first = data[StreamIndex(2, 10)]
    torch.rand(7), np.random.rand(3)
    assert data[StreamIndex(2, 10)] == first
    assert data[StreamIndex(2, 11)][1:] != first[1:]
    assert SeededByPlace(Noise(), seed=2)[StreamIndex(2, 10)][1:] != first[1:]
    assert len(data) == 3 and data[1] == data[1]


def test_the_generators_are_left_as_they_were():
    with seeded(5):
        inside = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with seeded(5):
        again = torch.rand(3), np.random.rand(3), random.random()
    outside = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(outside[0], expected[0]) and (outside[1] == expected[1]).all() and outside[2] == expected[2]
    assert torch.equal(inside[0], again[0]) and (inside[1] == again[1]).all() and inside[2] == again[2]


def test_seeds_of_neighbors_differ():
    seeds = {derive_seed(1, i, j) for i in range(50) for j in range(3)}
    assert len(seeds) == 150
