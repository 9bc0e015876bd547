"""Images a second of the loader, of the model and of the training together, and what binds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.loaders import build_train_loader, make_caches
from mdf_detectron.data.prepared import (
    Flow,
    PreparedImage,
    staged_folder,
    summarize_splits,
    write_annotations,
    write_report,
)
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.engine.optimizer import build_optimizer

HEIGHT, WIDTH = 2544, 3056
"""Pixels of the images: those of a digital radiograph of MIMIC-CXR."""
IMAGES = 12
BATCH = 4


def _radiograph(seed: int) -> np.ndarray:
    """(HEIGHT, WIDTH) uint16: smooth structure and noise, which compress about as a radiograph does."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.uniform(500, 3500, (16, 16)).astype(np.float32))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 4095).astype(np.uint16)


def _write(kind: str, path: Path, pixels: np.ndarray) -> None:
    if kind == "jpeg":
        Image.fromarray((pixels >> 4).astype(np.uint8)).save(path, quality=95)
        return
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = ComputedRadiographyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.Modality, data.PatientID, data.PhotometricInterpretation = "CR", "0", "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)


def _finding(x: int) -> dict:
    corners = [x, x, x + 300, x, x + 300, x + 400, x, x + 400]
    return {"bbox": [x, x, 300, 400], "category_id": 1, "segmentation": [corners]}


@contextmanager
def full_resolution_data(kind: str) -> Iterator[str]:
    """Register a prepared folder of full-resolution images with two boxes each; yields its train split's name."""
    schema = ClinicalSchema((ClinicalColumn("age", "numeric", "years", 0, 120),))
    with tempfile.TemporaryDirectory() as base:
        with staged_folder(Path(base) / "speed") as folder:
            (folder / "images").mkdir()
            images = []
            for number in range(IMAGES):
                name = f"{number}.{'jpg' if kind == 'jpeg' else 'dcm'}"
                _write(kind, folder / "images" / name, _radiograph(number))
                findings = [_finding(x) for x in (200, 1500)]
                images.append(PreparedImage(name, WIDTH, HEIGHT, str(number), {"age": 50}, findings))
            splits = {"train": images, "val": [], "test": []}
            write_annotations(folder, splits, ("finding",), schema, "speed")
            flow = Flow()
            flow.add("images", IMAGES, IMAGES)
            write_report(folder, "Speed", {}, flow, {"splits": summarize_splits(splits, ("finding",), schema)})
        register_prepared_folder(Path(base) / "speed", f"speed_{kind}")
        yield f"speed_{kind}_train"


def _config(dataset: str, cache: str, workers: int, size: int) -> CfgNode:
    return load_config(
        "mimic_eye/mask_rcnn.yaml",
        ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", (dataset,), "DATASETS.VAL", (dataset,), "DATASETS.TEST", (dataset,),
         "MODEL.CLINICAL.NUMERIC", ["age"], "MODEL.CLINICAL.CATEGORICAL", [], "MODEL.ROI_HEADS.NUM_CLASSES", 1,
         "INPUT.IMAGE_SIZE", size, "SOLVER.IMS_PER_BATCH", BATCH, "DATALOADER.NUM_WORKERS", workers,
         "DATALOADER.DECODED_CACHE", cache],
    )  # fmt: skip


def _rate(step: Callable[[], object], images: int) -> float:
    start = time.perf_counter()
    step()
    return images / (time.perf_counter() - start)


def rates_of_loading(kind: str, rounds: int, size: int = 512) -> np.ndarray:
    """Images a second of the loader with decoded images over those of the loader that decodes, (rounds,).

    The loader works in this process, so that nothing is prepared while the other is timed.
    """
    with full_resolution_data(kind) as dataset, tempfile.TemporaryDirectory() as cache:
        make_caches(_config(dataset, cache, 0, size), [dataset])
        cached, plain = (iter(build_train_loader(_config(dataset, folder, 0, size))) for folder in (cache, ""))
        next(cached), next(plain)
        ratios = []
        for _ in range(rounds):
            decoding = _rate(lambda: next(plain), BATCH)
            ratios.append(_rate(lambda: [next(cached) for _ in range(IMAGES)], IMAGES * BATCH) / decoding)
        return np.array(ratios)


def throughput(rounds: int, size: int = 512, workers: int = 1) -> list[dict]:
    """Images a second of loader, model and training, decoding JPEG and with decoded images, and what binds."""
    rows = []
    with full_resolution_data("jpeg") as dataset, tempfile.TemporaryDirectory() as cache:
        make_caches(_config(dataset, cache, 0, size), [dataset])
        for label, folder in (("decoding full-resolution JPEG", ""), ("decoded images", cache)):
            cfg = _config(dataset, folder, workers, size)
            stream = iter(build_train_loader(cfg))
            batch = next(stream)
            step = _training_step(cfg)
            step(batch)
            for _ in range(2 * workers + 1):  # what the workers have made in the meantime
                next(stream)
            loader = _rate(lambda s=stream: [next(s) for _ in range(rounds)], rounds * BATCH)
            model = _rate(lambda b=batch, t=step: [t(b) for _ in range(rounds)], rounds * BATCH)
            both = _rate(lambda s=stream, t=step: [t(next(s)) for _ in range(rounds)], rounds * BATCH)
            rows.append({"images": label, "loader": loader, "model": model, "training": both,
                         "limit": "loader" if loader < model else "model"})  # fmt: skip
            del stream
    return rows


def _training_step(cfg: CfgNode) -> Callable[[list[dict]], None]:
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)

    def step(batch: list[dict]) -> None:
        with EventStorage(0):
            loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
