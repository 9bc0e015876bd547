"""Trunks and backbones of timm models: shapes, the paper's parameter counts, pyramids, batch norm, refusals."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.backbones import TimmBackbone, TimmTrunk, build_timm_fpn_backbone
from mdf_detectron.modeling.pretrained import load_pretrained_trunks


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_paper_backbone_shape_and_parameters():
    trunk = TimmTrunk(model_name="mobilenetv3_small_100", in_channels=3, strides=[32])
    backbone = TimmBackbone(trunk).eval()
    assert count(backbone.trunk) == 927_008
    assert count(backbone.conv) == 331_840
    with torch.no_grad():
        out = backbone(torch.zeros(1, 3, 512, 512))
    assert {k: v.shape for k, v in out.items()} == {"p5": (1, 64, 16, 16)}


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnet18"])
@pytest.mark.parametrize(("in_channels", "stride"), [(1, 16), (3, 8)])
def test_stride_and_gradients(name, in_channels, stride):
    torch.manual_seed(0)
    trunk = TimmTrunk(model_name=name, in_channels=in_channels, strides=[stride])
    backbone = TimmBackbone(trunk, out_channels=8)
    out = backbone(torch.randn(2, in_channels, 64, 64))
    feature = f"p{stride.bit_length() - 1}"
    assert out[feature].shape == (2, 8, 64 // stride, 64 // stride)
    assert backbone.output_shape()[feature].stride == stride
    out[feature].square().sum().backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("in_channels", [1, 3])
def test_memory_format_changes_the_layout_and_nothing_else(in_channels):
    torch.manual_seed(0)
    trunk = TimmTrunk(model_name="mobilenetv3_small_100", in_channels=in_channels, strides=[8, 16])
    stem_inputs, results = [], []
    trunk.model.conv_stem.register_forward_pre_hook(lambda module, inputs: stem_inputs.append(inputs[0].stride()))
    x = torch.randn(2, in_channels, 64, 64)
    for channels_last in (False, True):
        trunk.channels_last = channels_last
        trunk.zero_grad()
        maps = trunk(x)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert all(m.is_contiguous(memory_format=layout) for m in maps.values())
        sum(m.square().mean() for m in maps.values()).backward()
        results.append([*maps.values(), *(p.grad for p in trunk.parameters())])
    assert stem_inputs == [
        (64 * 64 * in_channels, 64 * 64, 64, 1),
        (64 * 64 * in_channels, 1, 64 * in_channels, in_channels),
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


FAMILIES = ["mobilenetv3_small_100", "efficientnet_b0", "resnet18", "densenet121", "convnext_atto"]
TRANSFORMERS = ["swinv2_cr_tiny_224", "swinv2_tiny_window8_256"]  # built for one size; the second gives NHWC


@pytest.mark.parametrize("name", FAMILIES + TRANSFORMERS)
def test_several_strides_of_every_family(name):
    trunk = TimmTrunk(model_name=name, in_channels=1, strides=[32, 8], image_size=256).eval()
    with torch.no_grad():
        out = trunk(torch.zeros(1, 1, 256, 256))
    assert {k: v.shape[-2:] for k, v in out.items()} == {"c3": (32, 32), "c5": (8, 8)}
    assert {k: v.shape[1] for k, v in out.items()} == {k: s.channels for k, s in trunk.output_shape().items()}
    assert trunk.size_divisibility == 32


@pytest.mark.parametrize(("top", "added"), [("none", {}), ("maxpool", {"p6": 64}), ("p6p7", {"p6": 64, "p7": 128})])
def test_pyramid(top, added, small_config):
    levels = ["MODEL.FPN.IN_FEATURES", ["c4", "c5"], "MODEL.FPN.OUT_CHANNELS", 8, "MODEL.TIMM.FPN_TOP", top]
    fpn = build_timm_fpn_backbone(small_config("mimic_eye/mask_rcnn.yaml", *levels), ShapeSpec(channels=1))
    out = fpn(torch.randn(2, 1, 256, 256))
    strides = {"p4": 16, "p5": 32, **added}
    assert {k: v.shape for k, v in out.items()} == {k: (2, 8, 256 // s, 256 // s) for k, s in strides.items()}
    assert {k: s.stride for k, s in fpn.output_shape().items()} == strides
    sum(x.square().sum() for x in out.values()).backward()
    assert [n for n, p in fpn.named_parameters() if p.grad is None] == []


def test_pyramid_refusals(small_config):
    def build(*opts):
        build_timm_fpn_backbone(small_config("mimic_eye/mask_rcnn.yaml", *opts), ShapeSpec(channels=1))

    with pytest.raises(ConfigError, match=r"\['res2'\]; name levels without a gap"):
        build("MODEL.FPN.IN_FEATURES", ["res2"])
    with pytest.raises(ConfigError, match="without a gap"):
        build("MODEL.FPN.IN_FEATURES", ["c3", "c5"])
    with pytest.raises(ConfigError, match="no feature map of stride 64"):
        build("MODEL.FPN.IN_FEATURES", ["c5", "c6"])
    with pytest.raises(ConfigError, match="FPN_TOP is 'p6'"):
        build("MODEL.FPN.IN_FEATURES", ["c5"], "MODEL.TIMM.FPN_TOP", "p6")


def test_eps_and_momentum_of_batch_norm(small_config):
    cfg = small_config("synthetic_cxr/mdf_net.yaml", "MODEL.TIMM.BATCH_NORM", [0.001, 0.01])
    backbone = build_model(cfg).backbone
    for trunk in (backbone.image_backbone.trunk, backbone.clinical_branch.backbone.trunk):
        norms = [m for m in trunk.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms and {(m.eps, m.momentum) for m in norms} == {(0.001, 0.01)}
    default = TimmTrunk(model_name="mobilenetv3_small_100", in_channels=1, strides=[16]).model.bn1
    assert (default.eps, default.momentum) == (1e-5, 0.1)
    TimmTrunk(model_name="convnext_atto", in_channels=1, strides=[16], batch_norm=[0.001, 0.01])  # it has none
    with pytest.raises(ConfigError, match=r"BATCH_NORM is \[0.001\]; it takes eps"):
        small_config("synthetic_cxr/mdf_net.yaml", "MODEL.TIMM.BATCH_NORM", [0.001])


@pytest.mark.parametrize("name", [*FAMILIES, TRANSFORMERS[1]])
@pytest.mark.parametrize("freeze_at", [1, 2, 3])
def test_frozen_is_what_a_map_is_computed_from(name, freeze_at):
    """Exactly the parameters with a gradient of the map of stride 2^n, which then has none: no backward there."""
    if freeze_at == 1 and name in (FAMILIES[-1], TRANSFORMERS[1]):
        with pytest.raises(ConfigError, match="no feature map of stride 2"):
            TimmTrunk(model_name=name, in_channels=1, strides=[8], image_size=256, freeze_at=1)
        return
    side = 64 if name in FAMILIES else 256
    options = {"model_name": name, "in_channels": 1, "strides": [2**freeze_at, 16], "image_size": side}
    trunk, x = TimmTrunk(**options), torch.randn(1, 1, side, side)
    level = f"c{freeze_at}"
    names, parameters = zip(*trunk.named_parameters(), strict=True)
    grads = torch.autograd.grad(trunk(x)[level].square().sum(), parameters, allow_unused=True)
    expected = {n for n, grad in zip(names, grads, strict=True) if grad is not None}
    frozen = TimmTrunk(**options, freeze_at=freeze_at).train()
    assert {n for n, p in frozen.named_parameters() if not p.requires_grad} == expected
    before = {n: x.clone() for n, x in frozen.state_dict().items()}
    maps = frozen(x)
    assert not maps[level].requires_grad and maps["c4"].requires_grad
    changed = {n for n, x in frozen.state_dict().items() if not torch.equal(x, before[n])}
    ours = {n.rpartition(".")[0] for n in expected}
    assert not {n for n in changed if n.rpartition(".")[0] in ours}, "no statistics of frozen norms"
    assert bool(changed) == (name in FAMILIES[:4]), "those of the others move"


def test_frozen_stages_of_the_image_stay_in_a_step_and_the_branch_learns(small_config, tmp_path):
    opts = ["MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.CLINICAL.BRANCH", "deconv"]
    cfg = small_config("synthetic_cxr/mdf_net.yaml", *opts)
    model = build_model(cfg).train()
    backbone = model.backbone
    trunk = backbone.image_backbone.trunk.model
    assert not trunk.bn1.training and not trunk.blocks[0][0].bn1.training and trunk.blocks[2][0].bn1.training
    assert all(p.requires_grad for p in backbone.clinical_branch.parameters())
    pyramid = build_timm_fpn_backbone(small_config("mimic_eye/mdf_net_fpn.yaml", *opts), ShapeSpec(channels=1))
    assert not pyramid.bottom_up.model.conv_stem.weight.requires_grad
    with pytest.raises(ConfigError, match="FREEZE_AT 2 would freeze random weights: set it 0, or name weights by"):
        load_pretrained_trunks(cfg, model)
    with pytest.raises(ConfigError, match="FREEZE_AT 5 freezes up to stride 32, but the trunk ends at stride 16"):
        build_model(small_config("synthetic_cxr/mdf_net.yaml", "MODEL.BACKBONE.FREEZE_AT", 5))


def test_names_with_the_tag_of_their_weights():
    assert TimmTrunk(model_name="resnet18.a1_in1k", in_channels=1, strides=[8]).output_shape()["c3"].stride == 8


def test_refusals(small_config):
    with pytest.raises(ConfigError, match="does not have; near it"):
        TimmTrunk(model_name="mobilenetv3_tiny", in_channels=1, strides=[32])
    with pytest.raises(ConfigError, match=r"no feature map of stride 64, but of stride \[2, 4, 8, 16, 32\]"):
        TimmTrunk(model_name="mobilenetv3_small_100", in_channels=1, strides=[64])
    with pytest.raises(ConfigError, match=r"no feature map of stride 16, but of stride \[7, 14\]"):
        TimmTrunk(model_name="sequencer2d_s", in_channels=1, strides=[16])
    with pytest.raises(ConfigError, match="no stride"):
        TimmTrunk(model_name="resnet18", in_channels=1, strides=[])
