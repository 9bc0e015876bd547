"""What a multimodal backbone is called with: a batch of images and their clinical rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MultimodalInput(NamedTuple):
    """Takes the place of the image tensor between ``preprocess_image`` and the backbone.

    Attributes:
        image: (N, C, H, W) float, normalized and padded.
        clinical_numeric: (N, A) float in the schema's units, NaN where missing.
        clinical_categorical: (N, B) long, -1 where missing.
    """

    image: Tensor
    clinical_numeric: Tensor
    clinical_categorical: Tensor

    @property
    def device(self) -> torch.device:
        return self.image.device
