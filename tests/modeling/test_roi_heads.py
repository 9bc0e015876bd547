"""1-D fusion: each region gets its image's record, the box head's inputs and start, and heads that others wrote."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, build_backbone, build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, ROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances
from torch import nn

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import MultimodalTrainer
from mdf_detectron.engine.validation import mean_losses
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.clinical_encoder import EncodedRecord, record_layout
from mdf_detectron.modeling.losses import build_loss_weighting
from mdf_detectron.modeling.meta_arch import MultimodalMixin
from mdf_detectron.modeling.roi_heads import ClinicalFastRCNNConvFCHead

CASCADE = ["MODEL.ROI_HEADS.NAME", "ClinicalCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]


def test_each_region_gets_its_own_images_record(small_config):
    heads = build_model(small_config("synthetic_cxr/mdf_net.yaml")).roi_heads
    record = EncodedRecord(torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]), torch.ones(3, 2, dtype=torch.bool))
    proposals = [Instances((8, 8), proposal_boxes=Boxes(torch.ones(count, 4))) for count in (1, 0, 2)]
    given = []

    class Head(torch.nn.Module):
        reads_record = True

        def forward(self, regions, record):
            given.append(record)
            return regions

    heads._predictions(0, Head(), lambda features: (features, None), torch.ones(3, 1, 2, 2), proposals, record)
    torch.testing.assert_close(given[0], torch.tensor([[0.1, 0.2], [0.5, 0.6], [0.5, 0.6]]))


def test_the_first_layer_is_one_linear_map_of_region_and_record():
    head = ClinicalFastRCNNConvFCHead(ShapeSpec(3, 2, 2), conv_dims=[], fc_dims=[5, 4], record_dim=3)
    assert head.fc1_record.weight.abs().max() > 0
    regions, record = torch.randn(7, 3, 2, 2), torch.randn(7, 3)
    weight = torch.cat([head.fc1.weight, head.fc1_record.weight], dim=1)
    joined = torch.cat([regions.flatten(1), record], dim=1)
    expected = head.fc2(torch.nn.functional.linear(joined, weight, head.fc1.bias).relu()).relu()
    torch.testing.assert_close(head(regions, record), expected)
    alone = ClinicalFastRCNNConvFCHead(ShapeSpec(3, 2, 2), conv_dims=[], fc_dims=[5, 4])
    result = head.load_state_dict(alone.state_dict(), strict=False)
    assert result.missing_keys == ["fc1_record.weight"] and not result.unexpected_keys
    torch.testing.assert_close(head(regions, torch.zeros(7, 3)), alone(regions))


def test_cascade_heads_are_fused_too(fitted, event_storage):
    model, batch = fitted("synthetic_cxr/mdf_net.yaml", *CASCADE)
    losses = model(batch)
    assert len(losses) == 2 + 3 * 2 + 1 + 1, "of proposals, of three stages, of masks, and the auxiliary one"
    sum(losses.values()).backward()
    assert all(h.fc1_record.weight.grad.abs().sum() > 0 for h in model.roi_heads.box_head)


@pytest.mark.parametrize(("ours", "parent"), [([], StandardROIHeads), (CASCADE, CascadeROIHeads)])
def test_without_a_record_the_heads_are_detectron2s(ours, parent, small_config, make_batch, event_storage):
    """The box branches are written out with the record; losses and detections stay those of the parents."""
    cfg = small_config("synthetic_cxr/mask_rcnn.yaml", *ours, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    model, batch = build_model(cfg), make_batch(cfg)
    kinds = type(model.roi_heads), parent

    def run(kind, training):
        model.roi_heads.__class__ = kind
        torch.manual_seed(1)
        with torch.no_grad():
            return model.train(training)(batch)

    (found,), (expected,) = ([x["instances"] for x in run(kind, training=False)[:1]] for kind in kinds)
    assert len(found) > 0
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, expected.scores)
    losses, expected = ({k: v.item() for k, v in run(kind, training=True).items()} for kind in kinds)
    assert losses == pytest.approx(expected)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.ROI_BOX_HEAD.NAME", "MyHead"], "ROI_BOX_HEAD.NAME is 'MyHead', which is not registered"),
        (["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"], "'FastRCNNConvFCHead' does not read the record"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "'StandardROIHeads' does not read the record"),
        (["MODEL.ROI_BOX_HEAD.NUM_CONV", 1], "NUM_CONV 0"),
    ],
)
def test_heads_that_cannot_read_the_record_are_refused(opts, message, small_config):
    with pytest.raises(ConfigError, match=message):
        build_model(small_config("synthetic_cxr/mdf_net.yaml", *opts))


class TheirDecoder(nn.Module):
    """Of a third party: its own flag decides between losses and predictions."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(channels), nn.Dropout(0.5)
        self.logits = nn.Linear(channels, classes)

    def forward(self, x, targets):
        logits = self.logits(self.dropout(self.norm(x)).mean((2, 3)))
        if not self.training:
            return logits.sigmoid()
        present = torch.stack([F.one_hot(t, logits.shape[1]).sum(0).clamp(max=1) for t in targets])
        return {"loss_theirs": F.binary_cross_entropy_with_logits(logits, present.float())}


@META_ARCH_REGISTRY.register()
class TheirDetector(MultimodalMixin, nn.Module):
    """Of a third party, no detector of Detectron2's: each image is one box a class."""

    num_classes_key = "MODEL.RETINANET.NUM_CLASSES"
    in_features_keys = ("MODEL.RETINANET.IN_FEATURES",)

    def __init__(self, cfg):
        super().__init__(loss_weighting=build_loss_weighting(cfg, ["loss_theirs"]))
        self.backbone = build_backbone(cfg)
        self.level = cfg.MODEL.RETINANET.IN_FEATURES[0]
        classes = cfg.MODEL.RETINANET.NUM_CLASSES
        self.decoder = TheirDecoder(self.backbone.output_shape()[self.level].channels, classes)

    def forward(self, batch):
        images = torch.stack([x["image"].float() / 255 for x in batch])
        maps = self.backbone(images, self.encode_records(batch))[self.level]
        found = self.decoder(maps, [x["instances"].gt_classes for x in batch if "instances" in x])
        return self.weighted(found) if self.training else [self._answer(*one) for one in zip(batch, found, strict=True)]

    def _answer(self, x, scores):
        size = x["height"], x["width"]
        boxes = Boxes(torch.tensor([[0.0, 0.0, size[1], size[0]]]).repeat(len(scores), 1))
        return {"instances": Instances(size, pred_boxes=boxes, scores=scores, pred_classes=torch.arange(len(scores)))}


@ROI_HEADS_REGISTRY.register()
class TheirHeads(ROIHeads):
    """Of a third party: pools, joins the record and names a loss in a way of its own."""

    reads_record = True

    def __init__(self, cfg, input_shape):
        super().__init__(**ROIHeads.from_config(cfg))
        self.level = cfg.MODEL.ROI_HEADS.IN_FEATURES[0]
        shape = input_shape[self.level]
        self.pooler = ROIPooler(2, [1 / shape.stride], 1, "ROIAlignV2")
        self.region, self.record = nn.Linear(shape.channels, 16), nn.Linear(record_layout(cfg).dim, 16)
        self.predictor = FastRCNNOutputLayers(cfg, ShapeSpec(channels=16))

    @classmethod
    def loss_names(cls, cfg):
        return ["loss_cls", "loss_box_reg", "loss_theirs"]

    def forward(self, images, features, proposals, targets=None, record=None):
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        regions = self.pooler([features[self.level]], [p.proposal_boxes for p in proposals]).mean((2, 3))
        counts = torch.tensor([len(p) for p in proposals])
        record = self.record(record.vector).sigmoid().repeat_interleave(counts, 0)
        predictions = self.predictor(self.region(regions).relu() * record)
        if not self.training:
            return self.predictor.inference(predictions, proposals)[0], {}
        losses = self.predictor.losses(predictions, proposals)
        return proposals, {**losses, "loss_theirs": losses["loss_cls"] * 0.5}


DETECTOR = ["MODEL.META_ARCHITECTURE", "TheirDetector", "MODEL.RETINANET.IN_FEATURES", ["p4"], "MODEL.MASK_ON", False]


@pytest.mark.parametrize(
    ("config", "opts"),
    [
        ("msf_net_3d", DETECTOR),
        ("mdf_net", ["MODEL.ROI_HEADS.NAME", "TheirHeads", "MODEL.MASK_ON", False]),
    ],
)
def test_a_third_partys_detector_or_heads_train(config, opts, small_config, tiny_folder, tmp_path):
    """Validated and tested too: what is measured is found by what the parts are able to, not by their classes."""
    register_prepared_folder(tiny_folder, "tiny_cxr")
    cfg = small_config(
        f"synthetic_cxr/{config}.yaml", *opts, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "SOLVER.IMS_PER_BATCH", 4,
        "MODEL.CLINICAL.NUMERIC", ["age", "temperature"], "MODEL.ROI_HEADS.NUM_CLASSES", 2, "INPUT.IMAGE_SIZE", 64,
        "MODEL.RETINANET.NUM_CLASSES", 2, "MODEL.LOSS_WEIGHTING.NAME", "homoscedastic", "DATASETS.TRAIN",
        ("tiny_cxr_train",), "DATASETS.VAL", ("tiny_cxr_val",), "DATASETS.TEST", ("tiny_cxr_test",), "OUTPUT_DIR",
        str(tmp_path), "VALIDATION.LOSSES", True, "CLINICAL_DIAGNOSTICS.PERIOD", 2,
    )  # fmt: skip
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=False)
    before = [x.detach().clone() for x in trainer.model.parameters()]
    assert trainer.train()
    written = {"raw/loss_theirs", "val/loss_theirs", "val/total_loss", "clinical/loss_gain"}
    assert written <= set(trainer.storage.histories())
    assert any(not torch.equal(x, y) for x, y in zip(before, trainer.model.parameters(), strict=True))


def test_losses_of_a_third_partys_detector_are_those_of_inference(fitted):
    model, batch = fitted("synthetic_cxr/msf_net_3d.yaml", *DETECTOR)
    model.decoder.norm.eval()
    flags, state = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    first, second = (mean_losses(model, [batch, *more])["total_loss"] for more in ([], [batch]))
    assert first == second, "no dropout"
    assert flags == [m.training for m in model.modules()]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), "no running statistic"
