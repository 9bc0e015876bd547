"""Launch options are checked before any process starts; waiting for a peer that never comes ends."""

import os
import socket

import pytest
import torch
import torch.distributed as dist

from mdf_detectron.engine.processes import ProcessPlan, launch, plan_processes
from mdf_detectron.errors import ConfigError, LostPeerError, UserError, is_lost_peer
from mdf_detectron.threads import free_cores, use_free_cores


@pytest.fixture
def plan(small_config):
    def make(*opts, environment=None, **arguments):
        return plan_processes(
            small_config("synthetic_cxr/mask_rcnn.yaml", *opts), environment=environment or {}, **arguments
        )

    return make


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_one_process_needs_no_meeting_place(plan):
    assert plan().world == 1
    assert plan(num_gpus=0).world == 1


def test_processes_of_several_machines_are_counted_through(plan):
    found = plan(num_gpus=2, num_machines=2, machine_rank=1, dist_url="tcp://node0:29500")
    assert (found.local, found.world, found.first_rank, found.host, found.port) == (2, 4, 2, "node0", 29500)
    assert found.backend == "gloo"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_peer_of_torchrun_that_never_comes(rank, monkeypatch):
    port = free_port()
    store = dist.TCPStore("127.0.0.1", port, None, True, wait_for_workers=False)  # torchrun's own
    for key, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": 2,
                       "TORCHELASTIC_USE_AGENT_STORE": True}.items():  # fmt: skip
        monkeypatch.setenv(key, str(value))
    plan = ProcessPlan(2, 2, 0, "cpu", "127.0.0.1", port, limit=1.0, started=rank)
    with pytest.raises(
        LostPeerError, match=f"process {rank} of 2: not all have met at 127.0.0.1:{port} within 1 s .*; start torchrun"
    ):
        launch(pytest.fail, plan)
    del store


def test_torchrun_says_who_takes_part(plan):
    environment = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}  # fmt: skip
    found = plan(environment=environment)
    assert (found.local, found.world, found.first_rank, found.started) == (2, 4, 2, 1)
    assert (found.host, found.port) == ("node0", 29500)
    with pytest.raises(ConfigError, match="torchrun has started the processes already"):
        plan(environment=environment, num_gpus=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_gpus": 5},
            "5 processes, but SOLVER.IMS_PER_BATCH is 4: a process needs an image; raise it to a multiple",
        ),
        ({"num_gpus": 3}, "SOLVER.IMS_PER_BATCH 4 does not divide by 3 processes; use 3 or 6"),
        ({"num_gpus": -1}, "the numbers of processes and machines are at least 1"),
        ({"num_machines": 2, "machine_rank": 2}, "the rank counts the machines from 0"),
        ({"num_machines": 2}, "--num-machines 2 needs --dist-url tcp://ADDRESS:PORT of machine 0"),
        ({"limit": float("nan")}, "--peer-timeout nan: give seconds, more than 0 and at most 2592000"),
        ({"limit": float("inf")}, "--peer-timeout inf: give seconds"),
        ({"limit": 0.0}, "--peer-timeout 0: give seconds"),
        ({"num_gpus": 2, "dist_url": "file:///tmp/x"}, "is not tcp://ADDRESS:PORT, nor auto"),
        ({"num_gpus": 2, "dist_url": "tcp://node0:999999"}, "is not tcp://ADDRESS:PORT, nor auto"),
    ],
)
def test_bad_numbers_are_one_line(plan, arguments, message):
    with pytest.raises(ConfigError, match=message) as error:
        plan(**arguments)
    assert "\n" not in str(error.value)


def test_an_evaluation_shares_no_batch(plan):
    assert plan(num_gpus=5, training=False).world == 5


def test_the_reference_number_of_processes_scales_the_batch(plan):
    assert plan("SOLVER.REFERENCE_WORLD_SIZE", 1, num_gpus=8).world == 8
    with pytest.raises(ConfigError, match="does not divide by SOLVER.REFERENCE_WORLD_SIZE 3"):
        plan("SOLVER.REFERENCE_WORLD_SIZE", 3, num_gpus=2)


def test_a_gpu_that_is_not_there(plan, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 GPUs are asked for, this machine has 1; lower --num-gpus"):
        plan("MODEL.DEVICE", "cuda", num_gpus=2)
    assert plan("MODEL.DEVICE", "cuda", num_gpus=1).backend == "nccl"
    assert plan("MODEL.DEVICE", "cpu", num_gpus=2).backend == "gloo"


def test_one_gpu_is_not_for_several_processes(plan, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match="MODEL.DEVICE cuda:1 names one GPU for 2 processes; set MODEL.DEVICE cuda"):
        plan("MODEL.DEVICE", "cuda:1", num_gpus=2)
    assert plan("MODEL.DEVICE", "cuda:1").backend == "nccl"


def test_a_port_in_use(plan):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be opened on this machine"):
            plan(num_gpus=2, dist_url=f"tcp://127.0.0.1:{port}")
        plan(num_machines=2, machine_rank=1, dist_url=f"tcp://127.0.0.1:{port}")  # machine 0 listens there


NCCL = "NCCL error in: ../NCCLUtils.hpp:317, {}, NCCL version 2.27\n{}\nLast error:\n{}"
DUPLICATE = NCCL.format(
    "invalid usage (run with NCCL_DEBUG=WARN for details)",
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.",
    "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 50",
)
ENDED = NCCL.format(
    "remote process exited or there was a network error",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    "socketProgress: Connection closed by remote peer",
)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (dist.DistBackendError(DUPLICATE), False),
        (dist.DistBackendError(ENDED), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 1000ms for recv"), True),
        (RuntimeError("[gloo/transport/tcp/device.cc:84] Unable to find address for: eth7"), False),
        (dist.DistStoreError("wait timeout after 1000ms, keys: /1"), True),
        (dist.DistNetworkError("failed to recv, got 0 bytes"), True),
        (dist.DistNetworkError("The server socket has failed to listen: address already in use"), False),
        (dist.DistBackendError(f"{DUPLICATE}\nException raised from checkTimeout at x.cpp (timeout)"), False),
        (RuntimeError("DataLoader timed out after 10 seconds"), False),
        (LostPeerError("gone"), True),
    ],
)
def test_only_a_peer_that_has_ended_is_lost(error, lost):
    assert is_lost_peer(error) == lost


def fail(error):
    raise error


def test_the_cause_of_a_failed_exchange_stays_in_the_message(monkeypatch):
    plan = ProcessPlan(1, 2, 1, "cpu", port=7)
    monkeypatch.setattr("mdf_detectron.engine.processes._open_store", lambda *_: fail(dist.DistBackendError(DUPLICATE)))
    with pytest.raises(UserError, match="process 1 of 2 cannot exchange .*; Duplicate GPU detected : rank 0") as error:
        launch(pytest.fail, plan)
    assert not isinstance(error.value, LostPeerError) and "\n" not in str(error.value)
    monkeypatch.setattr("mdf_detectron.engine.processes._meet", lambda *_: None)
    with pytest.raises(LostPeerError, match=r"has lost another one.* \(NCCL error in.* by remote peer\); continue"):
        launch(fail, plan, (dist.DistBackendError(ENDED),))
    with pytest.raises(dist.DistBackendError, match="Duplicate GPU"):
        launch(fail, plan, (dist.DistBackendError(DUPLICATE),))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_peer_that_never_comes(rank):
    plan = ProcessPlan(1, 2, rank, "cpu", port=free_port(), limit=1.0)
    with pytest.raises(
        LostPeerError, match=f"process {rank} of 2: not all have met at 127.0.0.1:.* within 1 s"
    ) as error:
        launch(pytest.fail, plan)
    assert "\n" not in str(error.value)


def test_threads_leave_cores_to_the_loaders_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert [free_cores(), free_cores(2), free_cores(2, processes=2), free_cores(9)] == [8, 6, 2, 1]
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    for environment, expected in (({}, [7]), ({"OMP_NUM_THREADS": "3"}, [7])):  # torchrun sets it, too
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        use_free_cores(1)
        assert used == expected
