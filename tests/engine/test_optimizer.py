import pytest
import torch
from detectron2.modeling import build_model

from mdf_detectron.engine.optimizer import build_optimizer, lr_factors


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_groups(name, small_config):
    opts = ["SOLVER.OPTIMIZER", name, "SOLVER.BASE_LR", 0.1, "SOLVER.CLINICAL_LR_FACTOR", 3.0,
            "SOLVER.DECONV_LR_FACTORS", [0.5, 2.0], "SOLVER.FULL_LR_FAN_IN", 64]  # fmt: skip
    cfg = small_config("synthetic_cxr/mdf_net.yaml", *opts)
    model = build_model(cfg)
    groups = {id(p): g for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert len(groups) == len(list(model.parameters()))
    assert groups[id(model.loss_weighting.log_alpha_squared)]["weight_decay"] == 0
    head, predictor = model.roi_heads.box_head, model.roi_heads.box_predictor
    assert groups[id(head.fc1.weight)]["weight_decay"] == cfg.SOLVER.WEIGHT_DECAY
    rates = {
        head.fc1.weight: 0.1 * 64 / head.fc1.in_features,
        head.fc1.bias: 0.1,
        head.fc1_record.weight: 0.3,
        predictor.cls_score.weight: 0.1,
        model.backbone.clinical_branch.spatializer.stages[0][0].weight: 0.05,
        model.backbone.clinical_branch.backbone.trunk.model.conv_stem.weight: 0.05,
        model.backbone.clinical_branch.backbone.conv.bias: 0.2,
        model.backbone.image_backbone.conv.weight: 0.1,
    }
    for parameter, rate in rates.items():
        assert groups[id(parameter)]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize(
    ("opts", "part"),
    [
        (["MODEL.FUSION.NAME", "FiLM"], "backbone.fusions.p4.fusion."),
        (["MODEL.FUSION.NAME", "CrossAttention"], "backbone.fusions.p4.fusion."),
        (["MODEL.CLINICAL.BRANCH", "repeat"], "backbone.clinical_branch."),
        (["MODEL.FUSION.NAME", "ConcatenationConv"], "backbone.clinical_encoder."),
    ],
)
def test_what_reads_the_record_learns_faster(opts, part, small_config):
    opts = [*opts, "SOLVER.CLINICAL_LR_FACTOR", 3.0, "SOLVER.DECONV_LR_FACTORS", [1.0, 1.0]]
    model = build_model(cfg := small_config("synthetic_cxr/msf_net_3d.yaml", *opts))
    read = {name for name, factor in lr_factors(cfg, model).items() if factor > 1}
    expected = {n for n, _ in model.named_parameters() if n.startswith("backbone.clinical_encoder.")}
    expected |= {n for n, _ in model.named_parameters() if n.startswith((part, "findings_from_record."))}
    assert read >= {n for n in expected if "hidden.weight" not in n} and read <= expected


def test_a_clinical_backbone_whose_last_layers_are_unknown_is_said(small_config, caplog):
    opts = ["MODEL.IMAGE_BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.NORM", "BN",
            "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ROI_HEADS.IN_FEATURES",
            ["res4"]]  # fmt: skip
    model = build_model(cfg := small_config("synthetic_cxr/mdf_net.yaml", *opts))
    factors = lr_factors(cfg, model)
    assert "last layers of this clinical backbone are not known" in caplog.text
    deep = [f for name, f in factors.items() if name.startswith("backbone.clinical_branch.")]
    assert deep and set(deep) == {0.1}


def test_betas(small_config):
    optimizer = build_optimizer(
        cfg := small_config("synthetic_cxr/mdf_net.yaml", "SOLVER.OPTIMIZER", "AdamW"), build_model(cfg)
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(g["betas"] == (0.9, 0.99) for g in optimizer.param_groups)
