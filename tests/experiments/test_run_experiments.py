"""``mdf experiments`` with trainings of three steps: killed and resumed, NaN, on submitit's local cluster, dry run."""

import os
import signal
import time

import pytest
from forked import Forked, wait_for

from mdf_detectron.cli import run_experiments
from mdf_detectron.errors import ConfigError, ResultsError, UserError
from mdf_detectron.experiments import cost
from mdf_detectron.experiments.launch import left_to_do, parse_cluster_options, run_cluster
from mdf_detectron.experiments.trainings import FAILURE_FILE_NAME, SCORES_FILE_NAME, read_results
from mdf_detectron.experiments.worker import step_seconds, work
from mdf_detectron.fileio import read_json, write_json
from mdf_detectron.locks import FolderLock
from tests.experiments.conftest import SMALL

ONE = {"seeds": [1], "figures": [], "records": ["shuffled"]}


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Trainings of three steps gain nothing from threads, and a plan's cost is as printable from one round."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("SECONDS", "MOST_ROUNDS"):
        monkeypatch.setattr(f"mdf_detectron.experiments.cost.{name}", 1)


def test_dry_run_prints_its_table_and_writes_nothing(plan_file, tiny_folder, tmp_path, capsys, monkeypatch):
    """Models that differ only in their columns are measured once, and of the variants only those that are asked for."""
    measured = []
    measure = cost.measure_speed
    monkeypatch.setattr(cost, "measure_speed", lambda cfg, seconds: measured.append(cfg) or measure(cfg, seconds))
    monkeypatch.chdir(tmp_path)
    fused = [{"name": name, "columns": columns} for name, columns in (("a", ["age"]), ("g", ["gender"]))]
    variants = [*fused, {"name": "image_only", "overrides": {"MODEL.CLINICAL.FUSION_3D": False}}]
    path = plan_file(dataset=str(tiny_folder), **{**ONE, "seeds": [1, 2]}, variants=variants, question=None)
    assert run_experiments.main([str(path), "--variants", "a", "g", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("| variant |") and "4 of 4 trainings are left" in text and "of each of 1 models" in text
    assert "| a | 2 | 2 |" in text and "| g | 2 | 2 |" in text and "image_only" not in text
    assert "Can these data answer? 3 test patients with 3 ground-truth boxes, seeds [1, 2]: a difference of" in text
    assert len(measured) == 1 and not list(tmp_path.iterdir())


def test_the_time_of_a_dry_run_is_limited(tiny_folder, make_study, tmp_path, monkeypatch):
    """Where the time allows no whole step, a step is one image's time times the batch."""
    _, _, trainings = make_study(tiny_folder, tmp_path, **ONE)
    batches = []
    monkeypatch.setattr(cost, "_step", lambda model, optimizer, batch: batches.append(len(batch)))
    cost.measure_speed(trainings[0].cfg, 0.0)
    assert batches == [1]
    monkeypatch.setattr(cost, "MOST_ROUNDS", 3)
    cost.measure_speed(trainings[0].cfg, 60.0)
    assert batches == [1, 1, 1, 1, 2, 2, 2, 2]


def test_a_damaged_log_of_a_training_is_one_line(tmp_path):
    log = tmp_path / "metrics.json"
    log.write_text("".join(f'{{"iteration": {i}, "time": {t}}}\n' for i, t in ((19, 0.5), (39, 0.1), (59, 0.2))))
    assert step_seconds(tmp_path) == 0.2
    log.write_text(log.read_text()[:-9])
    with pytest.raises(ResultsError, match=r"metrics\.json: line 3 is not a JSON object with an iteration$"):
        step_seconds(tmp_path)


def test_an_absent_gpu_is_one_line_before_anything_starts(plan_file, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    path = plan_file(dataset=str(tiny_folder), **ONE, overrides=SMALL)
    with pytest.raises(ConfigError, match=r"^MODEL.DEVICE is cuda:7, but this machine has 1 GPU"):
        run_experiments.main([str(path), "--out", str(tmp_path / "out"), "--opts", "MODEL.DEVICE", "cuda:7"])
    assert not (tmp_path / "out").exists()


def test_no_network_is_one_line_before_anything_starts(plan_file, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mdf_detectron.modeling.pretrained._answers", lambda url: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    path = plan_file(dataset=str(tiny_folder), **ONE, overrides={**SMALL, "MODEL.TIMM.PRETRAINED": True})
    start = time.monotonic()
    with pytest.raises(ConfigError, match="huggingface.co does not answer, and its cache has none") as error:
        run_experiments.main([str(path), "--out", str(tmp_path / "out")])
    assert "\n" not in str(error.value) and time.monotonic() - start < 5 and not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_killed_and_resumed(plan_file, tiny_folder, tmp_path, capsys):
    """Killed, its training ends too; the same command continues from the last checkpoint, and reports."""
    variants = [{"name": "image_only", "columns": ["age"], "overrides": {"MODEL.CLINICAL.FUSION_3D": False}}]
    plan = {**ONE, "records": ["shuffled", "age removed"]}
    path = plan_file(dataset=str(tiny_folder), **plan, variants=variants, question=None)
    out = tmp_path / "out"
    words = [str(path), "--out", str(out), "--resamples", "20", "--opts", "SOLVER.MAX_ITER", "8"]
    process = Forked("experiments", *words)
    training = out / "image_only" / "seed1"
    wait_for(lambda: list(training.glob("model_0*.pth")) or process.poll() is not None, 400)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.stdout + process.stderr
    assert not (training / SCORES_FILE_NAME).is_file()
    with FolderLock(training, in_parent=True, wait=True):
        pass  # the training ends with the command that started it
    assert run_experiments.main(words) == 0
    assert "1 of 1 trainings finished" in capsys.readouterr().out
    assert "Starting training from iteration 0" in (training / "output.txt").read_text().split("Rank of current")[1]
    assert "Starting training from iteration 0" not in (training / "output.txt").read_text().split("Rank of current")[2]
    scores = read_json(training / SCORES_FILE_NAME, ResultsError)
    assert scores["iterations"] == 8 and scores["step_seconds"] > 0
    assert set(scores["states"]) == {"full", "shuffled", "age removed"}
    assert "| image_only/seed1 | finished |" in (out / "report.md").read_text()
    assert not list(training.glob("model_0*.pth")) and (training / "model_best.pth").is_file()
    before = (training / SCORES_FILE_NAME).stat().st_mtime_ns
    assert run_experiments.main([*words[:1], "--out", str(out), "--report-only", *words[3:]]) == 0
    assert (training / SCORES_FILE_NAME).stat().st_mtime_ns == before


def test_a_loss_that_is_not_finite_has_its_reason(make_study, tiny_folder, tmp_path):
    _, _, trainings = make_study(tiny_folder, tmp_path / "out", **ONE, opts=["SOLVER.BASE_LR", 1e12])
    left_to_do(trainings)
    with pytest.raises(FloatingPointError):
        work(trainings[0].folder)
    reason = read_json(trainings[0].folder / FAILURE_FILE_NAME, ResultsError)["reason"]
    assert "diverged" in reason or "not finite" in reason
    assert "\n" not in reason and trainings[0].scores() is None


def test_submitits_local_cluster(make_study, tiny_folder, tmp_path):
    _, data, trainings = make_study(tiny_folder, tmp_path / "out", **ONE)
    left = left_to_do(trainings[:1])
    run_cluster(left, data, tmp_path / "out", "local", {"timeout_min": 5})
    assert trainings[0].scores(), list((tmp_path / "out" / "jobs").glob("*"))
    before = (trainings[0].folder / SCORES_FILE_NAME).stat().st_mtime_ns
    assert left_to_do(trainings[:1]) == []
    assert (trainings[0].folder / SCORES_FILE_NAME).stat().st_mtime_ns == before


def test_a_cluster_that_refuses_the_jobs_is_one_line(make_study, tiny_folder, tmp_path, monkeypatch):
    """Stand-ins for Slurm's commands: the partition is not there."""
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'error: invalid partition specified: gpus' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    _, data, trainings = make_study(tiny_folder, tmp_path / "out", **ONE)
    with pytest.raises(ConfigError) as error:
        run_cluster(left_to_do(trainings[:1]), data, tmp_path / "out", "slurm", {"slurm_partition": "gpus"})
    assert "--slurm: " in str(error.value) and "invalid partition specified" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_is_worked_on_by_one_process(make_study, tiny_folder, tmp_path):
    _, _, trainings = make_study(tiny_folder, tmp_path / "out", **ONE)
    left_to_do(trainings)
    with FolderLock(trainings[0].folder, in_parent=True), pytest.raises(UserError, match="seed1 is in use by process"):
        work(trainings[0].folder)


def test_a_late_process_does_not_make_a_finished_training_fail(make_study, finish, tiny_folder, tmp_path):
    plan, data, trainings = make_study(tiny_folder, tmp_path / "out", **ONE)
    write_json(trainings[0].folder / FAILURE_FILE_NAME, {"reason": "ended with status 1"})  # while another trains it
    finish(trainings[:1], data, lambda training, state: 0.5)
    (run, *_) = read_results(plan, data, trainings).runs
    assert run.failure == "" and run.scores is not None


def test_cluster_options():
    assert parse_cluster_options(["slurm_partition=gpu", "timeout_min=60"]) == (
        "slurm",
        {"slurm_partition": "gpu", "timeout_min": 60},
    )
    assert parse_cluster_options(["cluster=local"]) == ("local", {})
    with pytest.raises(UserError, match="--slurm gpu: write KEY=VALUE"):
        parse_cluster_options(["gpu"])
