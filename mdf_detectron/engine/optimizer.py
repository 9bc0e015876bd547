"""The optimizer: SGD or AdamW, with the learning rates that a clinical path needs next to a large image path."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

ADAMW_BETAS = (0.9, 0.99)
"""Decay rates of AdamW's running mean and mean square of the gradient. A first layer's early gradients are much larger
than its later ones; with torch's 0.999 they hold its steps small for a thousand iterations."""


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD or AdamW with :func:`lr_factors`; the loss weights are never decayed."""
    factors = lr_factors(cfg, model)
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: factors.get(name, 1.0),
        overrides={name: {"weight_decay": 0.0} for name in ("log_alpha_squared", "alpha")},
    )
    # On a CPU one kernel for a parameter takes a quarter of the time of a dozen; a GPU has torch's own choice.
    fused = True if next(model.parameters()).device.type == "cpu" else None
    if cfg.SOLVER.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(
            params,
            lr=cfg.SOLVER.BASE_LR,
            betas=ADAMW_BETAS,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            fused=fused,
        )
    else:
        optimizer = torch.optim.SGD(
            params,
            lr=cfg.SOLVER.BASE_LR,
            momentum=cfg.SOLVER.MOMENTUM,
            nesterov=cfg.SOLVER.NESTEROV,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            fused=fused,
        )
    return maybe_add_gradient_clipping(cfg, optimizer)


def lr_factors(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    """Learning-rate factor of each parameter that has one other than 1, by name.

    A module that wants another rate says so itself: its ``lr_groups()`` names the group of its parameters.
    ``"clinical"`` is what reads the record itself (``SOLVER.CLINICAL_LR_FACTOR``), ``"deconv_deep"`` and
    ``"deconv_out"`` are of the paper's branch (``DECONV_LR_FACTORS``). The weight of a fully connected layer with
    more than ``FULL_LR_FAN_IN`` inputs is scaled by that number over its inputs.

    Raises:
        KeyError: a group that is not known here.
    """
    deep, out = cfg.SOLVER.DECONV_LR_FACTORS
    rates = {"clinical": cfg.SOLVER.CLINICAL_LR_FACTOR, "deconv_deep": deep, "deconv_out": out}
    factors: dict[str, float] = {}
    full = cfg.SOLVER.FULL_LR_FAN_IN
    for name, module in model.named_modules():
        groups = module.lr_groups() if hasattr(module, "lr_groups") else {}
        factors |= {f"{name}.{part}": rates[group] for part, group in groups.items()}
        if "deconv_deep" in groups.values() and "deconv_out" not in groups.values() and deep != out:
            logging.getLogger(__name__).warning(
                "SOLVER.DECONV_LR_FACTORS: the last layers of this clinical backbone are not known; all of it "
                f"learns at {deep} times the rate"
            )
    for name, module in model.named_modules():
        if full and isinstance(module, nn.Linear) and module.in_features > full:
            weight = f"{name}.weight"
            factors[weight] = factors.get(weight, 1.0) * full / module.in_features
    return factors
