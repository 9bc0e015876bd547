"""Checks before training (masks, classes, empty splits) and errors in data loader workers."""

import shutil

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, PolygonMasks
from tiny_training import DATA, datasets, edit

from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer
from mdf_detectron.checkpoint.contents import training_contents
from mdf_detectron.data.catalog import dataset_dicts, read_prepared, register_prepared_folder
from mdf_detectron.data.loaders import build_loss_mapper, build_test_loader
from mdf_detectron.engine.trainer import MultimodalTrainer, check_datasets
from mdf_detectron.errors import CheckpointError, DatasetError, ImageReadError, UserError

SPLITS = ("train", "val", "test")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    out = tmp_path / "own_cxr"
    shutil.copytree(tiny_folder, out)
    return out


@pytest.fixture
def config(small_config, folder, tmp_path):
    """``config(*opts)``: return a config that trains, validates and tests on the folder."""

    def make(*opts):
        register_prepared_folder(folder, "own_cxr")
        return small_config("synthetic_cxr/mdf_net.yaml", *DATA, "INPUT.IMAGE_SIZE", 64, *datasets("own_cxr"),
                            "OUTPUT_DIR", str(tmp_path / "out"), *opts)  # fmt: skip

    return make


def check(cfg):
    check_datasets(cfg, tuple(f"own_cxr_{s}" for s in SPLITS))


def to_rle(data):
    """Encode every other mask as compressed RLE, the others as a list of runs."""
    sizes = {i["id"]: (i["height"], i["width"]) for i in data["images"]}
    for n, annotation in enumerate(data["annotations"]):
        size = sizes[annotation["image_id"]]
        mask = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(annotation["segmentation"], *size)))
        if n % 2:
            annotation["segmentation"] = {"size": list(size), "counts": mask_utils.encode(mask)["counts"].decode()}
        else:
            flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
            ends = np.flatnonzero(np.diff(flat))
            runs = np.diff(np.concatenate([[0] if flat[1] == 0 else [0, 0], ends])).tolist()
            annotation["segmentation"] = {"size": list(size), "counts": runs}


def test_masks_that_are_absent_are_named_before_training(config, folder):
    check(config())
    edit(folder, "train", lambda d: d["annotations"][1].pop("segmentation"))
    with pytest.raises(DatasetError, match="_train': 1 of 7 annotations have no mask .* set MODEL.MASK_ON False"):
        check(config())
    check(config("MODEL.MASK_ON", False))


def test_run_length_masks_are_the_same_masks(config, folder):
    mapper = build_loss_mapper(config(), "own_cxr_train")
    files = (folder / "annotations/train.json", folder / "clinical_schema.yaml")
    of_polygons = [mapper(r)["instances"] for r in dataset_dicts(read_prepared(*files), folder / "images")]
    edit(folder, SPLITS, to_rle)
    check(config())
    of_runs = [mapper(r)["instances"] for r in dataset_dicts(read_prepared(*files), folder / "images")]
    for one, other in zip(of_polygons, of_runs, strict=True):
        if not len(one):
            continue
        assert isinstance(one.gt_masks, PolygonMasks) and isinstance(other.gt_masks, BitMasks)
        size = one.image_size
        filled = np.stack([mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects([q.tolist() for q in p], *size)))
                           for p in one.gt_masks.polygons])  # fmt: skip
        difference = np.logical_xor(filled, other.gt_masks.tensor.numpy()).sum()
        assert filled.sum() > 100 and difference <= 0.2 * filled.sum()  # a pixel along the edge


def test_run_length_masks_train_and_are_scored(config, folder):
    edit(folder, SPLITS, to_rle)
    cfg = config("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 4)
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert trainer.storage.history("loss_mask").latest() > 0 and "bbox_iobb" in results


def test_classes_in_another_order_are_refused_with_both_lists(config, folder, tmp_path):
    cfg = config()
    check(cfg)
    contents = training_contents(cfg)
    MultimodalCheckpointer(build_model(cfg), str(tmp_path), cfg=cfg, contents=contents).save("model")
    MultimodalCheckpointer(build_model(cfg), cfg=cfg).load_whole(str(tmp_path / "model.pth"))

    def swap(data):
        for category in data["categories"]:
            category["name"] = {"bright": "dark", "dark": "bright"}[category["name"]]

    edit(folder, "test", swap)
    lists = r"\['bright', 'dark'\].*\['dark', 'bright'\]"
    with pytest.raises(DatasetError, match=f"own_cxr_train' has the classes {lists}: .* same ids in all files"):
        check(config())
    edit(folder, ("train", "val"), swap)
    cfg = config()
    check(cfg)
    with pytest.raises(CheckpointError, match=f"model.pth predicts the classes {lists}"):
        MultimodalCheckpointer(build_model(cfg), cfg=cfg).load_whole(str(tmp_path / "model.pth"))


def test_empty_splits(config, folder, caplog):
    edit(folder, "val", lambda d: d["annotations"].clear())
    check(config())
    assert "own_cxr_val has no annotation: its metrics are undefined" in caplog.text
    edit(folder, "test", lambda d: (d["images"].clear(), d["annotations"].clear()))
    with pytest.raises(DatasetError, match="dataset 'own_cxr_test' has no image; .* leave it out"):
        check(config())


def test_patients_that_splits_share_are_told(config, folder, caplog):
    check(config())
    assert "shares" not in caplog.text
    for split, spelling in (("train", 1001), ("val", "1001.0"), ("test", "1001 ")):
        edit(folder, split, lambda d, spelling=spelling: d["images"][0].update(patient_id=spelling))
    check(config())
    for split in ("val", "test"):
        assert f"own_cxr_{split} shares 1 patient(s) with own_cxr_train" in caplog.text


def test_an_unreadable_image_is_one_line_from_a_worker_too(config, folder):
    check(config())
    name = folder / "images" / "test_2.png"
    name.write_bytes(name.read_bytes()[:200])
    messages = []
    for workers in (0, 1):
        with pytest.raises(ImageReadError) as error:
            list(build_test_loader(config("DATALOADER.NUM_WORKERS", workers), "own_cxr_test"))
        messages.append(str(error.value))
    assert messages[0] == messages[1] and "test_2.png" in messages[0] and "\n" not in messages[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_size_that_the_image_does_not_have_is_one_line(config, folder, workers):
    """Before training if all images are wrong; if one of many is, when it is read, by a loader's worker too."""
    edit(folder, "test", lambda d: d["images"][2].update(width=80, height=96))
    message = r"test_2.png has 96 × 80 pixels, its annotation file says 80 × 96 \(width × height\): .* prepare the data"
    with pytest.raises(DatasetError, match=message):
        check(config())
    with pytest.raises(DatasetError, match=message) as error:
        list(build_test_loader(config("DATALOADER.NUM_WORKERS", workers), "own_cxr_test"))
    assert "\n" not in str(error.value)


def test_only_what_a_loader_wraps_is_unwrapped():
    class Worker(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise UserError("Caught in the act: in DataLoader worker process 7")

    with pytest.raises(UserError, match="^Caught in the act: in DataLoader worker process 7$"):
        list(torch.utils.data.DataLoader(Worker(), num_workers=0))
