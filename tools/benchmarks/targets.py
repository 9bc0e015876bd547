"""The project's targets as ratios of steps taken in turn on this machine, some against an earlier commit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.loading import rates_of_loading
from benchmarks.processes import busy_processes, parallel_rates
from benchmarks.timing import Ratio
from benchmarks.variants import VARIANTS
from benchmarks.worker import TOOLS, Step, Worker

REPOSITORY = TOOLS.parent
BASELINE = "9f153eb"
"""The last commit before speed was worked on."""

MASK_RCNN, DEMO = "mimic_eye/mask_rcnn.yaml", "synthetic_cxr/mask_rcnn.yaml"
_ADAMW = ("SOLVER.OPTIMIZER", "AdamW")


@dataclass(frozen=True)
class Target:
    """One row of the table.

    Attributes:
        name: what ``--rows`` takes.
        measure, against: what is compared, in words.
        limit: of the ratio.
        run: rounds → ratios, (rounds,).
        at_least: the ratio is to be reached from below (a speed), not from above (a time).
        slow: takes minutes; measured only where it is asked for by name.
    """

    name: str
    measure: str
    against: str
    limit: float
    run: Callable[[int], np.ndarray]
    at_least: bool = False
    slow: bool = False

    def reached(self, ratio: float) -> bool:
        """Whether a ratio meets the limit."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Check a commit out into a folder of its own, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / commit
        git = ["git", "-C", str(REPOSITORY)]
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(root), commit], check=True)
        try:
            yield root
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(root)], check=True)


def in_turn(one: Worker, other: Worker, rounds: int, warmup: int = 2) -> np.ndarray:
    """Ratios of the seconds of two workers' steps, (rounds,), taken in turn."""
    ratios = []
    for turn in range(-warmup, rounds):
        seconds = one.step() / other.step()
        if turn >= 0:
            ratios.append(seconds)
    return np.array(ratios)


def _compare(new: Step, old: Step) -> Callable[[int], np.ndarray]:
    def run(rounds: int) -> np.ndarray:
        with Worker(new) as one, Worker(old) as other:
            return in_turn(one, other, rounds)

    return run


def _with_bfloat16(run: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
    """Measure where the processor computes in bfloat16; one that only emulates it needs minutes a step."""

    def checked(rounds: int) -> np.ndarray:
        known = torch.cpu.get_capabilities()
        if not any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
            raise RuntimeError("this processor has no bfloat16")
        return run(rounds)

    return checked


def _before(config: str, size: int) -> Callable[[int], np.ndarray]:
    step = Step(config, ("INPUT.IMAGE_SIZE", size, *_ADAMW))

    def run(rounds: int) -> np.ndarray:
        with checkout(BASELINE) as root, Worker(step) as new, Worker(step, root) as old:
            return in_turn(new, old, rounds)

    return run


def _busy(rounds: int) -> np.ndarray:
    step = (DEMO, ("INPUT.IMAGE_SIZE", 128))
    with Worker(Step(*step)) as brief, Worker(Step(*step, spins=True)) as spinning, busy_processes(4):
        return in_turn(brief, spinning, rounds)


def _parallel(rounds: int) -> np.ndarray:
    one, two = parallel_rates(rounds)
    return two / one


def _command(*words: str, before_may_return: tuple[int, ...] = (0,)) -> Callable[[int], np.ndarray]:
    """A program's time beside the earlier commit's, one behind the other; once, for it takes minutes.

    Args:
        before_may_return: exit codes of the earlier commit's program that still give a time; what it said last is
            printed.
    """

    def seconds(root: Path) -> float:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, *(word.format(folder=folder) for word in words)]
            start = time.perf_counter()
            environment = {**os.environ, "PYTHONPATH": str(root)}
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
            took = time.perf_counter() - start
        if done.returncode not in ((0,) if root == REPOSITORY else before_may_return):
            raise RuntimeError(f"{' '.join(words)} failed: {(done.stdout + done.stderr)[-1000:]}")
        last = done.stdout.strip().splitlines()[-4:]
        print(f"{root.name}: {' '.join(words)}: {took:.0f} s", *last, sep="\n  ", flush=True)
        return took

    def run(rounds: int) -> np.ndarray:
        with checkout(BASELINE) as before:
            return np.array([seconds(REPOSITORY) / seconds(before)])

    return run


def _variant(name: str, **arguments: object) -> Step:
    """The step of a model of :data:`~benchmarks.variants.VARIANTS`."""
    variant = VARIANTS[name]
    return Step(variant.config, variant.opts, plain=variant.plain, **arguments)


ONE_IMAGE = {"measure": "inference", "batch": 1}

TARGETS = (
    Target("step512", "image-only training step, 512 px, batch 4", f"commit {BASELINE}", 0.70, _before(MASK_RCNN, 512)),
    Target("step128", "image-only training step, 128 px (demo)", f"commit {BASELINE}", 0.70, _before(DEMO, 128)),
    Target("deconv", "deconv MDF-Net training step", "plain torch modules, memory kept", 0.55,
           _compare(_variant("deconv"), _variant("plain"))),
    Target("deconv_compiled", "the same, compiled and bfloat16", "plain torch modules, memory kept", 0.45,
           _with_bfloat16(_compare(_variant("deconv_compiled_bfloat16"), _variant("plain")))),
    Target("compact", "compact MDF-Net, training step", "image-only", 1.10,
           _compare(_variant("compact"), _variant("image_only"))),
    Target("compact_inference", "compact MDF-Net, inference of one image", "image-only", 1.10,
           _compare(_variant("compact", **ONE_IMAGE), _variant("image_only", **ONE_IMAGE))),
    Target("deconv_inference", "deconv MDF-Net, inference of one image", "image-only", 1.60,
           _compare(_variant("deconv", **ONE_IMAGE), _variant("image_only", **ONE_IMAGE))),
    Target("processes", "2 processes of 1 thread, group norm, images a second", "1 process of 1 thread", 1.70,
           _parallel, at_least=True),
    Target("cache_jpeg", "loader with decoded images, images a second", "decoding full-resolution JPEG", 20.0,
           lambda rounds: rates_of_loading("jpeg", rounds), at_least=True),
    Target("cache_dicom", "loader with decoded images, images a second", "decoding full-resolution DICOM", 20.0,
           lambda rounds: rates_of_loading("dicom", rounds), at_least=True),
    Target("busy", "training step beside 4 busy processes, waiting briefly", "OpenMP's default", 0.50, _busy),
    Target("demo", "make demo without install", f"commit {BASELINE}", 0.60,
           _command("tools/demo.py", "--out", "{folder}/demo"), slow=True),
    Target("test", "make test without install and lint", f"commit {BASELINE}", 1.00,
           _command("-m", "pytest", before_may_return=(0, 1)), slow=True),  # 1: failing tests
)  # fmt: skip


def measure(names: list[str], rounds: int) -> list[dict]:
    """Measure rows; a failing one is named, and the others go on.

    Args:
        names: of the rows; empty for all that do not take minutes.
    """
    chosen = [t for t in TARGETS if t.name in names or (not names and not t.slow)]
    rows = []
    for target in tqdm(chosen, desc="targets"):
        row = {"name": target.name, "measure": target.measure, "against": target.against, "limit": target.limit,
               "at_least": target.at_least}  # fmt: skip
        try:
            ratios = target.run(rounds)
        except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
            rows.append({**row, "error": str(error)})
            continue
        low, median, high = np.percentile(ratios, [25, 50, 75])
        rows.append({**row, "ratios": ratios.tolist(), "median": median, "low": low, "high": high,
                     "reached": bool(target.reached(median))})  # fmt: skip
    return rows


def table_rows(rows: list[dict]) -> list[tuple[str, ...]]:
    """The cells of the table: measure, against, target, ratio with quartiles, reached or missed."""
    cells = []
    for row in rows:
        target = f"{'≥' if row['at_least'] else '≤'} {row['limit']:g}"
        if "error" in row:
            cells.append((row["measure"], row["against"], target, "", f"not measured: {row['error']}"))
            continue
        ratio = Ratio(row["median"], row["low"], row["high"])
        text = f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
        cells.append((row["measure"], row["against"], target, text, "reached" if row["reached"] else "missed"))
    return cells
