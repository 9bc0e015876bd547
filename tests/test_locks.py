"""One run at a time writes to an output folder, whatever became of those before it."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import wait_for

from mdf_detectron.child_processes import child_environment, parallel_map
from mdf_detectron.data.prepared import Flow, staged_folder, write_report
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.errors import UserError
from mdf_detectron.locks import FolderInUseError, FolderLock

FORK = multiprocessing.get_context("fork") if os.name == "posix" else None


def hold(out, pipe):
    with FolderLock(out, in_parent=True):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        pipe.send(child)
        time.sleep(60)


@pytest.mark.skipif(FORK is None, reason="locks are POSIX's")
def test_a_living_process_is_named_and_a_dead_one_does_not_block(tmp_path):
    out, (ours, theirs) = tmp_path / "out", FORK.Pipe()
    process = FORK.Process(target=hold, args=(out, theirs))
    process.start()
    assert ours.poll(60)
    child = ours.recv()
    try:
        with pytest.raises(FolderInUseError) as error, FolderLock(out, in_parent=True):
            pass
        assert re.fullmatch(
            rf"{re.escape(str(out))} is in use by process {process.pid} on {re.escape(os.uname().nodename)} "
            r"\(.+, since [\d: -]+\): wait for it to end, or name another folder",
            str(error.value),
        )
        process.kill()
        process.join()
        assert alive(child)  # the forked child lives on, and does not hold the folder
        with FolderLock(out, in_parent=True):
            assert json.loads((tmp_path / ".out.lock").read_text())["pid"] == os.getpid()
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
    assert not (tmp_path / ".out.lock").exists()


def test_lock_is_exclusive_in_one_process_and_given_back(tmp_path):
    for in_parent in (False, True):
        with FolderLock(tmp_path / "out", in_parent=in_parent):
            with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
                FolderLock(tmp_path / "out", in_parent=in_parent).__enter__()
        with FolderLock(tmp_path / "out", in_parent=in_parent):
            pass
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["out"]


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out: cannot be written \(Not a directory|File exists\)"):
        FolderLock(tmp_path / "file" / "out").__enter__()


def write_folder(out, content):
    with staged_folder(out) as folder:
        (folder / "content").write_text(content)
        write_report(folder, "Test", {}, Flow(), {})


def test_preparation_is_refused_while_another_writes_and_clears_what_dead_ones_left(tmp_path):
    out = tmp_path / "out"
    write_folder(out, "first")
    others = [tmp_path / "out.x.0123abcd.partial", tmp_path / "out.partial.txt", tmp_path / "about.0123abcd.partial"]
    for path in (tmp_path / "out.0123abcd.partial", tmp_path / "out.old", *others):
        path.mkdir()
    with staged_folder(out) as staging:
        assert staging.parent == tmp_path and list(staging.iterdir()) == []
        with pytest.raises(FolderInUseError, match="out is in use by process"):
            write_folder(out, "second")
        (staging / "report.json").write_text("{}")
    assert (out / "report.json").read_text() == "{}" and not (out / "content").exists()
    assert sorted(tmp_path.iterdir()) == sorted([out, *others])  # other folders' staging is theirs


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_of_a_killed_preparation_end_with_it(tmp_path):
    settings = CohortSettings(300, 1, image_size=256)
    process = FORK.Process(target=prepare_synthetic, args=(tmp_path / "out", settings))
    process.start()
    try:
        assert wait_for(lambda: list(tmp_path.glob("out.*.partial/images/*.png")))
        workers = children(process.pid)
    finally:
        process.kill()
        process.join()
    assert len(workers) == 2
    assert wait_for(lambda: not any(map(alive, workers)))
    (staging,) = tmp_path.glob("out.*.partial")
    assert len(list((staging / "images").iterdir())) < 300
    write_folder(tmp_path / "out", "second")  # neither refused by the dead run's lock nor mixed with its files
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"] and not (tmp_path / "out" / "images").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_program_of_a_killed_command_ends_with_it(tmp_path):
    note = tmp_path / "pid"
    program = "import os, pathlib, sys, time; sys.argv[0] = 'mdf'; "  # which starts without torch
    program += "from mdf_detectron.child_processes import end_with_caller; "
    program += "end_with_caller(); assert 'MDF_PARENT_PROCESS' not in os.environ; "
    program += "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"

    def command():
        subprocess.run([sys.executable, "-c", program, str(note)], env=child_environment())

    process = FORK.Process(target=command)
    process.start()
    try:
        assert wait_for(lambda: note.is_file() and note.read_text())
        assert alive(int(note.read_text()))
    finally:
        process.kill()
        process.join()
    assert wait_for(lambda: not alive(int(note.read_text())))


def children(pid):
    return [int(n) for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_parallel_map_keeps_the_order_and_passes_errors_on(workers):
    assert list(parallel_map(abs, [-3, 1, -2] * 9, workers, "x")) == [3, 1, 2] * 9
    assert list(parallel_map(abs, [], workers, "x")) == []
    with pytest.raises(TypeError):
        list(parallel_map(abs, [1, "a"], workers, "x"))
