"""The fusion study: many trainings on the synthetic set at one budget, compared in one table and chart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from matplotlib.figure import Figure

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.loaders import records_of
from mdf_detectron.data.prepared import REPORT_FILE_NAME
from mdf_detectron.data.record_changes import hide_values, permute_records, remove_records
from mdf_detectron.engine.defaults import load_config
from mdf_detectron.engine.inference import evaluate_records, load_model
from mdf_detectron.errors import DatasetError, ResultsError, UserError
from mdf_detectron.evaluation.statistics import mean_over_seeds
from mdf_detectron.fileio import finite_or_none, markdown_table, read_json, write_json


@dataclass(frozen=True)
class StudyVariant:
    """One model.

    Attributes:
        title: for the table.
        config: name of its config.
        opts: overrides.
    """

    title: str
    config: str
    opts: tuple[str, ...] = ()

    @property
    def config_file(self) -> str:
        """Name of the config in the model zoo."""
        return f"synthetic_cxr/{self.config}.yaml"


def _fusion(title: str, name: str) -> StudyVariant:
    return StudyVariant(title, "msf_net_3d", ("MODEL.FUSION.NAME", name))


def _branch(title: str, name: str, config: str = "msf_net_3d") -> StudyVariant:
    return StudyVariant(title, config, ("MODEL.CLINICAL.BRANCH", name))


VARIANTS = {
    "image": StudyVariant("image-only", "mask_rcnn"),
    "sum": _fusion("3-D, sum, deconv", "ElementwiseSum"),
    "hadamard": _fusion("3-D, Hadamard product, deconv", "HadamardProduct"),
    "concat_linear": _fusion("3-D, concatenation + linear, deconv", "ConcatenationLinear"),
    "concat_conv": _fusion("3-D, concatenation + convolution, deconv", "ConcatenationConv"),
    "sum_batch_norm": StudyVariant(
        "3-D, sum, deconv with batch norm (paper)", "msf_net_3d", ("MODEL.CLINICAL.BATCH_RENORM", "False")
    ),
    "film": _fusion("3-D, FiLM", "FiLM"),
    "daft": _fusion("3-D, DAFT", "DAFT"),
    "cross_attention": _fusion("3-D, cross-attention", "CrossAttention"),
    "repeat": _branch("3-D, sum, repeat", "repeat"),
    "compact": _branch("3-D, sum, compact", "compact"),
    "row_1d": StudyVariant("1-D", "msf_net_1d"),
    "mdf_net": StudyVariant("MDF-Net: 3-D (sum, deconv) and 1-D", "mdf_net"),
    "mdf_net_bfloat16": StudyVariant(
        "MDF-Net, branch in bfloat16", "mdf_net", ("MODEL.CLINICAL.EXECUTION", "['bfloat16']")
    ),
    "mdf_net_compact": _branch("MDF-Net, compact", "compact", "mdf_net"),
    "mdf_net_compact_dropout": StudyVariant(
        "MDF-Net, compact, clinical dropout",
        "mdf_net",
        ("MODEL.CLINICAL.BRANCH", "compact", "MODEL.CLINICAL.DROPOUT_ROW", "0.1", "MODEL.CLINICAL.DROPOUT_CELL", "0.3"),
    ),
}
"""The 3-D fusions stand alone, without the 1-D one beside them: together, either could hide that the other fails."""


DATASET = "synthetic_cxr"


RECORD_STATES = {
    "full": lambda records: list(records),
    "half": lambda records: hide_values(records, 0.5),
    "none": remove_records,
    "shuffled": permute_records,
}
"""Changes of the test split's records: none, half of the values hidden, all hidden, exchanged between patients."""


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
        "dataset": read_json(Path(out) / DATASET / REPORT_FILE_NAME, DatasetError)["arguments"],
        "config": _config(variant, opts).dump(),
    }
    if result.is_file():
        found = read_json(result, ResultsError)
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
    command = [sys.executable, "-m", "mdf_detectron", "train", "--config-file", variant.config_file]
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
    states = RECORD_STATES if model.backbone.clinical_encoder is not None else {"full": RECORD_STATES["full"]}
    return {state: evaluate_records(cfg, model, test, change(records)) for state, change in states.items()}


TASK, METRIC = "bbox_iobb", "AP50"


COLORS = {"full": "#1f6f8b", "half": "#7fb3c4", "none": "#c9c9c9", "shuffled": "#d98a5f"}


def scores_by_variant(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Collect {variant: {record state: AP50 by IoBB of each seed}}, in the order of the study."""
    out: dict[str, dict[str, list[float]]] = {}
    for name in VARIANTS:
        own = sorted((r for r in runs if r["variant"] == name), key=lambda r: r["seed"])
        if own:
            out[name] = {s: [r["rows"][s][TASK][METRIC] for r in own] for s in RECORD_STATES if s in own[0]["rows"]}
    return out


def study_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Format AP50 by IoBB of each variant and state of the records, with the spread over seeds, as Markdown."""
    rows = []
    for name, scores in scores_by_variant(runs).items():
        cells = [_cell(scores[state]) if state in scores else "–" for state in RECORD_STATES]
        rows.append((VARIANTS[name].title, *cells))
    return markdown_table(("model", "full record", "half of each record", "no record", "records shuffled"), rows)


def _cell(values: Sequence[float]) -> str:
    m = mean_over_seeds(values)
    return f"{m['mean']:.1f}" if m["runs"] == 1 else f"{m['mean']:.1f} ± {m['std']:.1f}"


def study_chart(runs: Sequence[Mapping[str, Any]], oracle: Mapping[str, float], num_seeds: int) -> Figure:
    """Draw AP50 of every variant and state of the records as bars, seeds as dots, the oracle's bounds as lines."""
    scores = scores_by_variant(runs)
    figure = Figure(figsize=(9.0, 1.9 + 0.55 * len(scores)), layout="constrained", dpi=110)
    axes = figure.subplots()
    places = np.arange(len(scores))
    for number, state in enumerate(RECORD_STATES):
        at = [p + (number - 1.5) * 0.2 for p, s in zip(places, scores.values(), strict=True) if state in s]
        values = [s[state] for s in scores.values() if state in s]
        axes.barh(
            at, [np.mean(v) for v in values], height=0.18, color=COLORS[state], label=f"record: {state}", zorder=2
        )
        if num_seeds > 1:
            points = [(v, a) for a, vs in zip(at, values, strict=True) for v in vs]
            axes.plot(*zip(*points, strict=True), "k.", markersize=3, zorder=3)
    for kind, style in (("image", ":"), ("both", "-")):
        title = f"oracle, {'image-only' if kind == 'image' else 'image and record'} ({oracle[kind]:.1f})"
        axes.axvline(oracle[kind], color="black", linestyle=style, linewidth=1, label=title, zorder=1)
    axes.set_yticks(places, [VARIANTS[name].title for name in scores])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"AP50 by IoBB (× 100), synthetic test split, {num_seeds} seed(s)")
    axes.grid(axis="x", color="#eeeeee", zorder=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
