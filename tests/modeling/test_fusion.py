"""The 3-D fusions: a 2×2×2 example by hand, gradients, and refusal of maps that differ."""

import pytest
import torch

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.fusion import FUSION_REGISTRY, FusedConvolution, build_fusion

IMAGE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]])
CLINICAL = torch.tensor([[[[1.0, 0.0], [-1.0, 2.0]], [[0.5, 0.5], [0.5, 0.5]]]])


def test_sum_and_hadamard_by_hand():
    add = FUSION_REGISTRY.get("ElementwiseSum")(channels=2)(IMAGE, CLINICAL)
    assert add.tolist() == [[[[2.0, 2.0], [2.0, 6.0]], [[5.5, 6.5], [7.5, 8.5]]]]
    product = FUSION_REGISTRY.get("HadamardProduct")(channels=2)(IMAGE, CLINICAL)
    assert product.tolist() == [[[[1.0, 0.0], [-3.0, 8.0]], [[2.5, 3.0], [3.5, 4.0]]]]


def test_concatenation_linear_by_hand():
    fusion = FUSION_REGISTRY.get("ConcatenationLinear")(channels=2)
    fusion.projection.weight.data = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, -1.0]])[:, :, None, None]
    fusion.projection.bias.data = torch.tensor([0.0, 10.0])
    # channel 0: I0 + 2 C0; channel 1: I1 - C1 + 10
    expected = [[[[3.0, 2.0], [1.0, 8.0]], [[14.5, 15.5], [16.5, 17.5]]]]
    assert fusion(IMAGE, CLINICAL).tolist() == expected


def test_concatenation_conv_by_hand():
    fusion = FUSION_REGISTRY.get("ConcatenationConv")(channels=2)
    fusion.projection.weight.data.zero_()
    fusion.projection.weight.data[:, 0] = 1.0  # every 3×3 window over a 2×2 map holds all of it
    fusion.projection.weight.data[:, 3, 1, 1] = 2.0
    fusion.projection.bias.data.zero_()
    assert fusion(IMAGE, CLINICAL).tolist() == [[[[11.0, 11.0], [11.0, 11.0]]] * 2]


@pytest.mark.parametrize("name", sorted(key for key, _ in FUSION_REGISTRY))
def test_gradients_reach_everything(name):
    torch.manual_seed(0)
    fusion = FusedConvolution(FUSION_REGISTRY.get(name)(channels=4), 4)
    maps = [torch.randn(2, 4, 3, 5, requires_grad=True) for _ in range(2)]
    out = fusion(*maps)
    assert out.shape == (2, 4, 3, 5)
    out.square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
    assert all(p.grad is not None for p in fusion.parameters())


def test_refusals(small_config):
    fusion = FusedConvolution(FUSION_REGISTRY.get("ElementwiseSum")(channels=2), 2, use_conv=False)
    with pytest.raises(ValueError, match="cannot fuse maps"):
        fusion(IMAGE, CLINICAL[:, :1])
    with pytest.raises(ConfigError, match="MODEL.FUSION.NAME is 'Average'"):
        build_fusion(small_config("synthetic_cxr/mdf_net.yaml", "MODEL.FUSION.NAME", "Average"), 2)
