"""Averaged weights: the average by a slow reference, and who uses it."""

import json

import pytest
import torch
from detectron2.engine import HookBase

from mdf_detectron.checkpoint.checkpoint import Checkpoint, save_checkpoint_file, signed
from mdf_detectron.engine.trainer import MultimodalTrainer, evaluate_checkpoint
from mdf_detectron.errors import CheckpointError


class Record(HookBase):
    """Copy the trained weights before the first and after each step."""

    def __init__(self):
        self.seen = []

    def before_train(self):
        self.seen.append({name: x.clone() for name, x in self.trainer.model.state_dict().items()})

    after_step = before_train


def test_the_files_hold_the_average_and_it_is_what_is_scored(tiny_config, tmp_path):
    decay = 0.3  # above (1 + t) / (10 + t) until t = 2
    cfg = tiny_config("SOLVER.EMA_DECAY", decay, "SOLVER.MAX_ITER", 4, "SOLVER.BASE_LR", 0.001, "SOLVER.WARMUP_ITERS",
                      0, "MODEL.MASK_ON", False, "DATASETS.VAL", ("tiny_cxr_val",))  # fmt: skip
    torch.manual_seed(0)
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([record := Record()])
    results = trainer.train()
    start, *steps = record.seen
    saved = Checkpoint.open(tmp_path / "model_final.pth").data
    assert saved["model"].keys() == start.keys()
    for name, first in start.items():
        expected = first.double()
        for t, step in enumerate(steps, start=1):
            d = min(decay, (1 + t) / (10 + t))
            expected = d * expected + (1 - d) * step[name].double()
        if not first.is_floating_point():
            expected = steps[-1][name]
        torch.testing.assert_close(saved["model"][name].to(expected.dtype), expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(trainer.model.state_dict()[name], steps[-1][name]), "the training goes on from its own"
    conv = "backbone.image_backbone.conv.weight"
    assert not torch.allclose(saved["model"][conv], steps[-1][conv], atol=1e-5)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_best.pth")
    assert json.dumps(evaluate_checkpoint(cfg)) == json.dumps(results)
    cfg.DATASETS.TEST = cfg.DATASETS.VAL
    best = json.loads((tmp_path / "validation_history.json").read_text())["best"]
    assert evaluate_checkpoint(cfg)["bbox_iobb"]["AP50"] == best["value"]


def test_without_validation_the_average_is_scored(tiny_config, tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(MultimodalTrainer, "test", lambda self, cfg, model: scored.append(
        {name: x.clone() for name, x in model.state_dict().items()}) or {})  # fmt: skip
    trainer = MultimodalTrainer(tiny_config("SOLVER.EMA_DECAY", 0.9, "SOLVER.MAX_ITER", 2, "DATASETS.VAL", ()))
    trainer.resume_or_load(resume=False)
    trainer.train()
    saved = Checkpoint.open(tmp_path / "model_final.pth").weights
    assert all(torch.equal(x, saved[name]) for name, x in scored[-1].items())


def test_a_file_without_the_trained_weights_is_refused(tiny_config, tmp_path):
    cfg = tiny_config("SOLVER.EMA_DECAY", 0.9, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", ())
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    data = dict(Checkpoint.open(tmp_path / "model_final.pth").data)
    data["trainer"]["hooks"]["AverageWeights"]["trained"].popitem()
    save_checkpoint_file(signed(data), tmp_path / "model_final.pth")
    with pytest.raises(CheckpointError, match="lack the trained ones"):
        MultimodalTrainer(cfg).resume_or_load(resume=True)
