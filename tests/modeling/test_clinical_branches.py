"""The three ways from the encoded record to maps: shapes, values by hand, number formats, and the whole model."""

import pytest
import torch
from detectron2.config import configurable
from detectron2.modeling import build_model
from timm.layers import BatchNormAct2d

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.clinical_branches import (
    CLINICAL_BRANCH_REGISTRY,
    ClinicalBranch,
    CompactBranch,
    RepeatBranch,
)
from mdf_detectron.modeling.spatializer import Spatializer


def test_repeat_by_hand():
    branch = RepeatBranch(in_dim=2, channels={"p5": 1})
    branch.projections["p5"].weight.data = torch.tensor([[2.0, 3.0]])
    branch.projections["p5"].bias.data = torch.tensor([0.5])
    out = branch(torch.tensor([[1.0, 1.0], [0.0, -1.0]]), (64, 64), {"p5": (2, 3)})
    assert out["p5"].shape == (2, 1, 2, 3)
    assert out["p5"][0].unique().tolist() == [5.5] and out["p5"][1].unique().tolist() == [-2.5]


def test_compact_pools_its_finest_map_for_coarser_ones():
    branch = CompactBranch(
        spatializer=Spatializer(in_dim=4, out_channels=3, num_stages=3, channels=6),
        spatial_channels=3,
        repeat=RepeatBranch(in_dim=4, channels={"p4": 5, "p5": 5}),
        channels={"p4": 5, "p5": 5},
    ).eval()
    encoded = torch.randn(2, 4)
    out = branch(encoded, (128, 128), {"p4": (8, 8), "p5": (4, 4)})
    finest = branch.spatializer(encoded, (8, 8))
    coarse = finest.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-1, -2))
    for name, pooled in (("p4", finest), ("p5", coarse)):
        repeated = branch.repeat.projections[name](encoded)[:, :, None, None]
        torch.testing.assert_close(out[name], branch.projections[name](pooled) + repeated)


@pytest.mark.parametrize("branch", ["deconv", "repeat", "compact"])
def test_whole_model_trains_and_reads_the_record(branch, fitted, event_storage):
    torch.manual_seed(0)  # about one seed in sixty starts a squeeze-excite layer whose few units are all dead
    opts = ["MODEL.CLINICAL.BRANCH", branch, "MODEL.CLINICAL.FUSION_1D", False]
    model, batch = fitted("synthetic_cxr/mdf_net.yaml", *opts)
    sum(model(batch).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.clinical_branch.parameters()
               if p.ndim > 1)  # fmt: skip
    model.eval()
    images = model.preprocess_image(batch).tensor
    maps = model.backbone(images, model.encode_records(batch))
    for one in batch:
        one["clinical_numeric"][0] += 3.0
    assert not torch.allclose(maps["p4"], model.backbone(images, model.encode_records(batch))["p4"])


@pytest.mark.parametrize("branch", ["deconv", "repeat", "compact"])
@pytest.mark.parametrize("name", ["ElementwiseSum", "HadamardProduct", "ConcatenationLinear", "ConcatenationConv"])
def test_an_untrained_fusion_leaves_the_image_nearly_as_it_is(name, branch, fitted):
    torch.manual_seed(0)
    opts = ["MODEL.CLINICAL.BRANCH", branch, "MODEL.FUSION.NAME", name]
    model, batch = fitted("synthetic_cxr/msf_net_3d.yaml", *opts, images=4)
    images = model.preprocess_image(batch).tensor
    with torch.no_grad():
        fused = model.backbone(images, model.encode_records(batch))["p4"]
        alone = model.backbone.image_backbone(images)["p4"]
    assert 0 < (fused - alone).norm() < 0.4 * alone.norm()


def test_the_untrained_deconvolution_branch_carries_the_record(small_config):
    """A linear map of one cell of C gives back most of nine columns, and less with plain rectifiers in the trunk."""
    torch.manual_seed(0)
    model = build_model(small_config("synthetic_cxr/msf_net_3d.yaml"))
    branch, columns = model.backbone.clinical_branch.train(), torch.randn(260, 9)
    records = torch.cat([columns, torch.randn(1, 55).expand(260, -1)], dim=1)
    linear = _explained_by_a_cell(branch, records, columns)
    for module in branch.backbone.modules():
        if isinstance(module, BatchNormAct2d):
            torch.nn.init.zeros_(module.bias)
    assert linear > 0.55 and _explained_by_a_cell(branch, records, columns) < linear - 0.1


def _explained_by_a_cell(branch, records, columns):
    with torch.no_grad():
        cells = branch(records, (128, 128), {})["p4"][:, :, 3, 3]
    fit, held = slice(0, 200), slice(200, None)
    features = torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
    weights = torch.linalg.lstsq(features[fit], columns[fit]).solution
    error = (features[held] @ weights - columns[held]).square().mean()
    return float(1 - error / columns[held].var())


@pytest.mark.parametrize("name", ["mdf_net_fpn", "retinanet_mdf_net"])
@pytest.mark.parametrize("fusion", ["ElementwiseSum", "HadamardProduct"])
def test_a_pyramid_starts_near_the_image_too(name, fusion, fitted):
    torch.manual_seed(0)
    small = ["INPUT.IMAGE_SIZE", 128, "MODEL.SPATIALIZER.CHANNELS", 8]
    model, batch = fitted(f"mimic_eye/{name}.yaml", *small, "MODEL.FUSION.NAME", fusion)
    images = model.preprocess_image(batch).tensor
    with torch.no_grad():
        fused = model.backbone(images, model.encode_records(batch))
        alone = model.backbone.image_backbone(images)
    assert all((fused[name] - alone[name]).norm() < 0.4 * alone[name].norm() for name in alone)


def test_unknown_branch(small_config):
    with pytest.raises(ConfigError, match="BRANCH is 'tiled'; use one of"):
        build_model(small_config("synthetic_cxr/mdf_net.yaml", "MODEL.CLINICAL.BRANCH", "tiled"))


class ScaledTile(ClinicalBranch):
    """A branch of a newcomer: one number of each record, times a hyperparameter, everywhere."""

    @configurable
    def __init__(self, *, in_dim, channels, scale):
        super().__init__()
        self.scale, self.channels = scale, channels
        self.linear = torch.nn.Linear(in_dim, 1)

    @classmethod
    def from_config(cls, cfg, in_dim, image_shape, features):
        channels = {name: shape.channels for name, shape in features.items()}
        return {"in_dim": in_dim, "channels": channels, "scale": cfg.MODEL.SCALED_TILE.SCALE}

    def forward(self, encoded, image_size, sizes):
        value = self.scale * self.linear(encoded)[:, :, None, None]
        return {name: value.expand(-1, width, *sizes[name]) for name, width in self.channels.items()}

    def start_near(self, neutral):
        torch.nn.init.constant_(self.linear.bias, neutral)


def test_a_new_branch_with_a_hyperparameter(small_config, fitted, event_storage, monkeypatch):
    monkeypatch.setitem(CLINICAL_BRANCH_REGISTRY._obj_map, "ScaledTile", ScaledTile)
    opts = ["MODEL.CLINICAL.BRANCH", "ScaledTile", "MODEL.FUSION.NAME", "HadamardProduct"]
    cfg = small_config("synthetic_cxr/msf_net_3d.yaml", *opts)
    cfg.MODEL.SCALED_TILE = type(cfg)({"SCALE": 2.5})
    model, batch = fitted(cfg)
    branch = model.backbone.clinical_branch
    assert branch.scale == 2.5 and branch.linear.bias.item() == 1.0  # a product is neutral at one
    encoded = torch.randn(2, branch.linear.in_features)
    expected = 2.5 * (encoded @ branch.linear.weight[0] + 1.0)
    torch.testing.assert_close(branch(encoded, (128, 128), {"p4": (8, 8)})["p4"][:, 5, 3, 2], expected)
    sum(model(batch).values()).backward()
    assert branch.linear.weight.grad.abs().sum() > 0
