"""Run the processes of a training on one or more machines: gloo on CPUs, NCCL on GPUs, one line for every failure.

Detectron2's ``launch`` chooses NCCL wherever there is a GPU, waits half an hour for a missing peer, and prints a
traceback per process; here the processes connect within a time limit, and the first that fails says why.
"""

import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdf_detectron.child_processes import CLEANUP_SECONDS
from mdf_detectron.errors import ConfigError, LostPeerError, UserError, exchange_cause, is_lost_peer

EXCHANGE_LIMIT = timedelta(minutes=30)
"""Timeout of one exchange; it must cover the time in which the main process scores predictions."""
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LONGEST_WAIT = 30 * 24 * 3600
_RESUME = "continue from the last checkpoint with --resume"
_HOW_TO_START = (
    "start every machine with the same --dist-url and --num-machines and its own --machine-rank",
    "start torchrun on every machine with the same --nnodes and rendezvous",
)


@dataclass(frozen=True)
class ProcessPlan:
    """Processes of a training, and where they connect.

    Attributes:
        local, world: number of processes on this machine, on all machines.
        first_rank: rank of this machine's first process.
        device: "cpu" or "cuda".
        host, port: where rank 0 listens.
        limit: seconds within which all processes must connect.
        started: local rank of this process if ``torchrun`` started it, else None.
    """

    local: int
    world: int
    first_rank: int
    device: str
    host: str = "127.0.0.1"
    port: int = 0
    limit: float = 300.0
    started: int | None = None

    @property
    def backend(self) -> str:
        """Backend of torch.distributed."""
        return "nccl" if self.device == "cuda" else "gloo"


def plan_processes(
    cfg: CfgNode,
    *,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    limit: float = 300.0,
    training: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> ProcessPlan:
    """Plan and check the processes that a command line asks for, before any is started.

    Args:
        num_gpus: processes per machine: one per GPU, or this many on the CPU if the model is there.
        num_machines, machine_rank: as in Detectron2.
        dist_url: "tcp://ADDRESS:PORT" of machine 0, or "auto" for a free port of a single machine.
        limit: seconds within which all processes must connect.
        training: check that a batch can be divided among the processes.
        environment: ``torchrun`` describes in it what it has started.

    Raises:
        ConfigError: numbers that do not fit each other, the machine or the batch, or a port in use.
    """
    if not 0 < limit <= _LONGEST_WAIT:  # true for NaN, too
        raise ConfigError(f"--peer-timeout {limit:g}: give seconds, more than 0 and at most {_LONGEST_WAIT} (30 days)")
    device = "cpu" if cfg.MODEL.DEVICE == "cpu" else "cuda"
    if all(key in environment for key in _TORCHRUN):
        if num_gpus > 1 or num_machines > 1:
            raise ConfigError("torchrun has started the processes already: leave out --num-gpus and --num-machines")
        rank, world, started, local, port = (int(environment[key]) for key in (*_TORCHRUN[:4], "MASTER_PORT"))
        host = environment["MASTER_ADDR"]
        plan = ProcessPlan(local, world, rank - started, device, host, port, limit, started)
    else:
        local = max(num_gpus, 1)
        if num_gpus < 0 or num_machines < 1 or not 0 <= machine_rank < num_machines:
            raise ConfigError(
                f"--num-gpus {num_gpus} --num-machines {num_machines} --machine-rank {machine_rank}: the numbers of "
                "processes and machines are at least 1, and the rank counts the machines from 0"
            )
        world = local * num_machines
        host, port = _meeting_place(dist_url, num_machines, machine_rank) if world > 1 else ("127.0.0.1", 0)
        plan = ProcessPlan(local, world, machine_rank * local, device, host, port, limit)
    if plan.world > 1 and ":" in cfg.MODEL.DEVICE:
        raise ConfigError(
            f"MODEL.DEVICE {cfg.MODEL.DEVICE} names one GPU for {plan.world} processes; set MODEL.DEVICE cuda: each "
            "then takes its own"
        )
    if device == "cuda" and plan.local > torch.cuda.device_count():
        raise ConfigError(
            f"{plan.local} GPUs are asked for, this machine has {torch.cuda.device_count()}; lower --num-gpus, or set "
            "MODEL.DEVICE cpu"
        )
    if training:
        _check_batch(cfg, plan.world)
    return plan


def _check_batch(cfg: CfgNode, world: int) -> None:
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference and cfg.SOLVER.IMS_PER_BATCH % reference:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} does not divide by SOLVER.REFERENCE_WORLD_SIZE "
            f"{reference}"
        )
    images = DefaultTrainer.auto_scale_workers(cfg, world).SOLVER.IMS_PER_BATCH
    if images < world:
        raise ConfigError(
            f"{world} processes, but SOLVER.IMS_PER_BATCH is {images}: a process needs an image; raise it to a "
            f"multiple of {world}, or start fewer processes"
        )
    if images // world < cfg.SOLVER.ACCUMULATE:
        raise ConfigError(
            f"SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} parts of the {images // world} image(s) of a process: "
            "a part needs an image; lower it or raise SOLVER.IMS_PER_BATCH"
        )
    if images % world:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {images} does not divide by {world} processes; use {images - images % world} or "
            f"{images + world - images % world}"
        )


def _meeting_place(dist_url: str, num_machines: int, machine_rank: int) -> tuple[str, int]:
    if dist_url == "auto":
        if num_machines > 1:
            raise ConfigError(f"--num-machines {num_machines} needs --dist-url tcp://ADDRESS:PORT of machine 0")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return "127.0.0.1", probe.getsockname()[1]
    try:
        parts = urlsplit(dist_url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme != "tcp" or not host or not port:
        raise ConfigError(f"--dist-url '{dist_url}' is not tcp://ADDRESS:PORT, nor auto")
    if machine_rank == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                raise ConfigError(
                    f"--dist-url {dist_url}: port {port} cannot be opened on this machine ({error.strerror}); choose "
                    "another, or end the training that holds it"
                ) from None
    return host, port


def launch(work: Callable[..., None], plan: ProcessPlan, args: tuple = ()) -> None:
    """Run ``work``, a function that new processes can import by name, in every process of this machine, and wait.

    Raises:
        UserError: the first process's error, or which process was killed by which signal.
    """
    if plan.world == 1:
        work(*args)
    elif plan.local == 1 or plan.started is not None:
        _take_part(plan.started or 0, plan, work, args)
    else:
        _spawn(plan, work, args)


def _spawn(plan: ProcessPlan, work: Callable[..., None], args: tuple) -> None:
    told = mp.get_context("spawn").SimpleQueue()
    context = mp.start_processes(_child, (plan, work, args, told), plan.local, join=False, start_method="spawn")
    try:
        while not context.join():
            pass
    except KeyboardInterrupt:
        _end(context.processes)
        raise
    except mp.ProcessExitedException as end:
        messages = []
        while not told.empty():
            messages.append(told.get())
        own = next((text for text, lost in messages if not lost), None)
        if own is not None:
            raise UserError(own) from None
        if end.signal_name:
            raise LostPeerError(
                f"process {plan.first_rank + end.error_index} of {plan.world} was ended by {end.signal_name} and the "
                f"others with it; {_RESUME}"
            ) from None
        raise LostPeerError(messages[0][0] if messages else str(end)) from None


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(CLEANUP_SECONDS)
        process.kill()


def _child(index: int, plan: ProcessPlan, work: Callable[..., None], args: tuple, told: Any) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to unwind; torch prints nothing on KeyboardInterrupt
    try:
        _take_part(index, plan, work, args)
    except UserError as error:
        told.put((str(error), isinstance(error, LostPeerError)))
        raise SystemExit(1) from None


def _take_part(index: int, plan: ProcessPlan, work: Callable[..., None], args: tuple) -> None:
    """Connect this process to the others, work, disconnect."""
    rank = plan.first_rank + index
    if plan.device == "cuda":
        torch.cuda.set_device(index)
    _meet(rank, plan)
    try:
        work(*args)
    except RuntimeError as error:
        if isinstance(error, UserError) or not is_lost_peer(error):
            raise
        raise LostPeerError(
            f"process {rank} of {plan.world} has lost another one, which has ended or cannot be reached "
            f"({exchange_cause(error)}); {_RESUME}"
        ) from None
    dist.destroy_process_group()


def _meet(rank: int, plan: ProcessPlan) -> None:
    try:
        store = dist.PrefixStore("mdf_detectron", _open_store(rank, plan))
        store.set(str(rank), "is here")
        store.wait([str(other) for other in range(plan.world)], timedelta(seconds=plan.limit))
        dist.init_process_group(plan.backend, store=store, rank=rank, world_size=plan.world, timeout=EXCHANGE_LIMIT)
        comm.create_local_process_group(plan.local)
        comm.synchronize()
    except RuntimeError as error:  # torch's DistError is a subclass
        if not is_lost_peer(error):
            raise UserError(
                f"process {rank} of {plan.world} cannot exchange with the others by {plan.backend} "
                f"({exchange_cause(error)}); NCCL_DEBUG=INFO and TORCH_DISTRIBUTED_DEBUG=DETAIL say more"
            ) from None
        raise LostPeerError(
            f"process {rank} of {plan.world}: not all have met at {plan.host}:{plan.port} within {plan.limit:g} s "
            f"({exchange_cause(error)}); {_HOW_TO_START[plan.started is not None]}, and see that it can "
            "reach machine 0"
        ) from None


def _open_store(rank: int, plan: ProcessPlan) -> dist.Store:
    """Open the key-value store through which the processes connect; torchrun may have opened it already."""
    limit = timedelta(seconds=plan.limit)
    if plan.started is not None:
        return next(dist.rendezvous("env://", timeout=limit))[0]
    if plan.host in ("127.0.0.1", "localhost") and os.path.isdir("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # otherwise the host name would have to resolve
    return dist.TCPStore(plan.host, plan.port, plan.world, rank == 0, timeout=limit)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside :func:`data_parallel`'s wrapper."""
    return getattr(model, "module", model)


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap a model for data-parallel training; return it unchanged in a single process.

    Detectron2's ``create_ddp_model`` always names a GPU, which torch refuses for a model on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    devices = None if next(model.parameters()).device.type == "cpu" else [comm.get_local_rank()]
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def average(tensors: list[Tensor]) -> None:
    """Replace float tensors in place by their mean over all processes, in one exchange."""
    with torch.no_grad():
        flat = torch.cat([x.flatten() for x in tensors])
        if not len(flat):
            return
        dist.all_reduce(flat)
        flat /= comm.get_world_size()
        for x, mean in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view_as(x))


@torch.no_grad()
def copy_from_main(model: nn.Module) -> None:
    """Copy the main process's parameters and buffers to all processes."""
    for x in model.state_dict().values():
        sent = x.contiguous()
        dist.broadcast(sent, 0)
        x.copy_(sent)
