"""The whole model: gradients everywhere, the image-only model against Detectron2's own, the paper's counts."""

import warnings
from pathlib import Path

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.roi_heads import StandardROIHeads

import mdf_detectron
from mdf_detectron.engine.clinical_diagnostics import clinical_scalars
from mdf_detectron.engine.optimizer import build_optimizer
from mdf_detectron.errors import ConfigError

CONFIGS = ["mask_rcnn", "msf_net_1d", "msf_net_3d", "mdf_net"]
PAPER = ["MODEL.CLINICAL.EMBEDDING_DIM", 55, "MODEL.CLINICAL.AUXILIARY_WEIGHT", 0.0]
"""The paper's encoded record (9 numeric columns and 55 numbers for the gender), and its losses."""


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_gradients_and_inference(name, small_config, fitted, event_storage):
    torch.manual_seed(0)
    model, batch = fitted(cfg := small_config(f"synthetic_cxr/{name}.yaml"))
    losses = model(batch)
    auxiliary = {"loss_findings_from_record"} if cfg.MODEL.CLINICAL.FUSION_3D else set()
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"} | auxiliary
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        outputs = model([{k: v for k, v in x.items() if k != "instances"} for x in batch])
    instances = outputs[0]["instances"]
    assert len(instances) <= cfg.TEST.DETECTIONS_PER_IMAGE
    assert {"pred_boxes", "scores", "pred_classes", "pred_masks"} <= set(instances.get_fields())


def test_parameter_counts_of_the_three_channel_model(small_config):
    opts = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [1.0] * 3]
    model = build_model(small_config("mimic_eye/mdf_net_deconv.yaml", *PAPER, *opts, "MODEL.FUSION.CONV", False))
    parts = {
        "image_backbone": (model.backbone.image_backbone, 1_258_848),
        "clinical_backbone": (model.backbone.clinical_branch.backbone, 1_258_848),
        "spatializer": (model.backbone.clinical_branch.spatializer, 447_369),
        "embedding": (model.backbone.clinical_encoder.embeddings, 110),
        "rpn": (model.proposal_generator, 41_803),
        "fc6": (model.roi_heads.box_head.fc1, 64 * 64 * 7 * 7 + 64),
        "fc6 of the record": (model.roi_heads.box_head.fc1_record, 64 * 64),
        "fc7": (model.roi_heads.box_head.fc2, 4_160),
        # Detectron2 has no regression outputs for the background: 5 classes × 4 less 4 × (64 + 1)
        "box_predictor": (model.roi_heads.box_predictor, 1_690),
        "fusions": (model.backbone.fusions, 0),
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, (part, _) in parts.items()}
    assert counts == {name: expected for name, (_, expected) in parts.items()}
    # FACTS' total of the released model less the background: 260 of the box predictor, a mask channel of 257
    assert (
        sum(p.numel() for n, p in model.named_parameters() if "log_alpha" not in n and "_token" not in n) == 5_399_329
    )
    convolutions = [m for n, m in model.roi_heads.mask_head.named_children() if n.startswith("mask_fcn")]
    assert sum(p.numel() for m in convolutions for p in m.parameters()) == 1_917_952


def test_image_only_model_equals_detectron2s_own(small_config, make_batch, event_storage):
    torch.manual_seed(0)
    opts = ["MODEL.LOSS_WEIGHTING.NAME", "none", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
    cfg = small_config("synthetic_cxr/mask_rcnn.yaml", *opts)
    ours = build_model(cfg)

    stock_cfg = cfg.clone()
    stock_cfg.defrost()
    stock_cfg.MODEL.META_ARCHITECTURE, stock_cfg.MODEL.ROI_HEADS.NAME = "GeneralizedRCNN", "StandardROIHeads"
    stock_cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    stock = build_model(stock_cfg)
    assert type(stock) is GeneralizedRCNN and type(stock.roi_heads) is StandardROIHeads
    state = {k.replace("backbone.image_backbone.", "backbone."): v for k, v in ours.state_dict().items()}
    stock.load_state_dict(state)
    batch = make_batch(cfg)
    losses = []
    for model in (ours, stock):
        torch.manual_seed(1)
        losses.append({name: loss.item() for name, loss in model.train()(batch).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # RoIAlign sums in another order
    with torch.no_grad():
        ours_found, stock_found = (model.eval()(batch)[0]["instances"] for model in (ours, stock))
    assert_same_predictions(ours_found, stock_found)


def assert_same_predictions(first, second):
    assert len(first) > 0 and first.get_fields().keys() == second.get_fields().keys()
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor)
    for field in ("scores", "pred_classes", "pred_masks"):
        torch.testing.assert_close(first.get(field), second.get(field))


def test_zeroed_clinical_path_is_the_image_only_model(small_config, fitted, event_storage):
    """A few steps of training, then C = 0 and W_clinical = 0: what is left is Mask R-CNN with the same weights."""
    torch.manual_seed(0)
    opts = ["MODEL.FUSION.CONV", False, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
    fused, batch = fitted(cfg := small_config("synthetic_cxr/mdf_net.yaml", *opts))
    optimizer = build_optimizer(cfg, fused)
    for _ in range(3):
        optimizer.zero_grad()
        sum(fused(batch).values()).backward()
        optimizer.step()
    alone = build_model(small_config("synthetic_cxr/mask_rcnn.yaml", *opts))
    incompatible = alone.load_state_dict(fused.state_dict(), strict=False)
    assert not incompatible.missing_keys
    clinical = ("backbone.clinical_", "roi_heads.box_head.fc1_record.", "findings_from_record.")
    assert all(key.startswith(clinical) for key in incompatible.unexpected_keys)

    with torch.no_grad():
        with_record = fused.eval()(batch)[0]["instances"]
        for parameter in fused.backbone.clinical_branch.backbone.conv.parameters():
            parameter.zero_()
        fused.roi_heads.box_head.fc1_record.weight.zero_()
        zeroed, expected = fused(batch)[0]["instances"], alone.eval()(batch)[0]["instances"]
    assert_same_predictions(zeroed, expected)
    assert not torch.allclose(with_record.scores, zeroed.scores), "before, the record did play a part"


def test_shapes_at_every_arrow(small_config, fitted):
    """The path of a study, paper sizes: Z^C, I, S, C, Z, the regions."""
    model, batch = fitted(cfg := small_config("mimic_eye/mdf_net_deconv.yaml", *PAPER), images=1)
    backbone, shapes = model.eval().backbone, {}

    def record(name):
        def hook(module, inputs, output):
            output = next(iter(output.values())) if isinstance(output, dict) else output
            shapes[name] = tuple(output.shape)

        return hook

    parts = {
        "Z^C": backbone.clinical_encoder, "I": backbone.image_backbone, "S": backbone.clinical_branch.spatializer,
        "C": backbone.clinical_branch.backbone, "Z": backbone.fusions["p5"], "regions": model.roi_heads.box_pooler,
        "fc6": model.roi_heads.box_head.fc1,
        "fc6 of the record": model.roi_heads.box_head.fc1_record,
    }  # fmt: skip
    for name, part in parts.items():
        part.register_forward_hook(record(name))
    with torch.no_grad():
        model(batch)
    regions = shapes["regions"][0]
    assert 0 < regions <= cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    assert shapes == {
        "Z^C": (1, 64), "I": (1, 64, 16, 16), "S": (1, 1, 512, 512), "C": (1, 64, 16, 16), "Z": (1, 64, 16, 16),
        "regions": (regions, 64, 7, 7), "fc6": (regions, 64), "fc6 of the record": (regions, 64),
    }  # fmt: skip


def test_without_columns_the_model_is_the_image_only_one(small_config, make_batch):
    opts = ["MODEL.CLINICAL.NUMERIC", [], "MODEL.CLINICAL.CATEGORICAL", [], "MODEL.CLINICAL.VOCABULARIES", []]
    states = []
    for name in ("mdf_net", "mask_rcnn"):
        torch.manual_seed(0)
        states.append(build_model(small_config(f"synthetic_cxr/{name}.yaml", *opts)).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("columns", [(["age"], []), ([], ["gender"])])
def test_subsets_of_the_columns(columns, fitted, event_storage):
    numeric, categorical = columns
    opts = ["MODEL.CLINICAL.NUMERIC", numeric, "MODEL.CLINICAL.CATEGORICAL", categorical,
            "MODEL.CLINICAL.VOCABULARIES", [["F", "M"]] * len(categorical)]  # fmt: skip
    model, batch = fitted("synthetic_cxr/mdf_net.yaml", *opts, images=4)
    assert model.backbone.clinical_encoder.layout.dim == len(numeric) + 55 * len(categorical)
    losses = model(batch)
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() < 1e4 for p in model.parameters())


def test_clinical_dropout_hides_records_in_training_only(fitted, event_storage):
    model, batch = fitted("synthetic_cxr/mdf_net.yaml", "MODEL.CLINICAL.DROPOUT_RECORD", 0.999)
    seen = []
    model.backbone.clinical_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    model.train()(batch)
    model.eval()(batch)
    (hidden, hidden_codes), (full, codes) = seen
    assert torch.isnan(hidden).all() and (hidden_codes == -1).all()
    assert torch.isnan(full).sum() == 1 and (codes == -1).sum() == 1  # as the batch has it


def test_records_that_do_not_fit_are_refused(fitted):
    model, batch = fitted("synthetic_cxr/mdf_net.yaml")

    def change(key, values):
        return [batch[0], {**batch[1], key: torch.tensor(values)}]

    with pytest.raises(ValueError, match=r"input 1: clinical_numeric\[2\] is inf"):
        model(change("clinical_numeric", [0.0, 0.0, float("inf"), *[0.0] * 6]))
    for code in (2, -2):
        with pytest.raises(ValueError, match=rf"input 1: clinical_categorical\[0\] is {code}; a code must be below 2"):
            model(change("clinical_categorical", [code]))
    narrow = [{**x, "clinical_numeric": torch.zeros(1)} for x in batch]
    with pytest.raises(ValueError, match=r"records have 1 numeric and 1 categorical column.*the model reads 9 and 1"):
        model(narrow)


def test_an_input_without_a_record_is_refused(fitted):
    model, batch = fitted("synthetic_cxr/mdf_net.yaml")
    with pytest.raises(KeyError, match="use mdf_detectron's MultimodalDatasetMapper"):
        model.eval()([{k: v for k, v in x.items() if k != "clinical_numeric"} for x in batch])


def test_the_record_reaches_proposals_and_classes(fitted):
    torch.manual_seed(0)
    model, (first, _) = fitted("synthetic_cxr/mdf_net.yaml")
    other = {**first, "clinical_numeric": first["clinical_numeric"] + 2.0}
    found = []
    handles = [
        model.backbone.fusions["p4"].register_forward_hook(lambda m, args, out: found.append(out)),
        model.roi_heads.box_head.register_forward_pre_hook(lambda m, args: found.append(args[1][:1])),
    ]
    with torch.no_grad():
        model.eval()([first])
        model([other])
    for handle in handles:
        handle.remove()
    for first, second in zip(found[:2], found[2:], strict=True):  # the fused map, and what joins a region
        assert (first - second).norm() / first.norm() > 1e-3


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        ("synthetic_cxr/mdf_net", ["MODEL.TIMM.STRIDE", 32], r"RPN.IN_FEATURES is \['p4'\], .* gives \['p5'\]"),
        ("mimic_eye/retinanet_mdf_net", ["MODEL.TIMM.FPN_TOP", "none"], "RETINANET.IN_FEATURES is"),
        ("mimic_eye/mdf_net", ["MODEL.IMAGE_BACKBONE.NAME", "build_dual_backbone"], "IMAGE_BACKBONE.NAME is"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_built(name, opts, message, small_config):
    with pytest.raises(ConfigError, match=message):
        build_model(small_config(f"{name}.yaml", *opts))


def test_3d_fusion_needs_no_heads_of_this_project(fitted, event_storage):
    """Detectron2's own heads get no record; with the same weights both give the same losses."""
    losses = []
    for heads in ("StandardROIHeads", "ClinicalROIHeads"):
        torch.manual_seed(0)
        model, batch = fitted("synthetic_cxr/msf_net_3d.yaml", "MODEL.ROI_HEADS.NAME", heads, images=4)
        torch.manual_seed(1)
        losses.append(model(batch))
        assert len(model.eval()(batch[:1])) == 1
        own = [batch[:2]]
        assert clinical_scalars(model, own, own)["clinical/class_loss"] > 0
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name])


@pytest.mark.parametrize("branch", ["deconv", "compact"])
def test_views_of_one_study_share_their_record_s_maps(branch, fitted):
    """Records a, b, a, a: the branch sees two; each image's detections are those that it has by itself."""
    model, batch = fitted("synthetic_cxr/mdf_net.yaml", "MODEL.CLINICAL.BRANCH", branch, images=4)
    model.eval()
    batch = [{k: v for k, v in x.items() if k != "instances"} for x in batch]
    for view in (2, 3):
        batch[view] |= {k: batch[0][k] for k in ("clinical_numeric", "clinical_categorical")}
    seen = []
    model.backbone.clinical_branch.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    with torch.no_grad():
        together = model.backbone(*_inputs_of_backbone(model, batch))
        alone = [model.backbone(*_inputs_of_backbone(model, [one])) for one in batch]
    assert seen == [2, 1, 1, 1, 1]
    for name, features in together.items():
        torch.testing.assert_close(features, torch.cat([one[name] for one in alone]), rtol=1e-4, atol=1e-5)
    model.backbone(*_inputs_of_backbone(model, batch))  # with gradients, which belong to each record
    assert seen[-1] == 4


def _inputs_of_backbone(model, batch):
    return model.preprocess_image(batch).tensor, model.encode_records(batch)


def waits_of_the_package(found):
    """Lines of the package among warnings of synchronizations; Detectron2's own (its logs, its copies) are not ours."""
    package = str(Path(mdf_detectron.__file__).parent)
    return {f"{w.filename}:{w.lineno}" for w in found
            if w.filename.startswith(package) and "synchroniz" in str(w.message)}  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: whether the package makes one wait is not tested")
@pytest.mark.parametrize("name", ["mask_rcnn", "mdf_net", "mdf_net_compact"])
def test_the_step_does_not_make_a_gpu_wait(name, fitted, event_storage):
    model, batch = fitted(f"synthetic_cxr/{name}.yaml", "MODEL.DEVICE", "cuda")
    sum(model(batch).values()).backward()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sum(model(batch).values()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert waits_of_the_package(found) == set()


def test_a_wait_of_the_package_is_told_from_detectron2s():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for file in (mdf_detectron.__file__, pytest.__file__):
            warnings.warn_explicit("called a synchronizing CUDA operation", UserWarning, file, 7)
    assert waits_of_the_package(found) == {f"{mdf_detectron.__file__}:7"}
