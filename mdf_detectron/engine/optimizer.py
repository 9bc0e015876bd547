"""The optimizer: SGD or AdamW, with the learning rates that a clinical path beside a large image path needs."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from mdf_detectron.modeling.clinical_branches import DeconvolutionBranch, RepeatBranch
from mdf_detectron.modeling.clinical_encoder import ClinicalEncoder
from mdf_detectron.modeling.fusions import Fusion
from mdf_detectron.modeling.roi_heads import ConcatenatedLinear


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW with :func:`lr_factors`; the loss weights are never decayed."""
    factors = lr_factors(cfg, model)
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: factors.get(name, 1.0),
        overrides={"log_alpha_squared": {"weight_decay": 0.0}},
    )
    if cfg.SOLVER.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(
            params, lr=cfg.SOLVER.BASE_LR, betas=tuple(cfg.SOLVER.BETAS), weight_decay=cfg.SOLVER.WEIGHT_DECAY
        )
    else:
        optimizer = torch.optim.SGD(
            params,
            lr=cfg.SOLVER.BASE_LR,
            momentum=cfg.SOLVER.MOMENTUM,
            nesterov=cfg.SOLVER.NESTEROV,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        )
    return maybe_add_gradient_clipping(cfg, optimizer)


def lr_factors(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    """Learning-rate factor of each parameter that has one other than 1, by name.

    ``SOLVER.CLINICAL_LR_FACTOR`` for the modules that read the row itself; ``DECONV_LR_FACTORS`` for the paper's
    branch; ``FULL_LR_FAN_IN`` / inputs for the weight of a fully connected layer with more inputs than that.
    """
    factors: dict[str, float] = {}
    full = cfg.SOLVER.FULL_LR_FAN_IN
    for name, module in model.named_modules():
        if _reads_row(module):
            factors |= {f"{name}.{part}": cfg.SOLVER.CLINICAL_LR_FACTOR for part, _ in module.named_parameters()}
        elif isinstance(module, ConcatenatedLinear):
            factors[f"{name}.clinical.weight"] = cfg.SOLVER.CLINICAL_LR_FACTOR
        elif isinstance(module, DeconvolutionBranch):
            deep, out = cfg.SOLVER.DECONV_LR_FACTORS
            read_out = {id(p) for layer in module.output_layers() for p in layer.parameters()}
            if not read_out and deep != out:
                logging.getLogger(__name__).warning(
                    "SOLVER.DECONV_LR_FACTORS: the last layers of this clinical backbone are not known; all of it "
                    f"learns at {deep} times the rate"
                )
            factors |= {f"{name}.{part}": out if id(p) in read_out else deep for part, p in module.named_parameters()}
    for name, module in model.named_modules():
        if full and isinstance(module, nn.Linear) and module.in_features > full:
            weight = f"{name}.weight"
            factors[weight] = factors.get(weight, 1.0) * full / module.in_features
    return factors


def _reads_row(module: nn.Module) -> bool:
    """Not the spatializer and the clinical backbone: they are deep."""
    return isinstance(module, (ClinicalEncoder, RepeatBranch)) or (isinstance(module, Fusion) and module.reads_row)
