"""Times measured side by side, and the ratios that they should not exceed.

On a noisy machine only ratios within one run mean something.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of the round-by-round ratios of two steps."""

    median: float
    low: float
    high: float


def time_side_by_side(steps: dict[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, np.ndarray]:
    """Run every step once a round, in turn.

    Args:
        steps: what is timed, under its name.
        rounds: how often.
        warmup: rounds before, which are not counted.

    Returns:
        Seconds, (rounds,) float64 under each name.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in tqdm(range(-warmup, rounds), desc="rounds", leave=False):
        for name, step in steps.items():
            seconds = _time(step)
            if turn >= 0:
                times[name].append(seconds)
    return {name: np.array(values) for name, values in times.items()}


def _time(step: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    step()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(times: dict[str, np.ndarray], name: str, reference: str) -> Ratio:
    """How ``name`` compares with ``reference``, round by round."""
    low, median, high = np.percentile(times[name] / times[reference], [25, 50, 75])
    return Ratio(float(median), float(low), float(high))


def product_rate(device: str, side: int = 256, channels: int = 64, rounds: int = 5) -> float:
    """Floating-point operations a second of float32 products: a bound for everything that is made of them.

    The faster of a large matrix product and a 3×3 convolution: they are computed by different libraries.
    """
    a, b = torch.randn(2, 2048, 2048, device=device)
    x = torch.randn(4, channels, side, side, device=device).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device)
    steps = {"matrices": lambda: a @ b, "convolution": lambda: F.conv2d(x, kernel, padding=1)}
    operations = {"matrices": 2 * 2048**3, "convolution": 2 * x.numel() * channels * 9}
    times = time_side_by_side(steps, rounds)
    return max(operations[name] / float(times[name].min()) for name in steps)


TRAINING, INFERENCE, MEMORY = "training step", "inference", "peak memory of a training step"


@dataclass(frozen=True)
class Target:
    """A ratio that should not be exceeded."""

    name: str
    reference: str
    measure: str
    limit: float


TARGETS = (
    Target("deconv", "plain", TRAINING, 0.55),
    Target("deconv_compiled", "plain", TRAINING, 0.55),
    Target("deconv_bfloat16", "plain", TRAINING, 0.45),
    Target("deconv_compiled_bfloat16", "plain", TRAINING, 0.45),
    Target("deconv", "plain", INFERENCE, 0.40),
    Target("compact", "image_only", TRAINING, 1.10),
    Target("compact", "image_only", INFERENCE, 1.10),
    Target("deconv", "plain", MEMORY, 1.0),
    Target("deconv_checkpoint", "plain", MEMORY, 0.5),
)


def table(ratios: dict[tuple[str, str, str], Ratio]) -> str:
    """Markdown: every target that was measured, its ratio with quartiles, and whether it was reached."""
    lines = ["| variant | against | measure | target | ratio (quartiles) | |", "|---|---|---|---|---|---|"]
    for t in TARGETS:
        r = ratios.get((t.name, t.reference, t.measure))
        if r is not None:
            reached = "reached" if r.median <= t.limit else "missed"
            spread = f"{r.median:.2f} ({r.low:.2f}–{r.high:.2f})"
            lines.append(f"| {t.name} | {t.reference} | {t.measure} | ≤ {t.limit:.2f} | {spread} | {reached} |")
    return "\n".join(lines)
