"""TimmBackbone: shapes, the parameter counts of the paper's backbone, refusals, local weights."""

import pytest
import timm
import torch

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.backbone import TimmBackbone


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_paper_backbone_shape_and_parameters():
    backbone = TimmBackbone(model_name="mobilenetv3_small_100", in_channels=3).eval()
    assert count(backbone.trunk) == 927_008
    assert count(backbone.conv) == 331_840
    with torch.no_grad():
        out = backbone(torch.zeros(1, 3, 512, 512))
    assert {k: v.shape for k, v in out.items()} == {"p5": (1, 64, 16, 16)}


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnet18"])
@pytest.mark.parametrize(("in_channels", "stride"), [(1, 16), (3, 8)])
def test_stride_and_gradients(name, in_channels, stride):
    torch.manual_seed(0)
    backbone = TimmBackbone(model_name=name, in_channels=in_channels, stride=stride, out_channels=8)
    out = backbone(torch.randn(2, in_channels, 64, 64))
    feature = f"p{stride.bit_length() - 1}"
    assert out[feature].shape == (2, 8, 64 // stride, 64 // stride)
    assert backbone.output_shape()[feature].stride == stride
    out[feature].square().sum().backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert without == []


def test_local_weights_file(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("mobilenetv3_small_100", pretrained=False)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    arguments = {"model_name": "mobilenetv3_small_100", "in_channels": 3, "stride": 16}
    backbone = TimmBackbone(**arguments, weights_file=str(tmp_path / "weights.pth"))
    torch.testing.assert_close(backbone.trunk.conv_stem.weight, source.conv_stem.weight)
    with pytest.raises(ConfigError, match="no file at"):
        TimmBackbone(**arguments, weights_file=str(tmp_path / "absent.pth"))


def test_refusals():
    with pytest.raises(ConfigError, match="does not have; near it"):
        TimmBackbone(model_name="mobilenetv3_tiny", in_channels=1)
    with pytest.raises(ConfigError, match=r"STRIDE is 64; .* stride \[2, 4, 8, 16, 32\]"):
        TimmBackbone(model_name="mobilenetv3_small_100", in_channels=1, stride=64)
