"""1-D fusion: the pooler by hand, and the box head's inputs and initialization."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.roi_heads import ClinicalROIPooler, ConcatenatedLinear


def test_each_region_gets_its_own_images_row():
    pooler = ClinicalROIPooler(ROIPooler(output_size=2, scales=(1.0,), sampling_ratio=1, pooler_type="ROIAlignV2"))
    features = torch.stack([torch.full((1, 8, 8), 3.0), torch.full((1, 8, 8), 5.0), torch.full((1, 8, 8), 7.0)])
    encoded = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    box = [1.0, 1.0, 5.0, 5.0]
    boxes = [Boxes(torch.tensor([box])), Boxes(torch.zeros(0, 4)), Boxes(torch.tensor([box, box]))]
    out = pooler([features, encoded], boxes)
    expected = [[3.0] * 4 + [0.1, 0.2]] + [[7.0] * 4 + [0.5, 0.6]] * 2
    torch.testing.assert_close(out, torch.tensor(expected))


def test_box_head_reads_regions_and_row(small_config):
    model = build_model(small_config("mimic_eye/mdf_net.yaml", "MODEL.CLINICAL.EMBEDDING_DIM", 55))
    fc1 = model.roi_heads.box_head.fc1
    assert fc1.weight.shape == (64, 64 * 7 * 7 + 64)
    assert sum(p.numel() for p in fc1.parameters()) == 204_864
    assert sum(p.numel() for p in model.roi_heads.box_head.fc2.parameters()) == 4_160


def test_concatenated_linear_is_one_linear_map():
    layer = ConcatenatedLinear(nn.Linear(12, 5), clinical_features=3)
    x = torch.randn(7, 15)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.region.bias))
    assert layer.clinical.weight.abs().max() > 0


def test_cascade_heads_are_fused_too(small_config, make_batch, fit_encoder, event_storage):
    opts = ["MODEL.ROI_HEADS.NAME", "ClinicalCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
    cfg = small_config("synthetic_cxr/mdf_net.yaml", *opts)
    model = fit_encoder(build_model(cfg)).train()
    losses = model(make_batch(cfg))
    assert len(losses) == 2 + 3 * 2 + 1 + 1, "of proposals, of three stages, of masks, and the auxiliary one"
    sum(losses.values()).backward()
    assert all(h.fc1.clinical.weight.grad.abs().sum() > 0 for h in model.roi_heads.box_head)


def test_a_convolutional_box_head_is_refused(small_config):
    with pytest.raises(ConfigError, match="NUM_CONV 0"):
        build_model(small_config("synthetic_cxr/mdf_net.yaml", "MODEL.ROI_BOX_HEAD.NUM_CONV", 1))


def test_weights_of_a_head_without_record_start_the_regions_part(small_config):
    """The image-only model's checkpoint, and one whose first layer was swapped in from outside, both load."""
    alone = build_model(small_config("synthetic_cxr/mask_rcnn.yaml")).roi_heads.box_head
    head = build_model(small_config("synthetic_cxr/mdf_net.yaml")).roi_heads.box_head
    before = head.fc1.clinical.weight.clone()
    result = head.load_state_dict(alone.state_dict(), strict=False)
    assert result.missing_keys == ["fc1.clinical.weight"] and not result.unexpected_keys
    assert torch.equal(head.fc1.region.weight, alone.fc1.weight) and torch.equal(head.fc1.clinical.weight, before)
    other = build_model(small_config("synthetic_cxr/mdf_net.yaml")).roi_heads.box_head
    assert set(head.state_dict()) >= {"fc1.region.weight", "fc1.region.bias", "fc1.clinical.weight", "fc2.weight"}
    other.load_state_dict(head.state_dict())


def test_another_box_head_is_refused_with_1d_fusion(small_config):
    with pytest.raises(ConfigError, match="'MyHead' does not read the record"):
        small_config("synthetic_cxr/mdf_net.yaml", "MODEL.ROI_BOX_HEAD.NAME", "MyHead")
