"""The installable product: a wheel, installed outside of the checkout, works from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import mdf_detectron

REPOSITORY = Path(__file__).parents[1]
SMALL = ("SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0", "INPUT.IMAGE_SIZE", "64",
         "DATALOADER.NUM_WORKERS", "0")  # fmt: skip


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


@pytest.mark.skipif(os.name != "posix", reason="the environment's layout is that of POSIX systems")
def test_installed_wheel_works_from_an_empty_folder(installed, tmp_path):
    version = call(installed / "mdf", "--version", cwd=tmp_path)
    assert version == f"mdf_detectron {mdf_detectron.__version__}\n"
    options = ["--num-patients", 40, "--seed", 1, "--image-size", 96, "--num-workers", 1]
    predictions = "output/run/inference/synthetic_cxr_test/coco_instances_results.json"
    commands = [
        ["prepare", "synthetic", "--out", "datasets/synthetic_cxr", *options],
        ["train", "--config-file", "synthetic_cxr/mdf_net.yaml", *SMALL, "OUTPUT_DIR", "output/run"],
        ["evaluate", "--dataset", "synthetic_cxr_test", "--predictions", predictions, "--resamples", 20,
         "--out", "output/evaluation"],
    ]  # fmt: skip
    printed = call(installed / "python", "-c", PROGRAM, json.dumps(commands, default=str), cwd=tmp_path)
    where, built, *lines = printed.splitlines()
    assert str(installed.parent) in where and str(REPOSITORY) not in where and built == "MultimodalRCNN"
    assert (tmp_path / "output/run/model_final.pth").is_file()
    assert (tmp_path / "output/evaluation/report.html").is_file() and any("report.html" in line for line in lines)


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
