"""Two processes on CPUs train like one, and continue exactly where a killed training stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from forked import Forked, wait_for
from tiny_training import SMALL, datasets, words

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import MultimodalTrainer

TOOL = Path(__file__).parents[2] / "tools" / "train_net.py"
# No batch statistics (layer norm in the trunk, group norm in the clinical branch), all anchors and equally many regions
# of each image, so that the mean over two processes is the mean over the batch. The diagnostics' images fit one
# process's share, because the sizes of their paths are those of the last forward.
OPTIONS = """MODEL.CLINICAL.BRANCH compact MODEL.TIMM.NAME convnext_atto MODEL.MASK_ON False
    MODEL.RPN.BATCH_SIZE_PER_IMAGE 100000 MODEL.RPN.POSITIVE_FRACTION 1.0 MODEL.RPN.NMS_THRESH 1.0
    MODEL.RPN.POST_NMS_TOPK_TRAIN 20 MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.ROI_HEADS.PROPOSAL_APPEND_GT False
    MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 20 MODEL.ROI_HEADS.POSITIVE_FRACTION 1.0 SOLVER.OPTIMIZER SGD
    SOLVER.BASE_LR 0.1 SOLVER.WARMUP_ITERS 2 SOLVER.LR_SCHEDULER_NAME WarmupMultiStepLR
    MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0001 SOLVER.IMS_PER_BATCH 4 SEED 1 SOLVER.CHECKPOINT_PERIOD 2
    TEST.EVAL_PERIOD 100 VALIDATION.METRIC total_loss CLINICAL_DIAGNOSTICS.PERIOD 100
    CLINICAL_DIAGNOSTICS.NUM_IMAGES 2""".split()  # fmt: skip
OPTIONS += words(*SMALL, *datasets("tiny_cxr"))
STEPS = 4


@pytest.fixture
def start(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "datasets" / "tiny_cxr")
    running = []

    def begin(log, *arguments, steps, launcher=()):
        words = ["--config-file", "synthetic_cxr/mdf_net.yaml", *arguments,
                 "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.MAX_ITER", str(steps), *OPTIONS]  # fmt: skip
        environment = {"DETECTRON2_DATASETS": str(tmp_path / "datasets"), "OMP_NUM_THREADS": "1"}
        if launcher:
            with (tmp_path / log).open("w") as file:
                command = [*launcher, str(TOOL), *words]
                running.append(subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file))
        else:
            running.append(Forked("train", *words, log=tmp_path / log, environment=environment))
        return running[-1]

    yield begin
    for process in running:
        process.kill()


def train_alone(small_config, folder, out):
    register_prepared_folder(folder, "tiny_cxr")
    seed_all_rng(1)
    cfg = small_config("synthetic_cxr/mdf_net.yaml", *OPTIONS, "SOLVER.MAX_ITER", STEPS, "OUTPUT_DIR", str(out))
    trainer = MultimodalTrainer(cfg)
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    trainer.train()
    return before, Checkpoint.open(out / "model_final.pth").weights


def last_scalars(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


def killed_training(start, tmp_path, port):
    """Run two commands, as on two machines, and kill one after some steps; return the last checkpoint's weights."""
    out = tmp_path / "run"
    meeting = ["--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{port}"]
    first, second = (start(f"{rank}.txt", *meeting, "--machine-rank", str(rank), steps=1000) for rank in range(2))
    there = (out / f"model_{STEPS - 1:07}.pth").exists
    assert wait_for(lambda: there() or first.poll() or second.poll(), 600) is True, (tmp_path / "0.txt").read_text()
    second.kill()
    assert second.wait() == -signal.SIGKILL
    assert first.wait() == 1
    lines = (tmp_path / "0.txt").read_text().splitlines()
    assert lines[-1].startswith("error: process 0 of 2 has lost another one") and lines[-1].endswith("--resume")
    assert "Connection closed by peer" in lines[-1] or "reset by peer" in lines[-1], "the cause"
    assert not [line for line in lines if "Traceback" in line or "Warning" in line], lines
    return Checkpoint.open(out / f"model_{STEPS - 1:07}.pth").weights


def test_two_processes_train_like_one_and_resume_exactly(start, small_config, tiny_folder, free_ports, tmp_path):
    # step STEPS is the end of the uninterrupted training
    through = killed_training(start, tmp_path, *free_ports())
    out = tmp_path / "run"
    for path in out.glob("model_*.pth"):
        if int(path.stem.split("_")[1]) >= STEPS // 2:
            path.unlink()
    (out / "last_checkpoint").write_text(f"model_{STEPS // 2 - 1:07}.pth")
    resumed = start("resumed.txt", "--num-gpus", "2", "--resume", steps=STEPS)
    before, alone = train_alone(small_config, tiny_folder, tmp_path / "alone")
    assert resumed.wait() == 0, (tmp_path / "resumed.txt").read_text()[-3000:]
    said = (tmp_path / "resumed.txt").read_text()
    assert said.count("no GPU is used: 2 processes share the cores") == 1
    assert said.count(f"resuming from iteration {STEPS // 2}") == 1, "one process says it"

    together = Checkpoint.open(out / "model_final.pth").weights
    assert [name for name in through if not torch.equal(through[name], together[name])] == []
    moved = sum(float((alone[n] - x).square().sum()) for n, x in before.items() if x.is_floating_point())
    apart = sum(float((alone[n] - together[n]).square().sum()) for n, x in before.items() if x.is_floating_point())
    assert moved > 1e-2 and apart < 1e-8 * moved, (moved, apart)

    one, two = last_scalars(tmp_path / "alone"), last_scalars(out)
    compared = [n for n in one if n.startswith(("val/", "clinical/", "bbox"))]
    assert len(compared) > 20
    assert {n: two.get(n) for n in compared} == {n: pytest.approx(one[n], rel=1e-3, abs=1e-5) for n in compared}
    results = [json.loads((folder / "inference/tiny_cxr_test/coco_instances_results.json").read_text()) for folder in
               (tmp_path / "alone", out)]  # fmt: skip
    assert len(results[0]) == len(results[1]) > 0


def test_torchrun_starts_a_training(start, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    decoded = tmp_path / "decoded"
    training = start("torchrun.txt", "DATALOADER.DECODED_CACHE", str(decoded), steps=1, launcher=launcher)
    log = tmp_path / "torchrun.txt"
    assert training.wait(timeout=600) == 0, log.read_text()[-3000:]
    assert (tmp_path / "run" / "model_final.pth").is_file()
    assert "World size: 2" in (tmp_path / "run" / "log.txt").read_text()
    assert {path.name.split("_64_")[0] for path in decoded.iterdir()} == {
        f"tiny_cxr_{split}" for split in ("train", "val", "test")
    }, "the decoded images, which the two processes make once"


SLURM = """#!/bin/bash
case "$(basename "$0")" in
  scontrol) printf '%s\\n' node-a node-b; seq 20000 ;;  # more than a pipe holds, which nobody reads at once
  srun) printf '%s\\n' "$1" "$2"; shift 2; for n in 0 1; do SLURM_NODEID=$n "$@"; done ;;
  mdf) printf '%s\\n' "$#" "$@" ;;
esac
"""


def test_slurm_script_starts_a_process_group_of_all_nodes(tmp_path):
    for name in ("scontrol", "srun", "mdf"):
        (tmp_path / name).write_text(SLURM)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NNODES": "2",
                   "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "16"}  # fmt: skip
    script = TOOL.parents[1] / "docs" / "train_slurm.sh"
    words = ["mimic_eye/mdf_net_many_nodes.yaml", "OUTPUT_DIR", "/shared/a run", "DATASETS.TEST", "('x',)"]
    done = subprocess.run(["bash", str(script), *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [
        line
        for rank in "01"
        for line in ["16", "train", "--config-file", words[0], "--resume", "--num-gpus", "4", "--num-machines", "2",
                     "--machine-rank", rank, "--dist-url", "tcp://node-a:20007", *words[1:]]
    ]  # fmt: skip
    assert done.stdout.splitlines() == ["--kill-on-bad-exit=1", "--cpus-per-task=16", *expected]
