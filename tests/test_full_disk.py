"""A full disk during each kind of write: the old state stays, and the message is one line."""

import json
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.utils.events import EventStorage

from mdf_detectron.checkpoint.checkpoint import Checkpoint, save_checkpoint_file
from mdf_detectron.cli import run_main
from mdf_detectron.data import decoded_cache
from mdf_detectron.data.prepared import Flow, staged_folder, write_report
from mdf_detectron.data.raster import write_image
from mdf_detectron.data.sources.kit.image_files import bring_images, cache_folder
from mdf_detectron.engine.hooks import CheckedJSONWriter, ResumableTensorBoardWriter
from mdf_detectron.fileio import csv_table, write_json, write_text
from mdf_detectron.inference.folders import PROGRESS_FILE_NAME, _Progress

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, and limits of files' sizes")
SPACE = 256 * 1024
NOISE = np.random.default_rng(0).integers(0, 255, (700, 700), dtype=np.uint8)


@pytest.fixture(params=["full disk", "limited files"])
def disk(request, tmp_path):
    """A folder in which no file can become large: on a disk of its own where one may be mounted."""
    if request.param == "limited files":
        yield tmp_path, True
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("only root can mount a small disk")
    yield folder, False
    subprocess.run(["umount", "-l", str(folder)], check=True)


def checkpoint(path, value):
    save_checkpoint_file({"model": {"w": torch.full((10 if value == "old" else SPACE,), 1.0)}}, path)


def prepared(path, value):
    with staged_folder(path) as folder:
        write_report(folder, value, {}, Flow(), {})
        write_image(folder / "image.png", NOISE if value == "new" else NOISE[:8, :8])


def pandas_table(path, value):
    with staged_folder(path) as folder:
        pd.DataFrame({"a": range(9 if value == "old" else SPACE)}).to_csv(folder / "table.csv")
        write_report(folder, value, {}, Flow(), {})


def resized_images(path, value):
    source = path.parent / "source.png"
    if value == "old":
        write_image(source, NOISE[:64, :64])
    with staged_folder(path) as folder:
        sources = [(source, f"{i}.png") for i in range(2 if value == "old" else 400)]
        made = list(bring_images(sources, path, folder, image_size=32 if value == "old" else 64, num_workers=2))
        for text in made:
            if isinstance(text, str):
                raise OSError(28, text)
        write_report(folder, value, {}, Flow(), {})


WRITES = {
    "checkpoint": checkpoint,
    "JSON": lambda path, value: write_json(path, [value] * (1 if value == "old" else SPACE)),
    "CSV": lambda path, value: write_text(path, csv_table("a", [value] * (1 if value == "old" else SPACE))),
    "prepared folder with images": prepared,
    "prepared folder with a table": pandas_table,
}


def state(path):
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {p.name: p.read_bytes() for p in files}


def in_a_process(function, limited):
    """Exit status and standard error of a command line that runs a function."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def work():
        try:
            if limited:
                resource.setrlimit(resource.RLIMIT_FSIZE, (SPACE // 2, resource.RLIM_INFINITY))
            run_main(lambda argv: function())
            theirs.send((0, ""))
        except SystemExit as end:
            theirs.send((1, str(end.code)))
        except BaseException as error:
            theirs.send((2, repr(error)))

    process = context.Process(target=work)
    process.start()
    found = ours.recv() if ours.poll(120) else (3, "no answer")
    process.join()
    return found


@pytest.mark.parametrize("kind", WRITES)
def test_old_state_stays_and_one_line_tells(disk, kind):
    (folder, limited), path = disk, disk[0] / ("file.pth" if kind == "checkpoint" else "out")
    WRITES[kind](path, "old")
    before, names = state(path), sorted(os.listdir(folder))
    status, line = in_a_process(lambda: WRITES[kind](path, "new"), limited)
    assert status == 1 and "\n" not in line and line.startswith("error: "), line
    assert "cannot be written (" in line and any(text in line for text in ("No space", "File too large")), line
    assert state(path) == before and sorted(os.listdir(folder)) == names
    if kind == "checkpoint":
        assert Checkpoint.open(path).weights["w"].numel() == 10


@pytest.mark.parametrize("disk", ["full disk"], indirect=True)
def test_cache_of_resized_images(disk):
    folder, _ = disk
    resized_images(folder / "out", "old")
    before = state(folder / "out")
    status, line = in_a_process(lambda: resized_images(folder / "out", "new"), limited=False)
    assert status == 1 and "\n" not in line and "cannot be written (No space left on device)" in line, line
    assert state(folder / "out") == before and not list(folder.glob("out.*.partial"))
    assert all(p.suffix == ".png" for p in cache_folder(folder / "out").rglob("*.*"))  # whole copies, for the next run


@pytest.mark.parametrize("disk", ["full disk"], indirect=True)
def test_cache_of_decoded_images(disk, tmp_path, monkeypatch):
    folder, _ = disk
    write_image(tmp_path / "a.png", NOISE)
    record = {"file_name": str(tmp_path / "a.png"), "height": 700, "width": 700}
    monkeypatch.setattr(decoded_cache, "_check_room", lambda path, wanted: None)  # it fills up after that look
    build = partial(decoded_cache.DecodedCache.build, folder / "cache.npy", [record], lambda pixels: pixels, "L")
    status, line = in_a_process(build, limited=False)
    assert (status, line) == (1, f"error: {folder}/cache.npy: cannot be written (No space left on device)")
    assert list(folder.iterdir()) == []


def fill_log(writer):
    with EventStorage(0) as storage:
        for iteration in range(400):
            storage.iter = iteration
            storage.put_scalars(smoothing_hint=False, **{f"loss_of_a_long_name_{i}": 1.0 for i in range(100)})
            writer.write()


@pytest.mark.parametrize("kind", [CheckedJSONWriter, ResumableTensorBoardWriter])
def test_log_of_a_training(disk, kind, capfd):
    folder, limited = disk
    path = folder / "metrics.json" if kind is CheckedJSONWriter else folder

    def log():
        handler = logging.FileHandler(folder / "log.txt")
        logging.getLogger("of the test").addHandler(handler)
        try:
            fill_log(kind(str(path)))
        finally:
            logging.getLogger("of the test").error("x" * SPACE)

    status, line = in_a_process(log, limited)
    assert capfd.readouterr().err == ""
    assert status == 1 and "\n" not in line and f"{path}: cannot be written (" in line, line
    if kind is CheckedJSONWriter:
        whole = path.read_text().split("\n")[:-1]
        assert whole and all(json.loads(text)["iteration"] == number for number, text in enumerate(whole))


def test_predictions(disk):
    folder, limited = disk
    entry = {"findings": {"text": "x" * 9000}, "coco": []}

    def predict(count):
        with _Progress(folder / PROGRESS_FILE_NAME, {"model": "m"}) as progress:
            for number in range(count):
                progress.add(str(number), entry)

    predict(2)
    status, line = in_a_process(lambda: predict(60), limited)
    assert status == 1 and "\n" not in line and "cannot be written (" in line, line
    kept = _Progress(folder / PROGRESS_FILE_NAME, {"model": "m"})
    kept._kept_lines()
    assert kept.done["0"] == kept.done["1"] == entry and len(kept.done) < 60
