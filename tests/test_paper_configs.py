"""``configs/paper/``: the authors' schedule, selection, optimizer and initialization, by hand-written numbers."""

import math
from functools import cache

import pytest
import torch
from detectron2.modeling import build_model

from mdf_detectron.config_file import load_config
from mdf_detectron.engine.optimizer import build_optimizer

EPOCH = 468 // 4  # iterations: 468 readings of the train split in batches of 4

RUNS = {  # config: epochs, metric of the checkpoint, masks, weight decay, 3-D, 1-D
    "mask_rcnn": (100, "bbox_iobb/AR50", True, 0.0, False, False),
    "msf_net_3d": (100, "bbox_iobb/AR50", True, 0.0, True, False),
    "msf_net_1d": (100, "bbox_iobb/AP50", True, 0.0, False, True),
    "mdf_net": (60, "bbox_iobb/AR50", False, 0.0, True, True),
    "mdf_net_columns": (100, "bbox_iobb/AR50", True, 1e-5, True, True),
}


@cache
def built(name):
    torch.manual_seed(0)
    cfg = load_config(f"paper/{name}.yaml", ["MODEL.DEVICE", "cpu"])
    return cfg, build_model(cfg)


@pytest.mark.parametrize("name", RUNS)
def test_hyperparameters(name):
    epochs, metric, masks, decay, in_3d, in_1d = RUNS[name]
    cfg, model = built(name)
    solver, heads = cfg.SOLVER, model.roi_heads
    assert (solver.IMS_PER_BATCH, cfg.TEST.EVAL_PERIOD, solver.MAX_ITER) == (4, EPOCH, epochs * EPOCH)
    assert (cfg.VALIDATION.METRIC, cfg.VALIDATION.PATIENCE) == (metric, 0)
    assert (solver.OPTIMIZER, solver.MOMENTUM, solver.STEPS, solver.WARMUP_ITERS) == ("SGD", 0.9, (), 0)
    groups = build_optimizer(cfg, model).param_groups
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert {g["lr"] for g in groups} == {1e-3} and set(decays.values()) == {decay}
    assert len(decays) == len(list(model.parameters())) and id(model.loss_weighting.alpha) in decays
    weighting = model.loss_weighting
    assert weighting.released and weighting.alpha.tolist() == [1.0] * (5 if masks else 4)
    places = (model.backbone.fusions is not None, heads.box_head.reads_record)
    assert heads.mask_on is masks and places == (in_3d, in_1d)
    assert cfg.INPUT.IMAGE_SIZE == 512 and cfg.INPUT.FORMAT == "RGB" and cfg.INPUT.RANDOM_FLIP == "horizontal"
    torch.testing.assert_close(model.pixel_mean.flatten(), 255 * torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(model.pixel_std.flatten(), 255 * torch.tensor([0.229, 0.224, 0.225]))
    norms = [m for m in model.backbone.image_backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.01)} and cfg.MODEL.TIMM.PRETRAINED
    rpn, box = model.proposal_generator, heads.box_predictor
    assert rpn.pre_nms_topk == rpn.post_nms_topk == {True: 2000, False: 1000} and rpn.nms_thresh == 0.3
    assert (rpn.batch_size_per_image, rpn.positive_fraction) == (256, 0.5)
    assert rpn.anchor_matcher.thresholds[1:3] == [0.3, 0.7]
    assert (box.test_score_thresh, box.test_nms_thresh, box.test_topk_per_image) == (0.05, 0.2, 10)
    assert (heads.batch_size_per_image, heads.positive_fraction, heads.proposal_append_gt) == (512, 0.25, True)
    assert heads.proposal_matcher.thresholds[1:2] == [0.5]
    assert (box.box2box_transform.weights, box.smooth_l1_beta) == ((10, 10, 5, 5), pytest.approx(1 / 9))
    assert heads.box_pooler.output_size == (7, 7) and not heads.box_pooler.level_poolers[0].aligned
    assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    if in_3d:
        (fusion,) = model.backbone.fusions.values()
        assert type(fusion.fusion).__name__ == "ElementwiseSum" and isinstance(fusion.conv, torch.nn.Identity)


def uniform(inputs):
    return 1 / math.sqrt(3 * inputs)


def test_initialization():
    """Each group of layers against torch's default, uniform within ± 1/√inputs, and the authors' checkpoints."""
    _, model = built("mdf_net_columns")
    heads, branch = model.roi_heads, model.backbone.clinical_branch
    fc1, of_record = heads.box_head.fc1.weight, heads.box_head.fc1_record.weight
    stages = list(branch.spatializer.stages)
    expected = {
        "class scores": (heads.box_predictor.cls_score.weight, uniform(64), 0.074),
        "box deltas": (heads.box_predictor.bbox_pred.weight, uniform(64), 0.072),
        "fully connected": (torch.cat([fc1, of_record], dim=1), uniform(64 * 49 + 64), None),
        "record's part": (of_record, uniform(64 * 49 + 64), None),
        "second layer": (heads.box_head.fc2.weight, uniform(64), None),
        "mask logits": (heads.mask_head.predictor.weight, math.sqrt(2 / 6), 0.573),
        "clinical 3x3": (branch.backbone.conv.weight, uniform(576 * 9), 0.0080),
        "image 3x3": (model.backbone.image_backbone.conv.weight, uniform(576 * 9), 0.0080),
        "deconvolutions": (torch.cat([stage[0].weight for stage in stages]), uniform(64 * 4), 0.036),
        "convolutions": (torch.cat([stage[3].weight for stage in stages]), uniform(64 * 9), None),
        "proposal head": (model.proposal_generator.rpn_head.objectness_logits.weight, 0.01, None),
    }
    for name, (weight, std, published) in expected.items():
        assert weight.std().item() == pytest.approx(std, rel=0.05), name
        assert published is None or std == pytest.approx(published, rel=0.05), name
    norms = [m for m in branch.spatializer.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 18 and all((n.bias == 0).all() and (n.weight == 1).all() for n in norms)
    assert len(stages) == 9 and stages[0][0].bias.abs().max() > 0
    trunk = [m for m in branch.backbone.trunk.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all((n.bias == 0).all() for n in trunk)


def test_the_authors_numbers_are_a_switch(small_config):
    cfg = small_config("paper/mdf_net.yaml", "MODEL.CLINICAL.MISSING", "raw_mean", "INPUT.IMAGE_SIZE", 64)
    encoder = build_model(cfg).backbone.clinical_encoder
    numeric = torch.full((3, 9), 5.0)
    numeric[:, 1] = torch.tensor([98.0, float("nan"), 101.0])
    encoder.fit(numeric, torch.zeros(3, 1, dtype=torch.long))
    assert encoder(numeric, torch.zeros(3, 1, dtype=torch.long))[:, 1].tolist() == [98.0, 99.5, 101.0]
