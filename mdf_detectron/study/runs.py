"""One run of a study: train a variant, then score it with the rows as they are, halved, removed and exchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from mdf_detectron.data.build import records_of
from mdf_detectron.data.prepared_folder import REPORT_FILE_NAME
from mdf_detectron.data.registration import register_prepared_folder
from mdf_detectron.engine.defaults import load_config
from mdf_detectron.engine.inference import evaluate_records, load_model
from mdf_detectron.errors import UserError
from mdf_detectron.evaluation.files import finite_or_none, write_json
from mdf_detectron.evaluation.row_dependence import hide_cells, permute_rows, remove_rows
from mdf_detectron.study.variants import VARIANTS, StudyVariant

REPOSITORY = Path(__file__).resolve().parents[2]
DATASET = "synthetic_cxr"
ROW_STATES = {
    "full": lambda records: list(records),
    "half": lambda records: hide_cells(records, 0.5),
    "none": remove_rows,
    "shuffled": permute_rows,
}
"""What happens to the rows of the test split: nothing, half of each row's cells hidden, all hidden, exchanged."""


def run_variant(name: str, seed: int, out: str, opts: Sequence[str], num_threads: int) -> dict[str, Any]:
    """Train and score; what is there already is taken as it is, so that a study that was stopped goes on.

    Args:
        name: of :data:`VARIANTS`.
        seed: of the training.
        out: folder of the study, with the prepared folder in it.
        opts: overrides of every run.

    Returns:
        ``{"variant", "seed", "asked", "rows": {state: {task: {metric: value}}}}``, also written to
        ``<out>/<name>/seed_<seed>/study.json``.
    """
    folder = Path(out) / name / f"seed_{seed}"
    result = folder / "study.json"
    variant = VARIANTS[name]
    asked = {
        "dataset": json.loads((Path(out) / DATASET / REPORT_FILE_NAME).read_text(encoding="utf-8"))["arguments"],
        "config": _config(variant, opts).dump(),
    }
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
        if found.get("asked") == asked:
            return found
    torch.set_num_threads(num_threads)
    _train(variant, seed, folder, Path(out), opts, num_threads)
    found = finite_or_none(
        {
            "variant": name,
            "seed": seed,
            "asked": asked,
            "rows": _score(variant, folder, Path(out) / DATASET, opts),
        }
    )
    write_json(result, found)
    return found


def _config(variant: StudyVariant, opts: Sequence[str]) -> CfgNode:
    return load_config(variant.config_file, ["MODEL.DEVICE", "cpu", *variant.opts, *opts])


def _train(variant: StudyVariant, seed: int, folder: Path, out: Path, opts: Sequence[str], num_threads: int) -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / "train_net.py"), "--config-file", str(variant.config_file)]
    command += [*variant.opts, "SEED", str(seed), *opts, "OUTPUT_DIR", str(folder)]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(out), "OMP_NUM_THREADS": str(num_threads)}
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.json"):
        stale.unlink()
    with open(folder / "output.txt", "w", encoding="utf-8") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        raise UserError(f"training of {variant.title}, seed {seed}, failed; see {folder / 'output.txt'}")


def _score(variant: StudyVariant, folder: Path, dataset: Path, opts: Sequence[str]) -> dict[str, Any]:
    register_prepared_folder(dataset, DATASET)
    test, cfg = f"{DATASET}_test", _config(variant, opts)
    model, records = load_model(cfg, folder / "model_final.pth"), records_of([test])
    states = ROW_STATES if model.backbone.clinical_encoder is not None else {"full": ROW_STATES["full"]}
    return {state: evaluate_records(cfg, model, test, change(records)) for state, change in states.items()}
