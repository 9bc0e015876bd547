"""Peak memory of one training step, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.variants import training_step
from mdf_detectron.modeling.deconv_fast.cpu_memory import keep_freed_memory

TOOLS = Path(__file__).resolve().parents[1]
_SCRIPT = """
import sys
from benchmarks.memory import measure_here
print(measure_here(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
"""


def peak_memory(name: str, device: str, image_size: int, batch_size: int, num_threads: int, keep: bool) -> int:
    """Bytes that the first two training steps of a variant need beyond what the process held before them.

    Args:
        keep: keep freed memory, as training on a CPU does.
    """
    arguments = [name, device, *map(str, (image_size, batch_size, num_threads, int(keep)))]
    result = subprocess.run([sys.executable, "-c", _SCRIPT, *arguments], capture_output=True, text=True, cwd=TOOLS)
    if result.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{result.stderr}")
    return int(json.loads(result.stdout.splitlines()[-1]))


def measure_here(name: str, device: str, image_size: int, batch_size: int, num_threads: int, keep: int) -> int:
    """:func:`peak_memory` of this process; a small step first loads what torch loads lazily."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(num_threads)
    training_step(name, device, 64, 1)()
    step = training_step(name, device, image_size, batch_size)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = _status("VmRSS")
    step()
    step()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """Bytes of an entry of this process's own status; the peak that getrusage gives is inherited from the parent."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{key}:"))
