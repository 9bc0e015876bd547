"""Detectron2's ``DefaultTrainer`` with this project's loaders, evaluator, optimizer and checkpointer."""

from __future__ import annotations

import logging
import os
import weakref
from collections import OrderedDict

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from mdf_detectron.data.build import (
    build_test_loader,
    build_train_loader,
    check_num_classes,
    model_schema,
    records_of,
    train_clinical_rows,
)
from mdf_detectron.data.registration import check_images
from mdf_detectron.engine.checkpointer import MultimodalCheckpointer
from mdf_detectron.engine.optimizer import build_optimizer
from mdf_detectron.evaluation.cxr_evaluator import CXREvaluator
from mdf_detectron.evaluation.files import finite_or_none, write_json

RESULTS_FILE_NAME = "results.json"


class MultimodalTrainer(DefaultTrainer):
    """Trains and evaluates the models of this project by config."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        fit_clinical_statistics(cfg, self._trainer.model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> CXREvaluator:
        return CXREvaluator(
            dataset_name,
            output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name),
            max_dets=cfg.TEST.DETECTIONS_PER_IMAGE,
        )

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    def build_hooks(self):
        # The parent builds its hooks last, from self.checkpointer: this is where another one can take its place.
        self.checkpointer = MultimodalCheckpointer(
            self._trainer.model, self.cfg.OUTPUT_DIR, cfg=self.cfg, trainer=weakref.proxy(self)
        )
        return super().build_hooks()

    def train(self) -> OrderedDict | None:
        """Train to the end; returns the results of the last evaluation (None where ``DATASETS.TEST`` is empty)."""
        super().train()
        return getattr(self, "_last_eval_results", None)

    def resume_or_load(self, resume: bool = True) -> None:
        """As the parent's; the sampler goes on where the resumed run stopped."""
        super().resume_or_load(resume)
        if self.start_iter:
            sampler = self._trainer.data_loader.dataset.sampler
            sampler.skip(self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH // sampler._world_size)


def fit_clinical_statistics(cfg: CfgNode, model: nn.Module) -> None:
    """Set the clinical encoder's statistics from the train split; a checkpoint loaded later replaces them."""
    model = getattr(model, "module", model)
    encoder = model.backbone.clinical_encoder
    if encoder is not None:
        encoder.fit(*(rows.to(model.device) for rows in train_clinical_rows(cfg)))


def check_datasets(cfg: CfgNode, names: tuple[str, ...]) -> None:
    """Fail before any work if a dataset is not prepared, does not fit the model, or lacks an image file."""
    logger = logging.getLogger(__name__)
    for name in names:
        records = records_of([name])
        model_schema(cfg, name)
        check_num_classes(cfg, name)
        check_images(records)
        logger.info(f"{name}: {len(records)} images")


def evaluate_checkpoint(cfg: CfgNode) -> OrderedDict:
    """Build the model, load ``MODEL.WEIGHTS`` and evaluate it on ``DATASETS.TEST``."""
    model = build_model(cfg)
    MultimodalCheckpointer(model, save_dir=cfg.OUTPUT_DIR, cfg=cfg).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    return MultimodalTrainer.test(cfg, model)


def save_results(cfg: CfgNode, results: OrderedDict | None) -> None:
    """Write ``<OUTPUT_DIR>/results.json`` from the main process; undefined metrics become null."""
    if comm.is_main_process() and results:
        path = write_json(os.path.join(cfg.OUTPUT_DIR, RESULTS_FILE_NAME), finite_or_none(results))
        logging.getLogger("detectron2").info(f"Results in {path}")
