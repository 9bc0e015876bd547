#!/usr/bin/env python3
"""Train or evaluate a model of mdf_detectron by config, with Detectron2's standard arguments.

tools/train_net.py --config-file configs/synthetic_cxr/mdf_net.yaml
tools/train_net.py --config-file ... --resume
tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from detectron2.engine import launch
from detectron2.utils import comm

import mdf_detectron  # noqa: F401  (registers the components and the datasets)
from mdf_detectron.engine.defaults import default_argument_parser, run_tool, setup, setup_cfg
from mdf_detectron.engine.trainer import MultimodalTrainer, check_datasets, evaluate_checkpoint
from mdf_detectron.errors import ConfigError


def train_or_evaluate(args) -> None:
    """One process' work."""
    cfg = setup(args)
    if args.eval_only:
        results = evaluate_checkpoint(cfg)
    else:
        trainer = MultimodalTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if comm.is_main_process() and results:
        target = Path(cfg.OUTPUT_DIR) / "results.json"
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=2) + "\n")
        os.replace(partial, target)
        print(f"results: {target}")


def main() -> None:
    args = default_argument_parser(epilog=__doc__).parse_args()
    cfg = setup_cfg(args)  # every mistake that can be seen now is told now, before processes and folders are made
    check_datasets(cfg, tuple(cfg.DATASETS.TEST) if args.eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    if args.eval_only and not cfg.MODEL.WEIGHTS:
        raise ConfigError("--eval-only needs a checkpoint: add MODEL.WEIGHTS path/to/model_final.pth")
    num_gpus = args.num_gpus if torch.cuda.is_available() else 0
    launch(
        train_or_evaluate,
        max(num_gpus, 1),
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    run_tool(main)
