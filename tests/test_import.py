"""Importing the package registers its components and does nothing else; NumPy-only modules need no detectron2."""

import ast
import os
import re
import subprocess
import sys
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mdf_detectron import threads

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "mdf_detectron"


def run(code, cwd=None):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)


IMPORT = """
import logging, sys, warnings
import torch, detectron2.data
before = list(warnings.filters)
import mdf_detectron
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
assert "MultimodalRCNN" in META_ARCH_REGISTRY and "build_dual_backbone" in BACKBONE_REGISTRY
assert "ClinicalROIHeads" in ROI_HEADS_REGISTRY
assert not [f for f in warnings.filters if f not in before and "meshgrid" in str(f[1])]
assert not logging.getLogger("detectron2.engine.train_loop").filters
assert not [n for n in detectron2.data.DatasetCatalog.list() if "_cxr" in n or "mimic" in n]
mdf_detectron.add_mdf_config
import mdf_detectron.engine.trainer
mdf_detectron.Predictor
slow = {"timm", "sklearn", "scipy.stats", "scipy.optimize", "pandas", "matplotlib", "pyarrow"}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""


def test_import_registers_and_does_nothing_else(tmp_path, tiny_folder):
    """A training and a predictor load what is slow to import only where it is needed."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "own_cxr").symlink_to(tiny_folder)
    found = run(IMPORT, tmp_path)
    assert found.returncode == 0, found.stderr


def test_openmp_waits_briefly(tmp_path):
    """The threads spin for a moment, then sleep, where torch is loaded after this package, as the commands load it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_WAIT", "GOMP_"))}
    blocked = WITHOUT.format(absent=("detectron2",)) + "import mdf_detectron, torch"
    found = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True,
                           env={**environment, "OMP_DISPLAY_ENV": "verbose"})  # fmt: skip
    shown = re.findall(r"OMP_WAIT_POLICY = '(\w+)'", found.stderr)
    assert shown and set(shown) == {"PASSIVE"}, found.stderr
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", found.stderr)) == {str(threads.SPIN_COUNT)}


def test_openmp_waits_as_the_user_says(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    threads.wait_briefly()
    assert os.environ["OMP_WAIT_POLICY"] == "active" and "GOMP_SPINCOUNT" not in os.environ


WITHOUT = """
import sys, importlib.util
ABSENT = {absent}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.split(".")[0] in ABSENT else real(name, *more)
sys.meta_path.insert(0, Block())
"""
"""Start of a program in which packages cannot be imported, as if they were not installed."""


NUMPY_ONLY = """
import mdf_detectron.data.splits, mdf_detectron.data.schema, mdf_detectron.data.record_changes
import mdf_detectron.data.prepared, mdf_detectron.data.audit, mdf_detectron.data.description
from mdf_detectron import cli
from mdf_detectron.evaluation import coco, estimates, evaluate_coco, froc, matching, metrics
from mdf_detectron.evaluation import scoring, statistics, subgroups, summary
truth = {"images": [{"id": 1, "height": 9, "width": 9, "file_name": "a.png"}], "categories": [{"id": 1, "name": "a"}],
         "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}]}
found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}]
assert evaluate_coco(truth, found)["bbox"]["AP"] > 99.9
loaded = coco.GroundTruth.load(truth)
detections = coco.Detections.load(found, loaded)
assert summary.summarize(loaded, detections, summary.Protocol(num_resamples=2))["counts"]["bbox"]["a"]["tp"] == 1
assert not {"detectron2", "torch"} & {name.partition(".")[0] for name in sys.modules}
cli.main(["--help"])
import mdf_detectron.cli.install_detectron2
cli.main(["train", "--config-file", "synthetic_cxr/mdf_net.yaml"])
"""


def test_numpy_only_modules_need_neither_detectron2_nor_torch():
    """Metrics compute without them; a command that needs them says so."""
    found = run(WITHOUT.format(absent=("detectron2", "torch", "torchvision", "timm")) + NUMPY_ONLY)
    assert "install-detectron2 " in found.stdout
    assert found.returncode == 1 and "this command needs torch: install torch and torchvision" in found.stderr
    assert len(found.stderr.splitlines()) == 1, found.stderr


def test_without_detectron2_the_message_names_the_command_that_installs_it():
    wanted = ("from mdf_detectron import model_zoo", "import mdf_detectron.modeling.fusions",
              "import mdf_detectron.engine.trainer", "from mdf_detectron import add_mdf_config")  # fmt: skip
    tries = "".join(f"try:\n    {one}\nexcept ModuleNotFoundError as error:\n    print(error)\n" for one in wanted)
    found = run(WITHOUT.format(absent=("detectron2",)) + tries)
    lines = found.stdout.splitlines()
    assert len(lines) == len(wanted) and all("needs detectron2: run `mdf install-detectron2`" in x for x in lines), (
        lines
    )


def imports(path):
    """Yield (line, module, whether it runs when the file is imported) of each absolute import of a file."""
    tree = ast.parse(path.read_text())
    later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.If)  # of ifs, TYPE_CHECKING
    inner = {id(node) for outer in ast.walk(tree) if isinstance(outer, later) for node in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, one.name, id(node) not in inner) for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{one.name}", id(node) not in inner) for one in node.names)


IMPORTS = {path: list(imports(path)) for path in PACKAGE.rglob("*.py")}


def test_packages_of_extras_are_imported_where_they_are_used():
    extras = {"pydicom", "pylibjpeg", "jpeg_ls", "captum", "gradio", "highdicom", "onnx", "onnxruntime", "onnxscript",
              "ensemble_boxes", "submitit", "openpyxl", "pyarrow", "pytest",
              "playwright", "xdist", "hypothesis"}  # fmt: skip
    used = {(module.split(".")[0], at_once) for found in IMPORTS.values() for _, module, at_once in found}
    assert {name for name, at_once in used if at_once} & extras == set()
    assert {("pydicom", False), ("captum", False), ("gradio", False)} <= used


ROOMS = {
    "data": "",
    "modeling": "data",
    "evaluation": "data modeling",
    "config_file": "data",
    "report": "data evaluation",
    "checkpoint": "data modeling config_file",
    "engine": "data modeling evaluation config_file checkpoint",
    "inference": "data modeling evaluation checkpoint report",
    "export": "modeling inference",
    "model_zoo": "data modeling evaluation config_file checkpoint",
    "serving": "data inference report",
    "experiments": "data modeling evaluation report config_file checkpoint engine",
}
"""Which rooms a room of the package imports; cli imports all, and all import the files at the top of the package."""


def test_imports_go_one_way():
    for path, found in IMPORTS.items():
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for line, name, _ in found:
            reached = {name.split(".")[1]} & {*ROOMS, "cli"} if name.startswith("mdf_detectron.") else set()
            allowed = {"cli", *ROOMS} if room in ("cli", "__main__") else {room, *ROOMS.get(room, "").split()}
            assert reached <= allowed, f"{path.name}, line {line}: {room} imports {reached - allowed}"
    order = list(ROOMS)
    assert all(order.index(other) < order.index(room) for room, others in ROOMS.items() for other in others.split())


def test_no_two_modules_import_each_other():
    """No chain of imports, even of those within functions, leads from a module back to it."""
    modules = {".".join(("mdf_detectron", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"):
               found for path, found in IMPORTS.items()}  # fmt: skip
    graph = {module: {name if name in modules else name.rpartition(".")[0] for _, name, _ in found} - {module}
             for module, found in modules.items()}  # fmt: skip
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_all_that_is_imported_is_declared():
    """Each third-party module that the package imports belongs to a distribution named in setup.py."""
    distribution = {"cv2": "opencv-python", "PIL": "Pillow", "yaml": "PyYAML", "sklearn": "scikit-learn",
                    "imagehash": "ImageHash", "skimage": "scikit-image"}  # fmt: skip
    declared = {re.split(r"[><=\[ ]", text)[0].lower() for text in re.findall(r'"([\w-]+[><=][^"]*)"', SETUP)}
    modules = {name.split(".")[0] for found in IMPORTS.values() for _, name, _ in found}
    third_party = modules - set(sys.stdlib_module_names) - {"mdf_detectron", "detectron2"}
    assert {"torch", "numpy"} <= third_party
    undeclared = {m for m in third_party if distribution.get(m, m).lower().replace("_", "-") not in declared}
    assert undeclared == set()


SETUP = (REPOSITORY / "setup.py").read_text()


def test_the_package_does_not_reach_out_of_itself():
    for path in PACKAGE.rglob("*.py"):
        depth = len(path.relative_to(PACKAGE).parts)
        reached = [int(n) for n in re.findall(r"__file__\)[^\n]*?\.parents\[(\d+)\]", path.read_text())]
        assert all(n < depth for n in reached), f"{path} leaves the package"


def test_every_requirement_is_pinned_within_its_range():
    """requirements.txt pins what setup.py asks for, extras included, at a version that setup.py allows."""
    lines = [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {}
    for requirement in map(Requirement, lines):
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{requirement} is not pinned"
        pins.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    wanted = [Requirement(text) for text in re.findall(r'"([\w-]+[><=][^"]*)"', SETUP)]
    wanted = [r for r in wanted if r.name != "python"]
    assert len(wanted) > 30
    for requirement in wanted:
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert versions and all(requirement.specifier.contains(v) for v in versions), (str(requirement), versions)


PERMISSIVE = re.compile(
    r"Apache|BSD|\bMIT\b|\bISC\b|Python Software Foundation|PSF|HPND|MPL|Mozilla|\b0BSD|Unlicense|NVIDIA", re.IGNORECASE
)


def test_nothing_that_is_installed_asks_for_the_source_of_what_uses_it():
    """The license of each installed package that requirements.lock names: none is of the GNU family."""
    names = re.findall(r"^([\w.-]+)==", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    licenses = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):  # of another system
            about = metadata.metadata(name)
            stated = [about.get("License-Expression"), (about.get("License") or "")[:200]]
            stated += [line for line in about.get_all("Classifier") or [] if line.startswith("License")]
            licenses[name] = " ".join(filter(None, stated))
    assert len(licenses) > 50
    bad = {
        n: text
        for n, text in licenses.items()
        if "GPL" in text or "General Public" in text or not PERMISSIVE.search(text)
    }
    assert set(bad) <= {"cuda-toolkit"}, bad  # names NVIDIA's libraries, holds no files


LOCK_COMMAND = re.search(r"uv pip compile .*", (REPOSITORY / "SECURITY.md").read_text())[0]


def test_the_lock_file_has_the_pins_and_hashes():
    """requirements.lock holds each pin of requirements.txt for Python 3.11, and a hash of everything."""
    lock = (REPOSITORY / "requirements.lock").read_text()
    entries = re.findall(r"^([\w.-]+)==([^\s;]+)[^\n]*\\\n(?:    --hash=sha256:([0-9a-f]{64}))", lock, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^[\w.-]+==", lock, re.MULTILINE)) > 100
    locked = {canonicalize_name(name): version for name, version, _ in entries}
    lines = [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    for pin in map(Requirement, lines):
        if pin.marker is None or pin.marker.evaluate({"python_version": "3.11"}):
            version = locked.get(canonicalize_name(pin.name))
            assert version is not None and pin.specifier.contains(version), f"{pin} is not locked; run: {LOCK_COMMAND}"
