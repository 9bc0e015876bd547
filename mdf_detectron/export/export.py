"""Export a checkpoint to one TorchScript or ONNX file that needs neither Detectron2 nor this package.

Detectron2 iterates over the images of a batch in Python, which tracing would unroll. So its adapter traces the model on
one study, and the file loops over the studies of its input: any number of images of one size, and their records, as
named inputs. The file holds a description (classes, columns with units and vocabularies, thresholds, image format)
named :data:`DESCRIPTION`. Before a file gets its name it is compared with the model on images that were not traced.

Shape letters: N images, C channels, H×W pixels, A numeric columns, B categorical columns, R detections, P×P
cells of a mask.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.export.flatten import TracingAdapter
from detectron2.layers import paste_masks_in_image, shapes_to_tensor
from torch import Tensor, nn

import mdf_detectron
from mdf_detectron.config import fuses_3d
from mdf_detectron.errors import ConfigError, UserError, shorten
from mdf_detectron.fileio import atomic_path, finite_or_none
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.inference.what_if import background_records
from mdf_detectron.modeling.backbones import TimmTrunk
from mdf_detectron.modeling.meta_arch import build_model

DESCRIPTION = "mdf_detectron.json"
"""Name of the description in a file: an extra file of TorchScript, an entry of ONNX's metadata."""

KINDS = {".onnx": "ONNX", ".ts": "TorchScript"}
"""File format by file name extension."""

INPUTS = {
    "image": "float32 (images, channels, height, width), 0 to 255",
    "clinical_numeric": "float32 (images, numeric columns), in the columns' units, NaN where missing",
    "clinical_categorical": "int64 (images, categorical columns), place in the vocabulary, -1 where missing",
}
"""A file lacks the input of a kind of column that the model does not read."""

OUTPUTS = {
    "boxes": "float32 (detections, 4), x0, y0, x1, y1 in pixels of the input",
    "scores": "float32 (detections), falling within an image",
    "classes": "int64 (detections), place in class_names",
    "image_index": "int64 (detections), which image of the input",
    "masks": "float32 (detections, P, P), probability of the mask within its box",
}
"""A file of a model without masks lacks that output."""

OPSET = 17
TOLERANCES = {"boxes": 1e-2, "scores": 1e-4, "masks": 1e-2}
"""Largest differences from the model: in pixels, in score, and as a fraction of a mask's pixels."""

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Sequence[np.ndarray]]


class ExportedModel:
    """Run an exported file on the CPU.

    Args:
        kind: "ONNX" or "TorchScript"; by default what the file name extension says.
        threads: of ONNX Runtime; 0 lets it choose. TorchScript uses torch's.

    Raises:
        UserError: :func:`export_model` did not write the file, or ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path, *, kind: str | None = None, threads: int = 0):
        kind = kind or kind_of(path)
        runtime = _import("onnxruntime") if kind == "ONNX" else None
        try:
            self._run, text = _open_onnx(runtime, path, threads) if runtime else _open_script(path)
            self.description: dict[str, Any] = json.loads(text)
        except Exception as cause:  # both readers can raise anything
            raise UserError(f"{path}: no {kind} file of `mdf export` ({shorten(str(cause))})") from None
        self.input_names: list[str] = [one["name"] for one in self.description["inputs"]]
        self.output_names: list[str] = [one["name"] for one in self.description["outputs"]]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the file; inputs and outputs are arrays by name, see :data:`INPUTS` and :data:`OUTPUTS`."""
        answers = self._run({name: np.ascontiguousarray(inputs[name]) for name in self.input_names})  # in order
        return dict(zip(self.output_names, map(np.asarray, answers), strict=True))


def _open_onnx(runtime: Any, path: str | Path, threads: int) -> tuple[Run, str]:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs), session.get_modelmeta().custom_metadata_map[DESCRIPTION]


def _open_script(path: str | Path) -> tuple[Run, str]:
    extra = {DESCRIPTION: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but C++ programs load it
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)

    def run(inputs: Arrays) -> list[np.ndarray]:
        with torch.inference_mode():
            return [out.numpy() for out in module(*map(torch.from_numpy, inputs.values()))]

    return run, extra[DESCRIPTION]


def kind_of(path: str | Path) -> str:
    """Return the file format, "ONNX" or "TorchScript", that a file name's extension asks for."""
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
    """Write a ".onnx" or ".ts" file that computes in float32; return what :func:`compare` finds.

    Args:
        batches: further inputs to compare on, as the mapper makes them, of one size within a batch.

    Raises:
        ConfigError: the model cannot be exported (the message names its parts), or the file disagrees with the model.
    """
    kind, path = kind_of(path), Path(path)
    model, side = _plain_model(predictor), predictor.cfg.INPUT.IMAGE_SIZE
    # not the model's own size, so that the trace records how feature maps are resized to match each other
    (example,) = random_inputs(predictor, 1, (side + 64, side + 32), seed=0)
    with atomic_path(path) as partial_path:
        try:
            _write(kind, model, example, predictor, partial_path)
        except UserError:
            raise
        except Exception as cause:  # tracers can raise anything; the message names the model's parts
            reason = shorten(str(cause), 300)
            raise ConfigError(f"this model cannot be exported to {kind} ({_parts(predictor)}): {reason}") from None
        exported = ExportedModel(partial_path, kind=kind)
        unseen = [random_inputs(predictor, *one) for one in ((1, (side, side), 1), (3, (side + 32, side - 16), 2))]
        return compare(model, exported, [*unseen, *batches])


def _plain_model(predictor: Predictor) -> nn.Module:
    cfg = predictor.cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    model.load_state_dict(predictor.model.state_dict())
    for part in model.modules():
        if isinstance(part, TimmTrunk):
            part.channels_last = False  # ONNX lacks this memory format
    return model.eval()


def _parts(predictor: Predictor) -> str:
    model = predictor.cfg.MODEL
    trunks = [part.model_name for part in predictor.model.modules() if isinstance(part, TimmTrunk)]
    backbone = trunks[0] if trunks else model.IMAGE_BACKBONE.NAME
    fusion = f", fusion {model.FUSION.NAME}, branch {model.CLINICAL.BRANCH}" if fuses_3d(predictor.cfg) else ""
    return f"{model.META_ARCHITECTURE}, {model.ROI_HEADS.NAME}, backbone {backbone}{fusion}"


def input_names(predictor: Predictor) -> list[str]:
    """Return the names of a model's inputs in a file, in order."""
    kinds = {column.kind for column in predictor.read_columns}
    return [name for name in INPUTS if name == "image" or name.removeprefix("clinical_") in kinds]


def _detect(model: nn.Module, number: Tensor, image: Tensor, *record: Tensor, names: Sequence[str]) -> list[Tensor]:
    """Run Detectron2's inference on study ``number`` of a batch, with tensors only.

    Args:
        number: () long.
        image: (N, C, H, W) float32, 0–255.
        record: (N, A) float32 and (N, B) long, those that ``names`` has.
        names: of all inputs.

    Returns:
        boxes (R, 4), scores (R,), classes (R,), ``number`` (R,) and, with masks, probabilities in the box (R, P, P).
    """
    given = {"clinical_numeric": image.new_zeros(0), "clinical_categorical": image.new_zeros(0, dtype=torch.long)}
    given |= {name: values[number] for name, values in zip(names, (image, *record), strict=True)}
    if getattr(model, "has_roi_heads", False):
        (found,) = model.inference([given], do_postprocess=False)  # postprocessing would paste masks into the image
    else:
        found = model([given])[0]["instances"]
    boxes, classes = found.pred_boxes.tensor, found.pred_classes
    shown = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    masks = [found.pred_masks[:, 0]] if found.has("pred_masks") else []
    return [values[shown] for values in (boxes, found.scores, classes, torch.zeros_like(classes) + number, *masks)]


@contextmanager
def _traceable() -> Iterator[None]:
    """Temporarily replace adaptive pooling to a size that is known only at run time; ONNX has no operator for it."""
    original = F.adaptive_avg_pool2d

    def pooled(x: Tensor, size: Any) -> Tensor:
        late = isinstance(size, (tuple, list)) and any(isinstance(cells, Tensor) for cells in size)
        return average_pooled(x, size) if late else original(x, size)

    with mock.patch.object(F, "adaptive_avg_pool2d", pooled), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shape checks read tensors; both exporters are deprecated
        yield


def average_pooled(x: Tensor, size: Sequence[int | Tensor]) -> Tensor:
    """Compute ``F.adaptive_avg_pool2d`` by two matrix products: (N, D, h, w) → (N, D, *size)."""
    rows, columns = (_means(x.shape[axis], size[axis - 2], x) for axis in (2, 3))
    return rows @ x @ columns.transpose(0, 1)


def _means(cells: int | Tensor, bins: int | Tensor, like: Tensor) -> Tensor:
    """Return (bins, cells): bin i averages cells floor(i·cells/bins) to ceil((i+1)·cells/bins), exclusive."""
    count, wanted = shapes_to_tensor([cells, bins]).to(like.device).unbind()
    number, cell = torch.arange(bins, device=like.device)[:, None], torch.arange(cells, device=like.device)
    first = torch.div(number * count, wanted, rounding_mode="floor")
    last = torch.div((number + 1) * count + wanted - 1, wanted, rounding_mode="floor")
    inside = ((cell >= first) & (cell < last)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def _write(kind: str, model: nn.Module, example: Mapping[str, Tensor], predictor: Predictor, path: Path) -> None:
    names = input_names(predictor)
    outputs = list(OUTPUTS)[: len(OUTPUTS) if predictor.cfg.MODEL.MASK_ON else -1]
    text = json.dumps(finite_or_none(description(predictor, names, outputs)), ensure_ascii=False)
    given = (torch.tensor(0), *(example[name][None] for name in names))
    with _traceable():
        one = TracingAdapter(model, given, partial(_detect, names=names)).eval()  # the exporter restores this mode
        if kind == "TorchScript":
            one = torch.jit.trace(one, given, check_trace=False, strict=False)
            torch.jit.save(_Loop(one, names, len(outputs)), str(path), _extra_files={DESCRIPTION: text})
            return
        onnx = _import("onnx")
        axes = {name: {0: "images"} for name in names} | {f"study_{name}": {0: "detections"} for name in outputs}
        axes["image"] |= {2: "height", 3: "width"}
        torch.onnx.export(
            one, given, str(path), input_names=["number", *names], output_names=[f"study_{name}" for name in outputs],
            dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        looped = _over_studies(onnx, onnx.load(str(path)))
        onnx.helper.set_model_props(looped, {DESCRIPTION: text})
        onnx.save(looped, str(path))


class _Loop(torch.jit.ScriptModule):
    """Loop over the studies of a batch in TorchScript; ``one`` is a trace of :func:`_detect`."""

    def __init__(self, one: torch.jit.ScriptModule, names: Sequence[str], num_outputs: int):
        super().__init__()
        self.one = one
        given = ", ".join(names)
        outputs = ", ".join(f"torch.cat([study[{place}] for study in found])" for place in range(num_outputs))
        self.define(
            f"def forward(self, {given}):\n"
            f"    found = [self.one(torch.tensor(number), {given}) for number in range(image.shape[0])]\n"
            f"    return {outputs}\n"
        )


def _over_studies(onnx: Any, one: Any) -> Any:
    """Wrap the graph of one study in a loop: its input "number" counts; its outputs "study_…" are concatenated."""
    make, graph, boolean = onnx.helper, one.graph, onnx.TensorProto.BOOL
    number, *inputs = graph.input
    kinds = {output.name: output.type.tensor_type.elem_type for output in graph.output}
    before, after = (
        [make.make_tensor_sequence_value_info(f"{when}_{name}", kind, None) for name, kind in kinds.items()]
        for when in ("before", "after")
    )
    body = make.make_graph(
        [
            *graph.node,
            *(make.make_node("SequenceInsert", [f"before_{name}", name], [f"after_{name}"]) for name in kinds),
            make.make_node("Identity", ["go_on"], ["goes_on"]),
        ],
        "study",
        [number, make.make_tensor_value_info("go_on", boolean, []), *before],
        [make.make_tensor_value_info("goes_on", boolean, []), *after],
    )
    nodes = [
        make.make_node("Shape", ["image"], ["count"], end=1),
        *(make.make_node("SequenceEmpty", [], [f"no_{name}"], dtype=kind) for name, kind in kinds.items()),
        make.make_node("Loop", ["count", "", *(f"no_{n}" for n in kinds)], [f"all_{n}" for n in kinds], body=body),
    ]
    for output in graph.output:
        joined = output.name.removeprefix("study_")
        nodes.append(make.make_node("ConcatFromSequence", [f"all_{output.name}"], [joined], axis=0))
        output.name = joined
    whole = make.make_graph(nodes, "studies", inputs, graph.output, graph.initializer)
    return make.make_model(whole, opset_imports=one.opset_import, ir_version=one.ir_version)


def description(predictor: Predictor, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    """Return all that is needed to use an exported file, JSON-ready except for infinite thresholds."""
    cfg, columns = predictor.cfg, predictor.read_columns
    return {
        "format": 1,
        "software": f"mdf_detectron {mdf_detectron.__version__}",
        "model": predictor.digest,
        "inputs": [{"name": name, "is": INPUTS[name]} for name in inputs],
        "outputs": [{"name": name, "is": OUTPUTS[name]} for name in outputs],
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
    """Make model inputs of random blobs and random records; the last of several has an empty record."""
    rng = np.random.default_rng(seed)
    records = background_records(predictor, max(1, count - 1), seed) + [{}] * (count > 1)
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    batch = []
    for record in records:
        pixels = np.full(size, rng.uniform(60, 120))
        for _ in range(6):
            (cy, cx), radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.04, 0.25)
            pixels += rng.uniform(-90, 130) * np.exp(-((((y - cy) ** 2 + (x - cx) ** 2) / radius**2) ** 2))
        pixels = np.clip(pixels + rng.normal(0, 4, size), 0, 255).astype(np.float32)
        image = torch.from_numpy(np.repeat(pixels[None], len(predictor.cfg.MODEL.PIXEL_MEAN), axis=0))
        batch.append({"image": image, **predictor.mapper.clinical_tensors({"clinical": record})})
    return batch


def compare(
    model: nn.Module, exported: ExportedModel, batches: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Count images and detections, and measure the largest differences between a file and its model.

    Raises:
        ConfigError: the number of detections differs, or a difference exceeds its tolerance.
    """
    total = {"images": 0, "detections": 0, **dict.fromkeys(TOLERANCES, 0.0)}
    for given in batches:
        # the size of the input, so that answers are in its pixels
        batch = [{**x, "height": x["image"].shape[1], "width": x["image"].shape[2]} for x in given]
        with torch.inference_mode():
            wanted = [one["instances"] for one in model(batch)]
        found = exported({name: torch.stack([x[name] for x in batch]).numpy() for name in exported.input_names})
        for number, (instances, inputs) in enumerate(zip(wanted, batch, strict=True)):
            own = {name: value[found["image_index"] == number] for name, value in found.items()}
            size = tuple(inputs["image"].shape[1:])
            if len(own["scores"]) != len(instances):
                counts = f"{len(own['scores'])} detection(s) instead of {len(instances)}"
                raise ConfigError(f"the exported file disagrees with the model on an image of {size}: {counts}")
            total["images"] += 1
            total["detections"] += len(instances)
            for name, value in _differences(instances, own, size) if len(instances) else ():
                total[name] = max(total[name], value)
    if too_large := [f"{n} by {total[n]:.2g} (at most {most:g})" for n, most in TOLERANCES.items() if total[n] > most]:
        raise ConfigError(f"the exported file disagrees with the model: {', '.join(too_large)}")
    return total


def _differences(instances: Any, own: Arrays, size: tuple[int, int]) -> Iterator[tuple[str, float]]:
    """Yield the largest differences between the model's detections and the file's nearest ones of the same class."""
    boxes, scores = instances.pred_boxes.tensor.numpy(), instances.scores.numpy()
    other_class = own["classes"] != instances.pred_classes.numpy()[:, None]
    off = np.abs(own["boxes"] - boxes[:, None]).max(axis=2) + np.where(other_class, np.inf, 0.0)
    off = off + np.abs(own["scores"] - scores[:, None])  # breaks ties between boxes at one place
    nearest = off.argmin(axis=1)
    yield "boxes", float(off.min(axis=1).max())
    yield "scores", float(np.abs(own["scores"][nearest] - scores).max())
    for k, mask in enumerate(instances.pred_masks if "masks" in own else ()):
        chosen = [torch.from_numpy(own[name][nearest[k]][None]) for name in ("masks", "boxes")]
        differing = paste_masks_in_image(*chosen, size)[0] ^ mask
        yield "masks", float(differing.sum()) / max(1, int(mask.sum()))
