"""How much of the package stands between ``mdf train`` and ``results.json``.

``python tests/engine/test_path_of_a_training.py PREPARED_FOLDER`` prints the modules and their lines.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MOST_FILES, MOST_LINES = 90, 13_000
OPTIONS = """MODEL.DEVICE cpu MODEL.CLINICAL.NUMERIC ['age','temperature'] MODEL.ROI_HEADS.NUM_CLASSES 2
    INPUT.IMAGE_SIZE 64 MODEL.SPATIALIZER.NUM_STAGES 6 MODEL.MASK_ON False SOLVER.IMS_PER_BATCH 2 SOLVER.STEPS ()
    SOLVER.MAX_ITER 2 DATALOADER.NUM_WORKERS 0 DATASETS.TRAIN ('{name}_train',) DATASETS.VAL ('{name}_val',)
    DATASETS.TEST ('{name}_test',) OUTPUT_DIR {out}"""
PROGRAM = """
import os, sys
sys.argv = ["mdf", "train", "--config-file", "synthetic_cxr/mdf_net.yaml", *sys.argv[1:]]
called = set()
sys.setprofile(lambda frame, event, argument: event == "call" and called.add(frame.f_code))
from mdf_detectron import cli
cli.main()
sys.setprofile(None)
assert os.path.isfile(os.path.join(sys.argv[-1], "results.json"))
run = {code.co_filename for code in called if not code.co_name.startswith("<module") and code.co_flags & 2}
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] == "mdf_detectron" and module.__file__:
        lines = sum(1 for _ in open(module.__file__, "rb"))
        print("MODULE", name, lines, "run" if module.__file__ in run else "imported")
"""


def modules_of_a_training(folder: Path, out: Path) -> dict[str, tuple[int, bool]]:
    """Train, validate and test in a new process; module of the package → its lines, whether a function of it ran."""
    words = OPTIONS.format(name=folder.name, out=out).split()
    environment = {**os.environ, "DETECTRON2_DATASETS": str(folder.parent)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("MODULE ")]
    return {name: (int(lines), state == "run") for name, lines, state in found}


def test_the_path_is_short(tiny_folder, tmp_path):
    (tmp_path / "tiny_cxr").symlink_to(tiny_folder)
    found = modules_of_a_training(tmp_path / "tiny_cxr", tmp_path / "out")
    files = {name for name, (lines, _) in found.items() if lines > 1}
    assert len(files) <= MOST_FILES and sum(found[name][0] for name in files) <= MOST_LINES, sorted(files)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        modules = modules_of_a_training(Path(sys.argv[1]).resolve(), Path(directory))
    for module, (count, ran) in modules.items():
        print(f"{count:5} {'run     ' if ran else 'imported'} {module}")
    ran_lines, all_lines = [c for c, ran in modules.values() if ran], [c for c, _ in modules.values()]
    print(f"run: {len(ran_lines)} files, {sum(ran_lines)} lines; all: {len(all_lines)} files, {sum(all_lines)} lines")
