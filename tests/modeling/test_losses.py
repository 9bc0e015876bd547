"""Losses beyond the detector's: the homoscedastic weighting, and the auxiliary task of the clinical maps."""

import math

import pytest
import torch
from detectron2.modeling import build_model

from mdf_detectron.modeling.losses import FindingsFromRecord, HomoscedasticLossWeighting


def test_weighting_by_hand():
    weighting = HomoscedasticLossWeighting(["a", "b"])
    weighting.log_alpha_squared.data = torch.tensor([1.0, 4.0]).log()
    out = weighting({"b": torch.tensor(8.0), "a": torch.tensor(3.0)})
    assert [out["a"].item(), out["b"].item()] == pytest.approx([3 / 2, 8 / (2 * 4) + math.log(4)])


def test_the_released_form_is_never_negative_and_trains_alpha_itself():
    """Losses by hand, and the step of SGD, of α, by the derivative by hand."""
    released = HomoscedasticLossWeighting(["a", "b"], released=True)
    released.alpha.data = torch.tensor([0.5, -1.5])
    out = released({"a": torch.tensor(0.1), "b": torch.tensor(2.5)})
    by_hand = [0.1 / 0.5 + math.log(1.25), 2.5 / 4.5 + math.log(3.25)]
    assert [out["a"].item(), out["b"].item()] == pytest.approx(by_hand)
    sum(out.values()).backward()
    by_hand = [-loss / a**3 + 2 * a / (1 + a * a) for loss, a in ((0.1, 0.5), (2.5, -1.5))]
    assert released.alpha.grad.tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("loss", [0.05, 0.7, 3.0])
def test_training_reaches_the_optimum(loss):
    weighting = HomoscedasticLossWeighting(["a"])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        weighting({"a": torch.tensor(loss)})["a"].backward()
        optimizer.step()
    assert weighting.log_alpha_squared.exp().item() == pytest.approx(loss / 2, rel=1e-3)


def test_other_losses_are_refused():
    with pytest.raises(KeyError, match="was built for"):
        HomoscedasticLossWeighting(["a"])({"b": torch.tensor(1.0)})


WEIGHT = ["MODEL.CLINICAL.AUXILIARY_WEIGHT", 2.0]


def test_auxiliary_loss_against_a_loop():
    torch.manual_seed(0)
    task = FindingsFromRecord(channels={"p4": 3, "p5": 2}, num_classes=4, weight=0.7)
    maps = {"p4": torch.randn(2, 3, 4, 5), "p5": torch.randn(2, 2, 2, 3)}
    classes = [torch.tensor([2, 2, 0]), torch.tensor([], dtype=torch.long)]
    means = []
    for name, x in maps.items():
        weight, bias = (p.detach() for p in task.readouts[name].parameters())
        terms = []
        for n, found in enumerate(classes):
            for cell in x[n].flatten(1).T:
                for k in range(4):
                    p = 1 / (1 + math.exp(-float(weight[k, :, 0, 0] @ cell + bias[k])))
                    terms.append(-math.log(p if k in found.tolist() else 1 - p))
        means.append(sum(terms) / len(terms))
    assert task(maps, classes).item() == pytest.approx(0.7 * sum(means) / 2, rel=1e-5)


@pytest.mark.parametrize("name", ["mimic_eye/msf_net_3d.yaml", "mimic_eye/retinanet_mdf_net.yaml"])
def test_joins_the_losses_of_training_and_leaves_predictions(name, fitted, event_storage):
    model, batch = fitted(name, "INPUT.IMAGE_SIZE", 64, "MODEL.SPATIALIZER.CHANNELS", 8, *WEIGHT, images=4)
    losses = model(batch)
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
        model(batch[:1])
    assert not called


def test_models_without_a_clinical_branch_have_none(small_config):
    for name in ("synthetic_cxr/mask_rcnn.yaml", "synthetic_cxr/msf_net_1d.yaml"):
        assert build_model(small_config(name, *WEIGHT)).findings_from_record is None
    off = ["MODEL.CLINICAL.AUXILIARY_WEIGHT", 0.0]
    assert build_model(small_config("synthetic_cxr/mdf_net.yaml", *off)).findings_from_record is None
