"""Train or evaluate a model by config, with Detectron2's standard arguments.

mdf train --config-file synthetic_cxr/mdf_net.yaml
mdf train --config-file ... --resume
mdf train --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth

Several processes, each with its share of SOLVER.IMS_PER_BATCH: --num-gpus N, one a GPU, or N on the CPUs of a machine
without GPUs. Several machines, one command on each:

mdf train --config-file ... --num-gpus 4 --num-machines 2 --machine-rank 0 --dist-url tcp://MACHINE0:29500
mdf train --config-file ... --num-gpus 4 --num-machines 2 --machine-rank 1 --dist-url tcp://MACHINE0:29500
"""

from __future__ import annotations

import argparse
import shlex
import sys

from mdf_detectron.cli import suppress_known_messages
from mdf_detectron.cli.arguments import config_file


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of Detectron2's ``default_argument_parser`` without importing torch."""
    parser = argparse.ArgumentParser(epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, type=config_file, metavar="FILE", help="path, or a name in the model zoo")
    add("--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes of each machine, one a GPU")
    add("--num-machines", type=int, default=1, metavar="N")
    add("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    add("--dist-url", default="auto", metavar="URL", help="tcp://ADDRESS:PORT of machine 0; a free port of one machine")
    add("--peer-timeout", type=float, default=300.0, metavar="SECONDS", help="longest wait for the other processes")
    add("opts", default=[], nargs=argparse.REMAINDER, help="config overrides, KEY VALUE, after all other arguments")
    return parser


def main(argv: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    args = argument_parser().parse_args(words)
    from mdf_detectron.engine.run import run

    resumed = words if "--resume" in words else ["--resume", *words]
    run(args, _work, how_to_resume=f"mdf train {shlex.join(resumed)}")


def _work(args: argparse.Namespace) -> None:
    from mdf_detectron.engine.run import train_or_evaluate

    suppress_known_messages()
    train_or_evaluate(args)
