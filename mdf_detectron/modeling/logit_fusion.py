"""Fusion in the class logits: what the record says of each class is added to what the image says of it.

Shape letters: N images, R regions, K classes, Z width of the encoded record, D width of a region's features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from mdf_detectron.modeling.clinical_encoder import EncodedRecord


class LogitFusion(nn.Module):
    """class logits += record model's log odds ratio + b(Z^C) + U·(A·region ⊙ B·Z^C).

    The first term is the fitted :class:`~mdf_detectron.modeling.record_model.RecordModel`, which is optimal where look
    and record are independent given the class: the start is late fusion. The others are zero at the start; the last
    one is a low-rank product for what depends on both. The background's logit stays.

    Args:
        record_dim: Z.
        num_classes: K.
        region_dim: D; 0 without regions (dense heads), then there is no product.
        rank: rank of b and of the product; 0 gives the record model alone.
    """

    def __init__(self, record_dim: int, num_classes: int, region_dim: int = 0, rank: int = 0):
        super().__init__()
        self.register_buffer("exponent", torch.ones(num_classes))
        self.rank, self.region_dim = rank, region_dim
        if rank:
            self.record = nn.Linear(record_dim, rank)
            self.additive = nn.Linear(rank, num_classes)
            nn.init.zeros_(self.additive.weight)
            nn.init.zeros_(self.additive.bias)
        if rank and region_dim:
            self.region = nn.Linear(region_dim + 4, rank)
            self.product_record = nn.Linear(record_dim, rank)
            self.product = nn.Linear(rank, num_classes, bias=False)
            nn.init.zeros_(self.product.weight)

    def lr_groups(self) -> dict[str, str]:
        """Return the learning-rate groups of the layers that read the record (see ``engine/optimizer.py``)."""
        return dict.fromkeys((n for n, _ in self.named_parameters() if not n.startswith("region")), "clinical")

    def of_images(self, record: EncodedRecord) -> Tensor:
        """Return what the records alone add to each class, (N, K); 0 for a record without any value."""
        added = record.log_odds * self.exponent
        return added + self.additive(F.relu(self.record(record.vector))) * _any(record) if self.rank else added

    def forward(
        self, record: EncodedRecord, counts: Tensor, features: Tensor, places: Tensor, of_region: Tensor
    ) -> Tensor:
        """Return what is added to the class logits of R regions, (R, K).

        Args:
            record: of the N images.
            counts: (N,) long, regions of each image.
            features: (R, D), the box head's output.
            places: (R, 4), the boxes as :func:`relative_boxes`.
            of_region: (R, Z), Z^C of each region's image.
        """
        added = self.of_images(record).repeat_interleave(counts, dim=0)
        if not self.rank:
            return added
        region = F.relu(self.region(torch.cat([features, places], dim=1)))
        both = self.product(region * torch.tanh(self.product_record(of_region)))
        return added + both * _any(record).repeat_interleave(counts, dim=0)


def _any(record: EncodedRecord) -> Tensor:
    """Return 1 for records with any value, else 0: (N, 1)."""
    return (record.present.sum(dim=1, keepdim=True) > 0).to(record.vector.dtype)


def relative_boxes(proposals: list[Instances]) -> Tensor:
    """Return center and size of the proposals' boxes, as a share of their image: (R, 4), each about -1 to 1."""
    boxes = []
    for one in proposals:
        height, width = one.image_size
        corners = one.proposal_boxes.tensor / one.proposal_boxes.tensor.new_tensor([width, height, width, height])
        low, high = corners[:, :2], corners[:, 2:]
        boxes.append(torch.cat([low + high - 1, high - low], dim=1))
    return torch.cat(boxes)
