"""Losses of training beyond the detector's own: learned weights of its losses, and an auxiliary task of the record.

Shape letters: N images, D channels and h×w cells of a map, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

RELEASED = "homoscedastic_released"


class HomoscedasticLossWeighting(nn.Module):
    """Weigh each loss L as L/(2α²) + log α², with α trained; its closed-form optimum is α² = L/2.

    This is homoscedastic uncertainty (Kendall et al. 2018), as in the paper. The parameter is s = log α², so that α²
    stays positive whatever the optimizer does.

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
        """Return the weighted losses under the same names (scalars).

        Raises:
            KeyError: the model returned other losses than this weighting was built for.
        """
        if set(losses) != set(self.names):
            raise KeyError(
                f"loss weighting was built for {sorted(self.names)}, the model returned {sorted(losses)}; name its "
                "losses in the class' loss_names(cfg), or set MODEL.LOSS_WEIGHTING.NAME none"
            )
        weighted = {}
        for name, s in zip(self.names, self._s(), strict=True):
            penalty = F.softplus(s) if self.bounded else s
            weighted[name] = 0.5 * torch.exp(-s) * losses[name] + penalty
        return weighted

    def _s(self) -> Tensor:
        return self.alpha.square().log() if self.trains_alpha else self.log_alpha_squared


def build_loss_weighting(cfg: CfgNode, loss_names: list[str]) -> HomoscedasticLossWeighting | None:
    """Build the weighting that ``MODEL.LOSS_WEIGHTING.NAME`` asks for; None for "none"."""
    name = cfg.MODEL.LOSS_WEIGHTING.NAME
    if name == "none":
        return None
    return HomoscedasticLossWeighting(loss_names, bounded=name != "homoscedastic", trains_alpha=name == RELEASED)


class FindingsFromRecord(nn.Module):
    """Auxiliary task: predict an image's classes from the clinical maps alone, by a 1×1 convolution of each.

    A detector's losses reach the record late: a class loss says little before the boxes are found, and by then the
    image's path has learned to do without. This loss asks every cell of a clinical map for the classes in its image,
    from the first step on and with the same linear readout everywhere, which is what a box head can read from any
    region. At inference nothing of it is computed.

    Args:
        channels: D of each map, by its name.
        num_classes: K.
        weight: of the loss.
    """

    def __init__(self, *, channels: dict[str, int], num_classes: int, weight: float):
        super().__init__()
        self.num_classes = num_classes
        self.weight = weight
        self.readouts = nn.ModuleDict(
            {n: nn.Conv2d(width, num_classes, kernel_size=1) for n, width in channels.items()}
        )

    def lr_groups(self) -> dict[str, str]:
        """Return the learning-rate group of every parameter, see ``engine/optimizer.py``."""
        return dict.fromkeys((name for name, _ in self.named_parameters()), "clinical")

    def forward(self, maps: dict[str, Tensor], classes: list[Tensor]) -> Tensor:
        """Return the weighted loss (scalar): the mean over images, classes, cells and maps.

        Args:
            maps: (N, D, h, w) float of each name.
            classes: N tensors of class indices, long, of the boxes of each image.
        """
        present = torch.stack([F.one_hot(c, self.num_classes).sum(dim=0).clamp(max=1) for c in classes])
        losses = []
        for name, readout in self.readouts.items():
            logits = readout(maps[name])
            wanted = present.to(logits.dtype)[:, :, None, None].expand_as(logits)
            losses.append(F.binary_cross_entropy_with_logits(logits, wanted))
        return self.weight * torch.stack(losses).mean()
