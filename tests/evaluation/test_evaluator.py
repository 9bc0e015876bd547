import json
import logging

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from evaluation_cases import dataset

from mdf_detectron.errors import UserError
from mdf_detectron.evaluation.evaluator import CXREvaluator


def instances(boxes, scores, classes, masks=False):
    out = Instances((100, 100))
    out.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    out.scores = torch.tensor(scores, dtype=torch.float32)
    out.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks:
        out.pred_masks = torch.zeros(len(scores), 100, 100, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(out.pred_masks, boxes, strict=True):
            mask[y0:y1, x0:x1] = True
    return {"instances": out}


@pytest.fixture
def registered(tmp_path):
    """Two images, the second healthy; category ids 7 and 9 are the model's classes 0 and 1."""
    truth = dataset([(1, 1, (0, 0, 10, 10), 0), (1, 2, (40, 40, 20, 20), 0)], names=("effusion", "mass"))
    for region in truth["annotations"]:
        x, y, w, h = region["bbox"]
        region["category_id"] = {1: 7, 2: 9}[region["category_id"]]
        region["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    truth["categories"] = [{"id": 7, "name": "effusion"}, {"id": 9, "name": "mass"}]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(truth))
    name = f"evaluator_test_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        json_file=str(path), thing_classes=["effusion", "mass"], thing_dataset_id_to_contiguous_id={7: 0, 9: 1}
    )
    yield name
    MetadataCatalog.pop(name)


def run(evaluator, first, second):
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [first])
    evaluator.process([{"image_id": 2}], [second])
    return evaluator.evaluate()


NOTHING = instances([], [], [])


def test_scores_and_saves(registered, tmp_path):
    evaluator = CXREvaluator(registered, tmp_path / "out")
    found = instances([[0, 0, 10, 10], [40, 40, 50, 50]], [0.9, 0.8], [0, 1])
    table = run(evaluator, found, NOTHING)
    assert list(table) == ["bbox_iobb", "bbox"]
    assert table["bbox_iobb"]["AP"] == pytest.approx(100)
    assert table["bbox"]["AP50"] == pytest.approx(50)  # the second box covers a quarter of its ground-truth box
    assert table["bbox"]["AR50-mass"] == 0
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in saved] == [
        (1, 7, [0, 0, 10, 10]),
        (1, 9, [40, 40, 10, 10]),
    ]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["coco_instances_results.json"]


def test_masks(registered):
    found = instances([[0, 0, 10, 10], [40, 40, 50, 60]], [0.9, 0.8], [0, 1], masks=True)
    table = run(CXREvaluator(registered), found, instances([], [], [], masks=True))
    assert list(table) == ["bbox_iobb", "bbox", "segm_iobb", "segm"]
    assert table["segm_iobb"]["AP"] == pytest.approx(100)
    assert table["segm"]["AP50-mass"] == pytest.approx(100) and table["segm"]["AP75"] == pytest.approx(50)


@pytest.mark.parametrize("masks", [False, True])
def test_no_predictions_at_all(registered, tmp_path, masks):
    nothing = instances([], [], [], masks)
    table = run(CXREvaluator(registered, tmp_path), nothing, nothing)
    assert list(table) == (["bbox_iobb", "bbox", "segm_iobb", "segm"] if masks else ["bbox_iobb", "bbox"])
    assert all(value == 0 for metrics in table.values() for value in metrics.values())
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_max_dets_and_reset(registered):
    found = instances([[70, 70, 80, 80], [0, 0, 10, 10]], [0.9, 0.8], [0, 0])
    evaluator = CXREvaluator(registered, max_dets=1)
    assert run(evaluator, found, NOTHING)["bbox"]["AR50-effusion"] == 0
    assert run(evaluator, instances([[0, 0, 10, 10]], [0.5], [0]), NOTHING)["bbox"]["AR50-effusion"] == 100


def test_part_of_the_dataset(registered, caplog):
    evaluator = CXREvaluator(registered)
    evaluator.process([{"image_id": 2}], [NOTHING])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate()["bbox"]["AP"] == 0
    assert "1 of the images" in caplog.text


def test_other_processes_are_gathered(registered, monkeypatch):
    evaluator = CXREvaluator(registered)
    evaluator.process([{"image_id": 2}], [NOTHING])
    other = CXREvaluator(registered)
    other.process([{"image_id": 1}], [instances([[0, 0, 10, 10]], [0.9], [0])])
    monkeypatch.setattr(
        "mdf_detectron.evaluation.evaluator.comm.gather",
        lambda data, dst: [data, (other._predictions, other._has_masks)],
    )
    assert evaluator.evaluate()["bbox"]["AP50-effusion"] == pytest.approx(100)
    monkeypatch.setattr("mdf_detectron.evaluation.evaluator.comm.is_main_process", lambda: False)
    assert evaluator.evaluate() == {}


def test_errors(registered):
    evaluator = CXREvaluator(registered)
    with pytest.raises(ValueError, match=r"class 5, .* has 2 classes"):
        evaluator.process([{"image_id": 1}], [instances([[0, 0, 10, 10]], [0.9], [5])])
    with pytest.raises(UserError, match="is not registered; registered are"):
        CXREvaluator("a dataset that nobody registered")
    MetadataCatalog.get(registered + "_bare").set(thing_classes=["effusion"])
    with pytest.raises(UserError, match="no json_file"):
        CXREvaluator(registered + "_bare")
    MetadataCatalog.pop(registered + "_bare")
