#!/usr/bin/env python3
"""Speed of predictions, side by side in one run: a study through Predictor, the bare model, exported files, a folder.

    tools/benchmark_predict.py --threads 2

The models have random weights; the images are synthetic, of the model's size. Steps of a round follow each other, what
counts are the ratios of rounds. Exported files give masks within their boxes; the model is timed with the masks pasted
into the image, as Predictor gives them, and without ("no paste"), as the files are compared.
"""

from __future__ import annotations

import mdf_detectron  # noqa: F401 - before torch: it sets how OpenMP's threads wait, as in trainings

# isort: split
import argparse
import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.timing import Ratio, ratio, time_side_by_side
from detectron2.modeling import build_model

from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer
from mdf_detectron.checkpoint.contents import training_contents
from mdf_detectron.cli import run_main
from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.readers import read_radiograph
from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.export.export import ExportedModel, export_model
from mdf_detectron.fileio import markdown_table, write_json
from mdf_detectron.inference.folders import Study, run_predictions
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.modeling.deconv_fast.cpu_memory import keep_freed_memory

DATASET = "benchmark_cxr"
RECORD = {"age": 60, "temperature": 99.5, "o2sat": 93, "gender": "F"}

TARGETS = (
    ("Predictor, decoded image", "bare model", 1.15),
    ("ONNX Runtime", "bare model, no paste", 1.0),
    ("folder", "bare model over the folder", 1 / 0.9),
)
"""Step, what it is compared with, and the ratio of their times that should not be exceeded."""

Steps = dict[str, Callable[[], object]]


def make_weights(path: Path, config: str, image_size: int, options: list) -> Path:
    """Write a complete checkpoint of a model with random weights."""
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "INPUT.IMAGE_SIZE", image_size, "DATASETS.TRAIN",
                               (f"{DATASET}_train",), *options])  # fmt: skip
    torch.manual_seed(0)
    model = build_model(cfg)
    encoder = model.backbone.clinical_encoder
    if encoder is not None:
        encoder.fit(torch.randn(32, encoder.num_numeric), torch.zeros(32, len(encoder.embeddings), dtype=torch.long))
    MultimodalCheckpointer(model, str(path.parent), cfg=cfg, contents=training_contents(cfg)).save(path.stem)
    return path


def steps_of_a_study(predictor: Predictor, image_only: Predictor, image: Path, threads: int, folder: Path) -> Steps:
    """One study, every way."""
    pixels = read_radiograph(image, "L")
    inputs = predictor.prepare(pixels, RECORD).model_input
    alone = image_only.prepare(pixels).model_input

    def bare(model: torch.nn.Module, one: dict, **options: bool) -> object:
        with torch.inference_mode():
            return model.inference([one], **options)

    def exported(ending: str) -> Callable[[], object]:
        export_model(predictor, folder / f"model.{ending}")
        file = ExportedModel(folder / f"model.{ending}", threads=threads)
        arrays = {name: inputs[name][None].numpy() for name in file.input_names}
        return lambda: file(arrays)

    compiled = copy.deepcopy(predictor.model)
    compiled.backbone = torch.compile(compiled.backbone)
    return {
        "Predictor, file": lambda: predictor(image, RECORD),
        "Predictor, decoded image": lambda: predictor(pixels, RECORD),
        "bare model": lambda: bare(predictor.model, inputs),
        "bare model, no paste": lambda: bare(predictor.model, inputs, do_postprocess=False),
        "bare model, no paste, compiled backbone": lambda: bare(compiled, inputs, do_postprocess=False),
        "image-only model": lambda: bare(image_only.model, alone),
        "ONNX Runtime": exported("onnx"),
        "TorchScript": exported("ts"),
    }


def steps_of_a_folder(predictor: Predictor, images: list[Path], out: Path) -> Steps:
    """All images through the command's run, and through the model alone."""
    studies = [Study(path, path.name, n, lambda: RECORD) for n, path in enumerate(images)]
    inputs = [predictor.prepare(path, RECORD).model_input for path in images]

    def run() -> None:
        shutil.rmtree(out, ignore_errors=True)
        result = run_predictions(predictor, studies, out, ["json"])
        if result.predicted != len(images):
            raise RuntimeError(f"{len(result.errors)} of {len(images)} images failed: {result.errors[:1]}")

    def bare() -> None:
        with torch.inference_mode():
            for one in inputs:
                predictor.model([one])

    return {"folder": run, "bare model over the folder": bare}


def measure(branch: str, args: argparse.Namespace, folder: Path, images: list[Path]) -> dict[str, np.ndarray]:
    """Seconds of every step of a model, by name."""
    config = "mimic_eye/mdf_net.yaml"
    weights = make_weights(folder / f"{branch}.pth", config, args.image_size, ["MODEL.CLINICAL.BRANCH", branch])
    baseline = make_weights(folder / "image_only.pth", "mimic_eye/mask_rcnn.yaml", args.image_size, [])
    predictor, image_only = Predictor(weights, device="cpu"), Predictor(baseline, device="cpu")
    times = time_side_by_side(
        steps_of_a_study(predictor, image_only, images[0], args.threads, folder), args.rounds, warmup=3
    )
    if args.folder_rounds:
        times |= time_side_by_side(steps_of_a_folder(predictor, images, folder / "out"), args.folder_rounds, warmup=1)
    return times


def report(branch: str, times: dict[str, np.ndarray], num_images: int) -> str:
    """Tables of one model."""
    rows = []
    for name, seconds in times.items():
        middle = float(np.median(seconds))
        shown = f"{num_images / middle:.2f} images/s" if "folder" in name else f"{1000 * middle:.1f} ms"
        rows.append((name, shown, len(seconds)))
    lines = [f"### {branch}", markdown_table(("step", "median", "rounds"), rows)]
    rows = []
    for name, reference, limit in TARGETS:
        if name in times:
            found: Ratio = ratio(times, name, reference)
            spread = f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"
            reached = "reached" if found.median <= limit else "missed"
            rows.append((name, reference, f"≤ {limit:.2f}", spread, reached))
    lines.append(markdown_table(("time of", "over that of", "target", "ratio (quartiles)", ""), rows))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=200, help="in the folder (default: %(default)s)")
    parser.add_argument("--folder-rounds", type=int, default=3, help="0 leaves the folder out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--branches", nargs="+", default=["compact", "deconv"])
    parser.add_argument("--out", type=Path, default=Path("output/benchmark_predict.json"))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {args.image_size}×{args.image_size}, {args.threads} threads")
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_synthetic(folder / DATASET, CohortSettings(12, 0, image_size=args.image_size), num_workers=1)
        register_prepared_folder(folder / DATASET, DATASET)
        drawn = sorted((folder / DATASET / "images").iterdir())
        images = [folder / f"{number:04d}.png" for number in range(args.images)]
        for number, path in enumerate(images):
            path.symlink_to(drawn[number % len(drawn)])
        for branch in args.branches:
            times = measure(branch, args, folder, images)
            print(report(branch, times, args.images), flush=True)
            results[branch] = {name: values.tolist() for name, values in times.items()}
    arguments = {key: value for key, value in vars(args).items() if key != "out"}
    print(f"written to {write_json(args.out, {'arguments': arguments, 'seconds': results})}")


if __name__ == "__main__":
    run_main(main)
