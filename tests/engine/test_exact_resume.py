"""A resumed training ends with the weights, results and history of an uninterrupted one."""

import json
import shutil

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import SMALL, datasets

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import MultimodalTrainer

TINY = [*SMALL, *datasets("tiny_cxr"), "SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2,
        "TEST.EVAL_PERIOD", 2, "MODEL.CLINICAL.DROPOUT_VALUE", 0.2, "MODEL.RPN.POST_NMS_TOPK_TEST", 20,
        "VALIDATION.METRIC", "total_loss"]  # fmt: skip


class Interrupt(HookBase):
    """Stop like a killed process: before a step or, with ``after``, between its checkpoint and its logs."""

    def __init__(self, at, after=False):
        self.at, self.after = at, after

    def before_step(self):
        if not self.after and self.trainer.iter == self.at:
            self.stop()

    def after_step(self):
        if self.after and self.trainer.iter == self.at:
            self.stop()

    def stop(self):
        for hook in self.trainer._hooks:
            if isinstance(hook, PeriodicWriter):
                hook._writers = []  # a killed process writes nothing at its end
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """The folder and results of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs")
    return folder / "whole", starter(tiny_folder, folder)("whole")


@pytest.fixture
def run(tiny_folder, tmp_path):
    return starter(tiny_folder, tmp_path)


def starter(tiny_folder, folder):
    register_prepared_folder(tiny_folder, "tiny_cxr")

    def start(name, *opts, resume=False, interrupt=None, config="synthetic_cxr/mdf_net.yaml"):
        cfg = load_config(config, [*TINY, "OUTPUT_DIR", str(folder / name), *opts])
        torch.manual_seed(0)
        trainer = MultimodalTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        writer = next(h for h in trainer._hooks if isinstance(h, PeriodicWriter))
        writer._period = 2  # several lines in this few iterations
        if interrupt:
            trainer._hooks.insert(trainer._hooks.index(writer), interrupt)
            interrupt.trainer = trainer
        torch.manual_seed(hash(name) % 2**31)  # the result must not depend on the generator's state
        try:
            return trainer.train()
        except KeyboardInterrupt:
            return None

    return start


def final(folder):
    data = Checkpoint.open(folder / "model_final.pth").data
    return data["model"], data["trainer"], json.loads((folder / "validation_history.json").read_text())


def assert_same(first, second):
    for a, b in zip(final(first)[:1], final(second)[:1], strict=True):
        assert a.keys() == b.keys()
        assert [n for n in a if not torch.equal(a[n], b[n])] == []
    assert final(first)[2] == final(second)[2]
    assert repr(final(first)[1]) == repr(final(second)[1])  # optimizer and schedule


def log(folder):
    """Return the lines of metrics.json without times, and the events that TensorBoard shows."""
    times = {"time", "data_time", "rank_data_time", "eta_seconds"}
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in times} for line in lines]
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = set(board.Tags()["scalars"]) - times
    points = {name: {event.step: event.value for event in board.Scalars(name)} for name in names}
    return [line for line in kept if len(line) > 1], points


@pytest.mark.parametrize(
    "interrupts",
    [(Interrupt(3), Interrupt(4)), (Interrupt(3, after=True), Interrupt(5, after=True))],
    ids=["between steps", "between a checkpoint and its logs"],
)
def test_a_run_that_is_interrupted_twice_ends_like_the_whole_one(whole, run, tmp_path, interrupts):
    folder, results = whole
    for number, interrupt in enumerate(interrupts):
        assert run("parts", interrupt=interrupt, resume=number > 0) is None
    shutil.rmtree(tmp_path / "parts" / "inference", ignore_errors=True)
    assert run("parts", resume=True) == results
    assert_same(folder, tmp_path / "parts")
    best = [Checkpoint.open(path / "model_best.pth").data for path in (folder, tmp_path / "parts")]
    assert best[0]["iteration"] == best[1]["iteration"]
    assert all(torch.equal(v, best[1]["model"][n]) for n, v in best[0]["model"].items())
    assert log(tmp_path / "parts") == log(folder)
    lines = [line["iteration"] for line in log(folder)[0]]
    assert lines == sorted(set(lines)) and len(lines) > 2


def test_killed_between_the_last_checkpoint_and_the_final_one(whole, run, tmp_path, monkeypatch):
    """The statistics of its records come from the checkpoint: fitting them again would take a large run long."""
    folder, results = whole
    monkeypatch.setattr("mdf_detectron.modeling.clinical_encoder.ClinicalEncoder.fit", None)
    shutil.copytree(folder, tmp_path / "parts")
    (tmp_path / "parts" / "model_final.pth").unlink()
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000005.pth")
    assert run("parts", resume=True) == results
    assert_same(folder, tmp_path / "parts")


def test_validation_period_and_workers_do_not_change_the_weights(whole, run, tmp_path):
    run("b", "TEST.EVAL_PERIOD", 0, "DATALOADER.NUM_WORKERS", 2)
    run("c", "TEST.EVAL_PERIOD", 0, "SEED", 2)
    weights, same, other = (final(folder)[0] for folder in (whole[0], tmp_path / "b", tmp_path / "c"))
    assert [n for n in same if not torch.equal(same[n], weights[n])] == []
    assert any(not torch.equal(other[n], weights[n]) for n in other), "another seed is another training"


def test_averaged_weights_resume_exactly_and_leave_the_training_alone(run, tmp_path):
    def start(name, *opts, **options):
        return run(name, "SOLVER.MAX_ITER", 4, "MODEL.MASK_ON", False, "SOLVER.ACCUMULATE", 2, *opts,
                   config="synthetic_cxr/mask_rcnn.yaml", **options)  # fmt: skip

    decay = ["SOLVER.EMA_DECAY", 0.9]
    start("plain")
    results = start("a", *decay)
    assert start("b", *decay, interrupt=Interrupt(3)) is None
    assert start("b", *decay, resume=True) == results
    assert_same(tmp_path / "a", tmp_path / "b")
    trained = [final(tmp_path / name)[1]["hooks"]["AverageWeights"]["trained"] for name in "ab"]
    for other in trained:  # bit for bit those of the run without an average
        assert [n for n, x in final(tmp_path / "plain")[0].items() if not torch.equal(x, other[n])] == []
    best = [Checkpoint.open(tmp_path / name / "model_best.pth").data for name in "ab"]
    assert all(torch.equal(x, best[1]["model"][n]) for n, x in best[0]["model"].items())
    (tmp_path / "b" / "model_final.pth").unlink()  # killed before it was written
    (tmp_path / "b" / "last_checkpoint").write_text("model_0000003.pth")
    assert start("b", *decay, resume=True) == results
    assert_same(tmp_path / "a", tmp_path / "b")


def test_retinanet_keeps_its_loss_normalizer(run, tmp_path):
    def start(name, **options):
        return run(name, "MODEL.RETINANET.NUM_CLASSES", 2, "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 20,
                   "SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 0, "VALIDATION.PATIENCE", 0, "VALIDATION.METRIC",
                   "bbox/AP50", config="mimic_eye/retinanet.yaml", **options)  # fmt: skip

    start("whole")
    start("parts", interrupt=Interrupt(2))
    start("parts", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "parts")
