"""The whole model: gradients everywhere, the image-only model against Detectron2's own, the paper's counts."""

import copy

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from torch import nn

CONFIGS = ["mask_rcnn", "msf_net_1d", "msf_net_3d", "mdf_net"]


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_gradients_and_inference(name, small_config, make_batch, fit_encoder, event_storage):
    torch.manual_seed(0)
    cfg = small_config(f"synthetic_cxr/{name}.yaml")
    model = fit_encoder(build_model(cfg)).train()
    batch = make_batch(cfg)
    losses = model(batch)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        outputs = model([{k: v for k, v in x.items() if k != "instances"} for x in batch])
    instances = outputs[0]["instances"]
    assert len(instances) <= cfg.TEST.DETECTIONS_PER_IMAGE
    assert {"pred_boxes", "scores", "pred_classes", "pred_masks"} <= set(instances.get_fields())


@pytest.mark.parametrize("name", CONFIGS)
def test_paper_size_trains_a_step_and_predicts(name, small_config, make_batch, fit_encoder, event_storage):
    cfg = small_config(f"mimic_eye/{name}.yaml")
    assert cfg.INPUT.IMAGE_SIZE == 512
    model = fit_encoder(build_model(cfg)).train()
    batch = make_batch(cfg, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = copy.deepcopy(model.roi_heads.box_predictor.cls_score.weight.data)
    sum(model(batch).values()).backward()
    optimizer.step()
    assert not torch.equal(before, model.roi_heads.box_predictor.cls_score.weight)
    features = {}
    handle = model.backbone.register_forward_hook(lambda m, args, out: features.update(out))
    model.eval()
    with torch.no_grad():
        assert "instances" in model(batch[:1])[0]
    handle.remove()
    assert features["p5"].shape == (1, 64, 16, 16)
    if name != "mask_rcnn":
        assert features["clinical"].shape == (1, 64)


def test_parameter_counts_of_the_three_channel_model(small_config):
    opts = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [1.0] * 3]
    model = build_model(small_config("mimic_eye/mdf_net.yaml", *opts, "MODEL.FUSION.CONV", False))
    parts = {
        "image_backbone": (model.backbone.image_backbone, 1_258_848),
        "clinical_backbone": (model.backbone.clinical_branch.backbone, 1_258_848),
        "spatializer": (model.backbone.clinical_branch.spatializer, 447_369),
        "embedding": (model.backbone.clinical_encoder.embeddings, 110),
        "rpn": (model.proposal_generator, 41_803),
        "fc6": (model.roi_heads.box_head.fc1, 204_864),
        "fc7": (model.roi_heads.box_head.fc2, 4_160),
        # Detectron2 has no regression rows for the background: 5 classes × 4 less 4 × (64 + 1)
        "box_predictor": (model.roi_heads.box_predictor, 1_690),
        "fusions": (model.backbone.fusions, 0),
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, (part, _) in parts.items()}
    assert counts == {name: expected for name, (_, expected) in parts.items()}
    convolutions = [m for n, m in model.roi_heads.mask_head.named_children() if n.startswith("mask_fcn")]
    assert sum(p.numel() for m in convolutions for p in m.parameters()) == 1_917_952


def test_image_only_model_equals_detectron2s_own(small_config, make_batch, event_storage):
    torch.manual_seed(0)
    cfg = small_config("synthetic_cxr/mask_rcnn.yaml", "MODEL.LOSS_WEIGHTING.NAME", "none")
    ours = build_model(cfg)

    class ImageBackbone(nn.Module):
        """What GeneralizedRCNN expects: a backbone of a plain tensor."""

        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone.image_backbone
            self.size_divisibility = self.backbone.size_divisibility
            self.padding_constraints = self.backbone.padding_constraints

        def forward(self, x):
            return self.backbone(x)

    stock = GeneralizedRCNN(
        backbone=ImageBackbone(ours.backbone),
        proposal_generator=ours.proposal_generator,
        roi_heads=ours.roi_heads,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    batch = make_batch(cfg)
    results = []
    for model in (ours, stock):
        torch.manual_seed(1)
        losses = model.train()(batch)
        with torch.no_grad():
            results.append((losses, model.eval()(batch)[0]["instances"]))
    assert {k: v.item() for k, v in results[0][0].items()} == pytest.approx(
        {k: v.item() for k, v in results[1][0].items()}, rel=1e-4
    )


def test_an_input_without_a_row_is_refused(small_config, make_batch, fit_encoder):
    cfg = small_config("synthetic_cxr/mdf_net.yaml")
    model = fit_encoder(build_model(cfg)).eval()
    batch = [{k: v for k, v in x.items() if k != "clinical_numeric"} for x in make_batch(cfg)]
    with pytest.raises(KeyError, match="use mdf_detectron's MultimodalDatasetMapper"):
        model(batch)


def test_the_row_reaches_proposals_and_classes(small_config, make_batch, fit_encoder):
    torch.manual_seed(0)
    cfg = small_config("synthetic_cxr/mdf_net.yaml")
    model = fit_encoder(build_model(cfg)).eval()
    batch = make_batch(cfg)[:1]
    other = [{**batch[0], "clinical_numeric": batch[0]["clinical_numeric"] + 2.0}]
    features = []
    handle = model.backbone.register_forward_hook(lambda m, args, out: features.append(out))
    with torch.no_grad():
        model(batch)
        model(other)
    handle.remove()
    for name in ("p4", "clinical"):
        change = (features[0][name] - features[1][name]).norm() / features[0][name].norm()
        assert change > 1e-3, name
