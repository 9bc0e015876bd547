"""Training losses beyond the detector's own: learned loss weights, and an auxiliary task of the record.

Shape letters: N images, D channels and h×w cells of a map, K classes.
"""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn


class HomoscedasticLossWeighting(nn.Module):
    """Weight each loss L as L/(2α²) + log α² with α trained (optimum: α² = L/2).

    This is the paper's homoscedastic uncertainty (Kendall et al. 2018). With s = log α² as parameter, α² is positive.

    Args:
        names: the losses, in a fixed order.
        released: the authors' code: log(1 + α²), which is never negative, and α itself is the parameter: a step of
            gradient descent moves s 4/α² times as far.
    """

    def __init__(self, names: list[str], released: bool = False):
        super().__init__()
        self.names, self.released = list(names), released
        if released:
            self.alpha = nn.Parameter(torch.ones(len(self.names)))
        else:
            self.log_alpha_squared = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses (scalars) under the same names; raise KeyError if these are not ``names``."""
        if set(losses) != set(self.names):
            raise KeyError(
                f"loss weighting was built for {sorted(self.names)}, the model returned {sorted(losses)}; name its "
                "losses in the class' loss_names(cfg), or set MODEL.LOSS_WEIGHTING.NAME none"
            )
        s = self.alpha.square().log() if self.released else self.log_alpha_squared
        penalty = F.softplus(s) if self.released else s
        return {n: 0.5 * torch.exp(-s[i]) * losses[n] + penalty[i] for i, n in enumerate(self.names)}


def build_loss_weighting(cfg: CfgNode, loss_names: list[str]) -> HomoscedasticLossWeighting | None:
    """Build the weighting that ``MODEL.LOSS_WEIGHTING.NAME`` names; return None for "none"."""
    name = cfg.MODEL.LOSS_WEIGHTING.NAME
    if name == "none":
        return None
    return HomoscedasticLossWeighting(loss_names, released=name == "homoscedastic_released")


class FindingsFromRecord(nn.Module):
    """Auxiliary training task: predict an image's classes from the clinical maps alone, by a 1×1 convolution of each.

    A detector's losses reach the record late: the class loss says little before the boxes are found, and by then the
    image's path has learned to do without the record. This loss asks every cell of a clinical map for the classes in
    its image from the first step on, with the same linear readout everywhere, as a box head can read from any RoI.

    Args:
        channels: D of each map, by name.
        num_classes: K.
        weight: factor of the loss.
    """

    lr_group = "clinical"

    def __init__(self, *, channels: dict[str, int], num_classes: int, weight: float):
        super().__init__()
        self.num_classes = num_classes
        self.weight = weight
        self.readouts = nn.ModuleDict(
            {n: nn.Conv2d(width, num_classes, kernel_size=1) for n, width in channels.items()}
        )

    def forward(self, maps: dict[str, Tensor], classes: list[Tensor]) -> Tensor:
        """Return the weighted loss (scalar), a mean over images, classes, cells and maps.

        ``maps`` are (N, D, h, w) float; ``classes`` are indices (long) of each image's ground-truth boxes.
        """
        present = torch.stack([F.one_hot(c, self.num_classes).sum(dim=0).clamp(max=1) for c in classes])
        losses = []
        for name, readout in self.readouts.items():
            logits = readout(maps[name])
            wanted = present.to(logits.dtype)[:, :, None, None].expand_as(logits)
            losses.append(F.binary_cross_entropy_with_logits(logits, wanted))
        return self.weight * torch.stack(losses).mean()
