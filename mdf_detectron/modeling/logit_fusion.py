"""Fusion in the class logits: what the record says of each class is added to what the image says of it.

Shape letters: N images, R regions, K classes, Z width of the encoded record, D values of a pooled region.
"""

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from mdf_detectron.modeling.clinical_encoder import EncodedRecord

PLACE_DIM = 4
"""Numbers that say where a region is."""


class LogitFusion(nn.Module):
    """class logits += record model's log odds ratio + a small head of region and record.

    The first term is the fitted :class:`~mdf_detectron.modeling.record_model.RecordModel`, which is optimal where look
    and record are independent given the class: the start is late fusion. The head, V·ReLU(A·region + B·(Z^C ∪ place)),
    learns what depends on both; it is zero at the start. The background's logit stays.

    Args:
        record_dim: Z.
        num_classes: K.
        region_dim: D; 0 without regions (dense heads): the head then reads the record alone.
        hidden: hidden units of the head; 0 gives the record model alone.
    """

    def __init__(self, record_dim: int, num_classes: int, region_dim: int = 0, hidden: int = 0):
        super().__init__()
        self.register_buffer("exponent", torch.ones(num_classes))
        self.hidden = hidden
        if not hidden:
            return
        self.record = nn.Linear(record_dim + (PLACE_DIM if region_dim else 0), hidden)
        if region_dim:
            self.region = nn.Linear(region_dim, hidden, bias=False)
        self.out = nn.Linear(hidden, num_classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def lr_groups(self) -> dict[str, str]:
        """Return the learning-rate groups of the layers that read the record (see ``engine/optimizer.py``)."""
        return dict.fromkeys((name for name, _ in self.named_parameters() if name.startswith("record")), "clinical")

    def of_images(self, record: EncodedRecord) -> Tensor:
        """Return what the records alone add to each class, (N, K); 0 for a record without any value."""
        added = record.log_odds * self.exponent
        return added + self.out(F.relu(self.record(record.vector))) * _any(record) if self.hidden else added

    def forward(self, record: EncodedRecord, counts: Tensor, regions: Tensor, places: Tensor) -> Tensor:
        """Return what is added to the class logits of R regions, (R, K); 0 for those without any value.

        Args:
            record: of the N images.
            counts: (N,) long, regions of each image.
            regions: (R, channels, side, side), pooled; D values each.
            places: (R, 4), the boxes as :func:`relative_boxes`.
        """
        added = (record.log_odds * self.exponent).repeat_interleave(counts, dim=0)
        if not self.hidden:
            return added
        given = torch.cat([record.vector.repeat_interleave(counts, dim=0).to(places.dtype), places], dim=1)
        both = self.out(F.relu(self.region(regions.flatten(1)) + self.record(given)))
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
