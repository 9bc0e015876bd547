"""An auxiliary task of training: predict the findings of an image from the clinical maps alone.

A detector's losses reach the record late: a class loss says little before the boxes are found, and by then the image's
path has learned to do without. This loss asks every cell of a clinical map for the classes in its image, from the first
step on and with the same linear readout everywhere, which is what a box head can read from any region. At inference
nothing of it is computed.

Shape letters: N images, D channels and h×w cells of a map, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FindingsFromRecord(nn.Module):
    """The mean binary cross-entropy of an image's classes, predicted by a 1×1 convolution of each clinical map.

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
        """Learning-rate group of every parameter, see ``engine/optimizer.py``."""
        return dict.fromkeys((name for name, _ in self.named_parameters()), "clinical")

    def forward(self, maps: dict[str, Tensor], classes: list[Tensor]) -> Tensor:
        """Weighted loss (scalar): the mean over images, classes, cells and maps.

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
