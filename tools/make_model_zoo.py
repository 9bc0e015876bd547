#!/usr/bin/env python3
"""Write the tables of MODEL_ZOO.md and docs/speed.md from the results that are kept; with --runs, fill the zoo first.

python tools/make_model_zoo.py                       # the tables
python tools/make_model_zoo.py --runs output/zoo     # publish the trainings there, fill zoo.yaml, then the tables

Results: mdf_detectron/model_zoo/zoo.yaml, docs/results/*.json (config_speeds.json is written by
tools/benchmark.py --costs). The trainings are made in the folder RUNS by, for each model and seed:

    mdf prepare synthetic --out data/synthetic_cxr --num-patients 700 --seed 1 --image-size 160
    mdf prepare isic2017 --root ROOT --out data/isic2017
    mdf weights efficientnet-lite0 lite0.pth
    DETECTRON2_DATASETS=data mdf train --config-file FOLDER/MODEL.yaml OUTPUT_DIR FOLDER/MODEL/seed_N SEED N

the last one for isic2017 with MODEL.TIMM.WEIGHTS_FILE lite0.pth. RUNS/published/ holds the published files with their
cards. A model without a training there keeps its entry.
"""

import argparse
import os
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import yaml

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.checkpoint.published import ZOO_FILE, ZOO_FOLDER, ZooEntry, read_zoo
from mdf_detectron.cli import publish, run_main
from mdf_detectron.config_file import load_config
from mdf_detectron.engine.trainer import RESULTS_FILE_NAME
from mdf_detectron.errors import ConfigError, ResultsError
from mdf_detectron.experiments.trainings import first_difference, flat_settings
from mdf_detectron.fileio import CONFIGS, markdown_table, read_json, sha256_of, write_text
from mdf_detectron.report.model_card import DIAGRAM_SUFFIX

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs" / "results"
METRICS = {
    "AP50 IoBB": "bbox_iobb/AP50",
    "the same, records exchanged": "bbox_iobb/AP50 exchanged",
    "AR50 IoBB": "bbox_iobb/AR50",
    "AP50 IoU": "bbox/AP50",
}
"""Column of the table → name in the results."""

SEEDS = (1, 2, 3)
DATA = {"synthetic_cxr": "synthetic (700 patients, seed 1, signal 1)", "isic2017": "ISIC 2017, 1,617 images, seed 1"}
"""Folder of configs → the data of its trainings."""

MODELS = (
    *(f"synthetic_cxr/{name}" for name in ("mask_rcnn", "logit_fusion", "msf_net_1d", "msf_net_3d", "mdf_net")),
    *(f"isic2017/{name}" for name in ("faster_rcnn", "logit_fusion")),
)
SHIPPED = {(f"{folder}/logit_fusion", 1) for folder in DATA}
HEADER = """\
# The model zoo, filled by tools/make_model_zoo.py. An entry: config, data, command, seeds of the trainings, results
# (x 100 on the test split, one value a seed) and, where weights are published, their path below the package's zoo or
# $MDF_MODEL_ZOO and the SHA-256 of the file.
"""


def replace_marked(page: str, begin: str, end: str, content: str, name: str = "the page") -> str:
    """Put content between two marks of a page, in place of what is there.

    Args:
        name: of the page, for the message.

    Raises:
        ConfigError: a mark is absent.
    """
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ConfigError(f"{name} lacks the marks '{begin}' and '{end}'")
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{after}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="trainings of the models")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="fill these (default: all)")
    args = parser.parse_args(argv)
    if args.runs:
        entries = dict(read_zoo())
        for model in args.models:
            filled = fill(model, args.runs.resolve())
            entries |= {filled.config: filled} if filled else {}
        write_zoo(entries)
    for page, text in pages().items():
        write_text(page, text)
        print(f"{page.relative_to(REPOSITORY)}: written")


def pages() -> dict[Path, str]:
    """Return each page with its tables as the results are now."""
    speeds = read_json(RESULTS / "config_speeds.json", ConfigError)
    studies = read_json(RESULTS / "record_studies.json", ConfigError)["studies"]
    tables = {
        "MODEL_ZOO.md": {"models": models_table(), "trained": trained_table(read_zoo()),
                         "studies": studies_table(studies), "costs": costs_table(speeds, short=True)},
        "docs/speed.md": {"costs": costs_table(speeds)},
    }  # fmt: skip
    made = {}
    for name, wanted in tables.items():
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        for table, content in wanted.items():
            text = replace_marked(text, f"<!-- {table}: begin -->", f"<!-- {table}: end -->", content, name)
        made[REPOSITORY / name] = text
    return made


def models_table() -> str:
    """Format the shipped configs by folder, with what the base config of a folder says of itself."""
    rows = []
    for base in sorted(CONFIGS.glob("*/Base-*.yaml")):
        names = sorted(path.stem for path in base.parent.glob("*.yaml") if path != base)
        about = re.split(r"[:.]\s", base.read_text(encoding="utf-8").removeprefix("# ").replace("\n# ", " "))[0]
        rows.append((f"`{base.parent.name}/`", ", ".join(f"`{name}`" for name in names), about))
    return markdown_table(("folder", "configs", "what they are"), rows)


def trained_table(zoo: dict[str, ZooEntry]) -> str:
    """Format the trained models: mean and standard deviation over the seeds."""
    rows = []
    for entry in zoo.values():
        values = [spread(entry.results.get(metric, ())) for metric in METRICS.values()]
        rows.append((f"`{entry.config}`", len(entry.seeds), *values, where(entry)))
    return markdown_table(("model", "seeds", *METRICS, "weights"), rows)


def spread(values: list[float]) -> str:
    """Format mean ± standard deviation (of a sample)."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def where(entry: ZooEntry) -> str:
    """Say where the weights are."""
    if not entry.weights:
        return "–"
    if not entry.shipped:
        return f"`$MDF_MODEL_ZOO/{entry.weights}`"
    size = (ZOO_FOLDER / entry.weights).stat().st_size / 2**20
    card = Path("mdf_detectron/model_zoo") / Path(entry.weights).with_suffix(".md")
    return f"[shipped]({card.as_posix()}), {size:.1f} MiB"


def studies_table(studies: list[dict[str, Any]]) -> str:
    """Format what `does_it_help` answered on each data set."""
    header = ("data seed", "patients", "image-only", "MDF-Net", "gain (95 % interval)", "oracle gap closed",
              "half", "removed", "exchanged")  # fmt: skip
    rows = [
        (s["data_seed"], f"{s['patients']:,}", s["image_only"], s["with_record"],
         f"{s['gain']} ({s['low']} to {s['high']})",
         f"{(s['with_record'] - s['oracle_image']) / (s['oracle_record'] - s['oracle_image']):.0%}",
         s["half"], s["removed"], s["exchanged"])
        for s in studies
    ]  # fmt: skip
    return markdown_table(header, rows)


def costs_table(speeds: dict[str, Any], short: bool = False) -> str:
    """Format what each config costs; the short table leaves out columns, and configs whose cost follows from others."""
    columns = {
        "px": lambda row: row["px"],
        "parameters (M)": lambda row: f"{row['parameters'] / 1e6:.2f}",
        "s/step": lambda row: f"{row['step_seconds']:.2f}",
        "× reference": lambda row: f"{row['ratio']:.2f}",
        "images/s, training": lambda row: f"{row['training_images_per_second']:.1f}",
        "images/s, prediction": lambda row: f"{row['prediction_images_per_second']:.1f}",
    }
    if short:
        columns = {name: columns[name] for name in ("parameters (M)", "s/step", "× reference")}
    rows = [
        (f"`{name}`", *(value(row) for value in columns.values()))
        for name, row in speeds["rows"].items()
        if not short or not name.startswith("covid_cxr/") and "many_nodes" not in name
    ]
    about = (
        f"{speeds['machine']}, commit {speeds['commit']}; batch 4; reference: `{speeds['reference']}`; medians of "
        f"{speeds['rounds']} steps."
    )
    return f"{about}\n\n{markdown_table(('config', *columns), rows)}"


def fill(model: str, runs: Path) -> ZooEntry | None:
    """Publish every seed of a model; returns its entry, None where there is no training."""
    name, found = f"{model}.yaml", {}
    for seed in SEEDS:
        run = runs / model / f"seed_{seed}"
        if (run / RESULTS_FILE_NAME).is_file():
            check_config(run, name)
            found[seed] = published_file(runs, model, seed)
    if not found:
        return None
    results = [results_of(path) for path in found.values()]
    weights, digest = "", ""
    if (model, SEEDS[0]) in SHIPPED and SEEDS[0] in found:
        weights, digest = ship(found[SEEDS[0]])
    return ZooEntry(
        config=name,
        command=f"mdf train --config-file {name} SEED 1",
        data=DATA[model.partition("/")[0]],
        seeds=list(found),
        results={metric: [r[metric] for r in results] for metric in results[0]},
        weights=weights,
        sha256=digest,
    )


def check_config(run: Path, name: str) -> None:
    """Check that a training was made by the config as it is now.

    Raises:
        ResultsError: it was not; the message names the first key that differs.
    """
    cfg = load_config(str(run / "config.yaml"))
    now = load_config(name, ["SEED", cfg.SEED, "MODEL.DEVICE", cfg.MODEL.DEVICE])
    cfg.MODEL.TIMM.WEIGHTS_FILE = now.MODEL.TIMM.WEIGHTS_FILE  # a file of the machine
    differing = first_difference(flat_settings(cfg), flat_settings(now))
    if differing:
        raise ResultsError(f"{run} was trained by another config: {differing}; remove it to train it again")


def published_file(runs: Path, model: str, seed: int) -> Path:
    """Publish a training, if it is not yet; the shipped one in 16 bits."""
    half = (model, seed) in SHIPPED
    name = model.replace("/", "_") + ("" if half else f"_seed_{seed}")
    path = runs / "published" / f"{name}.pth"
    if not path.is_file():
        best = (runs / model / f"seed_{seed}" / "model_best.pth").is_file()
        weights = f"{model}/seed_{seed}/{'model_best' if best else 'model_final'}.pth"
        words = ["--weights", weights, "--out", f"published/{name}.pth"]
        os.environ["DETECTRON2_DATASETS"] = "data"
        os.chdir(runs)  # every path that a file may keep is relative
        publish.main([*words, *["--half"] * half])
    return path


def results_of(published: Path) -> dict[str, float]:
    """Read the test results that a published file holds, × 100, one decimal."""
    stored = Checkpoint.open(published).contents["results"]
    measured = [split(name) for name in METRICS.values() if " " not in name]
    values = {f"{task}/{metric}": stored["metrics"][task][metric]["value"] for task, metric in measured}
    comparison = stored["against_exchanged_records"]
    if comparison is not None:
        task, metric = split(METRICS["AP50 IoBB"])
        values[f"{task}/{metric} exchanged"] = comparison["differences"][task][metric]["first"]
    return {name: round(float(value), 1) for name, value in values.items()}


def split(name: str) -> tuple[str, str]:
    """Split "task/metric"."""
    task, _, metric = name.partition("/")
    return task, metric


def ship(published: Path) -> tuple[str, str]:
    """Copy a published file, its card and diagram into the package; returns its path below the zoo and its digest."""
    folder = ZOO_FOLDER / "weights"
    folder.mkdir(exist_ok=True)
    for path in (published, published.with_suffix(".md"), published.with_name(published.stem + DIAGRAM_SUFFIX)):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    return f"weights/{published.name}", sha256_of(published)


def write_zoo(entries: dict[str, ZooEntry]) -> None:
    """Write zoo.yaml."""
    models = [{key: value for key, value in entry.model_dump().items() if value} for entry in entries.values()]
    text = yaml.safe_dump({"models": models}, sort_keys=False, default_flow_style=None, width=118)
    write_text(ZOO_FILE, HEADER + text)


if __name__ == "__main__":
    run_main(main)
