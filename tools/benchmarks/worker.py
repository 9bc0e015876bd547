"""A process that takes a step when it is told to; another commit's code runs in one of its own, in the same round.

Started as a program it imports nothing of this folder but ``variants`` (for the plain spatializer), so that the code
of an earlier commit, put first on the path, is what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Step:
    """What a worker measures.

    Attributes:
        config: name below configs/.
        opts: KEY VALUE overrides.
        measure: "training" (forward, backward, optimizer) or "inference" (one image).
        batch: images.
        threads: of torch.
        plain: the paper's branch as torch's own modules compute it.
        spins: OpenMP's threads wait as they do by default.
        rank, world, port: of a training of several processes over gloo, which share ``batch``.
    """

    config: str
    opts: tuple = ()
    measure: str = "training"
    batch: int = 4
    threads: int = 2
    plain: bool = False
    spins: bool = False
    rank: int = 0
    world: int = 1
    port: int = 0


class Worker:
    """A running process; use it in a ``with`` block.

    Args:
        step: what it measures.
        root: a checkout whose code is used; None for this one's.
    """

    def __init__(self, step: Step, root: Path | None = None):
        path = str(root or TOOLS.parent)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        command = [sys.executable, str(Path(__file__)), json.dumps(asdict(step)), path]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**env, "PYTHONPATH": path}
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        """Tell it to take a step; :meth:`seconds` waits for the end."""
        self._process.stdin.write("step\n")
        self._process.stdin.flush()

    def seconds(self) -> float:
        """Seconds of the step that :meth:`start` began.

        Raises:
            RuntimeError: the process has ended.
        """
        line = self._process.stdout.readline()
        while line and not line.startswith("seconds "):
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process of the benchmark has ended; its error is above")
        return float(line.split()[1])

    def step(self) -> float:
        """Take a step; returns its seconds."""
        self.start()
        return self.seconds()


def step_of(spec: Step, root: Path) -> Callable[[], object]:
    """Build the model in this process; returns what is timed."""
    import torch
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from mdf_detectron.config_file import load_config
    from mdf_detectron.data.random_inputs import random_batch
    from mdf_detectron.engine.optimizer import build_optimizer
    from mdf_detectron.modeling.deconv_fast.cpu_memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(spec.threads)
    cfg = load_config(root / "configs" / spec.config, ["MODEL.DEVICE", "cpu", *spec.opts])
    torch.manual_seed(0)
    model = build_model(cfg)
    if spec.plain:
        from variants import PlainSpatializer

        branch = model.backbone.clinical_branch
        branch.spatializer = PlainSpatializer(branch.spatializer)
    encoder = model.backbone.clinical_encoder
    if encoder is not None:
        encoder.fit(torch.randn(32, encoder.num_numeric), torch.zeros(32, len(encoder.embeddings), dtype=torch.long))
    batch = random_batch(cfg, spec.batch)[spec.rank :: spec.world]
    if spec.measure == "inference":
        model.eval()
        images = [{k: v for k, v in x.items() if k != "instances"} for x in batch]

        def infer() -> None:
            with torch.inference_mode():
                model(images)

        return infer
    optimizer = build_optimizer(cfg, model)
    model.train()
    if spec.world > 1:
        model = _with_peers(spec, model)

    def train() -> None:
        with EventStorage(0):
            loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return train


def _with_peers(spec: Step, model):
    import torch.distributed as dist

    from mdf_detectron.engine.data_parallel import data_parallel

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{spec.port}", rank=spec.rank, world_size=spec.world)
    return data_parallel(model)


def main() -> None:
    warnings.simplefilter("ignore")  # torch's and detectron2's, one for each process
    given = json.loads(sys.argv[1])
    spec = Step(**{**given, "opts": tuple(given["opts"])})
    if spec.spins:
        import torch  # noqa: F401  (OpenMP is loaded before mdf_detectron can ask it to wait briefly)
    else:
        import mdf_detectron  # noqa: F401
    step = step_of(spec, Path(sys.argv[2]))
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(f"seconds {time.perf_counter() - start}", flush=True)


if __name__ == "__main__":
    main()
