"""How much of the package a training loads between ``mdf train`` and ``results.json``.

``python tests/engine/test_path_of_a_training.py PREPARED_FOLDER`` prints the modules and their lines.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MOST_FILES, MOST_LINES = 65, 11_200
OPTIONS = """MODEL.DEVICE cpu MODEL.CLINICAL.NUMERIC ['age','temperature'] MODEL.ROI_HEADS.NUM_CLASSES {classes}
    INPUT.IMAGE_SIZE 64 MODEL.MASK_ON False SOLVER.IMS_PER_BATCH 2 SOLVER.STEPS ()
    SOLVER.MAX_ITER 2 DATALOADER.NUM_WORKERS 0 DATASETS.TRAIN ('{name}_train',) DATASETS.VAL ('{name}_val',)
    DATASETS.TEST ('{name}_test',) OUTPUT_DIR {out}"""
PROGRAM = """
import os, sys
from mdf_detectron import cli
loaded = {}
def at_results(event, args):
    if event == "os.rename" and os.path.basename(os.fspath(args[1])) == "results.json":
        loaded.update(sys.modules)
sys.addaudithook(at_results)
cli.main(["train", "--config-file", "synthetic_cxr/mdf_net.yaml", *sys.argv[1:]])
assert os.path.isfile(os.path.join(sys.argv[-1], "results.json"))
for name, module in sorted(loaded.items()):
    if name.split(".")[0] == "mdf_detectron" and module.__file__:
        print("MODULE", name, sum(1 for _ in open(module.__file__, "rb")))
"""


def modules_of_a_training(folder: Path, out: Path) -> dict[str, int]:
    """Train, validate and test in a new process; return the package's loaded modules and their lines."""
    classes = len(json.loads((folder / "annotations" / "train.json").read_text())["categories"])
    words = OPTIONS.format(name=folder.name, out=out, classes=classes).split()
    environment = {**os.environ, "DETECTRON2_DATASETS": str(folder.parent)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines() if line.startswith("MODULE ")]
    return {name: int(lines) for _, name, lines in found if int(lines) > 1}


def test_the_path_is_short(tiny_folder, tmp_path):
    (tmp_path / "tiny_cxr").symlink_to(tiny_folder)
    found = modules_of_a_training(tmp_path / "tiny_cxr", tmp_path / "out")
    assert len(found) <= MOST_FILES and sum(found.values()) <= MOST_LINES, found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        modules = modules_of_a_training(Path(sys.argv[1]).resolve(), Path(directory))
    for module, count in modules.items():
        print(f"{count:5} {module}")
    print(f"{len(modules)} files, {sum(modules.values())} lines")
