"""The 3-D fusions: examples by hand, slow references, the identity at the start, gradients, refusals."""

import math

import pytest
import torch
from detectron2.config import configurable

from mdf_detectron.engine.optimizer import lr_factors
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.clinical_encoder import EncodedRecord, RecordLayout
from mdf_detectron.modeling.fusions import FUSION_REGISTRY, MAP, RECORD, FusedConvolution, Fusion, build_fusion

IMAGE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]])
CLINICAL = torch.tensor([[[[1.0, 0.0], [-1.0, 2.0]], [[0.5, 0.5], [0.5, 0.5]]]])
LAYOUT = RecordLayout(dim=6, column_widths=(1, 1, 3))  # the last entry belongs to no column
NAMES = sorted(key for key, _ in FUSION_REGISTRY)
OF_RECORDS = ["CrossAttention", "FiLM"]


def fusion_of(name, channels=2):
    return FUSION_REGISTRY.get(name)(channels, LAYOUT)


def records(count=2):
    generator = torch.Generator().manual_seed(3)
    present = torch.ones(count, 3, dtype=torch.bool)
    present[-1, 1] = False
    return EncodedRecord(torch.randn(count, 6, generator=generator), present)


def randomize(fusion):
    """Other weights than those of the start, where some are zero."""
    torch.manual_seed(1)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return fusion


def test_the_six():
    assert NAMES == sorted(
        ["ElementwiseSum", "HadamardProduct", "ConcatenationLinear", "ConcatenationConv", *OF_RECORDS]
    )


def test_sum_and_hadamard_by_hand():
    add = fusion_of("ElementwiseSum")(IMAGE, CLINICAL)
    assert add.tolist() == [[[[2.0, 2.0], [2.0, 6.0]], [[5.5, 6.5], [7.5, 8.5]]]]
    product = fusion_of("HadamardProduct")(IMAGE, CLINICAL)
    assert product.tolist() == [[[[1.0, 0.0], [-3.0, 8.0]], [[2.5, 3.0], [3.5, 4.0]]]]


def test_concatenation_linear_by_hand():
    fusion = fusion_of("ConcatenationLinear")
    fusion.projection.weight.data = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, -1.0]])[:, :, None, None]
    fusion.projection.bias.data = torch.tensor([0.0, 10.0])
    # channel 0: I0 + 2 C0; channel 1: I1 - C1 + 10
    expected = [[[[3.0, 2.0], [1.0, 8.0]], [[14.5, 15.5], [16.5, 17.5]]]]
    assert fusion(IMAGE, CLINICAL).tolist() == expected


def test_concatenation_conv_by_hand():
    fusion = fusion_of("ConcatenationConv")
    fusion.projection.weight.data.zero_()
    fusion.projection.weight.data[:, 0] = 1.0  # every 3×3 window over a 2×2 map holds all of it
    fusion.projection.weight.data[:, 3, 1, 1] = 2.0
    fusion.projection.bias.data.zero_()
    assert fusion(IMAGE, CLINICAL).tolist() == [[[[11.0, 11.0], [11.0, 11.0]]] * 2]


def set_by_hand(fusion, entry):
    """Hidden feature 0 is that entry of the record; channel 0 is scaled by 1 + 2 of it, channel 1 shifted by 3."""
    for layer in (fusion.hidden, fusion.scale_shift):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    fusion.hidden.weight.data[0, entry] = 1.0
    fusion.scale_shift.weight.data[0, 0] = 2.0  # scale of channel 0
    fusion.scale_shift.weight.data[3, 0] = 3.0  # shift of channel 1
    return fusion


def test_film_by_hand():
    fusion = set_by_hand(fusion_of("FiLM"), 1)
    record = EncodedRecord(torch.tensor([[0.0, 0.5, 0, 0, 0, 0]]), torch.ones(1, 3, dtype=torch.bool))
    assert fusion(IMAGE, record).tolist() == [[[[2.0, 4.0], [6.0, 8.0]], [[6.5, 7.5], [8.5, 9.5]]]]
    below_zero = record._replace(vector=-record.vector)  # the hidden feature is rectified
    assert torch.equal(fusion(IMAGE, below_zero), IMAGE)


def slow_cross_attention(fusion, image, record):
    """The formula cell by cell, head by head, over the columns that are there."""
    channels, heads = image.shape[1], 4
    width = channels // heads
    out = image.clone()
    for n in range(len(image)):
        vector, tokens, at = record.vector[n], [], 0
        for column, projection in enumerate(fusion.tokens.projections):
            size = projection.in_features
            if record.present[n, column]:
                tokens.append(projection.weight @ vector[at : at + size] + projection.bias)
            at += size
        tokens = torch.stack([*tokens, fusion.no_column[0, 0]])
        for i in range(image.shape[2]):
            for j in range(image.shape[3]):
                cell = image[n, :, i, j]
                normed = (cell - cell.mean()) / (cell.var(unbiased=False) + fusion.norm.eps).sqrt()
                query = fusion.query(normed * fusion.norm.weight + fusion.norm.bias)
                seen = []
                for h in range(heads):
                    part = slice(h * width, (h + 1) * width)
                    keys = (tokens @ fusion.key_value.weight[:channels].T + fusion.key_value.bias[:channels])[:, part]
                    values = (tokens @ fusion.key_value.weight[channels:].T + fusion.key_value.bias[channels:])[:, part]
                    weights = torch.softmax(keys @ query[part] / math.sqrt(width), dim=0)
                    seen.append(weights @ values)
                out[n, :, i, j] = cell + fusion.out(torch.cat(seen))
    return out


def test_cross_attention_equals_its_formula():
    fusion = randomize(fusion_of("CrossAttention", channels=8))
    image = torch.randn(2, 8, 2, 3)
    torch.testing.assert_close(fusion(image, records()), slow_cross_attention(fusion, image, records()))


def test_attention_does_not_see_a_missing_column():
    fusion, image, record = randomize(fusion_of("CrossAttention", channels=8)), torch.randn(2, 8, 2, 2), records()
    other = record.vector.clone()
    other[-1, 1] += 5.0  # the column that this record lacks
    torch.testing.assert_close(fusion(image, record), fusion(image, record._replace(vector=other)))
    other[0, 1] += 5.0
    assert not torch.allclose(fusion(image, record), fusion(image, record._replace(vector=other)))
    none = record._replace(present=torch.zeros_like(record.present))
    assert torch.isfinite(fusion(image, none)).all()
    torch.testing.assert_close(fusion(image, none), fusion(image, none._replace(vector=torch.randn(2, 6))))


@pytest.mark.parametrize("name", OF_RECORDS)
@pytest.mark.parametrize("conv", [True, False])
def test_fusions_of_records_start_as_the_identity(name, conv):
    image = torch.randn(2, 8, 3, 5)
    fusion = FusedConvolution(fusion_of(name, channels=8), 8, use_conv=conv)
    torch.testing.assert_close(fusion(image, None, records()), image)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
def test_gradients_reach_everything(name, size):
    fusion = randomize(FusedConvolution(fusion_of(name, channels=32), 32))
    image = torch.randn(2, 32, *size, requires_grad=True)
    clinical = torch.randn(2, 32, *size, requires_grad=True)
    record = records()._replace(vector=torch.randn(2, 6, requires_grad=True))
    out = fusion(image, clinical, record)
    assert out.shape == (2, 32, *size)
    out.square().sum().backward()
    assert image.grad.abs().sum() > 0
    assert (record.vector if name in OF_RECORDS else clinical).grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fusion.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch(name):
    fusion = FusedConvolution(fusion_of(name, channels=4), 4)
    record = EncodedRecord(torch.zeros(0, 6), torch.zeros(0, 3, dtype=torch.bool))
    empty = torch.zeros(0, 4, 3, 3)
    assert fusion(empty, empty, record).shape == (0, 4, 3, 3)


@pytest.mark.parametrize("name", ["ConcatenationConv", "CrossAttention"])
def test_every_level_of_a_pyramid_is_fused(name, fitted):
    torch.manual_seed(0)
    small = ["INPUT.IMAGE_SIZE", 64, "MODEL.SPATIALIZER.CHANNELS", 8]
    model, batch = fitted("mimic_eye/mdf_net_fpn.yaml", *small, "MODEL.FUSION.NAME", name, images=1)
    model.eval()
    for level in model.backbone.fusions.values():
        randomize(level)
    images = model.preprocess_image(batch).tensor
    with torch.no_grad():
        before = model.backbone(images, model.encode_records(batch))
        batch[0]["clinical_numeric"][1] += 3.0
        after = model.backbone(images, model.encode_records(batch))
    assert sorted(before) == ["p2", "p3", "p4", "p5", "p6"]
    for feature in before:
        assert before[feature].shape == after[feature].shape
        assert not torch.equal(before[feature], after[feature]), feature


def test_refusals(small_config):
    fusion = FusedConvolution(fusion_of("ElementwiseSum"), 2, use_conv=False)
    with pytest.raises(ValueError, match="cannot fuse maps"):
        fusion(IMAGE, CLINICAL[:, :1], records(1))
    with pytest.raises(ValueError, match="cannot fuse maps .* and None"):
        fusion(IMAGE, None, records(1))
    with pytest.raises(ValueError, match=r"cannot fuse 1 image\(s\) with 2 record\(s\)"):
        FusedConvolution(fusion_of("FiLM"), 2)(IMAGE, None, records())
    with pytest.raises(ConfigError, match="MODEL.FUSION.NAME is 'Average'"):
        build_fusion(small_config("synthetic_cxr/mdf_net.yaml", "MODEL.FUSION.NAME", "Average"), 2, LAYOUT)
    with pytest.raises(ConfigError, match="6 channels must divide"):
        fusion_of("CrossAttention", channels=6)


class GatedSum(Fusion):
    """A fusion of a newcomer: reads the map and the record, and has a hyperparameter."""

    reads = (MAP, RECORD)

    @configurable
    def __init__(self, channels, layout, *, width):
        super().__init__(channels, layout)
        self.hidden = torch.nn.Linear(layout.dim, width)
        self.gate = torch.nn.Linear(width, channels)

    @classmethod
    def from_config(cls, cfg, channels, layout):
        return {**super().from_config(cfg, channels, layout), "width": cfg.MODEL.GATED_SUM.WIDTH}

    def forward(self, image, clinical_map, record):
        return image + self.gate(self.hidden(record.vector).relu()).sigmoid()[:, :, None, None] * clinical_map


def test_a_new_fusion_with_a_hyperparameter_that_reads_map_and_record(small_config, fitted, event_storage, monkeypatch):
    monkeypatch.setitem(FUSION_REGISTRY._obj_map, "GatedSum", GatedSum)
    cfg = small_config("synthetic_cxr/mdf_net.yaml", "MODEL.FUSION.NAME", "GatedSum")
    cfg.MODEL.GATED_SUM = type(cfg)({"WIDTH": 5})
    model, batch = fitted(cfg, images=4)
    fusion = model.backbone.fusions["p4"].fusion
    assert fusion.hidden.out_features == 5 and model.backbone.clinical_branch is not None
    sum(model(batch).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in fusion.parameters())
    factors = lr_factors(cfg, model)
    assert factors["backbone.fusions.p4.fusion.gate.bias"] == cfg.SOLVER.CLINICAL_LR_FACTOR


def test_fusion_of_a_newcomer_by_hand():
    fusion = GatedSum(2, LAYOUT, width=3)
    torch.nn.init.zeros_(fusion.gate.weight)
    torch.nn.init.zeros_(fusion.gate.bias)  # a gate of one half
    whole = FusedConvolution(fusion, 2, use_conv=False)
    torch.testing.assert_close(whole(IMAGE, CLINICAL, records(1)), IMAGE + 0.5 * CLINICAL)
