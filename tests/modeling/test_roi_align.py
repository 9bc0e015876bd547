"""RoIAlign as matrix products against torchvision's."""

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torchvision.ops import roi_align

from mdf_detectron.modeling import roi_align as module
from mdf_detectron.modeling.roi_align import (
    SeparableROIAlign,
    axis_weights,
    separable_roi_align,
    use_separable_roi_align,
)


def regions(count, images, side, generator):
    corners = (
        torch.rand(count, 2, 2, generator=generator, dtype=torch.float64).sort(dim=1).values * 1.6 * side - 0.3 * side
    )
    numbers = torch.randint(images, (count, 1), generator=generator).double()
    return torch.cat([numbers, corners.flatten(1)], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(
    ("height", "width", "bins", "samples"), [(9, 13, 7, 2), (16, 16, 14, 2), (5, 4, 3, 1), (8, 8, 2, 3)]
)
def test_values_and_gradients_are_torchvisions(aligned, height, width, bins, samples):
    generator = torch.Generator().manual_seed(bins)
    features = torch.randn(3, 5, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
    other = features.detach().clone().requires_grad_()
    rois = regions(40, 3, 16 * width, generator)
    rois = torch.cat([rois, torch.tensor([[0, 3.0, 3.0, 3.0, 3.0], [1, -400, -400, -300, -300], [2, 0, 0, 9e3, 9e3]])])
    ours = separable_roi_align(features, rois, bins, 1 / 16, samples, aligned)
    theirs = roi_align(other, rois, bins, 1 / 16, samples, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(features.grad, other.grad, atol=1e-10, rtol=0)


def test_float32_is_within_1e_5():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 64, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
    rois = regions(100, 2, 256, generator).float()
    torch.testing.assert_close(
        separable_roi_align(features, rois, 7, 1 / 16, 2),
        roi_align(features, rois, 7, 1 / 16, 2, True),
        atol=1e-5,
        rtol=0,
    )


def test_hand_worked_weights():
    # one bin over cells 1 to 3 with two samples, at 1.5 and 2.5
    weights = axis_weights(torch.tensor([1.0]), torch.tensor([3.0]), 1, 2, 5)
    assert weights.tolist() == [[[0.0, 0.25, 0.5, 0.25, 0.0]]]
    outside = axis_weights(torch.tensor([-6.0]), torch.tensor([-2.0]), 2, 2, 5)
    assert outside.sum() == 0


def test_no_region_and_parts(monkeypatch):
    features = torch.randn(2, 3, 6, 6, requires_grad=True)
    empty = separable_roi_align(features, torch.zeros(0, 5), 7, 1 / 16, 2)
    assert empty.shape == (0, 3, 7, 7)
    empty.sum().backward()
    assert features.grad.abs().sum() == 0
    rois = regions(11, 2, 96, torch.Generator().manual_seed(1)).float()
    whole = separable_roi_align(features, rois, 7, 1 / 16, 2)
    monkeypatch.setattr(module, "MOST_NUMBERS", 3 * 7 * 6 * 3)
    torch.testing.assert_close(separable_roi_align(features, rois, 7, 1 / 16, 2), whole)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        separable_roi_align(features, rois, 7, 1 / 16, 0)


def test_pooler_takes_it_and_gives_the_same():
    options = {"output_size": 7, "scales": (1 / 4, 1 / 8), "sampling_ratio": 2, "pooler_type": "ROIAlignV2"}
    plain, ours = ROIPooler(**options), use_separable_roi_align(ROIPooler(**options))
    assert all(type(level) is SeparableROIAlign for level in ours.level_poolers)
    features = [torch.randn(2, 8, 80, 80), torch.randn(2, 8, 32, 32)]  # the first is too large: torchvision's is taken
    boxes = [Boxes(regions(20, 1, 200, torch.Generator().manual_seed(k))[:, 1:].float()) for k in range(2)]
    torch.testing.assert_close(ours(features, boxes), plain(features, boxes), atol=1e-5, rtol=1e-5)
    adaptive = SeparableROIAlign((7, 7), 1 / 8, 0, True)
    rois = regions(5, 2, 200, torch.Generator().manual_seed(3)).float()
    torch.testing.assert_close(adaptive(features[1], rois), ROIAlign((7, 7), 1 / 8, 0, True)(features[1], rois))
