"""From a folder of images, a COCO export and a messy table to an evaluated model, with nothing written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS / "data"), str(TESTS / "data" / "sources")]

from own_files import write_all  # noqa: E402


@pytest.fixture
def mdf(tmp_path):
    """``mdf(*words)``: run a command in the newcomer's folder and return what it prints."""

    def run(*words):
        code = "import sys; from mdf_detectron.cli import main; main(sys.argv[1:])"
        environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "datasets"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return run


def test_from_files_to_an_evaluation(mdf, tmp_path):
    files = write_all(tmp_path / "mine")
    out = mdf("prepare", "own", "--annotations", files["annotations"], "--images", files["images"], "--table",
              files["table"], "--key", "File", "--patient", "MRN", "--decimal-comma", "--time", "Taken",
              "--record-time", "Drawn", "--columns", "Age:age Sex:sex Lactate:lactate Smoker:smoker",
              "--image-size", "64", "--out", "datasets/mine_cxr")  # fmt: skip
    assert "written" in out
    assert "passes" in mdf("audit", "datasets/mine_cxr")
    assert "page.html: written" in mdf("describe", "datasets/mine_cxr", "--out", "page.html")
    mdf("init", "datasets/mine_cxr", "--out", "cfg")
    mdf("train", "--config-file", "cfg/mdf_net.yaml", "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 2,
        "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu")  # fmt: skip
    trained = tmp_path / "output" / "mine_cxr" / "mdf_net"
    assert (trained / "model_final.pth").is_file()
    predictions = trained / "inference" / "mine_cxr_test" / "coco_instances_results.json"
    mdf("evaluate", "--annotations", "datasets/mine_cxr/annotations/test.json", "--predictions", predictions,
        "--out", "report", "--resamples", 20)  # fmt: skip
    report = (tmp_path / "report" / "report.md").read_text()
    assert "Patients: 3. Images: 6" in report
    assert json.loads((tmp_path / "datasets/mine_cxr/report.json").read_text())["flow"]
