"""Paths of images: what a folder holds, what a name means, and which paths agree."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from dicom_files import radiograph, save
from PIL import Image

from mdf_detectron.cli.predict import find_images
from mdf_detectron.data.image_paths import PathIndex, list_images, meant_paths, original_stems, path_key, version_of


def test_files_are_images_by_suffix_or_by_their_dicom_content(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("1.2.840.77.5", "b/scan.IMA", "b/IM1", "DICOMDIR"):
        save(radiograph(np.zeros((4, 4), np.uint16)), tmp_path / name)
    Image.new("L", (4, 4)).save(tmp_path / "b" / "x.PNG")
    for name in (".hidden.png", "notes.txt", "1.5"):
        (tmp_path / name).write_text("no image")
    names = ["1.2.840.77.5", "b/IM1", "b/scan.IMA", "b/x.PNG"]
    assert list_images(tmp_path) == ([tmp_path / name for name in names], 3)
    assert find_images([tmp_path]) == list_images(tmp_path)  # mdf predict and mdf prepare read the same files
    assert list_images(tmp_path, {tmp_path / "b/IM1"})[0] == [tmp_path / names[0], *(tmp_path / n for n in names[2:])]


def _agreeing(path, others):
    """All whose parts are the end of this path's or the other way round: exact ones, else longer, else the longest."""
    mine, found = path.split("/"), {}
    for other in others:
        theirs = other.split("/")
        shared = min(len(mine), len(theirs))
        if mine[-shared:] == theirs[-shared:]:
            rank = (len(theirs) == len(mine), len(theirs) > len(mine), shared)
            found.setdefault(rank, []).append(other)
    return found[max(found)] if found else []


def test_paths_agree_if_one_is_the_end_of_the_other():
    parts = [list(p) for n in (1, 2, 3) for p in itertools.product("ab", repeat=n)]
    paths = ["/".join(p) for p in parts]
    for size in (1, 3, 6):
        chosen = [paths[i] for i in np.random.default_rng(size).permutation(len(paths))[:size]]
        index = PathIndex((path, path) for path in chosen)
        for path in paths:
            found, dropped = index.find(path)
            assert found == _agreeing(path, chosen)
            assert not found or found[0] == path[len(dropped) :].lstrip("/") or found[0].endswith(f"/{path}")


@pytest.mark.parametrize(("name", "key"), [("a\\b\\c.dcm", "a/b/c"), ("./a//c.v2.png", "a/c.v2"), ("e\u0301.png", "é"),
                                           ("1.2.3", "1.2.3")])  # fmt: skip
def test_keys_of_paths(name, key):
    assert path_key(name) == key and path_key(name, True).startswith(key)


def test_names_of_labeling_tools():
    assert meant_paths("up/0a1b2c3d-a%20%C3%A9.png")[1] == "up/0a1b2c3d-a é.png" and meant_paths("100%.png") == [
        "100%.png"
    ]
    assert meant_paths("/data/local-files/?d=a%2Fb.png")[1] == "a/b.png"
    assert original_stems("up/0a1b2c3d-a%20b.png")[-1] == "a b" and original_stems("scan-1.png") == []
    assert version_of("t/scan_3_jpg.rf." + "0a" * 16 + ".jpg") == "scan_3" and version_of("scan.rf.jpg") is None
