"""``mdf record-dependence`` on a tiny folder: its numbers are those of the model on records changed by hand."""

import json

import pytest
import torch
from detectron2.modeling import build_model

from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.loaders import records_of
from mdf_detectron.data.record_changes import permute_records, remove_records
from mdf_detectron.engine.trainer import fit_clinical_statistics
from mdf_detectron.inference.evaluation import evaluate_records

OPTIONS = ["MODEL.CLINICAL.NUMERIC", "['age', 'temperature']", "MODEL.ROI_HEADS.NUM_CLASSES", "2",
           "INPUT.IMAGE_SIZE", "64", "MODEL.SPATIALIZER.NUM_STAGES", "6", "MODEL.DEVICE", "cpu",
           "DATALOADER.NUM_WORKERS", "0", "MODEL.MASK_ON", "False",
           "MODEL.RPN.POST_NMS_TOPK_TEST", "50", "DATASETS.TRAIN", "('tiny_cxr_train',)",
           "DATASETS.TEST", "('tiny_cxr_test',)"]  # fmt: skip


@pytest.fixture
def trained(small_config, tiny_folder, tmp_path):
    """(config, model, checkpoint) of a model that has learned nothing yet; its random weights do read the row."""
    register_prepared_folder(tiny_folder, "tiny_cxr")
    cfg = small_config("synthetic_cxr/mdf_net.yaml", *OPTIONS)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    fit_clinical_statistics(cfg, model)
    MultimodalCheckpointer(model, str(tmp_path), cfg=cfg).save("tiny")
    return cfg, model, tmp_path / "tiny.pth"


def arguments(out, checkpoint=None, *more, model="mdf_net"):
    weights = ["MODEL.WEIGHTS", str(checkpoint)] if checkpoint else []
    return ["--config-file", f"configs/synthetic_cxr/{model}.yaml", "--out", out, *more, *OPTIONS, *weights]


def test_scores_are_those_of_the_changed_records(run, trained, tmp_path):
    cfg, model, checkpoint = trained
    metric = "bbox_iobb/AR"
    printed = run("record-dependence", *arguments(tmp_path / "out", checkpoint, "--repeats", 1, "--metric", metric))
    found = json.loads((tmp_path / "out" / "record_dependence.json").read_text())
    records = records_of(["tiny_cxr_test"])

    def score(changed):
        return evaluate_records(cfg, model, "tiny_cxr_test", changed)["bbox_iobb"]["AR"]

    assert found["unchanged"] == pytest.approx(score(records)) and found["images"] == 4
    changes = {c["change"]: c for c in found["changes"]}
    assert list(changes) == ["age", "temperature", "gender", "all columns", "records removed"]
    assert changes["age"]["scores"] == pytest.approx([score(permute_records(records, ["age"], s)) for s in (0,)])
    assert changes["all columns"]["scores"] == pytest.approx([score(permute_records(records, None, s)) for s in (0,)])
    assert changes["records removed"]["scores"] == pytest.approx([score(remove_records(records))])
    assert changes["age"]["losses"] == pytest.approx([found["unchanged"] - s for s in changes["age"]["scores"]])
    text = (tmp_path / "out" / "record_dependence.md").read_text()
    assert text in printed and "| records removed |" in text
    assert (tmp_path / "out" / "record_dependence.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_told_in_one_line(run, trained, tmp_path):
    cfg, model, checkpoint = trained
    for given, message in (
        (arguments(tmp_path), "add MODEL.WEIGHTS"),
        (arguments(tmp_path, checkpoint, model="mask_rcnn"), "reads no clinical column"),
        (arguments(tmp_path, checkpoint, "--metric", "bbox/F1"), r"metric 'bbox/F1' is not measured; .*'bbox/AP50'"),
        (arguments(tmp_path, checkpoint, "--dataset", "nobody_test"), "nobody_test"),
    ):
        with pytest.raises(SystemExit, match=message):
            run("record-dependence", *given)
    with pytest.raises(SystemExit, match="2"):
        run("record-dependence", *arguments(tmp_path, checkpoint, "--repeats", 0))
