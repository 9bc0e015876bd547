"""Scalars of the clinical path: norms by hand, the loss with exchanged records, and a whole training."""

import json

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import nn

from mdf_detectron.engine.clinical_diagnostics import (
    clinical_scalars,
    fixed_batches,
    mean_class_loss,
    recorded_norms,
)
from mdf_detectron.modeling.clinical_encoder import EncodedRecord, RecordLayout
from mdf_detectron.modeling.fusions import FUSION_REGISTRY, FusedConvolution
from mdf_detectron.modeling.roi_heads import ClinicalFastRCNNConvFCHead


def test_norms_by_hand():
    layout = RecordLayout(1, (1,))
    model = nn.ModuleDict(
        {
            "p4": FusedConvolution(FUSION_REGISTRY.get("ElementwiseSum")(1, layout), 1),
            "p5": FusedConvolution(film := FUSION_REGISTRY.get("FiLM")(1, layout), 1),
            "box_head": ClinicalFastRCNNConvFCHead(ShapeSpec(1, 1, 1), conv_dims=[], fc_dims=[1], record_dim=1),
        }
    )
    film.scale_shift.bias.data[1] = 0.5  # adds one half everywhere
    model["box_head"].fc1.weight.data.fill_(2.0)
    model["box_head"].fc1_record.weight.data.fill_(-4.0)
    image = torch.tensor([[[[3.0, 4.0]]]])
    with recorded_norms(model) as norms:
        record = EncodedRecord(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
        model["p4"](image, torch.tensor([[[[1.0, 7.0]]]]), record)
        model["p5"](image, None, record)
        model["box_head"](torch.tensor([3.0, 4.0])[:, None, None, None], torch.ones(2, 1))
    rms = 12.5**0.5
    assert norms == pytest.approx({
        "fusion_p4_image": rms, "fusion_p4_record": 5.0, "fusion_p5_image": rms, "fusion_p5_record": 0.5,
        "roi_image": 2 * rms, "roi_record": 4.0,
    })  # fmt: skip
    model["p4"](image, image * 100, record)
    assert norms["fusion_p4_record"] == pytest.approx(5.0), "outside of the context nothing is recorded"


def test_exchanged_rows_change_the_loss_only_where_the_row_is_read(fitted):
    model, batch = fitted("synthetic_cxr/mdf_net.yaml")
    rows = [{k: v for k, v in x.items() if k.startswith("clinical")} for x in batch]
    shuffled = [{**x, **row} for x, row in zip(batch, rows[::-1], strict=True)]
    scalars = clinical_scalars(model, [batch], [shuffled])
    assert model.training
    assert scalars["clinical/loss_gain"] == scalars["clinical/loss_shuffled"] - scalars["clinical/loss"] != 0
    with torch.no_grad():
        model.roi_heads.box_head.fc1_record.weight.zero_()
        for parameter in model.backbone.clinical_branch.backbone.conv.parameters():
            parameter.zero_()
    blind = clinical_scalars(model, [batch], [shuffled])
    assert blind["clinical/loss_gain"] == 0 == blind["clinical/fusion_p4_record"] == blind["clinical/roi_record"]
    assert blind["clinical/roi_image"] > 0
    assert scalars["clinical/class_loss_gain"] != 0 == blind["clinical/class_loss_gain"]


def test_class_loss_against_one_box_at_a_time(fitted):
    model, batch = fitted("synthetic_cxr/mdf_net.yaml")
    heads, total, count = model.eval().roi_heads, 0.0, 0
    with torch.no_grad():
        for x in batch:
            record = model.encode_records([x])
            maps = model.backbone(model.preprocess_image([x]).tensor, record)
            for k in range(len(x["instances"])):
                pooled = heads.box_pooler([*maps.values()], [x["instances"].gt_boxes[k : k + 1].to(model.device)])
                scores = heads.box_predictor(heads.box_head(pooled, record.vector))[0][0, : heads.num_classes].double()
                total -= float(scores[x["instances"].gt_classes[k]] - scores.exp().sum().log())
                count += 1
    assert mean_class_loss(model, [batch]) == pytest.approx(total / count, rel=1e-5)


def test_class_loss_finds_a_record_that_tells_the_class(fitted):
    """The record alone sets the logits: right with the own record, wrong with the exchanged one."""
    model, batch = fitted("synthetic_cxr/msf_net_1d.yaml")
    model.eval()
    for number, x in enumerate(batch):
        x["instances"].gt_classes[:] = number
        x["clinical_numeric"] = torch.full_like(x["clinical_numeric"], float(number))
    shuffled = [{**x, "clinical_numeric": y["clinical_numeric"]} for x, y in zip(batch, batch[::-1], strict=True)]

    def logits(predictor, inputs, output):  # gets the image's number from its record
        per_image = [len(x["instances"]) for x in now]
        numbers = torch.cat([x["clinical_numeric"][:1] for x in now]).long().repeat_interleave(torch.tensor(per_image))
        scores = torch.zeros_like(output[0])
        scores[torch.arange(len(scores)), numbers] = 5.0
        return scores, output[1]

    handle = model.roi_heads.box_predictor.register_forward_hook(logits)
    now = batch
    own = mean_class_loss(model, [batch])
    now = shuffled
    exchanged = mean_class_loss(model, [shuffled])
    handle.remove()
    partition = torch.tensor([5.0] + [0.0] * (model.roi_heads.num_classes - 1)).logsumexp(0)
    assert own == pytest.approx(float(partition) - 5.0, abs=1e-5)
    assert exchanged == pytest.approx(float(partition), abs=1e-5)


def test_class_loss_counts_what_logit_fusion_adds(fitted):
    model, batch = fitted("synthetic_cxr/logit_fusion.yaml")
    model.eval()
    seen = []
    torch.nn.init.normal_(model.backbone.record_model.weight)
    plain = model.roi_heads._predictions
    model.roi_heads._predictions = lambda *given: seen.append(plain(*given)) or seen[-1]
    found = mean_class_loss(model, [batch])
    classes = torch.cat([x["instances"].gt_classes for x in batch])
    fused, _, added = seen[0]
    assert found == pytest.approx(float(F.cross_entropy(fused[:, :-1], classes)), abs=1e-5)
    assert abs(found - float(F.cross_entropy((fused - added)[:, :-1], classes))) > 0.01


def test_a_process_of_several_takes_its_share_of_a_batch(tiny_config, monkeypatch):
    cfg = tiny_config("CLINICAL_DIAGNOSTICS.NUM_IMAGES", 4)
    for processes, sizes in ((1, [4]), (2, [2, 2]), (8, [1, 1, 1, 1])):
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda processes=processes: processes)
        own, shuffled = fixed_batches(cfg)
        assert [len(batch) for batch in own] == [len(batch) for batch in shuffled] == sizes
        assert all(a["clinical"] != b["clinical"] for a, b in zip(sum(own, []), sum(shuffled, []), strict=True))


def test_training_writes_them(tiny_config, train, tmp_path):
    cfg = tiny_config(
        "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 3, "CLINICAL_DIAGNOSTICS.PERIOD", 2,
        "CLINICAL_DIAGNOSTICS.NUM_IMAGES", 4,
    )  # fmt: skip
    own_batches, shuffled_batches = fixed_batches(cfg)
    assert [len(b) for b in own_batches] == [2, 2], "in batches of the training's size"
    batch, shuffled = sum(own_batches, []), sum(shuffled_batches, [])
    assert len({x["patient_id"] for x in batch}) == len(batch) == 4
    assert all(len(x["instances"]) for x in batch), "images with findings come first"
    for own, other in zip(batch, shuffled, strict=True):
        assert own["patient_id"] == other["patient_id"] and own["clinical"] != other["clinical"]
        assert torch.equal(own["image"], other["image"])
    trainer, _ = train(cfg)
    (last,) = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    names = {n for n in last if n.startswith("clinical/")}
    losses = {f"clinical/{n}" for n in ("loss", "loss_shuffled", "loss_gain")}
    losses |= {f"clinical/class_{n}" for n in ("loss", "loss_shuffled", "loss_gain")}
    norms = {f"clinical/{place}_{part}" for place in ("fusion_p4", "roi") for part in ("image", "record")}
    assert names == losses | norms
    assert trainer.storage.history("clinical/loss").values()[0][1] == 1, "after the second iteration, and the last"
    assert len(trainer.storage.history("clinical/loss").values()) == 2
