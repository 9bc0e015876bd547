"""The installable product: a wheel, installed outside of the checkout, leads a newcomer from files to a model."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import mdf_detectron
from tests.data.sources.own_files import write_all

REPOSITORY = Path(__file__).parents[1]
RAW_PATIENT = "MRN-KRT-"
SHORT = ["SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 2, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"]
PROGRAM = """
import json, sys
import mdf_detectron
from mdf_detectron import cli, model_zoo
print(mdf_detectron.__file__)
print(type(model_zoo.get("mimic_eye/mdf_net.yaml")).__name__)
for words in json.loads(sys.argv[1]):
    cli.main(list(map(str, words)))
"""


def call(*command, cwd, **environment):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    found = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd, env=env, timeout=300)
    assert found.returncode == 0, f"{command}\n{found.stdout[-2000:]}\n{found.stderr[-3000:]}"
    return found.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Wheels of the source tree and of its source distribution, built from a clean copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    unwanted = shutil.ignore_patterns(".*", "output", "build", "dist", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=unwanted)
    sdist = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    call(sys.executable, "-c", sdist, folder, cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    wheel = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    for name, given in (("from_tree", source), ("from_sdist", unpacked)):
        (folder / name).mkdir()
        call(sys.executable, "-c", wheel, folder / name, cwd=given)
    return {path.parent.name: path for path in folder.glob("*/*.whl")}


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """``bin`` folder of an environment that holds the wheel, beside this interpreter's other packages."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check")
    call(*pip, "install", "--quiet", "--no-deps", "--no-index", wheels["from_tree"], cwd=environment)
    (site,) = environment.glob("lib/python*/site-packages")
    # behind the wheel, what this interpreter has (torch, detectron2), without its editable install of the checkout
    others = [p for p in sys.path if p.endswith("-packages") and Path(p).is_dir()] or [sysconfig.get_paths()["purelib"]]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return environment / "bin"


def _plant_patients(table):
    """Give the patients ids that cannot be taken for another number."""
    header, *lines = table.read_text(encoding="utf-8").splitlines()
    rows = [line.split(";") for line in lines]
    for row in rows:
        row[1] = f"{RAW_PATIENT}{row[1].strip().removesuffix('.0')}"
    table.write_text("\n".join([header, *map(";".join, rows)]) + "\n", encoding="utf-8")


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
            proposed = path == prepared / "clinical_schema.yaml"  # which asks about values that may be codes
            if path.suffix in (".json", ".html", ".txt", ".md", ".csv", ".yaml") and not proposed:
                assert not removed.search(content), path
        scanned[path.suffix] = scanned.get(path.suffix, 0) + 1
    assert min(scanned.values()) > 0, scanned
    for path in [prepared, *prepared.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    config = torch.load(root / "model" / "mine.pth", weights_only=True)["mdf_config"]
    assert "OUTPUT_DIR: output/mine_cxr/with_record" in config and str(root) not in config


@pytest.mark.skipif(os.name != "posix", reason="the environment's layout is that of POSIX systems")
def test_installed_wheel_leads_from_files_to_an_evaluated_model(installed, tmp_path):
    """A folder of images, a COCO export and a messy table, and nothing else: nothing is written by hand."""
    version = call(installed / "mdf", "--version", cwd=tmp_path)
    assert version == f"mdf_detectron {mdf_detectron.__version__}\n"
    files = write_all(tmp_path / "mine")
    _plant_patients(files["table"])
    trained = "output/mine_cxr/with_record"
    commands = [
        ["prepare", "own", "--annotations", files["annotations"], "--images", files["images"], "--table",
         files["table"], "--key", "File", "--patient", "MRN", "--decimal-comma", "--time", "Taken",
         "--record-time", "Drawn", "--columns", "Age:age Sex:sex Lactate:lactate Smoker:smoker",
         "--image-size", 64, "--out", "datasets/mine_cxr"],
        ["audit", "datasets/mine_cxr"],
        ["describe", "datasets/mine_cxr", "--out", "page.html"],
        ["init", "datasets/mine_cxr", "--out", "cfg"],
        ["train", "--config-file", "cfg/with_record.yaml", *SHORT],
        ["evaluate", "--annotations", "datasets/mine_cxr/annotations/test.json", "--predictions",
         f"{trained}/inference/mine_cxr_test/coco_instances_results.json", "--out", "report", "--resamples", 20],
        ["publish", "--weights", f"{trained}/model_final.pth", "--out", "model/mine.pth", "--no-data"],
        ["predict", "--weights", "model/mine.pth", "--out", "found", "--images",
         "datasets/mine_cxr/images/scan_01.png"],
    ]  # fmt: skip
    printed = call(installed / "python", "-c", PROGRAM, json.dumps(commands, default=str), cwd=tmp_path)
    where, built, *lines = printed.splitlines()
    assert str(installed.parent) in where and str(REPOSITORY) not in where and built == "MultimodalRCNN"
    assert (tmp_path / trained / "model_final.pth").is_file()
    for text in ("datasets/mine_cxr: written", "passes", "page.html: written", "report.html"):
        assert any(text in line for line in lines), text
    assert "Patients: 3. Images: 6" in (tmp_path / "report" / "report.md").read_text()
    assert json.loads((tmp_path / "datasets/mine_cxr/report.json").read_text())["flow"]
    _nothing_is_told_about_patients(tmp_path)


def test_the_wheel_declares_its_command_and_holds_its_data(installed):
    (site,) = installed.parent.glob("lib/python*/site-packages")
    (entry_points,) = site.glob("mdf_detectron-*.dist-info/entry_points.txt")
    assert "mdf = mdf_detectron.cli:main" in entry_points.read_text()
    package = site / "mdf_detectron"
    configs = sorted(p.relative_to(REPOSITORY / "configs") for p in (REPOSITORY / "configs").rglob("*.yaml"))
    assert sorted(p.relative_to(package / "configs") for p in (package / "configs").rglob("*.yaml")) == configs
    assert (package / "model_zoo" / "zoo.yaml").is_file() and list((package / "model_zoo" / "weights").glob("*.pth"))
    assert not list(site.glob("tests")) and not list(site.glob("benchmarks"))


def test_a_source_distribution_gives_the_same_wheel(wheels):
    names = {kind: zipfile.ZipFile(path).namelist() for kind, path in wheels.items()}
    assert sorted(names["from_sdist"]) == sorted(names["from_tree"])
