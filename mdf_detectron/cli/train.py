"""Train or evaluate a model by config, with Detectron2's standard arguments.

mdf train --config-file synthetic_cxr/mdf_net.yaml
mdf train --config-file ... --resume
mdf train --config-file ... --from synthetic_cxr/logit_fusion
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
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdf_detectron.cli import suppress_known_messages
from mdf_detectron.cli.arguments import checkpoint_file, config_file
from mdf_detectron.fileio import finite_or_none, markdown_table, write_figure

if TYPE_CHECKING:
    from detectron2.config import CfgNode

TABLE_METRICS = ("AP50", "AR50")


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of Detectron2's ``default_argument_parser`` without importing torch."""
    parser = argparse.ArgumentParser(epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, type=config_file, metavar="FILE", help="path, or a name in the model zoo")
    add("--from", dest="start", metavar="MODEL", type=checkpoint_file,
        help="start from the weights of a .pth file or a model of the zoo, as MODEL.WEIGHTS")  # fmt: skip
    add("--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes of each machine, one a GPU")
    add("--num-machines", type=int, default=1, metavar="N")
    add("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    add("--dist-url", default="auto", metavar="URL", help="tcp://ADDRESS:PORT of machine 0; a free port of one machine")
    add("--verbose", action="store_true", help="show all of log.txt: the model, the config, Detectron2's messages")
    add("--peer-timeout", type=float, default=300.0, metavar="SECONDS", help="longest wait for the other processes")
    add("opts", default=[], nargs=argparse.REMAINDER, help="config overrides, KEY VALUE, after all other arguments")
    return parser


def main(argv: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    args = argument_parser().parse_args(words)
    if args.start:
        args.opts = ["MODEL.WEIGHTS", args.start, *args.opts]
    from mdf_detectron.engine.run import run

    resumed = words if "--resume" in words else ["--resume", *words]
    run(args, _work, how_to_resume=f"mdf train {shlex.join(resumed)}")


def _work(args: argparse.Namespace) -> None:
    from detectron2.utils import comm

    from mdf_detectron.engine.run import train_or_evaluate

    suppress_known_messages()
    cfg, results = train_or_evaluate(args)
    if comm.is_main_process():
        print_results(cfg, results, trained=not args.eval_only)


def print_results(cfg: CfgNode, results: Mapping[str, Any] | None, *, trained: bool) -> None:
    """Print each class's results on ``DATASETS.TEST``; after a training draw its curves and name what comes next."""
    from mdf_detectron.engine.resume import FINAL_CHECKPOINT, METRICS_FILE_NAME
    from mdf_detectron.engine.validation import BEST_CHECKPOINT
    from mdf_detectron.evaluation.coco import PREDICTIONS_FILE_NAME
    from mdf_detectron.evaluation.estimates import number
    from mdf_detectron.evaluation.evaluator import ground_truth_of
    from mdf_detectron.report.charts import read_series, training_curves

    folder, names = Path(cfg.OUTPUT_DIR), list(cfg.DATASETS.TEST)
    for name, tables in (results if len(names) > 1 else dict.fromkeys(names, results) if results else {}).items():
        truth, values = ground_truth_of(name), finite_or_none(dict(tables["bbox_iobb"]))
        boxes = Counter(truth.category[~truth.crowd].tolist())
        rows = [[one, boxes[k], *(number(values.get(f"{metric}-{one}")) for metric in TABLE_METRICS)]
                for k, one in enumerate(truth.class_names)]  # fmt: skip
        rows.append(["all", boxes.total(), *(number(values[metric]) for metric in TABLE_METRICS)])
        print(f"{name}, boxes by IoBB, × 100:\n{markdown_table(['class', 'boxes', *TABLE_METRICS], rows)}", end="")
    if not trained:
        return
    curves = training_curves(read_series(folder / METRICS_FILE_NAME), cfg.VALIDATION.METRIC)
    print(f"curves: {write_figure(folder / 'curves.png', curves)}")
    best = folder / f"{BEST_CHECKPOINT}.pth"
    weights = best if best.is_file() else folder / f"{FINAL_CHECKPOINT}.pth"
    commands = [["evaluate", "--dataset", name, "--predictions", folder / "inference" / name / PREDICTIONS_FILE_NAME,
                 "--out", folder / "evaluation"] for name in names[:1]]  # fmt: skip
    commands.append(["publish", "--weights", weights, "--out", folder / "model.pth"])
    print("Next: " + "; ".join(shlex.join(["mdf", *map(str, words)]) for words in commands))
