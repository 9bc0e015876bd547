"""Run a training or evaluation from command-line arguments: config, checks, then the processes."""

import argparse
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm

from mdf_detectron.checkpoint.published import open_weights
from mdf_detectron.child_processes import when_stopped
from mdf_detectron.config_checks import check_device
from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_all
from mdf_detectron.data.loaders import make_caches
from mdf_detectron.engine.console import ProgressBar, training_logs
from mdf_detectron.engine.processes import launch, plan_processes
from mdf_detectron.engine.resume import FINAL_CHECKPOINT, checkpoint_to_resume, is_finished, lock_output_dir
from mdf_detectron.engine.trainer import (
    RESULTS_FILE_NAME,
    MultimodalTrainer,
    check_datasets,
    evaluate_checkpoint,
    save_results,
)
from mdf_detectron.errors import ConfigError
from mdf_detectron.fileio import find_config_file
from mdf_detectron.threads import keep_freed_memory, use_free_cores


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """Register the prepared folders and return a command line's frozen config.

    Without a GPU the device is the CPU, unless the command line asks for a GPU: that is a ``ConfigError``.
    """
    register_all()
    args.config_file = str(find_config_file(args.config_file))  # Detectron2 logs its text
    cfg = load_config(args.config_file, args.opts)
    if cfg.MODEL.DEVICE == "cuda" and "MODEL.DEVICE" not in args.opts and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check_device(cfg.MODEL.DEVICE)
    cfg.freeze()
    return cfg


def setup_process(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Set up threads and memory, and Detectron2's logging, output folder and seeds."""
    if cfg.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first kernel runs
        torch.use_deterministic_algorithms(True, warn_only=True)
    use_free_cores(cfg.DATALOADER.NUM_WORKERS, comm.get_local_size())
    default_setup(cfg, args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()


def run(args: argparse.Namespace, work: Callable[[argparse.Namespace], None], how_to_resume: str) -> None:
    """Train or evaluate in all processes of this machine, after checking everything that can be checked beforehand.

    Args:
        args: of ``mdf train``.
        work: calls :func:`train_or_evaluate`; a module's function, because new processes import it by name.
        how_to_resume: command line to show when Ctrl-C or SIGTERM stops a training.
    """
    cfg = setup_cfg(args)
    plan = plan_processes(
        cfg,
        num_gpus=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        limit=args.peer_timeout,
        training=not args.eval_only,
    )
    d = cfg.DATASETS
    names = tuple(d.TEST) if args.eval_only else (*d.TRAIN, *d.VAL, *d.TEST)
    check_datasets(cfg, names)
    if args.eval_only and not cfg.MODEL.WEIGHTS:
        raise ConfigError("--eval-only needs a checkpoint: add MODEL.WEIGHTS path/to/model_final.pth")
    if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS:
        open_weights(cfg.MODEL.WEIGHTS)  # refused before anything starts
    first = plan.first_rank == 0 and not plan.started  # among all machines, and among torchrun's processes
    if first and args.num_gpus > 1 and plan.device == "cpu":
        print(f"no GPU is used: {plan.local} processes share the cores of the CPU")
    if first and not args.eval_only and cfg.SOLVER.WARMUP_ITERS > cfg.SOLVER.MAX_ITER:
        print(f"SOLVER.WARMUP_ITERS {cfg.SOLVER.WARMUP_ITERS} is more than SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}: the "
              "learning rate reaches BASE_LR only at the end; lower it")  # fmt: skip
    hold = lock_output_dir(cfg, fresh=not args.eval_only, resume=args.resume) if first else nullcontext()
    with hold, nullcontext() if args.eval_only else when_stopped(_kept(cfg, how_to_resume)):
        if args.resume and not args.eval_only and is_finished(cfg, RESULTS_FILE_NAME):
            return
        if cfg.DATALOADER.DECODED_CACHE and plan.world == plan.local:
            make_caches(cfg, names)  # several machines would all write them at once
        launch(work, plan, args=(args,))


def train_or_evaluate(args: argparse.Namespace) -> tuple[CfgNode, OrderedDict | None]:
    """Train or evaluate in this process, and save the results; return the config and them."""
    cfg = setup_cfg(args)
    with training_logs(cfg.OUTPUT_DIR, verbose=args.verbose):
        setup_process(cfg, args)
        if args.eval_only:
            results = evaluate_checkpoint(cfg)
        else:
            trainer = MultimodalTrainer(cfg)
            if comm.is_main_process() and not args.verbose:
                trainer.register_hooks([ProgressBar()])
            trainer.resume_or_load(resume=args.resume)
            with when_stopped(lambda text: f"{text} at iteration {trainer.iter}"):
                results = trainer.train()
        save_results(cfg, results)
    return cfg, results


def _kept(cfg: CfgNode, how_to_resume: str) -> Callable[[str], str]:
    def tell(text: str) -> str:
        path = checkpoint_to_resume(cfg.OUTPUT_DIR)
        if path is None:
            return f"{text}; there is no checkpoint yet: run the same command again"
        final = path.stem == FINAL_CHECKPOINT
        kept = "the final checkpoint" if final else f"the checkpoint of iteration {int(path.stem.split('_')[-1])}"
        return f"{text}; {kept} is kept in {Path(cfg.OUTPUT_DIR)}; continue with: {how_to_resume}"

    return tell
