"""A training process that is killed, as by a scheduler, and resumed: best checkpoint and early stopping continue."""

import json
import os
import shutil
import signal
import time

import pytest
from forked import Forked

from mdf_detectron.engine.validation import ValidationHistory

OPTIONS = """MODEL.DEVICE cpu MODEL.CLINICAL.NUMERIC ['age','temperature'] MODEL.ROI_HEADS.NUM_CLASSES 2
    INPUT.IMAGE_SIZE 64 MODEL.MASK_ON False MODEL.RPN.POST_NMS_TOPK_TEST 50
    DATALOADER.NUM_WORKERS 0 DATASETS.VAL ('synthetic_cxr_val',) SOLVER.IMS_PER_BATCH 2 SOLVER.STEPS () SEED 1
    SOLVER.MAX_ITER 200 SOLVER.CHECKPOINT_PERIOD 1 TEST.EVAL_PERIOD 1 VALIDATION.METRIC total_loss
    VALIDATION.PATIENCE 6""".split()


def start(out, datasets, *more):
    words = ["train", "--config-file", "synthetic_cxr/mdf_net.yaml", *more, "OUTPUT_DIR", out, *OPTIONS]
    return Forked(*words, log=out.parent / "log.txt", environment={"DETECTRON2_DATASETS": str(datasets)})


def history(out):
    path = out / "validation_history.json"
    return json.loads(path.read_text()) if path.exists() else {"entries": []}


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_killed_process(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ValidationHistory, "is_better", lambda history, value: history.best is None)
    shutil.copytree(tiny_folder, tmp_path / "datasets" / "synthetic_cxr")
    out = tmp_path / "out"
    process = start(out, tmp_path / "datasets")
    try:
        deadline = time.monotonic() + 240
        while len(history(out)["entries"]) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
    text = (tmp_path / "log.txt").read_text()
    assert process.wait() == -signal.SIGKILL, text
    before = history(out)
    assert 3 <= len(before["entries"]) < 7 and before["best"]["iteration"] == 1, text
    best = (out / "model_best.pth").read_bytes()
    assert start(out, tmp_path / "datasets", "--resume").wait(timeout=300) == 0, (tmp_path / "log.txt").read_text()
    after = history(out)
    assert after["best"] == before["best"]
    assert (out / "model_best.pth").read_bytes() == best
    assert [e["iteration"] for e in after["entries"]] == [1, 2, 3, 4, 5, 6, 7]  # six after the best, not six again
    assert (out / "model_final.pth").is_file()
    kept = [e for e in before["entries"] if e["iteration"] <= 2]
    assert after["entries"][: len(kept)] == kept
