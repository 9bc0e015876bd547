"""Weights of the losses learned with the model (homoscedastic uncertainty, Kendall et al. 2018, as in the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RELEASED = "homoscedastic_released"


class HomoscedasticLossWeighting(nn.Module):
    """Each loss L becomes L/(2α²) + log α², with α trained; its closed-form optimum is α² = L/2.

    The parameter is s = log α², so that α² stays positive whatever the optimizer does.

    Args:
        names: the losses, in a fixed order.
        bounded: use log(1 + α²), the form of the authors' released code, which is never negative.
        trains_alpha: the parameter is α itself, as there. It is the same loss, but a step of gradient descent moves s
            4/α² times as far.
    """

    def __init__(self, names: list[str], bounded: bool = False, trains_alpha: bool = False):
        super().__init__()
        self.names = list(names)
        self.bounded = bounded
        self.trains_alpha = trains_alpha
        if trains_alpha:
            self.alpha = nn.Parameter(torch.ones(len(self.names)))
        else:
            self.log_alpha_squared = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted losses under the same names (scalars).

        Raises:
            KeyError: the model returned other losses than this weighting was built for.
        """
        if set(losses) != set(self.names):
            raise KeyError(f"loss weighting was built for {sorted(self.names)}, the model returned {sorted(losses)}")
        weighted = {}
        for name, s in zip(self.names, self._s(), strict=True):
            penalty = torch.nn.functional.softplus(s) if self.bounded else s
            weighted[name] = 0.5 * torch.exp(-s) * losses[name] + penalty
        return weighted

    def _s(self) -> Tensor:
        return self.alpha.square().log() if self.trains_alpha else self.log_alpha_squared

    def alpha_squared(self) -> dict[str, float]:
        """α² of each loss."""
        return dict(zip(self.names, self._s().detach().exp().tolist(), strict=True))


def build_loss_weighting(cfg, loss_names: list[str]) -> HomoscedasticLossWeighting | None:
    """The weighting that ``MODEL.LOSS_WEIGHTING.NAME`` asks for; None for "none"."""
    name = cfg.MODEL.LOSS_WEIGHTING.NAME
    if name == "none":
        return None
    return HomoscedasticLossWeighting(loss_names, bounded=name != "homoscedastic", trains_alpha=name == RELEASED)
