"""1-D fusion: each region gets its image's record, the box head's inputs and start, and heads that others wrote."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY, build_model
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import MultimodalTrainer
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.clinical_encoder import EncodedRecord, record_layout
from mdf_detectron.modeling.meta_arch import MultimodalRCNN
from mdf_detectron.modeling.roi_heads import ClinicalFastRCNNConvFCHead, ClinicalROIHeads

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

    heads._box_features(Head(), torch.ones(3, 1, 2, 2), proposals, record)
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


def test_cascade_heads_are_fused_too(small_config, make_batch, fit_encoder, event_storage):
    cfg = small_config("synthetic_cxr/mdf_net.yaml", *CASCADE)
    model = fit_encoder(build_model(cfg)).train()
    losses = model(make_batch(cfg))
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


class TheirDetector(MultimodalRCNN):
    """Of a third party."""


class TheirHeads(ClinicalROIHeads):
    """Of a third party: with a loss that this package does not know."""

    @classmethod
    def loss_names(cls, cfg):
        return ["loss_cls", "loss_box_reg", "loss_theirs"]

    def _forward_box(self, features, proposals, targets=None, record=None):
        out = super()._forward_box(features, proposals, targets, record)
        return {**out, "loss_theirs": out["loss_cls"] * 0.5} if self.training else out


class TheirBoxHead(torch.nn.Module):
    """Of a third party: reads the record in a way of its own."""

    reads_record = True

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.region = torch.nn.Linear(input_shape.channels, 16)
        self.record = torch.nn.Linear(record_layout(cfg).dim, 16)
        self.output_shape = ShapeSpec(channels=16)

    def forward(self, regions, record):
        return (self.region(regions.mean((2, 3))) * self.record(record).sigmoid()).relu()


def test_a_third_partys_detector_and_heads_train(small_config, tiny_folder, tmp_path, monkeypatch):
    for registry, part in (
        (META_ARCH_REGISTRY, TheirDetector),
        (ROI_HEADS_REGISTRY, TheirHeads),
        (ROI_BOX_HEAD_REGISTRY, TheirBoxHead),
    ):
        monkeypatch.setitem(registry._obj_map, part.__name__, part)
    register_prepared_folder(tiny_folder, "tiny_cxr")
    cfg = small_config(
        "synthetic_cxr/mdf_net.yaml", "MODEL.META_ARCHITECTURE", "TheirDetector", "MODEL.ROI_HEADS.NAME", "TheirHeads",
        "MODEL.ROI_BOX_HEAD.NAME", "TheirBoxHead", "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "SOLVER.IMS_PER_BATCH", 4,
        "MODEL.CLINICAL.NUMERIC", ["age", "temperature"], "MODEL.ROI_HEADS.NUM_CLASSES", 2, "INPUT.IMAGE_SIZE", 64,
        "DATASETS.TRAIN", ("tiny_cxr_train",), "DATASETS.TEST", ("tiny_cxr_test",), "OUTPUT_DIR", str(tmp_path),
    )  # fmt: skip
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=False)
    before = trainer.model.roi_heads.box_head.record.weight.detach().clone()
    trainer.train()
    assert {"loss_theirs", "raw/loss_theirs"} <= set(trainer.storage.histories())
    assert not torch.equal(before, trainer.model.roi_heads.box_head.record.weight)
