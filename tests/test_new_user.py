"""From a folder of images, a COCO export and a messy table to an evaluated model, with nothing written by hand."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from forked import Forked

TESTS = Path(__file__).parent
RAW_PATIENT = "MRN-KRT-"
SHORT = ["SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 2, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"]
sys.path[:0] = [str(TESTS / "data"), str(TESTS / "data" / "sources")]

from own_files import write_all, write_coco, write_images  # noqa: E402


@pytest.fixture
def mdf(tmp_path):
    """``mdf(*words)``: run a command in the newcomer's folder, in a process of its own; returns what it prints."""

    def run(*words):
        done = Forked(*words, cwd=tmp_path, environment={"DETECTRON2_DATASETS": str(tmp_path / "datasets")})
        assert done.wait() == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return run


def _plant_patients(table):
    """Give the patients ids that cannot be taken for another number."""
    header, *lines = table.read_text(encoding="utf-8").splitlines()
    rows = [line.split(";") for line in lines]
    for row in rows:
        row[1] = f"{RAW_PATIENT}{row[1].strip().removesuffix('.0')}"
    table.write_text("\n".join([header, *map(";".join, rows)]) + "\n", encoding="utf-8")


def test_from_files_to_an_evaluation(mdf, tmp_path):
    files = write_all(tmp_path / "mine")
    _plant_patients(files["table"])
    out = mdf("prepare", "own", "--annotations", files["annotations"], "--images", files["images"], "--table",
              files["table"], "--key", "File", "--patient", "MRN", "--decimal-comma", "--time", "Taken",
              "--record-time", "Drawn", "--columns", "Age:age Sex:sex Lactate:lactate Smoker:smoker",
              "--image-size", "64", "--out", "datasets/mine_cxr")  # fmt: skip
    assert "written" in out
    assert "passes" in mdf("audit", "datasets/mine_cxr")
    assert "page.html: written" in mdf("describe", "datasets/mine_cxr", "--out", "page.html")
    mdf("init", "datasets/mine_cxr", "--out", "cfg")
    mdf("train", "--config-file", "cfg/mdf_net.yaml", *SHORT)
    trained = tmp_path / "output" / "mine_cxr" / "mdf_net"
    assert (trained / "model_final.pth").is_file()
    predictions = trained / "inference" / "mine_cxr_test" / "coco_instances_results.json"
    image = next((tmp_path / "datasets" / "mine_cxr" / "images").iterdir())
    mdf("evaluate", "--annotations", "datasets/mine_cxr/annotations/test.json", "--predictions", predictions,
        "--out", "report", "--resamples", 20)  # fmt: skip
    mdf("publish", "--weights", trained / "model_final.pth", "--out", "model/mine.pth", "--no-data")
    mdf("predict", "--weights", "model/mine.pth", "--images", image.relative_to(tmp_path), "--out", "found")
    report = (tmp_path / "report" / "report.md").read_text()
    assert "Patients: 3. Images: 6" in report
    assert json.loads((tmp_path / "datasets/mine_cxr/report.json").read_text())["flow"]
    _nothing_is_told_about_patients(tmp_path)


def _nothing_is_told_about_patients(root):
    """Scan all that was written for patients' ids, a raw value that was removed, and the source's folder."""
    source = str(root / "mine").encode()
    ids = [f"{RAW_PATIENT}{number}".encode() for number in range(100, 120)]
    removed = re.compile(rb"(?<![\w.+/])999(?![\w.+/])")  # not within a number or an encoded picture
    annotations, prepared = root / "datasets" / "mine_cxr" / "annotations", root / "datasets" / "mine_cxr"
    scanned = {".json": 0, ".html": 0, ".txt": 0, ".md": 0, ".pth": 0, ".png": 0}
    for path in root.rglob("*"):
        if not path.is_file() or path.is_relative_to(root / "mine"):
            continue
        content = path.read_bytes()
        assert source not in content, path
        if annotations not in path.parents:  # which need ids, see --pseudonymize
            assert not [one for one in ids if one in content], path
            if path.suffix in (".json", ".html", ".txt", ".md", ".csv", ".yaml"):
                assert not removed.search(content), path
        scanned[path.suffix] = scanned.get(path.suffix, 0) + 1
    assert min(scanned.values()) > 0, scanned
    for path in [prepared, *prepared.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    config = torch.load(root / "model" / "mine.pth", weights_only=True)["mdf_config"]
    assert "OUTPUT_DIR: output/mdf_net" in config and str(root) not in config


def test_from_images_alone_to_an_evaluation(mdf, tmp_path):
    entries = [entry for entry in write_images(tmp_path / "scans") if entry["name"].endswith(".png")]
    coco = write_coco(tmp_path / "boxes.json", entries)
    for path in (tmp_path / "scans").glob("*.dcm"):
        path.unlink()
    mdf("prepare", "own", "--annotations", coco, "--images", "scans", "--image-size", 64, "--bit-depth", 16,
        "--out", "datasets/pictures_cxr")  # fmt: skip
    assert "page.html: written" in mdf("describe", "datasets/pictures_cxr", "--out", "page.html")
    assert "image_only.yaml written" in mdf("init", "datasets/pictures_cxr", "--out", "cfg")
    mdf("train", "--config-file", "cfg/image_only.yaml", *SHORT)
    assert "no clinical column" in (tmp_path / "page.html").read_text()
    assert [path.name for path in (tmp_path / "cfg").iterdir()] == ["image_only.yaml"]
    trained = tmp_path / "output" / "pictures_cxr" / "image_only"
    assert (trained / "model_final.pth").is_file()
    assert (trained / "inference" / "pictures_cxr_test" / "coco_instances_results.json").is_file()
