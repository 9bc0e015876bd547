"""Fixtures of a tiny training: its config and its run."""

import pytest
import torch
from tiny_training import SMALL, datasets

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import MultimodalTrainer

# Four images: with fewer rows the clinical branch's gradients are rounding error, and runs differ.
TINY = [*SMALL, "SOLVER.IMS_PER_BATCH", 4, *datasets("tiny_cxr", "train", "test")]


@pytest.fixture
def tiny_config(small_config, tiny_folder, tmp_path):
    """``tiny_config(*opts, config=…)``: return a config that trains and tests on ``tiny_folder``, into ``tmp_path``."""
    register_prepared_folder(tiny_folder, "tiny_cxr")

    def load(*opts, config="synthetic_cxr/mdf_net.yaml"):
        return small_config(config, *TINY, "OUTPUT_DIR", str(tmp_path), *opts)

    return load


@pytest.fixture
def train():
    """``train(cfg, resume=False)``: return the trainer and the results."""

    def run(cfg, resume=False):
        torch.manual_seed(0)
        trainer = MultimodalTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        return trainer, trainer.train()

    return run
