"""The auxiliary loss: its value against a slow reference, what it trains, and that inference knows nothing of it."""

import math

import pytest
import torch
from detectron2.modeling import build_model

from mdf_detectron.modeling.losses import FindingsFromRecord

WEIGHT = ["MODEL.CLINICAL.AUXILIARY_WEIGHT", 2.0]


def test_value_against_a_loop():
    torch.manual_seed(0)
    task = FindingsFromRecord(channels={"p4": 3, "p5": 2}, num_classes=4, weight=0.7)
    maps = {"p4": torch.randn(2, 3, 4, 5), "p5": torch.randn(2, 2, 2, 3)}
    classes = [torch.tensor([2, 2, 0]), torch.tensor([], dtype=torch.long)]
    means = []
    for name, x in maps.items():
        weight, bias, terms = task.readouts[name].weight.tolist(), task.readouts[name].bias.tolist(), []
        for n, found in enumerate(classes):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    for k in range(4):
                        logit = bias[k] + sum(
                            weight[k][d][0][0] * float(x[n, d, row, column]) for d in range(x.shape[1])
                        )
                        p = 1 / (1 + math.exp(-logit))
                        terms.append(-math.log(p if k in found.tolist() else 1 - p))
        means.append(sum(terms) / len(terms))
    assert task(maps, classes).item() == pytest.approx(0.7 * sum(means) / 2, rel=1e-5)


@pytest.mark.parametrize("name", ["mimic_eye/msf_net_3d.yaml", "mimic_eye/retinanet_mdf_net.yaml"])
def test_joins_the_losses_of_training_and_leaves_predictions(
    name, small_config, make_batch, fit_encoder, event_storage
):
    small = ["INPUT.IMAGE_SIZE", 64, "MODEL.SPATIALIZER.CHANNELS", 8]
    cfg = small_config(name, *small, *WEIGHT)
    model = fit_encoder(build_model(cfg)).train()
    losses = model(make_batch(cfg, 4))
    assert losses["loss_findings_from_record"] > 0
    model.zero_grad()
    losses["loss_findings_from_record"].backward()
    assert model.backbone.clinical_encoder.numeric_token.grad is not None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.clinical_branch.parameters())
    assert all(p.grad is None for p in model.backbone.image_backbone.parameters()), "the image gives nothing away"
    model.eval()
    called = []
    model.findings_from_record.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        model(make_batch(cfg, 1))
    assert not called


def test_models_without_a_clinical_branch_have_none(small_config):
    for name in ("synthetic_cxr/mask_rcnn.yaml", "synthetic_cxr/msf_net_1d.yaml"):
        assert build_model(small_config(name, *WEIGHT)).findings_from_record is None
    off = ["MODEL.CLINICAL.AUXILIARY_WEIGHT", 0.0]
    assert build_model(small_config("synthetic_cxr/mdf_net.yaml", *off)).findings_from_record is None
