"""Ctrl-C and SIGTERM: one line that says what is kept and how to continue, and nothing left behind."""

import os
import shlex
import signal
import sys

import pytest
from forked import Forked, wait_for
from tiny_training import SMALL, datasets, words

from mdf_detectron.child_processes import run_program, stop_in_one_line, when_stopped
from mdf_detectron.cli import run_main, train
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.engine.resume import checkpoint_to_resume

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
OPTIONS = words(*SMALL, "MODEL.CLINICAL.BRANCH", "compact", "MODEL.MASK_ON", False, "SOLVER.IMS_PER_BATCH", 2,
                *datasets("tiny_cxr"), "DATALOADER.NUM_WORKERS", 1, "SOLVER.CHECKPOINT_PERIOD", 2,
                "CLINICAL_DIAGNOSTICS.PERIOD", 0)  # fmt: skip


def stop(run, number, group, ready):
    """Send a signal once ``ready``; returns the exit status and the lines of standard output and error."""
    wait_for(lambda: ready() or run.poll() is not None)
    assert run.poll() is None, run.stdout
    (os.killpg if group else os.kill)(run.pid, number)
    status = run.wait(60)
    assert run.processes_left(10) == 0
    return status, run.stdout.splitlines()


@pytest.mark.parametrize(("number", "group", "status"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)])
def test_a_training(tiny_folder, tmp_path, monkeypatch, number, group, status):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_folder.parent))
    (tiny_folder.parent / "tiny_cxr").exists() or (tiny_folder.parent / "tiny_cxr").symlink_to(tiny_folder)
    out = tmp_path / "a run"
    argv = ["--config-file", "synthetic_cxr/mdf_net.yaml", "SOLVER.MAX_ITER", "9999", "OUTPUT_DIR", str(out), *OPTIONS]
    run = Forked(lambda: run_main(lambda _: train.main(argv)), log=tmp_path / "log.txt")
    found, lines = stop(run, number, group, lambda: (out / "model_0000003.pth").exists())
    assert found == status, lines[-9:]
    kept = int(checkpoint_to_resume(out).stem.split("_")[1])
    iteration = int(lines[-1].split(";")[0].removeprefix("stopped at iteration "))
    assert kept <= iteration <= kept + 3
    told, _, words = lines[-1].partition("; continue with: ")
    assert told == f"stopped at iteration {iteration}; the checkpoint of iteration {kept} is kept in {out}"
    assert shlex.split(words) == ["mdf", "train", "--resume", *argv]
    assert not [line for line in lines if "Traceback" in line or "KeyboardInterrupt" in line], "\n".join(lines[-60:])
    assert not [*out.rglob("*.partial"), *out.rglob(".lock")]


@pytest.mark.parametrize(("number", "group", "status"), [(signal.SIGINT, True, 130), (signal.SIGTERM, True, 143)])
def test_a_preparation_with_workers(tmp_path, number, group, status):
    out = tmp_path / "out"
    settings = CohortSettings(3000, 1, image_size=256)
    run = Forked(lambda: run_main(lambda _: prepare_synthetic(out, settings)), log=tmp_path / "log.txt")
    found, lines = stop(run, number, group, lambda: list(tmp_path.glob("out.*.partial/images/*.png")))
    assert found == status
    assert lines[-1] == f"stopped; {out} is as it was before: run the same command again"
    assert not [line for line in lines if "Traceback" in line], lines
    assert os.listdir(tmp_path) == ["log.txt"]


def test_a_program_that_another_one_runs_and_what_they_say(tmp_path):
    program = "import sys, time, pathlib; sys.argv[0] = 'mdf'; from mdf_detectron.child_processes import *\n"
    program += "with stop_in_one_line(), when_stopped(lambda text: f'{text} inside'):\n"
    program += "    pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"

    def outer():
        with stop_in_one_line(), when_stopped(lambda text: f"{text}; outside"):
            run_program([sys.executable, "-c", program, str(tmp_path / "ready")])

    run = Forked(outer, log=tmp_path / "log.txt")
    status, lines = stop(run, signal.SIGTERM, False, (tmp_path / "ready").exists)
    assert (status, lines) == (143, ["stopped inside", "stopped; outside"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_callback_loses_still_stops_in_one_line(capsys):
    class Lost:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)  # its interrupt is raised here, where Python ignores errors

    with (
        pytest.raises(SystemExit) as stopped,
        stop_in_one_line(),
        when_stopped(lambda text: f"{text}; nothing is lost"),
    ):
        Lost()
        raise RuntimeError("a worker ended")
    assert stopped.value.code == 143 and capsys.readouterr().err.splitlines()[-1] == "stopped; nothing is lost"


def test_other_errors_and_exits_pass():
    before = signal.getsignal(signal.SIGINT)  # ignored in a program that a shell starts in the background
    for error in (ValueError("x"), SystemExit(3)):
        with pytest.raises(type(error)), stop_in_one_line():
            raise error
    assert signal.getsignal(signal.SIGINT) is before
