"""Training end to end on a tiny folder: logs, saved files, resuming, safe loading, refusals."""

import json
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from tiny_training import SMALL, datasets, words

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, Checkpoint
from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import check_datasets, evaluate_checkpoint
from mdf_detectron.errors import CheckpointError, ConfigError, DatasetError, ImageReadError


def test_train_evaluate_resume_and_load(tiny_config, train, tmp_path):
    trainer, results = train(tiny_config("SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 2))
    assert {"bbox_iobb", "bbox"} <= set(results)
    assert {"AP", "AP50", "AR", "AR50", "AP50-bright", "AR50-dark"} <= set(results["bbox_iobb"])
    logged = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("raw/loss_cls" in line and "eta_seconds" in line for line in logged) or "raw/loss_cls" in logged[-1]
    assert list(tmp_path.glob("events.out.tfevents.*"))

    saved = Checkpoint.open(tmp_path / "model_final.pth").data
    assert saved["contents"]["columns"] == ["age", "temperature", "gender"]
    assert "FUSION_3D: true" in saved[CONFIG_KEY]
    assert saved["model"]["backbone.clinical_encoder.fitted"]
    assert saved["model"]["backbone.clinical_encoder.mean"][0].item() == pytest.approx(43.5)
    assert not list(tmp_path.glob("*.partial"))
    assert str(tmp_path).encode() not in (tmp_path / "model_final.pth").read_bytes(), "a path of this machine"

    again = evaluate_checkpoint(tiny_config("MODEL.WEIGHTS", str(tmp_path / "model_final.pth")))
    assert json.dumps(again) == json.dumps(results)

    resumed, _ = train(tiny_config("SOLVER.MAX_ITER", 5), resume=True)
    assert resumed.start_iter == 3
    assert resumed._trainer.data_loader.dataset.sampler.num_consumed == 12
    torch.testing.assert_close(
        trainer.model.backbone.clinical_encoder.mean, resumed.model.backbone.clinical_encoder.mean
    )


def test_a_checkpoint_of_other_columns_is_refused(tiny_config, tmp_path):
    cfg = tiny_config()
    MultimodalCheckpointer(build_model(cfg), str(tmp_path), cfg=cfg).save("m")
    swapped = tiny_config("MODEL.CLINICAL.NUMERIC", ["temperature", "age"])
    checkpointer = MultimodalCheckpointer(build_model(swapped), str(tmp_path), cfg=swapped)
    with pytest.raises(CheckpointError, match="was trained with the clinical columns"):
        checkpointer.load_whole(str(tmp_path / "m.pth"))


def test_only_a_whole_model_is_evaluated(tiny_config, tmp_path):
    cfg = tiny_config()
    MultimodalCheckpointer(build_model(cfg), str(tmp_path), cfg=cfg).save("m")
    for opts in (["MODEL.FUSION.NAME", "FiLM"], ["MODEL.CLINICAL.MISSING", "median_indicator"]):
        with pytest.raises(CheckpointError, match=r"m.pth does not hold the whole model of this config"):
            evaluate_checkpoint(tiny_config(*opts, "MODEL.WEIGHTS", str(tmp_path / "m.pth")))


def test_training_may_start_from_the_image_only_model(tiny_config, tmp_path):
    alone = build_model(cfg := tiny_config(config="synthetic_cxr/mask_rcnn.yaml"))
    MultimodalCheckpointer(alone, str(tmp_path), cfg=cfg).save("alone")
    fused = build_model(cfg := tiny_config())
    MultimodalCheckpointer(fused, cfg=cfg).load(str(tmp_path / "alone.pth"))
    torch.testing.assert_close(fused.roi_heads.box_head.fc1.weight, alone.roi_heads.box_head.fc1.weight)
    torch.testing.assert_close(fused.backbone.image_backbone.conv.weight, alone.backbone.image_backbone.conv.weight)
    with pytest.raises(CheckpointError, match="does not hold the whole model"):
        evaluate_checkpoint(tiny_config("MODEL.WEIGHTS", str(tmp_path / "alone.pth")))


def test_the_console_of_a_training(run, tiny_config, tmp_path):
    """A few lines and a table by class; what a resumed run continues; everything in log.txt, and with --verbose."""
    tiny_config()  # registers the folder
    command = ["train", "--config-file", "synthetic_cxr/mdf_net_compact.yaml"]
    out = tmp_path / "out"
    opts = words(*SMALL, "SOLVER.IMS_PER_BATCH", 4, *datasets("tiny_cxr"), "OUTPUT_DIR", out, "SOLVER.WARMUP_ITERS", 9)
    text = run(*command, *opts, "SOLVER.MAX_ITER", 2)
    assert len(text.splitlines()) < 20 and "MultimodalRCNN(" not in text and "copypaste" not in text, text
    assert "SOLVER.WARMUP_ITERS 9 is more than SOLVER.MAX_ITER 2" in text
    assert re.search(r"\| all \| 3 \| \d", text) and "| class | boxes | AP50 | AR50 |" in text
    assert f"curves: {out / 'curves.png'}" in text and (out / "curves.png").is_file()
    assert re.search(r"Next: mdf evaluate --dataset tiny_cxr_test .*; mdf publish --weights .*model_best.pth", text)
    log = (out / "log.txt").read_text()
    assert "MultimodalRCNN(" in log and "bbox_iobb/AP50 after 2 iterations" in log
    text = run(*command, "--resume", "--verbose", *opts, "SOLVER.MAX_ITER", 3)
    assert "resuming from iteration 2" in text and "resuming from iteration 2" in (out / "log.txt").read_text()


class Malicious:
    """Write a file when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_loading_executes_no_code(tiny_config, tmp_path):
    cfg = tiny_config()
    torch.save({"model": Malicious(tmp_path / "owned")}, tmp_path / "bad.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "bad.pth").read_bytes()[:100])
    (tmp_path / "zoo.pkl").write_bytes(b"")
    checkpointer = MultimodalCheckpointer(build_model(cfg), cfg=cfg)
    for name, message in (("bad.pth", "cannot be loaded safely"), ("cut.pth", "cannot be loaded safely"),
                          ("zoo.pkl", "only .pth files"), ("absent.pth", "no checkpoint at")):  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            checkpointer.load(str(tmp_path / name))
    assert not (tmp_path / "owned").exists()


def test_datasets_are_checked_before_training(tiny_config, tiny_folder, tmp_path):
    with pytest.raises(ConfigError, match="ROI_HEADS.NUM_CLASSES is 5, but dataset 'tiny_cxr_train' has 2"):
        check_datasets(tiny_config("MODEL.ROI_HEADS.NUM_CLASSES", 5), ("tiny_cxr_train",))
    image = tiny_folder / "images" / "train_3.png"
    image.rename(image.with_suffix(".away"))
    try:
        with pytest.raises(ImageReadError, match="1 of 8 image files are absent, the first is .*train_3.png"):
            check_datasets(tiny_config(), ("tiny_cxr_train",))
    finally:
        image.with_suffix(".away").rename(image)
    register_prepared_folder(tmp_path / "mimic_eye", "mimic_eye")
    with pytest.raises(DatasetError, match="to prepare it, run: mdf prepare mimic-eye"):
        check_datasets(tiny_config(), ("mimic_eye_train",))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--eval-only"],
            "no datasets/mimic_eye/annotations/test.json; to prepare it, run: mdf prepare mimic-eye --physionet ROOT "
            "--image-size 512 --out datasets/mimic_eye",
        ),
        (["MODEL.NOPE", "1"], "Non-existent key: MODEL.NOPE"),
    ],
)
def test_the_command_line_tells_mistakes_in_one_line(args, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", {})
    with pytest.raises(SystemExit) as end:
        run("train", "--config-file", "mimic_eye/mdf_net.yaml", *args)
    assert message in end.value.code and "\n" not in end.value.code
