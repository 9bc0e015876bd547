"""A folder with a model, an image and nothing else: the guide's lines work there, in a process of their own."""

import os
import re
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from dicom_files import radiograph, save
from forked import Forked
from PIL import Image
from pydicom.uid import generate_uid

from mdf_detectron import cli
from mdf_detectron.cli import publish

GUIDE = Path(__file__).parents[1] / "GETTING_STARTED.md"


def follow(code, lines):
    """Run the guide's lines in a process that knows of no data set."""
    for name in ("DETECTRON2_DATASETS", "PYTHONPATH"):
        os.environ.pop(name, None)
    DatasetCatalog.clear()
    MetadataCatalog.clear()
    exec(code, {})
    for line in lines:
        cli.main(shlex.split(line, comments=True)[1:])
    print("all done", flush=True)


def blocks(kind):
    """Code blocks of the guide that begin with a use of ``model.pth``."""
    return [b for b in re.findall(rf"```{kind}\n(.*?)```", GUIDE.read_text(), re.S) if '"model.pth"' in b or
            "--weights model.pth" in b]  # fmt: skip


@pytest.fixture
def folder(tiny_run, tiny_folder, tmp_path):
    """Nothing but a published model, and one image as PNG and as DICOM."""
    out = tmp_path / "alone"
    out.mkdir()
    publish.main(["--weights", str(tiny_run / "model_final.pth"), "--out", str(tmp_path / "p" / "model.pth"),
                  "--resamples", "5", "--false-positives", "1"])  # fmt: skip
    (tmp_path / "p" / "model.pth").rename(out / "model.pth")
    pixels = np.asarray(Image.open(tiny_folder / "images" / "test_2.png"))
    Image.fromarray(pixels).save(out / "image.png")
    ids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "PatientID": "T1"}
    save(radiograph(pixels, 8, Modality="DX", **ids), out / "image.dcm")
    return out


def test_the_lines_of_the_guide(folder):
    for package in ("onnxruntime", "onnx", "highdicom"):
        pytest.importorskip(package, reason=f"{package} is not installed (extras export, sr)")
    (code,), (commands,) = blocks("python"), blocks("bash")
    lines = [line for line in commands.splitlines() if not line.startswith("mdf serve")]
    assert [shlex.split(line)[1] for line in lines] == ["predict", "predict", "whatif", "export"]
    done = Forked(partial(follow, code, lines), cwd=folder, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.wait() == 0 and "all done" in done.stdout, done.stdout[-2000:] + done.stderr[-3000:]
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert written == {
        "model.pth", "image.png", "image.dcm", "findings.png", "model.onnx", "model.ts",
        *(f"findings/{name}" for name in ("findings.json", "errors.json", "progress.jsonl", "pictures/0001_image.png")),
        *(f"reports/{name}" for name in ("findings.json", "errors.json", "progress.jsonl", "reports/0001_image.dcm")),
        *(f"what_if/{name}" for name in ("what_if.json", "what_if.png", "sweep_age.png")),
    }  # fmt: skip
