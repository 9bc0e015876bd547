"""Build the optimizer: SGD or AdamW, with the learning rates that a clinical path needs next to a large image path."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

ADAMW_BETAS = (0.9, 0.99)
"""AdamW's decay rates. A first layer's early gradients are much larger than its later ones; with torch's 0.999 they
keep its steps small for a thousand iterations."""


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD or AdamW with :func:`lr_factors`; loss weights have a weight decay of their own."""
    factors, of_losses = lr_factors(cfg, model), {"weight_decay": cfg.SOLVER.WEIGHT_DECAY_LOSS_WEIGHTS}
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: factors.get(name, 1.0),
        overrides=dict.fromkeys(("log_alpha_squared", "alpha"), of_losses),
    )
    # On a CPU the fused kernel takes a quarter of the time; on a GPU torch chooses.
    fused = True if next(model.parameters()).device.type == "cpu" else None
    shared = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY, "fused": fused}
    if cfg.SOLVER.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(params, betas=ADAMW_BETAS, **shared)
    else:
        optimizer = torch.optim.SGD(params, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV, **shared)
    return maybe_add_gradient_clipping(cfg, optimizer)


def lr_factors(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    """Map each parameter's name to its learning-rate factor, where that may differ from 1.

    A module's ``lr_groups()`` maps its parameters to a group, or its ``lr_group`` names that of all: ``"clinical"``
    reads the record directly (``SOLVER.CLINICAL_LR_FACTOR``); ``"deconv_deep"`` and ``"deconv_out"`` belong to the
    paper's branch (``SOLVER.DECONV_LR_FACTORS``). The weight of a fully connected layer with more than
    ``SOLVER.FULL_LR_FAN_IN`` inputs has the factor ``FULL_LR_FAN_IN`` / inputs, times that of its group. An unknown
    group is a ``KeyError``.
    """
    deep, out = cfg.SOLVER.DECONV_LR_FACTORS
    rates = {"clinical": cfg.SOLVER.CLINICAL_LR_FACTOR, "deconv_deep": deep, "deconv_out": out}
    factors: dict[str, float] = {}
    full = cfg.SOLVER.FULL_LR_FAN_IN
    for name, module in model.named_modules():
        group = getattr(module, "lr_group", None)
        groups = {part: group for part, _ in module.named_parameters() if group}
        groups |= module.lr_groups() if hasattr(module, "lr_groups") else {}
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
