"""Fixtures shared by the tests: small configs, batches and prepared folders, all made here."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_training
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from filelock import FileLock
from hypothesis import settings
from PIL import Image
from random_inputs import random_batch

from mdf_detectron import cli
from mdf_detectron.config import num_classes
from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.prepared import (
    Flow,
    PreparedImage,
    staged_folder,
    summarize_splits,
    write_annotations,
    write_report,
)
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.engine.trainer import MultimodalTrainer
from mdf_detectron.fileio import sha256_of
from mdf_detectron.inference.predictor import Predictor

# Nothing depends on chance or on a busy machine, except what `make fuzz` draws.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")

CONFIGS = Path(__file__).parents[1] / "configs"

cv2.setNumThreads(1)  # a forked process would wait at its end for OpenCV's threads, which it has not
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; threads of their own would only wait for each other
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the command lines that tests start


@pytest.fixture(scope="session")
def free_ports():
    """``free_ports(n)``: n ports of the loopback interface that nothing listens on."""

    def get(count: int = 1) -> list[int]:
        sockets = [socket.socket() for _ in range(count)]  # all open at once, so that no port is given twice
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        return ports

    return get


_opened: list[str] | None = None  # while a test counts
sys.addaudithook(lambda event, args: _opened.append(args[0]) if event == "open" and _opened is not None else None)


@pytest.fixture
def openings():
    """``with openings(folder) as counts``: how often this process opens each file below a folder, by relative path."""

    @contextmanager
    def watch(folder: Path):
        global _opened
        counts, _opened = Counter(), []
        try:
            yield counts
        finally:
            names, _opened = [name for name in _opened if isinstance(name, (str, bytes, os.PathLike))], None
            paths = [Path(os.path.abspath(os.fsdecode(name))) for name in names]
            counts.update(str(path.relative_to(folder)) for path in paths if path.is_relative_to(folder))

    return watch


@pytest.fixture
def run(monkeypatch, capsys):
    """``run("evaluate", *arguments)``: what ``mdf evaluate`` prints; a mistake raises ``SystemExit`` with its text."""
    monkeypatch.setattr(sys, "argv", sys.argv)  # which a command sets

    def call(command: str, *arguments) -> str:
        cli.main([*command.split(), *map(str, arguments)])
        return capsys.readouterr().out

    return call


@pytest.fixture
def event_storage():
    """Detectron2's losses write to a storage; this is one."""
    with EventStorage(0) as storage:
        yield storage


@pytest.fixture
def small_config():
    """``small_config(name, *opts)``: a config below configs/ on the CPU, by default the small synthetic MDF-Net."""

    def load(name: str = "synthetic_cxr/mdf_net.yaml", *opts):
        return load_config(CONFIGS / name, ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, *opts])

    return load


@pytest.fixture
def make_batch():
    """``make_batch(cfg, n)``: n inputs with two boxes each, random rows, the last row with missing values."""

    def make(cfg, n: int = 2):
        batch = random_batch(cfg, n)
        batch[-1]["clinical_numeric"][:1] = float("nan")
        batch[-1]["clinical_categorical"][:1] = -1
        return batch

    return make


@pytest.fixture
def fit_encoder():
    """``fit_encoder(model)``: give the clinical encoder statistics, as training does."""

    def fit(model):
        encoder = model.backbone.clinical_encoder
        if encoder is not None:
            generator = torch.Generator().manual_seed(1)
            encoder.fit(
                torch.randn(20, encoder.num_numeric, generator=generator),
                torch.zeros(20, len(encoder.embeddings), dtype=torch.long),
            )
        return model

    return fit


@pytest.fixture
def fitted(small_config, make_batch, fit_encoder):
    """``fitted(name or config, *opts, images=2)``: a model to train, whose encoder has its statistics, and a batch."""

    def make(cfg, *opts, images: int = 2):
        cfg = small_config(cfg, *opts) if isinstance(cfg, str) else cfg
        return fit_encoder(build_model(cfg)), make_batch(cfg, images)

    return make


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A prepared folder of 8 train, 2 val and 4 test images of 96×80 pixels; one image of each split is healthy."""
    return _make_tiny_folder(tmp_path_factory.mktemp("data") / "tiny_cxr", tiny_training.CLASSES, tiny_training.SCHEMA)


@pytest.fixture(scope="session")
def folder_for(tmp_path_factory):
    """``folder_for(cfg)``: such a folder with the columns and the number of classes that a config asks for."""
    made = {}

    def get(cfg) -> Path:
        schema, (_, count) = _schema_of(cfg), num_classes(cfg)
        if (schema, count) not in made:
            out = tmp_path_factory.mktemp("data") / "fitting_cxr"
            made[schema, count] = _make_tiny_folder(out, tuple(f"class {i}" for i in range(count)), schema)
        return made[schema, count]

    return get


def _schema_of(cfg) -> ClinicalSchema:
    c = cfg.MODEL.CLINICAL
    numeric = [ClinicalColumn(name, "numeric", "", -1000, 1000) for name in c.NUMERIC]
    categorical = [
        ClinicalColumn(name, "categorical", vocabulary=tuple(values))
        for name, values in zip(c.CATEGORICAL, c.VOCABULARIES, strict=True)
    ]
    return ClinicalSchema((*numeric, *categorical))


def _make_tiny_folder(out: Path, classes: tuple[str, ...], schema: ClinicalSchema) -> Path:
    rng = np.random.default_rng(0)
    with staged_folder(out) as folder:
        (folder / "images").mkdir()
        splits = {}
        for split, count in (("train", 8), ("val", 2), ("test", 4)):
            splits[split] = [_tiny_record(folder, split, i, rng, schema) for i in range(count)]
        write_annotations(folder, splits, classes, schema, "tiny")
        flow = Flow()
        flow.add("images", 14, 14)
        summary = summarize_splits(splits, classes, schema)
        write_report(folder, "Tiny", {"seed": 0}, flow, {"splits": summary})
    return out


def _tiny_record(
    folder: Path, split: str, number: int, rng: np.random.Generator, schema: ClinicalSchema
) -> PreparedImage:
    pixels = rng.integers(90, 110, (80, 96), dtype=np.uint8)
    annotations = []
    if number:
        label = number % 2
        x, y, w, h = 10 + 4 * number, 12, 36, 40
        pixels[y : y + h, x : x + w] = 220 if label == 0 else 20
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations = [{"bbox": [x, y, w, h], "category_id": label + 1, "segmentation": [polygon]}]
    name = f"{split}_{number}.png"
    Image.fromarray(pixels).save(folder / "images" / name)
    row = {c.name: 40 + number if c.kind == "numeric" else c.vocabulary[number % 2] for c in schema.columns}
    if "temperature" in row:
        row["temperature"] = None if number == 1 else 98.6
    digest = sha256_of(folder / "images" / name)
    return PreparedImage(name, 96, 80, f"{split}-{number}", row, annotations, sha256=digest)


@pytest.fixture
def annotations_of():
    """``annotations_of(folder, split)``: the COCO dict of a prepared folder."""
    return lambda folder, split: json.loads((folder / "annotations" / f"{split}.json").read_text())


@pytest.fixture(scope="session")
def tiny_run(tiny_folder, once):
    """Output folder of a finished training of a small MDF-Net on ``tiny_folder`` (``model_final.pth``, inference/)."""
    register_prepared_folder(tiny_folder, "tiny_cxr")
    return once("tiny_run", lambda out: _train_tiny(out, "mdf_net"))


@pytest.fixture(scope="session")
def tiny_image_only_run(tiny_folder, once):
    """Output folder of the same with the image-only baseline."""
    register_prepared_folder(tiny_folder, "tiny_cxr")
    return once("tiny_image_only_run", lambda out: _train_tiny(out, "mask_rcnn"))


@pytest.fixture(scope="session")
def tiny_predictor(tiny_run):
    """A predictor of ``tiny_run``, not to be changed."""
    return Predictor(tiny_run / "model_final.pth", device="cpu")


@pytest.fixture(scope="session")
def tiny_image_only_predictor(tiny_image_only_run):
    """A predictor of ``tiny_image_only_run``, not to be changed."""
    return Predictor(tiny_image_only_run / "model_final.pth", device="cpu")


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """``once(name, make)``: a folder made by ``make(folder)`` once for all of pytest's workers, to read only."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make) -> Path:
        folder, made = root / name, root / f"{name}.made"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return get


def _train_tiny(out: Path, name: str) -> None:
    columns = ["MODEL.CLINICAL.NUMERIC", ["age", "temperature"], "MODEL.CLINICAL.CATEGORICAL", ["gender"],
               "MODEL.CLINICAL.VOCABULARIES", [["F", "M"]], "MODEL.ROI_HEADS.NUM_CLASSES", 2]  # fmt: skip
    cfg = load_config(
        CONFIGS / f"synthetic_cxr/{name}.yaml",
        ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, *columns, "MODEL.CLINICAL.BRANCH", "compact",
         "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.01, "SOLVER.MAX_ITER", 12, "SOLVER.WARMUP_ITERS", 2,
         "CLINICAL_DIAGNOSTICS.PERIOD", 0, *tiny_training.datasets("tiny_cxr"), "OUTPUT_DIR", str(out)],
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
