"""A checkpoint → one TorchScript or ONNX file that needs neither Detectron2 nor this package.

The file takes any number of images of any size, and their records, as named inputs, and carries a description (classes,
columns with units and vocabularies, thresholds, how an image is made) under the name :data:`DESCRIPTION`. Every file is
compared with the model on images that its trace has not seen before it gets its name.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from torch import nn

import mdf_detectron
from mdf_detectron.config import fuses_3d
from mdf_detectron.errors import ConfigError, UserError, shorten
from mdf_detectron.export.parts import with_exportable_parts
from mdf_detectron.export.tensor_detector import (
    CATEGORICAL,
    IMAGE,
    NUMERIC,
    TensorDetector,
    build_tensor_detector,
)
from mdf_detectron.fileio import atomic_path, finite_or_none
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.modeling.meta_arch import build_model

DESCRIPTION = "mdf_detectron.json"
"""Name of the description within a file: an extra file of TorchScript, an entry of ONNX's metadata."""

KINDS = {".onnx": "ONNX", ".ts": "TorchScript"}
"""By the ending of a file's name."""

OPSET = 17
BOX_TOLERANCE, SCORE_TOLERANCE, MASK_TOLERANCE = 1e-2, 1e-4, 1e-2
"""Largest differences from the model: pixels, probability, and share of a mask's pixels."""

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Sequence[np.ndarray]]


class ExportedModel:
    """An exported file, ready to run on the CPU.

    Args:
        path: of the file.
        kind: of :data:`KINDS`' values; by default its ending's.
        threads: of ONNX Runtime; 0 leaves the choice to it. TorchScript takes torch's.

    Raises:
        UserError: no file of that kind that this project wrote, or ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path, *, kind: str | None = None, threads: int = 0):
        kind = kind or kind_of(path)
        runtime = _import("onnxruntime") if kind == "ONNX" else None
        try:
            self._run, text = _open_onnx(runtime, path, threads) if runtime else _open_script(path)
            self.description: dict[str, Any] = json.loads(text)
        except Exception as cause:  # both readers raise anything
            raise UserError(f"{path}: no {kind} file of `mdf export` ({shorten(str(cause))})") from None
        self.input_names: list[str] = [one["name"] for one in self.description["inputs"]]
        self.output_names: list[str] = [one["name"] for one in self.description["outputs"]]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run; inputs and outputs are arrays by name, as the description says."""
        answers = self._run({name: np.ascontiguousarray(inputs[name]) for name in self.input_names})  # in this order
        return dict(zip(self.output_names, map(np.asarray, answers), strict=True))


def _open_onnx(runtime: Any, path: str | Path, threads: int) -> tuple[Run, str]:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs), session.get_modelmeta().custom_metadata_map[DESCRIPTION]


def _open_script(path: str | Path) -> tuple[Run, str]:
    extra = {DESCRIPTION: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is old, and what programs in C++ load
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)

    def run(inputs: Arrays) -> list[np.ndarray]:
        with torch.inference_mode():
            return [out.numpy() for out in module(*map(torch.from_numpy, inputs.values()))]

    return run, extra[DESCRIPTION]


def kind_of(path: str | Path) -> str:
    """Find the kind of file that a name asks for."""
    kind = KINDS.get(Path(path).suffix)
    if kind is None:
        raise ConfigError(
            f"{path}: the ending says the format; use {' or '.join(f'{k} ({v})' for k, v in KINDS.items())}"
        )
    return kind


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise UserError(f"ONNX needs {name}: pip install 'mdf_detectron[export]'") from None


def export_model(
    predictor: Predictor, path: str | Path, batches: Sequence[Sequence[Mapping[str, Any]]] = ()
) -> dict[str, Any]:
    """Write a file and compare it with the model.

    Args:
        predictor: the model; the file computes in 32 bits, whatever ``MODEL.CLINICAL.EXECUTION`` says.
        path: ends with ".onnx" or ".ts".
        batches: inputs of the model (as the mapper makes them, one size within a batch) to compare on, beside random
            ones.

    Returns:
        what the comparison found: images, detections, and the largest difference of boxes, scores and masks.

    Raises:
        ConfigError: a model that cannot be exported, by name of its part; or a file that disagrees with the model.
    """
    kind, path = kind_of(path), Path(path)
    reference, detector = _plain_model(predictor), build_tensor_detector(with_exportable_parts(_plain_model(predictor)))
    side = predictor.cfg.INPUT.IMAGE_SIZE
    example = _arrays(detector, random_inputs(predictor, 2, (side, side), seed=0))
    about = description(predictor, detector)
    with atomic_path(path) as partial:
        try:
            _write(kind, detector, [torch.from_numpy(example[name]) for name in detector.input_names], about, partial)
        except UserError:
            raise
        except Exception as cause:  # tracers raise anything; the message says what in the model it was
            reason = shorten(str(cause), 300)
            raise ConfigError(f"this model cannot be exported to {kind} ({_parts(predictor)}): {reason}") from None
        exported = ExportedModel(partial, kind=kind)
        unseen = [random_inputs(predictor, *one) for one in ((1, (side, side), 1), (3, (side + 32, side - 16), 2))]
        return compare(reference, exported, detector, [*unseen, *batches])


def _plain_model(predictor: Predictor) -> nn.Module:
    cfg = predictor.cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.CLINICAL.EXECUTION = "cpu", []
    model = build_model(cfg)
    model.load_state_dict(predictor.model.state_dict())
    return model.eval()


def _parts(predictor: Predictor) -> str:
    model = predictor.cfg.MODEL
    backbone = model.TIMM.NAME if "timm" in model.IMAGE_BACKBONE.NAME else model.IMAGE_BACKBONE.NAME
    fusion = f", fusion {model.FUSION.NAME}, branch {model.CLINICAL.BRANCH}" if fuses_3d(predictor.cfg) else ""
    return f"{model.META_ARCHITECTURE}, {model.ROI_HEADS.NAME}, backbone {backbone}{fusion}"


def _write(kind: str, detector: TensorDetector, example: list[torch.Tensor], about: dict, path: Path) -> None:
    text = json.dumps(finite_or_none(about), ensure_ascii=False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensors read by checks of shapes, and that both exporters are old
        if kind == "TorchScript":
            traced = torch.jit.trace(detector, tuple(example), check_trace=False)
            torch.jit.save(traced, str(path), _extra_files={DESCRIPTION: text})
            return
        onnx = _import("onnx")
        names = detector.input_names
        axes = {name: {0: "images"} for name in names} | {name: {0: "detections"} for name in detector.output_names}
        axes[IMAGE] |= {2: "height", 3: "width"}
        torch.onnx.export(
            detector, tuple(example), str(path), input_names=names, output_names=detector.output_names,
            dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        model = onnx.load(str(path))
        onnx.helper.set_model_props(model, {DESCRIPTION: text})
        onnx.save(model, str(path))


def description(predictor: Predictor, detector: TensorDetector) -> dict[str, Any]:
    """Describe an exported file: all that is needed to use it."""
    cfg, by_name = predictor.cfg, {column.name: column for column in predictor.schema.columns}
    columns = [by_name[name] for name in predictor.columns]
    types = {IMAGE: "float32 (images, channels, height, width), 0 to 255",
             NUMERIC: "float32 (images, numeric columns), in the columns' units, NaN where missing",
             CATEGORICAL: "int64 (images, categorical columns), place in the vocabulary, -1 where missing"}  # fmt: skip
    answers = ("float32 (detections, 4), x0, y0, x1, y1 in pixels of the input", "float32 (detections)",
               "int64 (detections), place in class_names", "int64 (detections), which image of the input",
               "float32 (detections, P, P), probability of the mask within its box")  # fmt: skip
    return {
        "format": 1,
        "software": f"mdf_detectron {mdf_detectron.__version__}",
        "model": predictor.digest,
        "inputs": [{"name": name, "is": types[name]} for name in detector.input_names],
        "outputs": [{"name": n, "is": a} for n, a in zip(detector.output_names, answers, strict=False)],
        "image": {"channels": cfg.INPUT.FORMAT, "resize_to": [cfg.INPUT.IMAGE_SIZE] * 2},
        "class_names": predictor.class_names,
        "category_ids": list(predictor.contents["category_ids"]),
        "numeric": [
            {"name": c.name, "unit": c.unit, "range": [c.minimum, c.maximum]} for c in columns if c.kind == "numeric"
        ],
        "categorical": [{"name": c.name, "vocabulary": list(c.vocabulary)} for c in columns if c.kind == "categorical"],
        "thresholds": predictor.thresholds,
        "threshold_source": predictor.threshold_source,
        "temperature": predictor.temperature,
    }


def random_inputs(predictor: Predictor, count: int, size: tuple[int, int], seed: int) -> list[dict[str, Any]]:
    """Make images of random blobs, and records of random training values, the last one without any."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width] / max(size)
    batch = []
    for number in range(count):
        pixels = np.full(size, rng.uniform(60, 120))
        for _ in range(6):
            (cy, cx), radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.04, 0.25)
            pixels += rng.uniform(-90, 130) * np.exp(-((((y - cy) ** 2 + (x - cx) ** 2) / radius**2) ** 2))
        pixels = np.clip(pixels + rng.normal(0, 4, size), 0, 255).astype(np.float32)
        record = {} if number == count - 1 and count > 1 else _random_record(predictor, rng)
        batch.append(
            {
                "image": torch.from_numpy(np.repeat(pixels[None], len(predictor.cfg.MODEL.PIXEL_MEAN), axis=0)),
                "height": height,
                "width": width,
                **predictor.mapper.clinical_tensors({"clinical": record}),
            }
        )
    return batch


def _random_record(predictor: Predictor, rng: np.random.Generator) -> dict[str, Any]:
    record = {}
    for column in predictor.schema.columns:
        if column.name in predictor.columns:
            seen = predictor.contents["training"]["columns"][column.name]
            values = column.vocabulary if column.kind == "categorical" else seen["quantiles"]
            record[column.name] = values[rng.integers(len(values))] if values else None
    return record


def _arrays(detector: TensorDetector, batch: Sequence[Mapping[str, Any]]) -> Arrays:
    return {name: torch.stack([x[name] for x in batch]).numpy() for name in detector.input_names}


def compare(
    model: nn.Module, exported: ExportedModel, detector: TensorDetector, batches: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Compare a file with the model that it was made of.

    Args:
        batches: of inputs, as of the model.

    Raises:
        ConfigError: another number of detections, or a larger difference than the tolerances.
    """
    total = {"images": 0, "detections": 0, "boxes": 0.0, "scores": 0.0, "masks": 0.0}
    for given in batches:
        # answers in pixels of the input, whatever image it was made of
        batch = [{**x, "height": x["image"].shape[1], "width": x["image"].shape[2]} for x in given]
        with torch.inference_mode():
            wanted = [one["instances"] for one in model(batch)]
        found = exported(_arrays(detector, batch))
        for number, (instances, inputs) in enumerate(zip(wanted, batch, strict=True)):
            own = {name: value[found["image_index"] == number] for name, value in found.items()}
            size = tuple(inputs["image"].shape[1:])
            if len(own["scores"]) != len(instances):
                counts = f"{len(own['scores'])} detection(s) instead of {len(instances)}"
                raise ConfigError(f"the exported file disagrees with the model on an image of {size}: {counts}")
            total["images"] += 1
            total["detections"] += len(instances)
            for name, value in _differences(instances, own, size).items():
                total[name] = max(total[name], value)
    limits = {"boxes": BOX_TOLERANCE, "scores": SCORE_TOLERANCE, "masks": MASK_TOLERANCE}
    if too_large := [
        f"{name} by {total[name]:.2g} (at most {limits[name]:g})" for name in limits if total[name] > limits[name]
    ]:
        raise ConfigError(f"the exported file disagrees with the model: {', '.join(too_large)}")
    return total


def _differences(instances: Any, own: Arrays, size: tuple[int, int]) -> dict[str, float]:
    """Largest differences between the model's detections of one image and the file's nearest of the same class."""
    boxes, scores = instances.pred_boxes.tensor.numpy(), instances.scores.numpy()
    out = {"boxes": 0.0, "scores": 0.0, "masks": 0.0}
    for k, label in enumerate(instances.pred_classes.tolist()):
        off = np.abs(own["boxes"] - boxes[k]).max(axis=1) + np.where(own["classes"] == label, 0.0, np.inf)
        off = off + np.abs(own["scores"] - scores[k])  # of two boxes at one place, the one of this score
        nearest = int(off.argmin())
        out["boxes"] = max(out["boxes"], float(off[nearest]))
        out["scores"] = max(out["scores"], abs(float(own["scores"][nearest] - scores[k])))
        if "masks" in own:
            chosen = torch.from_numpy(own["masks"][nearest][None]), torch.from_numpy(own["boxes"][nearest][None])
            mask = paste_masks_in_image(*chosen, size)[0] ^ instances.pred_masks[k]
            out["masks"] = max(out["masks"], float(mask.sum()) / max(1, int(instances.pred_masks[k].sum())))
    return out
