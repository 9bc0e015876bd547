"""Train or evaluate a model of mdf_detectron by config, with Detectron2's standard arguments.

tools/train_net.py --config-file configs/synthetic_cxr/mdf_net.yaml
tools/train_net.py --config-file ... --resume
tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
"""

from __future__ import annotations

import torch

from mdf_detectron.engine.defaults import default_argument_parser, launch, setup, setup_cfg
from mdf_detectron.engine.trainer import MultimodalTrainer, check_datasets, evaluate_checkpoint, save_results
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
    save_results(cfg, results)


def main(argv: list[str] | None = None) -> None:
    args = default_argument_parser(epilog=__doc__).parse_args(argv)
    cfg = setup_cfg(args)  # every mistake that can be seen now is told now, before processes and folders are made
    d = cfg.DATASETS
    check_datasets(cfg, tuple(d.TEST) if args.eval_only else (*d.TRAIN, *d.VAL, *d.TEST))
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
