"""How the cost grows with image size, batch, columns, training images and the size of an evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.interval_study import simulate
from benchmarks.worker import TOOLS, Step, Worker
from mdf_detectron.data.schema import SCHEMA_FILE_NAME, ClinicalColumn, ClinicalSchema
from mdf_detectron.evaluation.average_precision import average_precision
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import match

COMPACT = ("MODEL.CLINICAL.BRANCH", "compact")
IMAGES = (1_000, 10_000, 100_000)
_CATALOG = """
import json, resource, sys, time
from mdf_detectron.data.catalog import load_records
from mdf_detectron.data.schema import SCHEMA_FILE_NAME
from detectron2.data.common import DatasetFromList
def held():
    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()
before, start = held(), time.perf_counter()
records = load_records(sys.argv[1] + '/train.json', sys.argv[1], sys.argv[1] + '/' + SCHEMA_FILE_NAME)
read = time.perf_counter() - start
held_by_records = held() - before
DatasetFromList(records, copy=False)
print(json.dumps({'seconds': time.perf_counter() - start, 'reading': read, 'bytes': held_by_records}))
"""


@dataclass(frozen=True)
class Growth:
    """One row: what grows, over which sizes, and the measured cost of each."""

    name: str
    cost: str
    sizes: tuple[int, ...]
    measure: Callable[[tuple[int, ...], int], list[float]]


def exponent(sizes: tuple[int, ...], costs: list[float]) -> float:
    """Slope of log cost over log size, by least squares: 1 is proportional growth."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def _steps(make: Callable[[int], Step]) -> Callable[[tuple[int, ...], int], list[float]]:
    def measure(sizes: tuple[int, ...], rounds: int) -> list[float]:
        medians = []
        for size in sizes:
            with Worker(make(size)) as worker:
                worker.step()
                medians.append(float(np.median([worker.step() for _ in range(rounds)])))
        return medians

    return measure


def _of_size(size: int) -> Step:
    return Step("mimic_eye/mdf_net.yaml", (*COMPACT, "INPUT.IMAGE_SIZE", size))


def _of_batch(batch: int) -> Step:
    return Step("mimic_eye/mdf_net.yaml", (*COMPACT, "INPUT.IMAGE_SIZE", 256), batch=batch)


def _of_columns(columns: int) -> Step:
    names = [f"column {k}" for k in range(columns)]
    options = ("MODEL.CLINICAL.NUMERIC", names, "MODEL.CLINICAL.CATEGORICAL", [], "INPUT.IMAGE_SIZE", 256)
    return Step("mimic_eye/mdf_net.yaml", (*COMPACT, *options))


def write_catalog(folder: Path, images: int) -> None:
    """Write annotations of one split: nine numeric columns an image and two boxes with polygons of 20 corners."""
    columns = [f"c{k}" for k in range(9)]
    schema = ClinicalSchema(tuple(ClinicalColumn(c, "numeric", "", 0, 1000) for c in columns))
    schema.save(folder / SCHEMA_FILE_NAME)
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    entries, annotations = [], []
    for number in range(images):
        values = dict(zip(columns, rng.uniform(0, 999, 9).round(1).tolist(), strict=True))
        entries.append({"id": number, "file_name": f"{number}.png", "width": 512, "height": 512,
                        "patient_id": str(number // 2), "clinical": values})  # fmt: skip
        for x, y, w, h in rng.uniform(40, 200, (2, 4)).round(1).tolist():
            corners = np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], 1).round(1)
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 1, "bbox": [x, y, w, h],
                                "area": w * h, "iscrowd": 0, "segmentation": [corners.ravel().tolist()]})  # fmt: skip
    content = {"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "finding"}]}
    (folder / "train.json").write_text(json.dumps(content))


def _catalog(key: str) -> Callable[[tuple[int, ...], int], list[float]]:
    def measure(sizes: tuple[int, ...], rounds: int) -> list[float]:
        costs = []
        for images in sizes:
            with tempfile.TemporaryDirectory() as folder:
                write_catalog(Path(folder), images)
                command = [sys.executable, "-c", _CATALOG, folder]
                found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TOOLS.parent)
                costs.append(float(json.loads(found.stdout.splitlines()[-1])[key]))
        return costs

    return measure


def _evaluation(sizes: tuple[int, ...], rounds: int) -> list[float]:
    costs = []
    for images in sizes:
        annotations, (predictions,) = simulate(images, 2, false_positives=1.745)
        start = time.perf_counter()
        truth = GroundTruth.load(annotations)
        average_precision(match(truth, Detections.load(predictions, truth), overlap="iobb"))
        costs.append(time.perf_counter() - start)
    return costs


GROWTHS = (
    Growth("image_size", "seconds of a training step of compact MDF-Net, batch 4, by side in pixels",
           (128, 256, 512, 1024), _steps(_of_size)),
    Growth("batch", "seconds of a training step, 256 px, by images", (1, 2, 4, 8, 16), _steps(_of_batch)),
    Growth("columns", "seconds of a training step, 256 px, batch 4, by columns", (1, 10, 100, 1_000),
           _steps(_of_columns)),
    Growth("start", "seconds from annotation file to loader, by training images", IMAGES, _catalog("seconds")),
    Growth("catalog", "bytes of the records, by training images", IMAGES, _catalog("bytes")),
    Growth("evaluation", "seconds of loading, matching and AP by IoBB, 10 detections an image, by images", IMAGES,
           _evaluation),
)  # fmt: skip


def measure(names: list[str], rounds: int) -> list[dict]:
    """Measure rows; empty ``names`` for all."""
    rows = []
    for growth in tqdm([g for g in GROWTHS if not names or g.name in names], desc="growth"):
        costs = growth.measure(growth.sizes, rounds)
        rows.append({"name": growth.name, "cost": growth.cost, "sizes": list(growth.sizes), "costs": costs,
                     "exponent": exponent(growth.sizes, costs)})  # fmt: skip
    return rows


def table_rows(rows: list[dict]) -> list[tuple[str, ...]]:
    """The cells of the table: what, each size with its cost, exponent."""
    cells = []
    for row in rows:
        costs = ", ".join(f"{size:,}: {cost:.3g}" for size, cost in zip(row["sizes"], row["costs"], strict=True))
        cells.append((row["cost"], costs, f"{row['exponent']:.2f}"))
    return cells
