"""Validation in training: logs, the best checkpoint, early stopping, resuming, and the stop at NaN."""

import json

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.modeling import build_model

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.data.loaders import build_loss_loader
from mdf_detectron.engine.trainer import MultimodalTrainer, fit_clinical_statistics
from mdf_detectron.engine.validation import ValidationHistory, mean_losses
from mdf_detectron.errors import CheckpointError, ConfigError, TrainingDivergedError


@pytest.fixture
def tiny_config(tiny_config):
    return lambda *opts: tiny_config("DATASETS.VAL", ("tiny_cxr_val",), *opts)


class Kill(HookBase):
    """End the run before a step, as a killed process does."""

    def __init__(self, at):
        self.at = at

    def before_step(self):
        if self.trainer.iter == self.at:
            raise KeyboardInterrupt


def run(cfg, resume=False, kill_at=None):
    torch.manual_seed(0)
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    if kill_at is not None:
        trainer.register_hooks([Kill(kill_at)])
    try:
        return trainer, trainer.train()
    except KeyboardInterrupt:
        return trainer, None


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


def history(folder):
    return json.loads((folder / "validation_history.json").read_text())


def test_validation_is_logged_and_the_last_one_counts(tiny_config, tmp_path):
    _, results = run(tiny_config("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 2))
    scalars = logged(tmp_path)
    expected = {"val/total_loss", "val/loss_cls", "val/raw/loss_cls", "val/bbox_iobb/AP50", "val/best",
                "val/validations_since_best"}  # fmt: skip
    assert expected <= set(scalars)
    assert [e["iteration"] for e in history(tmp_path)["entries"]] == [2, 3]
    best = Checkpoint.open(tmp_path / "model_best.pth").data
    assert best["iteration"] + 1 == history(tmp_path)["best"]["iteration"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"  # not the best: a resumed run starts here
    assert {"bbox_iobb", "bbox"} <= set(results)  # of the test split


def first_is_best(history, value):
    """Replace ``ValidationHistory.is_better``: no later validation is an improvement."""
    return history.best is None


def test_the_test_split_is_scored_with_the_best_weights(tiny_config, tmp_path, monkeypatch):
    """The first validation is the best; its weights are tested whether the run ends early or not."""
    tested = []

    def test(cfg, model):
        tested.append({name: x.clone() for name, x in model.state_dict().items()})
        return {}

    monkeypatch.setattr(MultimodalTrainer, "test", staticmethod(test))
    monkeypatch.setattr(ValidationHistory, "is_better", first_is_best)
    options = ["TEST.EVAL_PERIOD", 1, "VALIDATION.METRIC", "total_loss"]
    for more in (["SOLVER.MAX_ITER", 3], ["SOLVER.MAX_ITER", 9, "VALIDATION.PATIENCE", 2]):
        trainer, _ = run(tiny_config(*options, *more))
        best = Checkpoint.open(tmp_path / "model_best.pth").data
        assert best["iteration"] == 0
        assert all(torch.equal(tested[-1][name], x) for name, x in best["model"].items())
        last = Checkpoint.open(tmp_path / "model_final.pth").weights
        assert any(not torch.equal(last[name], x) for name, x in best["model"].items())
        assert all(torch.equal(trainer.model.state_dict()[name], x) for name, x in last.items())  # restored
    assert len(tested) == 2


def test_killed_and_resumed_run_keeps_best_and_count(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(ValidationHistory, "is_better", first_is_best)
    options = ["TEST.EVAL_PERIOD", 1, "SOLVER.CHECKPOINT_PERIOD", 2, "VALIDATION.METRIC", "total_loss",
               "VALIDATION.PATIENCE", 3, "SOLVER.MAX_ITER", 30]  # fmt: skip
    run(tiny_config(*options), kill_at=3)  # only the first validation is an improvement
    before = history(tmp_path)
    assert len(before["entries"]) == 3 and before["best"]["iteration"] == 1
    best = (tmp_path / "model_best.pth").read_bytes()
    trainer, results = run(tiny_config(*options), resume=True)
    assert trainer.start_iter == 2
    after = history(tmp_path)
    assert after["best"] == before["best"] and (tmp_path / "model_best.pth").read_bytes() == best
    assert [e["iteration"] for e in after["entries"]] == [1, 2, 3, 4]  # stops at the third after the best
    assert Checkpoint.open(tmp_path / "model_final.pth").data["iteration"] == 3
    assert "bbox_iobb" in results
    stopped, _ = run(tiny_config(*options), resume=True)  # it stays stopped
    assert stopped.start_iter == 4 and history(tmp_path) == after
    assert Checkpoint.open(tmp_path / "model_final.pth").data["iteration"] == 3


def test_history_counts_by_hand(tmp_path):
    path = tmp_path / "h.json"
    h = ValidationHistory(path, "AP")
    assert [h.add(k, v) for k, v in ((1, 10.0), (2, 10.0), (3, 10.6), (4, None), (5, float("nan")), (6, 9.0))] == [
        True, False, True, False, False, False
    ]  # fmt: skip
    assert h.best == {"iteration": 3, "value": 10.6} and h.since_best == 1  # undefined values use up no patience
    again = ValidationHistory(path, "AP")
    again.resume(5)
    assert again.best == h.best and again.since_best == 0 and len(again.entries) == 5
    again.resume(2)  # the best came later: its file is kept, and the count restarts
    assert again.best == h.best and again.since_best == 0
    fresh = ValidationHistory(path, "AP")
    fresh.resume(0)
    assert fresh.best is None and fresh.entries == []
    other = ValidationHistory(path, "loss", larger_is_better=False)
    other.resume(5)
    assert other.best is None
    assert [other.add(k, v) for k, v in ((1, 3.0), (2, 4.0), (3, 2.0))] == [True, False, True]
    for damaged in (
        "{",
        "[]",
        path.read_text().replace("iteration", "iterbtion", 1),
        path.read_text().replace("[", "3, ["),
    ):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match="h.json is damaged") as error:
            ValidationHistory(path, "loss").resume(3)
        assert "\n" not in str(error.value)


def test_mean_losses_change_nothing_and_repeat(tiny_config):
    cfg = tiny_config()
    model = build_model(cfg)
    fit_clinical_statistics(cfg, model)
    model.train()
    loader = build_loss_loader(cfg, "tiny_cxr_val")
    state = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    first, second = mean_losses(model, loader), mean_losses(model, loader)
    assert first == second
    assert torch.equal(random, torch.get_rng_state())
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())  # batch statistics too
    assert all(p.grad is None for p in model.parameters())
    names = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")
    weighted = model.loss_weighting({n: torch.tensor(first[f"raw/{n}"]) for n in names})
    expected = sum(v.item() for v in weighted.values()) + first["loss_findings_from_record"]  # not weighted
    assert first["total_loss"] == pytest.approx(expected, rel=1e-4)


def test_losses_on_held_out_data_take_a_process_share_of_a_batch(tiny_config, monkeypatch):
    cfg = tiny_config()
    for processes, size in ((1, 4), (2, 2), (8, 1)):
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda processes=processes: processes)
        assert build_loss_loader(cfg, "tiny_cxr_train").batch_sampler.batch_size == size


def test_nan_stops_and_names_the_batch(tiny_config, tmp_path):
    trainer = MultimodalTrainer(tiny_config("SOLVER.MAX_ITER", 3))
    trainer.resume_or_load(resume=False)
    with torch.no_grad():
        trainer.model.roi_heads.box_predictor.cls_score.bias.fill_(float("inf"))
    weights = [parameter.clone() for parameter in trainer.model.parameters()]
    with pytest.raises(
        TrainingDivergedError, match=r"iteration 0: \{'loss_cls': nan\} of the batch \['.*train_\d.png'"
    ):
        trainer.train()
    predictor = trainer.model.roi_heads.box_predictor
    assert predictor.cls_score.weight.grad is not None, "read after the backward pass: a GPU is not kept waiting"
    assert all(map(torch.equal, trainer.model.parameters(), weights)), "no step with these gradients"
    assert trainer._trainer._hooks == []


def test_a_later_nan_stops_at_its_own_iteration_and_before_its_step(tiny_config):
    trainer = MultimodalTrainer(tiny_config("SOLVER.MAX_ITER", 5))
    trainer.resume_or_load(resume=False)
    seen = []

    def spoil(model, inputs, losses):
        seen.append([parameter.clone() for parameter in model.parameters()])
        return {**losses, "loss_cls": losses["loss_cls"] * float("nan")} if len(seen) == 3 else losses

    trainer.model.register_forward_hook(spoil)
    with pytest.raises(TrainingDivergedError, match=r"iteration 2: \{'loss_cls': nan\}"):
        trainer.train()
    assert len(seen) == 3 and not all(map(torch.equal, seen[1], seen[2]))
    assert all(map(torch.equal, trainer.model.parameters(), seen[2]))


def test_unknown_metric_names_the_known_ones(tiny_config):
    with pytest.raises(ConfigError, match=r"'AP51' is not among \['bbox/AP', "):
        run(tiny_config("SOLVER.MAX_ITER", 1, "VALIDATION.METRIC", "AP51"))
