#!/usr/bin/env python3
"""Speed and memory, as ratios of steps taken in turn: times of different runs or machines do not compare.

tools/benchmark.py                              the clinical branch: every variant side by side, time and memory
tools/benchmark.py --targets                    the project's targets, an earlier commit beside this one; ~15 minutes
tools/benchmark.py --targets --rows step512 busy demo       some of them, those that take minutes too
tools/benchmark.py --growth                     how the cost grows with size, batch, columns, images; ~8 minutes
tools/benchmark.py --throughput                 images a second of loader, model and training, and what binds
"""

from __future__ import annotations

import mdf_detectron  # noqa: F401 - before torch: it sets how OpenMP's threads wait, as in trainings

# isort: split
import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from benchmarks import growth, loading, targets
from benchmarks.machine import processor
from benchmarks.memory import peak_memory
from benchmarks.timing import INFERENCE, MEMORY, TARGETS, TRAINING, Ratio, product_rate, ratio, table, time_side_by_side
from benchmarks.variants import VARIANTS, inference_step, make_model, training_step
from torch.utils.flop_counter import FlopCounterMode

from mdf_detectron.cli import run_main
from mdf_detectron.errors import ConfigError
from mdf_detectron.fileio import markdown_table, write_json
from mdf_detectron.modeling.deconv_fast.cpu_memory import keep_freed_memory

BESIDE = {"repeat"}
"""Variants that have no target and are measured too."""


def branch_limit(device: str, image_size: int, batch_size: int) -> dict[str, float]:
    """Seconds that the deconvolution branch needs at least, forward and backward, at the rate of products."""
    _, model = make_model("plain", device, image_size)
    branch, encoded = model.backbone.clinical_branch.train(), torch.randn(batch_size, 64, device=device)
    with FlopCounterMode(display=False) as counter:
        maps = branch(encoded, (image_size, image_size), {})
        sum(x.sum() for x in maps.values()).backward()
    rate = product_rate(device)
    operations = counter.get_total_flops()
    return {"operations": operations, "operations_per_second": rate, "seconds": operations / rate}


def measure_times(args, names: list[str]) -> tuple[dict[str, dict[str, np.ndarray]], dict]:
    """Seconds of each measure and variant, and the ratios of the targets."""
    times, ratios = {}, {}
    for measure, build, batch_size in (
        (TRAINING, training_step, args.batch_size),
        (INFERENCE, inference_step, 1),
    ):
        wanted = {n for t in TARGETS if t.measure == measure for n in (t.name, t.reference)} | BESIDE
        steps = {n: build(n, args.device, args.image_size, batch_size) for n in names if n in wanted}
        rounds = args.rounds if measure == TRAINING else 4 * args.rounds
        times[measure] = time_side_by_side(steps, rounds)
        for t in TARGETS:
            if t.measure == measure and {t.name, t.reference} <= set(steps):
                ratios[t.name, t.reference, measure] = ratio(times[measure], t.name, t.reference)
    return times, ratios


def measure_memory(args, names: list[str]) -> tuple[dict[str, int], dict]:
    """Bytes by variant, and the ratios of the targets."""
    targets = [t for t in TARGETS if t.measure == MEMORY and {t.name, t.reference} <= set(names)]
    wanted = sorted({n for t in targets for n in (t.name, t.reference)})
    size = args.device, args.image_size, args.batch_size, args.threads, args.allocator == "keep"
    used = {name: peak_memory(name, *size) for name in wanted}
    ratios = {}
    for t in targets:
        value = used[t.name] / used[t.reference]
        ratios[t.name, t.reference, MEMORY] = Ratio(value, value, value)
    return used, ratios


TABLES = {
    "targets": (
        "the project's targets, an earlier commit beside this one; ~15 minutes",
        targets.measure,
        targets.table_rows,
        ("measure", "against", "target", "ratio (quartiles)", ""),
    ),
    "growth": (
        "how the cost grows with size, batch, columns, images; ~8 minutes",
        growth.measure,
        growth.table_rows,
        ("cost", "size: cost", "exponent"),
    ),
    "throughput": (
        "images a second of loader, model and training, and what binds",
        lambda names, rounds: loading.throughput(rounds),
        lambda rows: [
            (r["images"], *(f"{r[k]:.1f}" for k in ("loader", "model", "training")), r["limit"]) for r in rows
        ],
        ("images a second, 512 px", "loader alone", "model alone", "training", "what binds"),
    ),
}
"""Table → what it shows, what measures it, its cells, its header."""


def show_table(args) -> None:
    """Measure one of :data:`TABLES`, print it and write it with every number, and what machine it is of."""
    known = [row.name for row in (*targets.TARGETS, *growth.GROWTHS)]
    if unknown := sorted(set(args.rows) - set(known)):
        raise ConfigError(f"--rows {unknown} are not known; there are {known}")
    _, measure, cells, header = TABLES[args.table]
    machine = f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, {args.rounds} rounds"
    rows = measure(args.rows, args.rounds)
    text = markdown_table(header, cells(rows))
    print(f"{machine}\n\n{text}")
    out = args.out.with_name(f"{args.out.stem}_{args.table}.json")
    print(f"written to {write_json(out, {'machine': machine, 'rows': rows, 'table': text.splitlines()})}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    for name, (text, *_) in TABLES.items():
        what.add_argument(f"--{name}", action="store_const", const=name, dest="table", help=text)
    parser.add_argument("--rows", nargs="+", default=[], help="of --targets or --growth, by name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4, help="of a training step; inference takes one image")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--allocator",
        choices=("keep", "default"),
        default="keep",
        help="on a CPU: keep freed memory, as tools/train_net.py does, or what the C library does",
    )
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), default=sorted(VARIANTS))
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--out", type=Path, default=Path("output/benchmark.json"))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.table:
        show_table(args)
        return
    if args.device == "cpu" and args.allocator == "keep":
        keep_freed_memory()
    machine = torch.cuda.get_device_name() if args.device == "cuda" else processor()
    print(
        f"{machine}, torch {torch.__version__}, {args.image_size}×{args.image_size}, batch {args.batch_size}", end=", "
    )
    print(f"{args.threads} threads, {args.allocator} allocator")
    times, ratios = measure_times(args, args.variants)
    used, memory_ratios = ({}, {}) if args.no_memory else measure_memory(args, args.variants)
    limit = branch_limit(args.device, args.image_size, args.batch_size)
    for measure, by_name in times.items():
        print(f"\n{measure}, seconds (median of {len(next(iter(by_name.values())))})")
        for name, values in by_name.items():
            print(f"  {name:<26}{np.median(values):8.4f}")
    for name, value in used.items():
        print(f"  {MEMORY}: {name:<26}{value / 2**20:8.0f} MiB")
    print(
        f"\nthe branch's arithmetic, {limit['operations'] / 1e9:.0f} GFLOP forward and backward, takes "
        f"{limit['seconds']:.2f} s at this machine's rate of products of "
        f"{limit['operations_per_second'] / 1e9:.0f} GFLOP/s\n"
    )
    text = table({**ratios, **memory_ratios})
    print(text)
    record = {
        "machine": machine,
        "torch": torch.__version__,
        "arguments": {k: v for k, v in vars(args).items() if k != "out"},
        "seconds": {m: {n: v.tolist() for n, v in by_name.items()} for m, by_name in times.items()},
        "bytes": used,
        "limit": limit,
        "table": text.splitlines(),
    }
    print(f"\nwritten to {write_json(args.out, json.loads(json.dumps(record)))}")


if __name__ == "__main__":
    run_main(main)
