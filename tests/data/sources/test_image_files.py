"""Links and resumable copies of 8 and 16 bits."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from mdf_detectron.data.readers import read_pixels
from mdf_detectron.data.sources.kit import image_files
from mdf_detectron.data.sources.kit.image_files import bring_images


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
    swapped = [(sources[1][0], sources[0][1])]  # another original of the same time under that name
    os.utime(sources[1][0], ns=(sources[0][0].stat().st_mtime_ns,) * 2)
    list(bring_images(swapped, tmp_path / "out", tmp_path / "four", **options))
    assert read == ["b.png", "b.png"]


def test_links_and_whole_copies(sources, tmp_path):
    linked = list(bring_images(sources, tmp_path / "out", tmp_path / "linked", num_workers=1))
    assert (tmp_path / "linked/sub/a.png").is_symlink() and isinstance(linked[2], str)
    assert not (tmp_path / "linked/sub/c.png").exists()
    list(bring_images(sources, tmp_path / "out", tmp_path / "copied", copy=True, num_workers=1))
    assert (tmp_path / "copied/sub/a.png").read_bytes() == sources[0][0].read_bytes()
