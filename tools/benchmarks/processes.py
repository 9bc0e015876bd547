"""Trainings in several processes, and processes that compete for the cores."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from benchmarks.worker import Step, Worker

GROUP_NORM = ("mimic_eye/mask_rcnn.yaml", ("MODEL.TIMM.NAME", "resnet50_gn", "INPUT.IMAGE_SIZE", 256))
"""A trunk whose norms know no batch, so that the mathematics of one process and of two is the same."""
BATCH = 4


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Let so many processes compute without pause while the block lasts."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def parallel_rates(rounds: int, count: int = 2, warmup: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Images a second of one process of one thread, and of ``count`` that share the same batch, (rounds,) each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone, together = [], []
    with ExitStack() as stack:
        one = stack.enter_context(Worker(Step(*GROUP_NORM, batch=BATCH, threads=1)))
        peers = [stack.enter_context(Worker(Step(*GROUP_NORM, batch=BATCH, threads=1, rank=k, world=count, port=port)))
                 for k in range(count)]  # fmt: skip
        for turn in range(-warmup, rounds):
            single = one.step()
            for peer in peers:
                peer.start()
            shared = max([peer.seconds() for peer in peers])
            if turn >= 0:
                alone.append(BATCH / single)
                together.append(BATCH / shared)
    return np.array(alone), np.array(together)
