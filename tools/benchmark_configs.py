#!/usr/bin/env python3
"""Seconds of a training step and images a second of every config below configs/, at its own size and batch.

python tools/benchmark_configs.py                                 # all; ~15 minutes on two cores
python tools/benchmark_configs.py --configs mimic_eye/mdf_net.yaml --rounds 5 --out output/config_speeds.json

Random images and records, no reading of files. Every step is taken in turn with one of the reference, so that the
ratios compare over configs and machines; the seconds are of this machine.
tools/make_model_zoo.py then writes the tables.
"""

from __future__ import annotations

import mdf_detectron  # noqa: F401 - before torch: it sets how OpenMP's threads wait, as in trainings

# isort: split
import argparse
import os
import subprocess
from pathlib import Path

import numpy as np
import torch
from benchmarks.machine import processor
from benchmarks.worker import Step, Worker
from detectron2.modeling import build_model
from tqdm import tqdm

from mdf_detectron import model_zoo
from mdf_detectron.cli import run_main
from mdf_detectron.errors import ConfigError
from mdf_detectron.fileio import write_json

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RESULTS = CONFIGS.parent / "docs" / "results" / "config_speeds.json"
REFERENCE = "mimic_eye/mask_rcnn.yaml"
MOST_IMAGES = 4
"""Of a step; a larger batch is meant for several processes."""
OFFLINE = ("MODEL.TIMM.PRETRAINED", False)


def measure(config: str, reference: Worker, rounds: int, threads: int) -> dict[str, float]:
    """Take steps and predictions of a config, each step in turn with one of the reference."""
    cfg = model_zoo.get_config(config)
    cfg.merge_from_list([*OFFLINE, "MODEL.DEVICE", "cpu"])
    batch = min(cfg.SOLVER.IMS_PER_BATCH, MOST_IMAGES)
    with Worker(Step(config, OFFLINE, batch=batch, threads=threads)) as worker:
        pairs = np.array([(worker.step(), reference.step()) for _ in range(1 + rounds)])[1:]
    with Worker(Step(config, OFFLINE, measure="inference", batch=1, threads=threads)) as worker:
        predictions = [worker.step() for _ in range(1 + 2 * rounds)][1:]
    step = float(np.median(pairs[:, 0]))
    return {
        "px": cfg.INPUT.IMAGE_SIZE,
        "batch": batch,
        "parameters": sum(p.numel() for p in build_model(cfg).parameters()),
        "step_seconds": step,
        "ratio": float(np.median(pairs[:, 0] / pairs[:, 1])),
        "training_images_per_second": batch / step,
        "prediction_images_per_second": 1 / float(np.median(predictions)),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", metavar="NAME", help="below configs/ (default: all)")
    parser.add_argument("--reference", default=REFERENCE, metavar="NAME", help=f"steps in turn with it ({REFERENCE})")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each (default: 5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="(default: docs/results/config_speeds.json)")
    args = parser.parse_args(argv)
    names = sorted(
        path.relative_to(CONFIGS).as_posix()
        for path in CONFIGS.rglob("*.yaml")
        if not path.name.startswith(("Base-", "Recipe-"))
    )
    if unknown := sorted({*(args.configs or ()), args.reference} - set(names)):
        raise ConfigError(f"{unknown} are not below configs/; there are {names}")
    rows = {}
    with Worker(Step(args.reference, OFFLINE, threads=args.threads)) as reference:
        for name in tqdm(args.configs or names, desc="configs", unit="config"):
            rows[name] = measure(name, reference, args.rounds, args.threads)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=CONFIGS, capture_output=True, text=True)
    found = {
        "machine": f"{processor()}, {os.cpu_count()} cores, {args.threads} threads, torch {torch.__version__}",
        "commit": commit.stdout.strip(),
        "reference": args.reference,
        "rounds": args.rounds,
        "rows": rows,
    }
    for name, row in rows.items():
        print(f"{name}: {row['step_seconds']:.2f} s a step, {row['ratio']:.2f} x {args.reference}")
    print(f"written to {write_json(args.out, found)}")


if __name__ == "__main__":
    run_main(main)
