#!/usr/bin/env python3
"""Measure seconds and peak memory of configs: a training step, one image at inference, loading, the first iteration.

tools/benchmark.py synthetic_cxr/mdf_net.yaml synthetic_cxr/mask_rcnn.yaml
tools/benchmark.py mimic_eye/mdf_net_deconv.yaml --measures step image --opts INPUT.IMAGE_SIZE 256
tools/benchmark.py --costs --rounds 3           every config below configs/, for the tables of tools/make_model_zoo.py

Each measurement runs in a process of its own. Several configs take their steps in turn, round by round: on a machine
that does something else too, ratios within a round mean more than seconds. Loading and the first iteration need the
config's data sets; models have random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mdf_detectron.cli import run_main
from mdf_detectron.cli.arguments import config_file
from mdf_detectron.errors import UserError
from mdf_detectron.fileio import CONFIGS, markdown_table, write_json

MEASURES = {
    "step": "training step",
    "image": "one image at inference",
    "loading": "loading a batch",
    "start": "from the command to the end of the first iteration",
}
WARMUP = 2
COSTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "config_speeds.json"
REFERENCE, MOST_IMAGES = "mimic_eye/mask_rcnn.yaml", 4
"""Of :func:`costs`: the config that every other takes its steps in turn with; a larger batch is meant for several
processes."""
MIB = 1 << 20


def build_step(measure: str, config: str, opts: list[str]) -> Callable[[], object]:
    """Make what is measured in this process.

    Args:
        measure: "step", "image" or "loading".
    """
    import torch
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage
    from random_inputs import random_batch

    from mdf_detectron.config_file import load_config
    from mdf_detectron.data.catalog import register_all
    from mdf_detectron.data.loaders import build_train_loader
    from mdf_detectron.engine.optimizer import build_optimizer
    from mdf_detectron.threads import keep_freed_memory

    register_all()
    cfg = load_config(config, opts)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        keep_freed_memory()  # as in a training
    torch.manual_seed(0)
    if measure == "loading":
        batches = iter(build_train_loader(cfg))
        return lambda: next(batches)
    model = build_model(cfg)
    encoder = getattr(model.backbone, "clinical_encoder", None)
    if encoder is not None:
        encoder.fit(torch.randn(32, encoder.num_numeric), torch.zeros(32, len(encoder.embeddings), dtype=torch.long))
    if measure == "image":
        model.eval()
        (image,) = random_batch(cfg, 1)
        del image["instances"]

        def infer() -> None:
            with torch.inference_mode():
                model([image])

        return infer
    batch, optimizer = random_batch(cfg, cfg.SOLVER.IMS_PER_BATCH), build_optimizer(cfg, model)
    model.train()

    def train() -> None:
        with EventStorage(0):
            loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return train


def peak_bytes() -> int:
    """Return the peak memory of this process, on a GPU that of its tensors."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as file:  # what getrusage gives is inherited from the parent
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def serve(measure: str, config: str, opts: list[str]) -> None:
    """Take a step for each line of standard input; print its seconds and by how much memory has grown at its peak."""
    try:
        step = build_step(measure, config, opts)
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    before = peak_bytes()
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "bytes": peak_bytes() - before}), flush=True)


def first_iteration(config: str, opts: list[str]) -> None:
    """Run a training of one iteration as ``mdf train`` does; print when the iteration ended."""
    from detectron2.engine import SimpleTrainer

    from mdf_detectron.cli import train

    step = SimpleTrainer.run_step

    def run_step(trainer: SimpleTrainer) -> None:
        step(trainer)
        print(json.dumps({"time": time.time()}), flush=True)  # whoever started this process now ends it

    SimpleTrainer.run_step = run_step
    try:
        train.main(["--config-file", config, *opts])
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)


class Worker:
    """A process that measures one thing of one config; use it in a ``with`` block."""

    def __init__(self, measure: str, config: str, opts: list[str], threads: int):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else dict(os.environ)
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", measure, config, *opts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def answer(self) -> dict[str, Any]:
        """Tell it to take a step; returns what it says of it.

        Raises:
            UserError: it has ended; the message is its own where it gave one.
        """
        try:
            print(file=self._process.stdin, flush=True)
        except BrokenPipeError:  # its message is still to be read
            pass
        for line in self._process.stdout:
            if line.startswith('{"'):
                answer = json.loads(line)
                if "error" in answer:
                    raise UserError(answer["error"])
                return answer
        raise UserError("the measuring process has ended; run `mdf train` with this config to see why")


def measure(name: str, configs: list[str], opts: list[str], rounds: int, threads: int) -> list[dict[str, Any]]:
    """Measure one thing of every config, in turn.

    Returns:
        A dict for each config: seconds of every round, peak bytes (None where none are measured), or an error.
    """
    rows: list[dict[str, Any]] = [
        {"config": config, "measure": name, "seconds": [], "bytes": None} for config in configs
    ]
    if name == "start":
        for _ in range(min(rounds, 3)):
            for row in rows:
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                    began = time.time()
                    with Worker(name, row["config"], [*opts, "OUTPUT_DIR", folder], threads) as worker:
                        _add(row, lambda worker=worker, began=began: {"seconds": worker.answer()["time"] - began})
        return rows
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, config, opts, threads)) for config in configs]
        for turn in range(-WARMUP, rounds):
            for row, worker in zip(rows, workers, strict=True):
                _add(row, worker.answer, counts=turn >= 0)
    return rows


def costs(names: list[str], reference: str, rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """Measure a training step of every config in turn with one of the reference, and its prediction of one image."""
    from detectron2.modeling import build_model

    from mdf_detectron.config_file import load_config

    found = {}
    for name in names:
        cfg = load_config(name, ["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", False])
        batch = min(cfg.SOLVER.IMS_PER_BATCH, MOST_IMAGES)
        opts = ["MODEL.TIMM.PRETRAINED", "False", "SOLVER.IMS_PER_BATCH", str(batch)]
        one, other = (row["seconds"] for row in measure("step", [name, reference], opts, rounds, threads))
        (image,) = measure("image", [name], opts, 2 * rounds, threads)
        found[name] = {
            "px": cfg.INPUT.IMAGE_SIZE,
            "batch": batch,
            "parameters": sum(p.numel() for p in build_model(cfg).parameters()),
            "step_seconds": statistics.median(one),
            "ratio": statistics.median(a / b for a, b in zip(one, other, strict=True)),
            "training_images_per_second": batch / statistics.median(one),
            "prediction_images_per_second": 1 / statistics.median(image["seconds"]),
        }
        print(
            f"{name}: {found[name]['step_seconds']:.2f} s a step, {found[name]['ratio']:.2f} × {reference}", flush=True
        )
    return found


def _add(row: dict[str, Any], answer: Callable[[], dict[str, Any]], counts: bool = True) -> None:
    if "error" in row:
        return
    try:
        found = answer()
    except UserError as error:
        row["error"] = str(error)
        return
    if counts:
        row["seconds"].append(found["seconds"])
        row["bytes"] = found.get("bytes")


def table(rows: list[dict[str, Any]]) -> str:
    """Format a row a measure and config: median and quartiles, ratio to the first config, peak memory."""
    first: dict[str, list[float]] = {}
    cells = []
    for row in rows:
        name, seconds = MEASURES[row["measure"]], row["seconds"]
        config = row["config"].removeprefix(f"{CONFIGS}/")
        if "error" in row:
            cells.append((name, config, f"not measured: {row['error']}", "", ""))
            continue
        reference = first.setdefault(row["measure"], seconds)
        ratio = statistics.median(one / other for one, other in zip(seconds, reference, strict=True))
        low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [*seconds] * 3
        memory = "" if row["bytes"] is None else f"{row['bytes'] / MIB:,.0f}"
        cells.append((name, config, f"{middle:.3f} ({low:.3f} to {high:.3f})", f"{ratio:.2f}", memory))
    return markdown_table(
        ("measure", "config", "seconds (quartiles)", "ratio to the first", "peak MiB above before"), cells
    )


def describe_machine(threads: int) -> str:
    """Return processor, cores, threads and versions, on one line."""
    about = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in about.read_text().splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "detectron2", "timm"))
    return f"{processor}, {os.cpu_count()} cores, threads: {threads or 'as torch chooses'}, {versions}"


def commit_of_this_checkout() -> str:
    """Return the commit, with "-dirty" where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--worker"]:
        what, config, *opts = argv[1:]
        first_iteration(config, opts) if what == "start" else serve(what, config, opts)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", type=config_file, help="path, or name of a config")
    parser.add_argument("--costs", action="store_true", help="the costs of every config that ships with the package")
    parser.add_argument("--measures", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=8, help="of each measure, of the first iteration at most 3")
    parser.add_argument("--threads", type=int, default=0, help="of OpenMP (default: as torch chooses)")
    parser.add_argument("--out", type=Path, help="file for every number, as JSON (of --costs: docs/results/)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="last: config overrides, KEY VALUE")
    args = parser.parse_args(argv)
    if bool(args.configs) == args.costs:
        parser.error("name configs, or give --costs")
    about = {"machine": describe_machine(args.threads), "commit": commit_of_this_checkout(), "rounds": args.rounds}
    if args.costs:
        files = (path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("*/*.yaml"))
        names = sorted(name for name in files if not Path(name).name.startswith(("Base-", "Recipe-")))
        rows = costs(names, REFERENCE, args.rounds, args.threads)
        today = time.strftime("%Y-%m-%d")
        write_json(args.out or COSTS, {**about, "date": today, "reference": REFERENCE, "rows": rows}, indent=1)
        return
    rows = [row for m in args.measures for row in measure(m, args.configs, args.opts, args.rounds, args.threads)]
    print(f"{about['machine']}, commit {about['commit']}\n\n{table(rows)}")
    if args.out:
        write_json(args.out, {**about, "opts": args.opts, "rows": rows})


if __name__ == "__main__":
    run_main(main)
