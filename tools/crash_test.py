"""Kill trainings and preparations at random places, resume or run them again, and compare with undisturbed ones.

python tools/crash_test.py --kills 50                 # 50 trainings and 50 preparations killed, 8 pairs
python tools/crash_test.py --kills 0 --pairs 8

A killed training must end with the weights, optimizer, results, validation history and log of one that was left alone,
a killed preparation (of the synthetic data set, own data, MIMIC and RSNA in turn) with the files of one, bit for bit,
and without a process or a file of the killed run. Of two preparations that start together with one --out, one runs and
one is refused. Prints a table; exit status 1 where anything differs. Everything runs in forked copies of this process,
on one core and in a temporary folder.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from detectron2.engine import SimpleTrainer, hooks
from forked import Forked, Place
from small_sources import SYNTHETIC, Preparation, make_preparations
from tqdm import tqdm

from mdf_detectron.checkpoint.checkpoint import Checkpoint, digest, training_digest
from mdf_detectron.cli import train
from mdf_detectron.data.sources.kit import image_files
from mdf_detectron.data.synthetic import prepare as synthetic
from mdf_detectron.engine.trainer import MultimodalTrainer
from mdf_detectron.evaluation.evaluator import CXREvaluator
from mdf_detectron.fileio import markdown_table, write_json

TRAINING = """--config-file synthetic_cxr/mdf_net.yaml {resume} DATASETS.VAL ('synthetic_cxr_val',) MODEL.DEVICE cpu
    MODEL.CLINICAL.NUMERIC ['age','temperature'] MODEL.CLINICAL.CATEGORICAL [] MODEL.CLINICAL.DROPOUT_VALUE 0.2
    INPUT.IMAGE_SIZE 64 MODEL.SPATIALIZER.CHANNELS 8 MODEL.MASK_ON False
    MODEL.RPN.POST_NMS_TOPK_TRAIN 50 MODEL.RPN.POST_NMS_TOPK_TEST 20 SOLVER.IMS_PER_BATCH 4 SOLVER.STEPS () SEED 1
    VALIDATION.METRIC total_loss CLINICAL_DIAGNOSTICS.PERIOD 0 SOLVER.MAX_ITER 6
    SOLVER.CHECKPOINT_PERIOD 2 TEST.EVAL_PERIOD 2 DATALOADER.NUM_WORKERS {workers} OUTPUT_DIR {out}"""
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}
LOG_PERIOD = 2
"""Iterations between two lines of metrics.json: Detectron2's 20 are more than these trainings have."""


TRAINING_PLACES = (
    Place("step", SimpleTrainer, "_write_metrics"),
    Place("saving", torch, "save", cuts=True),
    Place("renaming a file", os, "replace"),
    Place("validation", CXREvaluator, "process"),
)
PREPARATION_PLACES = (
    Place("drawing", synthetic, "write_image"),
    Place("resizing", image_files, "write_png"),
    Place("linking", os, "link"),
    Place("renaming a file", os, "replace"),
    Place("moving the folder", Path, "rename"),
)
ANY_MOMENT = "any moment"


@dataclass
class Tally:
    """Outcomes of one kind of trial."""

    kills: int = 0
    sound: int = 0
    problems: Counter[str] = field(default_factory=Counter)

    def add(self, problems: Sequence[str]) -> None:
        self.kills += 1
        self.sound += not problems
        self.problems.update(problems)


class CrashTest:
    """The trials.

    Args:
        folder: temporary; emptied trial by trial.
        seed: of what is killed where.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.preparations: list[Preparation] = []
        self.patience = 20.0  # torch's loader workers look for their parent every five seconds

    def training(self, workers: int, out: Path, resume: bool = False) -> list[str]:
        return TRAINING.format(resume="--resume" * resume, workers=workers, out=out).split()

    def make_sources(self) -> None:
        """The data set of the trainings, and the sources of the preparations."""
        out = self.folder / "datasets" / "synthetic_cxr"
        out.parent.mkdir()
        os.environ["DETECTRON2_DATASETS"] = str(out.parent)
        assert self.start(SYNTHETIC, 1, out, "log.txt").wait() == 0
        self.preparations = make_preparations(self.folder, out)

    def start(self, preparation: Preparation, seed: int, out: Path, log: str) -> Forked:
        return Forked(preparation.main, preparation.argv(seed, out), log=self.folder / log)

    def kill(self, main: Callable, argv: list[str], out: Path, calls: dict[Place, int], seconds: float
             ) -> tuple[str, Forked]:  # fmt: skip
        """Start a run and kill it somewhere; returns where, and the run.

        Args:
            calls, seconds: of an undisturbed run, see :meth:`count`.
        """
        log = self.folder / "killed.txt"
        while True:
            place = self.random.choice((None, *(place for place, count in calls.items() if count)))
            if place is None:
                run = Forked(main, argv, log=log)
                if run.wait(self.random.uniform(0, seconds)) is None:
                    run.kill()
                    return "any moment", run
            else:
                where = self.random.choice(("before", "after", *["within"] * place.cuts))
                run = Forked(main, argv, log=log, faults=[(place, self.random.randint(1, calls[place]), where)])
                if run.wait() == -signal.SIGKILL:
                    return place.name, run
            shutil.rmtree(out)  # it came to its end: another place

    def count(self, main: Callable, argv: list[str], places: Sequence[Place]) -> tuple[dict[Place, int], float]:
        """How often an undisturbed run comes to each place, and its seconds."""
        files = {place: self.folder / f"count {place.name}" for place in places}
        for file in files.values():
            file.write_bytes(b"")
        start, log = time.monotonic(), self.folder / "whole.txt"
        run = Forked(main, argv, log=log, faults=[(place, 0, "", file) for place, file in files.items()])
        if run.wait() != 0:
            sys.exit(f"an undisturbed run failed:\n{log.read_text()[-3000:]}")
        return {place: file.stat().st_size for place, file in files.items()}, time.monotonic() - start

    def kill_trainings(self, kills: int) -> None:
        for workers in (0, 2):
            whole = self.folder / f"whole_{workers}"
            counted = self.count(_train, self.training(workers, whole), TRAINING_PLACES)
            expected = training_state(whole)
            for _ in tqdm(range(kills // 2 + (kills % 2 if workers else 0)), f"trainings, {workers} workers"):
                out = self.folder / "killed"
                where, run = self.kill(_train, self.training(workers, out), out, *counted)
                again = Forked(_train, self.training(workers, out, resume=True), log=self.folder / "again.txt")
                problems = [] if again.wait() == 0 else ["the resumed run failed"]
                problems += differences(expected, training_state(out))
                problems += ["a process was left"] * bool(run.processes_left(self.patience))
                self.note(f"training, {workers} workers", where, problems)
                shutil.rmtree(out)

    def kill_preparations(self, kills: int) -> None:
        known: dict[str, tuple] = {}
        for number in tqdm(range(kills), "preparations"):
            made = self.preparations[number % len(self.preparations)]
            whole = self.folder / f"whole {made.name}" / "prepared"
            if made.name not in known:
                counted = self.count(made.main, made.argv(2, whole), PREPARATION_PLACES)
                known[made.name] = counted, folder_state(whole)
            counted, expected = known[made.name]
            parent = self.folder / "killed"
            parent.mkdir()
            out = parent / whole.name
            where, run = self.kill(made.main, made.argv(1, out), out, *counted)
            again = self.start(made, 2, out, "again.txt")
            problems = [] if again.wait() == 0 else ["the next run failed"]
            problems += differences(expected, folder_state(out))
            problems += ["a file was left"] * (os.listdir(parent) != [out.name])
            problems += ["a process was left"] * bool(run.processes_left(1.0) + again.processes_left(1.0))
            self.note(f"preparation, {made.name}", where, problems)
            shutil.rmtree(parent)

    def run_pairs(self, pairs: int) -> None:
        expected = {}
        for seed in (1, 2):
            out = self.folder / str(seed) / "pair"
            assert self.start(SYNTHETIC, seed, out, "log.txt").wait() == 0
            expected[seed] = folder_state(out)
        done = 0
        bar = tqdm(total=pairs, desc="pairs")
        while done < pairs:
            out = self.folder / "pairs" / "pair"
            logs = [self.folder / f"pair_{seed}.txt" for seed in (1, 2)]
            for log in logs:
                log.unlink(missing_ok=True)
            runs = [self.start(SYNTHETIC, seed, out, log.name) for seed, log in zip((1, 2), logs, strict=True)]
            codes = [run.wait() for run in runs]
            if codes != [0, 0]:  # else one began when the other was done
                first = codes.index(0) if 0 in codes else 0
                refusal = logs[1 - first].read_text()
                problems = [] if sorted(codes) == [0, 1] else [f"exit codes {codes}"]
                problems += ["the other is not named"] * (f"in use by process {runs[first].pid} " not in refusal)
                problems += differences(expected[first + 1], folder_state(out))
                self.note("two preparations at once", "start", problems)
                done += 1
                bar.update()
            shutil.rmtree(out.parent, ignore_errors=True)

    def note(self, what: str, where: str, problems: Sequence[str]) -> None:
        self.tallies.setdefault((what, where), Tally()).add(problems)
        if problems:
            tqdm.write(f"{what}, {where}: {'; '.join(problems)}")

    def table(self) -> str:
        rows = [
            (*key, t.kills, t.sound, "; ".join(f"{p} ({n})" for p, n in t.problems.items()) or "none")
            for key, t in sorted(self.tallies.items())
        ]
        total = sum(t.kills for t in self.tallies.values()), sum(t.sound for t in self.tallies.values())
        return markdown_table(("what", "killed at", "trials", "right", "problems"), [*rows, ("all", "", *total, "")])


def _train(argv: list[str]) -> None:
    """``mdf train`` on one core, with lines of the log every few iterations."""
    torch.set_num_threads(1)
    build = MultimodalTrainer.build_hooks

    def build_hooks(self: MultimodalTrainer) -> list:
        built = build(self)
        for hook in built:
            if isinstance(hook, hooks.PeriodicWriter):
                hook._period = LOG_PERIOD
        return built

    MultimodalTrainer.build_hooks = build_hooks
    train.main(argv)


def training_state(folder: Path) -> dict[str, str]:
    """What two trainings must have in common: a digest by name."""
    state = {}
    for name in ("model_final", "model_best"):
        path = folder / f"{name}.pth"
        if path.is_file():
            data = Checkpoint.open(path).data
            state["weights" if name == "model_final" else name] = digest({"model": data["model"]})
            state[f"optimizer of {name}"] = training_digest(data)
    for name in ("results.json", "validation_history.json"):
        if (folder / name).is_file():
            state[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    if (folder / "metrics.json").is_file():
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
        state["metrics.json"] = json.dumps([line for line in kept if len(line) > 1])
    for leftover in folder.rglob("*.partial"):
        state[f"leftover {leftover.suffix}"] = "there"
    return state


def folder_state(folder: Path) -> dict[str, str]:
    """Digest of every file of a prepared folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Names of what is not the same, the first few."""
    names = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    return [f"{name} differs" for name in names[:3]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of trainings, and of preparations (default 50)")
    parser.add_argument("--pairs", type=int, default=8, help="preparations that start together (default 8)")
    parser.add_argument("--seed", type=int, default=1, help="of the places where runs are killed")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash_test_") as folder:
        test = CrashTest(Path(folder), args.seed)
        test.make_sources()
        test.kill_preparations(args.kills)
        test.run_pairs(args.pairs)
        test.kill_trainings(args.kills)
    print(f"\n{test.table()}\n{time.monotonic() - start:.0f} s")
    if args.out:
        rows = [{"what": k[0], "at": k[1], "trials": t.kills, "right": t.sound, "problems": dict(t.problems)}
                for k, t in sorted(test.tallies.items())]  # fmt: skip
        write_json(args.out, rows)
    sys.exit(any(t.problems for t in test.tallies.values()))


if __name__ == "__main__":
    main()
