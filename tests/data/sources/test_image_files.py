"""Links and resumable copies of 8 and 16 bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mdf_detectron.data.readers import read_pixels
from mdf_detectron.data.sources import image_files
from mdf_detectron.data.sources.image_files import bring_images, cache_folder, drop_cache


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "in").mkdir()
    values = np.linspace(900, 3500, 60 * 80).reshape(60, 80).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "in" / "a.png")
    Image.fromarray((values // 16).astype(np.uint8)).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "c.png").write_text("broken")
    return [(tmp_path / "in" / f"{n}.png", f"sub/{n}.png") for n in "abc"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("depth", [8, 16])
def test_copies_have_the_wanted_size_and_depth(workers, depth, sources, tmp_path):
    options = {"image_size": 30, "bit_depth": depth, "num_workers": workers}
    made = list(bring_images(sources, tmp_path / "out", tmp_path / "images", **options))
    assert [(m.width, m.height, m.source_width, m.source_height) for m in made[:2]] == [(40, 30, 80, 60)] * 2
    assert made[0].scaling == "percentiles" and "cannot read image" in made[2]
    pixels, done = read_pixels(tmp_path / "images" / "sub" / "a.png", depth)
    expected = read_pixels(sources[0][0], depth)[0].reshape(30, 2, 40, 2).mean(axis=(1, 3))
    assert np.abs(pixels - expected).max() <= 1 and done.bits == depth
    assert len(np.unique(pixels)) > (300 if depth == 16 else 100)


def test_copies_are_taken_up_unless_the_original_changed(sources, tmp_path, monkeypatch):
    options = {"image_size": 30, "num_workers": 1}
    first = list(bring_images(sources[:2], tmp_path / "out", tmp_path / "one", **options))
    read = []
    monkeypatch.setattr(
        image_files, "read_pixels", lambda path, depth: read.append(path.name) or read_pixels(path, depth)
    )
    assert list(bring_images(sources[:2], tmp_path / "out", tmp_path / "two", **options)) == first and read == []
    os.utime(sources[1][0], ns=(1, 1))
    list(bring_images(sources[:2], tmp_path / "out", tmp_path / "three", **options))
    assert read == ["b.png"]
    drop_cache(tmp_path / "out")
    assert not cache_folder(tmp_path / "out").exists() and (tmp_path / "two" / "sub" / "a.png").is_file()


def test_links_and_whole_copies(sources, tmp_path):
    linked = list(bring_images(sources, tmp_path / "out", tmp_path / "linked", num_workers=1))
    assert (tmp_path / "linked/sub/a.png").is_symlink() and isinstance(linked[2], str)
    assert not (tmp_path / "linked/sub/c.png").exists()
    list(bring_images(sources, tmp_path / "out", tmp_path / "copied", copy=True, num_workers=1))
    assert (tmp_path / "copied/sub/a.png").read_bytes() == sources[0][0].read_bytes()


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\n"
        "from mdf_detectron.data.sources.image_files import parallel_map\n"
        "def work(i):\n    Path(sys.argv[1], str(os.getpid())).touch()\n    time.sleep(0.05)\n    return i\n"
        "if __name__ == '__main__':\n    list(parallel_map(work, range(10_000), 2, 'x'))\n"
    )
    (tmp_path / "pids").mkdir()
    process = subprocess.Popen([sys.executable, script, tmp_path / "pids"], stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while len(list((tmp_path / "pids").iterdir())) < 2 and time.time() < deadline:
        time.sleep(0.1)
    workers = [int(p.name) for p in (tmp_path / "pids").iterdir()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(map(_alive, workers)) and time.time() < deadline:
        time.sleep(0.2)
    assert len(workers) == 2 and not any(map(_alive, workers))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
