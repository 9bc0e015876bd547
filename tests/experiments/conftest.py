"""A small plan on the tiny folder, and trainings that are made up instead of run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

from mdf_detectron.experiments.launch import left_to_do
from mdf_detectron.experiments.plan import read_plan, with_columns
from mdf_detectron.experiments.study_data import open_study_data
from mdf_detectron.experiments.trainings import (
    SCORES_FILE_NAME,
    TRAIN_PART,
    VAL_PART,
    make_trainings,
    predictions_file,
)
from mdf_detectron.fileio import write_json

SMALL = {
    "MODEL.DEVICE": "cpu", "DATALOADER.NUM_WORKERS": 0, "INPUT.IMAGE_SIZE": 64, "MODEL.MASK_ON": False,
    "MODEL.CLINICAL.BRANCH": "compact", "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.01,
    "SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 3, "SOLVER.WARMUP_ITERS": 1, "SOLVER.CHECKPOINT_PERIOD": 1,
    "CLINICAL_DIAGNOSTICS.PERIOD": 0, "VALIDATION.LOSSES": False,
}  # fmt: skip

PLAN = {
    "name": "small",
    "dataset": "tiny_cxr",
    "config": "synthetic_cxr/mdf_net.yaml",
    "seeds": [1, 2],
    "overrides": SMALL,
    "variants": [
        {"name": "image_only", "title": "Image-only",
         "overrides": {"MODEL.CLINICAL.FUSION_3D": False, "MODEL.CLINICAL.FUSION_1D": False}},
        {"name": "fused", "title": "With the record", "columns": ["age", "gender"], "published": {"AP50": 31.7}},
    ],
    "records": ["removed", "shuffled"],
    "question": {"baseline": "image_only", "model": "fused"},
    "figures": [
        {"name": "places", "title": "Places", "show": "comparison", "note": "Published: one run."},
        {"name": "states", "title": "States", "show": "records"},
        {"name": "counts", "title": "Counts", "show": "counts"},
        {"name": "columns", "title": "Columns", "show": "correlation"},
        {"name": "train_test", "title": "Generalization", "show": "generalization"},
        {"name": "sweep", "title": "Sweep", "show": "threshold_sweep"},
    ],
}  # fmt: skip


@pytest.fixture(scope="session")
def plan_file(tmp_path_factory):
    """``plan_file(**changes)``: the path of the small plan with other values; None leaves a key out."""

    def write(**changes):
        data = {key: value for key, value in {**PLAN, **changes}.items() if value is not None}
        path = tmp_path_factory.mktemp("plan") / "plan.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def make_folds(tiny_folder, tmp_path_factory):
    """``make_folds()``: a copy of the tiny folder with two folds; fold 1 has train and test images exchanged."""
    return lambda: _with_folds(tiny_folder, tmp_path_factory.mktemp("folds") / "tiny_cxr")


def _with_folds(tiny_folder, root):
    shutil.copytree(tiny_folder, root)
    for fold, names in ((0, ("train", "val", "test")), (1, ("test", "val", "train"))):
        target = root / f"fold_{fold}"
        (target / "annotations").mkdir(parents=True)
        (target / "images").symlink_to("../images")
        shutil.copy(root / "clinical_schema.yaml", target)
        for split, source in zip(("train", "val", "test"), names, strict=True):
            shutil.copy(root / "annotations" / f"{source}.json", target / "annotations" / f"{split}.json")
    return root


@pytest.fixture(scope="session")
def make_study(plan_file, tmp_path_factory):
    """``make_study(folder, out, opts, **changes)``: plan, data and trainings below ``out``."""

    def make(folder, out=None, opts=(), **changes):
        out = out or tmp_path_factory.mktemp("study")
        plan = read_plan(plan_file(dataset=str(folder), **changes))
        data = open_study_data(plan.dataset, plan.folds)
        plan = with_columns(plan, data.schema.names)
        return plan, data, make_trainings(plan, data, out, opts)

    return make


@pytest.fixture(scope="session")
def finish():
    """``finish(trainings, data, found)``: write the predictions that ``found(training, state)`` finds the boxes with.

    ``found`` gives the share of the boxes (by their order) that are predicted exactly; one false box an image is added.
    """

    def write(trainings, data, found):
        left_to_do(trainings)
        for training in trainings:
            states = {}
            for state in training.wanted_states:
                split = data.splits[training.fold]["train" if state == TRAIN_PART else "test"]
                ids = [image["id"] for image in split.images]
                ids = ids[: training.train_images] if state == TRAIN_PART else ids
                results = predictions(split, ids, found(training, state), training.seed)
                write_json(predictions_file(training.folder, state), results)
                metrics = {"bbox_iobb": {"AP50": 100.0 * found(training, state)}}
                states[state] = {"metrics": metrics, "seconds_per_image": 0.05, "image_ids": ids}
            if training.on_val:
                split = data.splits[training.fold]["val"]
                found_there = predictions(split, [image["id"] for image in split.images], 1.0, training.seed)
                write_json(predictions_file(training.folder, VAL_PART), found_there)
            about = {"checkpoint": "model_best", "iterations": 3, "step_seconds": 0.5, "images_per_second": 4.0,
                     "parameters": 1_000_000, "device": "cpu"}  # fmt: skip
            write_json(training.folder / SCORES_FILE_NAME, {**about, "states": states})

    return write


def predictions(split, ids, share, seed):
    """Find the first share of the boxes of each class, and add a false box of little score to every image."""
    rng = np.random.default_rng(seed)
    of_class: dict = {}
    for box in split.annotations:
        if box["image_id"] in ids:
            of_class.setdefault(box["category_id"], []).append(box)
    kept = [box for boxes in of_class.values() for box in boxes[: round(share * len(boxes))]]
    right = [{"image_id": b["image_id"], "category_id": b["category_id"], "bbox": b["bbox"],
              "score": float(rng.uniform(0.6, 1))} for b in kept]  # fmt: skip
    wrong = [{"image_id": i, "category_id": 1, "bbox": [60.0, 60.0, 20.0, 15.0], "score": 0.2} for i in ids]
    return json.loads(json.dumps(right + wrong))
