import pytest
from detectron2.modeling import build_model

from mdf_detectron.config_file import load_config
from mdf_detectron.modeling.complexity import analyze, complexity_table


@pytest.fixture(scope="module")
def cfg():
    return load_config("synthetic_cxr/mdf_net.yaml", ["MODEL.DEVICE", "cpu"])


@pytest.fixture(scope="module")
def parts(cfg):
    return {p.name: p for p in analyze(cfg, depth=5)}


def test_counts_by_hand(cfg, parts):
    fusion = parts["backbone.fusions"]
    side = 128 // 16
    assert fusion.operations == 64 * 64 * 9 * side * side  # one 3×3 convolution, 64 → 64 channels
    assert fusion.activations == 64 * side * side
    assert fusion.parameters == 64 * 64 * 9 + 64
    assert parts[""].parameters == sum(p.numel() for p in build_model(cfg).parameters())
    tops = [p for name, p in parts.items() if name and "." not in name]
    assert sum(p.operations for p in tops) == parts[""].operations
    rows = complexity_table(list(parts.values())).splitlines()
    assert len(rows) == 2 + len(parts) and rows[2].startswith("| whole model | ")


def test_the_spatializer_is_counted(parts):
    """Seven stages of 32 channels over 64 inputs; the last reads 64×64 cells and gives one channel of 128×128."""
    last = parts["backbone.clinical_branch.spatializer.stages.6"]
    assert last.operations == 64 * 64 * 32 * (4 * 32) + 128 * 128 * (9 * 32 + 9 * 9 + 2)  # products, their sum, norm
    assert last.activations == 128 * 128 * (32 + 9 + 1)


def test_image_alone_is_cheaper(small_config, parts):
    (alone,), fused = analyze(small_config("synthetic_cxr/mask_rcnn.yaml"), 1)[:1], parts[""]
    assert alone.operations < fused.operations and alone.parameters < fused.parameters


def test_attention_is_counted(small_config):
    opts = ["MODEL.FUSION.NAME", "CrossAttention"]
    parts = {p.name: p for p in analyze(small_config("synthetic_cxr/msf_net_3d.yaml", *opts), depth=5)}
    fusion = parts["backbone.fusions.p4.fusion"]
    within = sum(p.operations for name, p in parts.items() if name.startswith("backbone.fusions.p4.fusion."))
    # 64 cells look at 10 columns and the token that is always there; 64 channels twice: scores, then values
    assert fusion.operations - within == 64 * 11 * (64 + 64)
