"""Train or evaluate a model of mdf_detectron by config, with Detectron2's standard arguments.

tools/train_net.py --config-file configs/synthetic_cxr/mdf_net.yaml
tools/train_net.py --config-file ... --resume
tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth

Several processes, each with its share of SOLVER.IMS_PER_BATCH: --num-gpus N, one a GPU, or N on the CPUs of a machine
without GPUs. Several machines, one command on each:

tools/train_net.py --config-file ... --num-gpus 4 --num-machines 2 --machine-rank 0 --dist-url tcp://MACHINE0:29500
tools/train_net.py --config-file ... --num-gpus 4 --num-machines 2 --machine-rank 1 --dist-url tcp://MACHINE0:29500
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

from mdf_detectron.cli.quiet import suppress_known_messages
from mdf_detectron.data.loaders import make_caches
from mdf_detectron.engine.defaults import default_argument_parser, setup, setup_cfg
from mdf_detectron.engine.processes import launch, plan_processes
from mdf_detectron.engine.resume import is_finished, lock_output_dir
from mdf_detectron.engine.trackers import check_trackers
from mdf_detectron.engine.trainer import (
    RESULTS_FILE_NAME,
    MultimodalTrainer,
    check_datasets,
    evaluate_checkpoint,
    save_results,
)
from mdf_detectron.errors import ConfigError


def train_or_evaluate(args: argparse.Namespace) -> None:
    """One process' work."""
    suppress_known_messages()
    cfg = setup(args)
    if args.eval_only:
        results = evaluate_checkpoint(cfg)
    else:
        trainer = MultimodalTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    save_results(cfg, results)


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments; alone on a machine, processes meet at a free port."""
    parser = default_argument_parser(epilog=__doc__)
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--peer-timeout", type=float, default=300.0, metavar="SECONDS", help="longest wait for the other processes"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args = argument_parser().parse_args(argv)
    cfg = setup_cfg(args)  # every mistake that can be seen now is told now, before processes and folders are made
    check_trackers(cfg)
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
    first = plan.first_rank == 0 and not plan.started  # of several machines, and of torchrun's processes
    hold = lock_output_dir(cfg, fresh=not args.eval_only, resume=args.resume) if first else nullcontext()
    with hold:
        if args.resume and not args.eval_only and is_finished(cfg, RESULTS_FILE_NAME):
            return
        if cfg.DATALOADER.DECODED_CACHE and plan.world == plan.local:
            make_caches(cfg, names)  # of several machines none makes them: all would at once
        launch(train_or_evaluate, plan, args=(args,))
