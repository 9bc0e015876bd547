"""The crash test's own parts: runs die where they should, what is left is counted, and differences are found."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from mdf_detectron.checkpoint.checkpointer import save_checkpoint_file
from mdf_detectron.fileio import write_text

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import crash_test
from forked import Forked, Place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def write_three(argv):
    for number in range(3):
        write_text(Path(argv[0]) / f"{number}.txt", "whole")


@pytest.mark.parametrize(("where", "there"), [("before", ["0.txt"]), ("after", ["0.txt", "1.txt"])])
def test_a_run_dies_at_the_wanted_call(tmp_path, where, there):
    log, counts, out = tmp_path / "log", tmp_path / "counts", tmp_path / "out"
    place = Place("renaming", os, "replace")
    counting = Forked(write_three, [str(out)], log=log, faults=[(place, 0, "", counts)])
    assert counting.wait() == 0 and counts.read_bytes() == b"..."
    run = Forked(write_three, [str(tmp_path / "killed")], log=log, faults=[(place, 2, where)])
    assert run.wait() == -signal.SIGKILL and run.processes_left(0) == 0
    assert sorted(p.name for p in (tmp_path / "killed").glob("*.txt")) == there


def test_a_file_is_cut_in_the_middle(tmp_path):
    def save(argv):
        with open(argv[0], "wb") as file:
            torch.save(torch.zeros(1000), file)

    whole, cut, log = tmp_path / "whole", tmp_path / "cut", tmp_path / "log"
    assert Forked(save, [str(whole)], log=log).wait() == 0
    place = Place("saving", torch, "save", cuts=True)
    assert Forked(save, [str(cut)], log=log, faults=[(place, 1, "within")]).wait() == -9
    assert cut.stat().st_size == whole.stat().st_size // 2


def test_a_process_that_is_left_is_counted(tmp_path):
    def leave():
        if not os.fork():
            time.sleep(60)

    run = Forked(leave, log=tmp_path / "log")
    assert run.wait() == 0
    try:
        assert run.processes_left(0.1) == 1
    finally:
        os.killpg(run.pid, signal.SIGKILL)
    assert run.processes_left(10) == 0


def test_differences_are_found(tmp_path):
    weights = {"w": torch.zeros(3)}
    for name, value in (("a", 0.0), ("b", 0.0), ("c", 1e-7)):
        weights["w"][1] = value
        save_checkpoint_file({"model": weights, "trainer": {}, "iteration": 1}, tmp_path / name / "model_final.pth")
        lines = f'{{"iteration": 1, "loss": 0.5, "time": {len(name) + value}}}\n{{"iteration": 2, "eta_seconds": 3}}\n'
        write_text(tmp_path / name / "metrics.json", lines)
    a, b, c = (crash_test.training_state(tmp_path / name) for name in "abc")
    assert crash_test.differences(a, b) == [] and crash_test.differences(a, c) == ["weights differs"]
    (tmp_path / "b" / "metrics.json").write_text('{"iteration": 1, "loss": 0.6}\n')
    (tmp_path / "b" / "x.1.partial").touch()
    found = crash_test.differences(a, crash_test.training_state(tmp_path / "b"))
    assert found == ["leftover .partial differs", "metrics.json differs"]
    assert crash_test.differences(crash_test.folder_state(tmp_path / "a"), crash_test.folder_state(tmp_path / "c"))


def test_preparations_of_every_kind_are_killed_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    test = crash_test.CrashTest(tmp_path, 1)
    test.make_sources()
    test.kill_preparations(4)
    kinds = {f"preparation, {name}" for name in ("synthetic", "own", "mimic-eye", "rsna")}
    assert {what for what, _ in test.tallies} == kinds
    assert all((tally.kills, tally.sound) == (1, 1) for tally in test.tallies.values()), test.table()


def test_a_run_that_is_killed_while_it_prints_its_progress_blocks_no_other(tmp_path):
    def die_with_the_lock():
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    def print_progress():
        list(tqdm(range(3)))

    list(tqdm(range(1), disable=False))  # this process has tqdm's lock too
    assert Forked(die_with_the_lock).wait() == -signal.SIGKILL
    run = Forked(print_progress)
    status = run.wait(20)
    run.kill()
    assert status == 0
