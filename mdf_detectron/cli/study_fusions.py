"""Every fusion and every branch, trained on the synthetic set at one budget, and scored with full, half and no records.

python tools/study_fusions.py --out output/study --seeds 1 2

Trained runs are kept: the same command goes on where it was stopped.  Writes study.json, study.md and study.png.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.oracle import oracle_predictions
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.experiments.fusion_study import (
    DATASET,
    METRIC,
    TASK,
    VARIANTS,
    run_variant,
    study_chart,
    study_table,
)
from mdf_detectron.fileio import markdown_table, write_figure, write_json, write_text


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("output/study"))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="of the trainings (default: %(default)s)")
    parser.add_argument("--num-patients", type=int, default=700)
    parser.add_argument("--signal", type=float, default=1.0, help="how much the synthetic records tell; 0: nothing")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="trainings at a time")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="last: config overrides of every run")
    return parser.parse_args(argv)


def train_all(args: argparse.Namespace) -> list[dict]:
    """Every variant with every seed, ``--jobs`` at a time."""
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        asked = [
            pool.submit(run_variant, name, seed, str(args.out), args.opts, threads)
            for seed in args.seeds
            for name in args.variants
        ]
        return [job.result() for job in tqdm(as_completed(asked), total=len(asked), desc="trainings", unit="run")]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    dataset = args.out / DATASET
    prepare_synthetic(dataset, CohortSettings(args.num_patients, seed=1, signal=args.signal, image_size=160))
    runs = train_all(args)
    truth = dataset / "annotations" / "test.json"
    oracle = {
        name: evaluate_coco(truth, oracle_predictions(dataset, "test", use_table))[TASK][METRIC]
        for name, use_table in (("image", False), ("both", True))
    }
    ceilings = markdown_table(("oracle", "AP50"), [(f"{k}", f"{v:.1f}") for k, v in oracle.items()])
    spread = ", mean ± standard deviation" if len(args.seeds) > 1 else ""
    text = (
        "# Fusions on the synthetic set\n\n**Synthetic data: these numbers show which mechanism learns at this budget; "
        f"they are no clinical evidence.** AP50 by IoBB × 100 on the test split, signal {args.signal:g}, "
        f"{len(args.seeds)} seed(s) {args.seeds}{spread}; overrides: {' '.join(args.opts) or 'none'}.\n\n"
        f"{study_table(runs)}\n{ceilings}\n"
        "The oracle scores the ground-truth boxes by the exact probability of each class.\n\n"
        "![AP50](study.png)\n"
    )
    write_json(args.out / "study.json", {"runs": runs, "oracle": oracle})
    write_figure(args.out / "study.png", study_chart(runs, oracle, len(args.seeds)))
    write_text(args.out / "study.md", text)
    print(text)
