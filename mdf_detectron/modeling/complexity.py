"""Parameters, operations and activations of each part of a model."""

import math
import warnings
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.export.flatten import TracingAdapter
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count
from fvcore.nn.jit_handles import get_shape

from mdf_detectron.fileio import markdown_table
from mdf_detectron.modeling.meta_arch import build_model


@dataclass(frozen=True)
class Part:
    """Counts of one module for one image: parameters, multiply-adds, output elements of convolutions and products."""

    name: str
    parameters: int
    operations: float
    activations: float


def analyze(cfg: CfgNode, depth: int = 2) -> list[Part]:
    """Count a config's model on one image of ``INPUT.IMAGE_SIZE``.

    The whole model, named "", comes first, then parts with names of at most ``depth`` components.
    """
    model = build_model(cfg).eval()
    encoder = getattr(model.backbone, "clinical_encoder", None)
    if encoder is not None:
        encoder.fitted.fill_(True)
    adapter = TracingAdapter(model, [_one_image(cfg)], allow_non_tensor=True)
    with torch.no_grad():
        operations, activations = (_by_module(kind, adapter) for kind in (FlopCountAnalysis, ActivationCountAnalysis))
    parameters = parameter_count(model)
    names = [name for name, _ in model.named_modules() if not name or name.count(".") < depth]
    parts = [Part(n, parameters[n], operations[n], activations[n]) for n in names]
    return [p for p in parts if p.parameters or p.operations]


def _by_module(kind: type, adapter: TracingAdapter) -> dict[str, float]:
    """Count by the model's module names; the adapter calls the model "model"."""
    analysis = kind(adapter, adapter.flattened_inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    if kind is FlopCountAnalysis:
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_operations)
    with warnings.catch_warnings():
        # tracing also scripts small functions of detectron2 and torchvision
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        counts = analysis.by_module()
    return {name.removeprefix("model").lstrip("."): count for name, count in counts.items() if name}


def _attention_operations(inputs: list, outputs: list) -> int:
    """Count the multiply-adds of softmax(Q·Kᵀ)·V for Q (…, q, d), K (…, k, d), V (…, k, e)."""
    *batch, queries, width = get_shape(inputs[0])
    keys, values = get_shape(inputs[2])[-2:]
    return math.prod(batch) * queries * keys * (width + values)


def _one_image(cfg: CfgNode) -> dict:
    side = cfg.INPUT.IMAGE_SIZE
    return {
        "image": torch.zeros(len(cfg.MODEL.PIXEL_MEAN), side, side),
        "clinical_numeric": torch.zeros(len(cfg.MODEL.CLINICAL.NUMERIC)),
        "clinical_categorical": torch.zeros(len(cfg.MODEL.CLINICAL.CATEGORICAL), dtype=torch.long),
    }


def complexity_table(parts: list[Part]) -> str:
    """Format the counts as Markdown."""
    header = ("part", "parameters", "GFLOP", "activations, MiB")
    rows = []
    for p in parts:
        name = "&nbsp;&nbsp;" * p.name.count(".") + p.name if p.name else "whole model"
        rows.append((name, f"{p.parameters:,}", f"{p.operations / 1e9:.3f}", f"{p.activations * 4 / 2**20:.1f}"))
    return markdown_table(header, rows)
