"""Train with Detectron2's ``DefaultTrainer`` and this project's loaders, evaluator, optimizer and checkpointer."""

import logging
import os
import sys
import weakref
from collections import OrderedDict
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from detectron2.utils.logger import setup_logger
from torch import nn

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer, load_model
from mdf_detectron.checkpoint.contents import training_contents
from mdf_detectron.config import reads_record
from mdf_detectron.data import loaders
from mdf_detectron.data.catalog import check_images, check_masks, check_not_empty
from mdf_detectron.engine.clinical_diagnostics import ClinicalDiagnostics, fixed_batches
from mdf_detectron.engine.hooks import (
    AverageRunningStatistics,
    AverageWeights,
    CheckedJSONWriter,
    FiniteLosses,
    ModelRunningState,
    ResumableTensorBoardWriter,
    ScalarHistory,
    SeedIterations,
    replaced_weights,
)
from mdf_detectron.engine.optimizer import build_optimizer
from mdf_detectron.engine.processes import data_parallel, unwrapped
from mdf_detectron.engine.resume import (
    FINAL_CHECKPOINT,
    METRICS_FILE_NAME,
    check_resumable,
    checkpoint_to_resume,
    cut_log,
)
from mdf_detectron.engine.validation import (
    BEST_CHECKPOINT,
    HISTORY_FILE_NAME,
    LOSS_METRICS,
    EarlyStop,
    ValidationHistory,
    ValidationHook,
    mean_losses,
    weights_of,
)
from mdf_detectron.errors import CheckpointError
from mdf_detectron.evaluation.evaluator import CXREvaluator
from mdf_detectron.fileio import finite_or_none, write_json
from mdf_detectron.modeling.pretrained import load_pretrained_trunks

RESULTS_FILE_NAME = "results.json"


class MultimodalTrainer(DefaultTrainer):
    """Train and evaluate this project's models from a config."""

    _log_writers: list[EventWriter] = []  # only in the main process
    _resumed_from: str | None = None
    _history: ValidationHistory | None = None

    def __init__(self, cfg: CfgNode):
        TrainerBase.__init__(self)  # DefaultTrainer's distributes models on GPUs only
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        loop = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        if cfg.SOLVER.ACCUMULATE > 1:
            from mdf_detectron.engine.accumulation import in_parts  # only when needed

            loop = in_parts(loop, cfg.SOLVER.ACCUMULATE)
        self._trainer = loop(data_parallel(model), loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.cfg, self.start_iter, self.max_iter = cfg, 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        return loaders.build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return loaders.build_test_loader(cfg, dataset_name)

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
        decay = self.cfg.SOLVER.EMA_DECAY
        self._average = AverageWeights(decay) if decay else None
        self.checkpointer = MultimodalCheckpointer(
            self._trainer.model,
            self.cfg.OUTPUT_DIR,
            cfg=self.cfg,
            contents=training_contents(self.cfg),
            weights=lambda: self._average and self._average.values,
            trainer=weakref.proxy(self),
        )
        seeding = [SeedIterations(self.cfg.SEED)] if self.cfg.SEED >= 0 else []
        averaging = [AverageRunningStatistics()] if comm.get_world_size() > 1 else []  # before statistics are read
        smoothing = [self._average] if self._average else []
        first = [*seeding, ModelRunningState(), ScalarHistory(), FiniteLosses(), *averaging, *smoothing]
        built = [*first, *self._clinical_diagnostics(), *super().build_hooks()]
        at = next(i for i, hook in enumerate(built) if isinstance(hook, hooks.EvalHook))
        if self.cfg.DATASETS.VAL:  # evaluate the test split only once, after the last iteration
            built[at : at + 1] = [self._validation_hook(), hooks.EvalHook(0, self._test_and_remember)]
        else:
            built[at] = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._test_and_remember)
        # Evaluate before the periodic checkpoint, write after it: otherwise a run resumed from it would miss what was
        # measured at that iteration.
        order = (hooks.PeriodicCheckpointer, hooks.PeriodicWriter)
        return sorted(built, key=lambda hook: order.index(type(hook)) if type(hook) in order else -1)

    def _clinical_diagnostics(self) -> list[ClinicalDiagnostics]:
        period = self.cfg.CLINICAL_DIAGNOSTICS.PERIOD
        if not period or not reads_record(self.cfg):
            return []
        own, shuffled = fixed_batches(self.cfg)
        return [ClinicalDiagnostics(period=period, own=own, shuffled=shuffled)]

    def _test_and_remember(self) -> OrderedDict:
        """Evaluate the test split with the best weights in validation, else the last ones."""
        path, best = Path(self.cfg.OUTPUT_DIR) / f"{BEST_CHECKPOINT}.pth", self._history and self._history.best
        use = bool(best) and path.is_file()
        if use:
            logging.getLogger(__name__).info(
                f"testing the checkpoint of iteration {best['iteration']}, the best in validation: {path}"
            )
        with self._averaged(), weights_of(path if use else None, self.checkpointer.model):
            self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def _averaged(self) -> AbstractContextManager[None]:
        """Give the model its averaged weights for a block, if the training averages them."""
        return replaced_weights(self._average and self._average.values, self.checkpointer.model)

    def _validation_hook(self) -> ValidationHook:
        cfg, v = self.cfg, self.cfg.VALIDATION
        history_file = os.path.join(cfg.OUTPUT_DIR, HISTORY_FILE_NAME)
        self._history = ValidationHistory(history_file, v.METRIC, v.METRIC not in LOSS_METRICS)
        val = cfg.DATASETS.VAL[0]
        return ValidationHook(
            period=cfg.TEST.EVAL_PERIOD,
            evaluate=lambda: inference_on_dataset(
                self.model, self.build_test_loader(cfg, val), self.build_evaluator(cfg, val)
            ),
            losses=(lambda: mean_losses(self.model, loaders.build_loss_loader(cfg, val))) if v.LOSSES else None,
            history=self._history,
            save_best=lambda done: self.checkpointer.save(BEST_CHECKPOINT, tag_last=False, iteration=done - 1),
            patience=v.PATIENCE,
            weights=self._averaged,
        )

    def train(self) -> OrderedDict | None:
        """Train to the end or until validation no longer improves; return the last evaluation's results, if any."""
        fit_clinical_statistics(self.cfg, self._trainer.model)  # where nothing was loaded
        try:
            if self.start_iter >= self.max_iter:  # killed after its last step, before the final checkpoint
                self._save_final(self.max_iter)
            super().train()
        except EarlyStop as stop:
            self._save_final(stop.iterations)
            if self.cfg.DATASETS.TEST:
                self._test_and_remember()
        return getattr(self, "_last_eval_results", None)

    def _save_final(self, iterations: int) -> None:
        """Save the final checkpoint, unless the training was resumed from it."""
        self.iter = iterations - 1
        if self._resumed_from != FINAL_CHECKPOINT or self.start_iter < iterations:
            self.checkpointer.save(FINAL_CHECKPOINT, iteration=self.iter)

    def before_train(self) -> None:
        """Flush scalars that a killed run held back after its last checkpoint."""
        super().before_train()
        period = next((hook._period for hook in self._hooks if isinstance(hook, hooks.PeriodicWriter)), 1)
        if self.start_iter % period == 0 or self.start_iter >= self.max_iter:
            for writer in self._log_writers:
                writer.write()

    def after_train(self) -> None:
        if sys.exc_info()[0] not in (None, EarlyStop):  # interrupted or failed: evaluate nothing
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, hooks.EvalHook)]
        self.iter = min(self.iter, self.max_iter)  # the parent exceeds it if no step is left
        super().after_train()

    def run_step(self) -> None:
        """Run one step without optimizing scripted functions (the focal loss).

        Optimization changes them from their third call on, so that a resumed run would round differently.
        """
        with torch.jit.optimized_execution(False):
            super().run_step()

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint of ``OUTPUT_DIR``, with order of images and logs; or start from weights.

        A new run fits its clinical statistics, loads its pretrained trunks, then ``MODEL.WEIGHTS`` if set.

        With ``resume`` but no checkpoint it logs a warning and starts a new run.

        Raises:
            CheckpointError: the training cannot continue from the checkpoint, see
                :func:`~mdf_detectron.engine.resume.check_resumable`, or the processes see different ones.
        """
        path = checkpoint_to_resume(self.cfg.OUTPUT_DIR) if resume else None
        seen = comm.all_gather(path and path.name)
        if len(set(seen)) > 1:
            raise CheckpointError(
                f"the processes would resume from {seen}: they do not see the same checkpoints in "
                f"{self.cfg.OUTPUT_DIR}; give all machines one shared folder"
            )
        if path is None:
            if resume:
                logging.getLogger(__name__).warning(
                    "no checkpoint to resume from in %s: the training starts at its first iteration",
                    self.cfg.OUTPUT_DIR,
                )
                self._cut_logs()
            fit_clinical_statistics(self.cfg, self._trainer.model)
            load_pretrained_trunks(self.cfg, self._trainer.model)
            super().resume_or_load(resume=False)
            return
        checkpoint = Checkpoint.open(path)
        check_resumable(checkpoint, self)
        self.checkpointer.load_whole(checkpoint)
        self._resumed_from = path.stem
        self.start_iter = self.iter + 1
        logging.getLogger(__name__).info(f"resuming from iteration {self.start_iter}, from {path}")
        self._cut_logs()
        self._trainer.data_loader.dataset.sampler.skip(self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH)

    def _cut_logs(self) -> None:
        """Remove what a killed run logged after the checkpoint that this run starts from."""
        if comm.is_main_process():
            last = cut_log(os.path.join(self.cfg.OUTPUT_DIR, METRICS_FILE_NAME), self.start_iter)
            for writer in self._log_writers:
                writer.skip_until(last)

    def build_writers(self) -> list[EventWriter]:
        """Build Detectron2's three writers; :meth:`resume_or_load` makes them continue their logs."""
        folder = self.cfg.OUTPUT_DIR
        os.makedirs(folder, exist_ok=True)
        self._log_writers = [
            ResumableTensorBoardWriter(folder),
            CheckedJSONWriter(os.path.join(folder, METRICS_FILE_NAME)),
        ]
        return [CommonMetricPrinter(self.max_iter), *self._log_writers]


def fit_clinical_statistics(cfg: CfgNode, model: nn.Module) -> None:
    """Set the clinical encoder's statistics, and the record model if any, from the train split, unless they are set."""
    backbone = unwrapped(model).backbone
    encoder, record_model = backbone.clinical_encoder, backbone.record_model
    if encoder is None or encoder.fitted:
        return
    rows = [x.to(encoder.mean.device) for x in loaders.train_clinical_records(cfg)]
    encoder.fit(*rows)
    if record_model is not None:
        record_model.fit(*rows, *loaders.classes_in_images(cfg.DATASETS.TRAIN))


def check_datasets(cfg: CfgNode, names: tuple[str, ...]) -> None:
    """Raise ``UserError`` if a data set is not prepared, empty, unfit for the model or the others, or lacks files.

    Log a warning for patients in two data sets, and for data sets without annotations.
    """
    logger = logging.getLogger(__name__)
    patients: dict[str, str] = {}
    for name in names:
        records = loaders.records_of([name])
        check_not_empty(records, name)
        loaders.model_schema(cfg, name)
        loaders.check_num_classes(cfg, name)
        loaders.check_same_classes(names[0], name)
        if cfg.MODEL.MASK_ON and (name in cfg.DATASETS.TRAIN or (name in cfg.DATASETS.VAL and cfg.VALIDATION.LOSSES)):
            check_masks(records, name)
        check_images(records)
        boxes = sum(len(record["annotations"]) for record in records)
        logger.info(f"{name}: {len(records)} images, {boxes} annotations")
        shared = {r["patient_id"] for r in records if patients.setdefault(r["patient_id"], name) != name}
        if shared:
            logger.warning(
                f"{name} shares {len(shared)} patient(s) with {patients[min(shared)]}: results on it are too good; "
                "mdf audit lists them"
            )
        if not boxes:
            logger.warning(
                f"{name} has no annotation: its metrics are undefined and can neither choose the best checkpoint nor "
                "stop the training early"
            )


def evaluate_checkpoint(cfg: CfgNode) -> OrderedDict:
    """Build the model, load ``MODEL.WEIGHTS`` and evaluate it on ``DATASETS.TEST``."""
    return MultimodalTrainer.test(cfg, load_model(cfg, cfg.MODEL.WEIGHTS))


def save_results(cfg: CfgNode, results: OrderedDict | None) -> None:
    """Write ``<OUTPUT_DIR>/results.json`` from the main process; undefined metrics become null."""
    if comm.is_main_process() and results:
        path = write_json(os.path.join(cfg.OUTPUT_DIR, RESULTS_FILE_NAME), finite_or_none(results))
        logging.getLogger(__name__).info(f"results: {path}")
