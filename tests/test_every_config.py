"""Every config below configs/, at a small size: builds, trains a step, evaluates, saves and loads."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model

from mdf_detectron.engine.checkpointer import MultimodalCheckpointer
from mdf_detectron.engine.optimizer import build_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Base-"))
SMALL = ["INPUT.IMAGE_SIZE", 64, "MODEL.SPATIALIZER.NUM_STAGES", 6, "MODEL.SPATIALIZER.CHANNELS", 8,
         "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.PRE_NMS_TOPK_TEST", 50,
         "MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
         "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 20]  # fmt: skip


def predict(model, batch):
    with torch.no_grad():
        outputs = model.eval()([{k: v for k, v in x.items() if k != "instances"} for x in batch])
    return [o["instances"].get_fields() for o in outputs]


def test_recipe_for_pretrained_weights_freezes_the_image_path_only(small_config):
    frozen = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", 2]
    backbone = build_model(small_config("mimic_eye/mdf_net_resnet50_fpn.yaml", *SMALL, *frozen)).backbone
    assert not backbone.image_backbone.bottom_up.stem.conv1.weight.requires_grad
    clinical = backbone.clinical_branch.backbone
    assert all(p.requires_grad for p in clinical.parameters())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in clinical.modules())


@pytest.mark.parametrize("name", MODELS)
def test_trains_evaluates_saves_and_loads(name, small_config, make_batch, fit_encoder, event_storage, tmp_path):
    torch.manual_seed(0)
    cfg = small_config(name, *SMALL)
    model = fit_encoder(build_model(cfg)).train()
    batch = make_batch(cfg)
    optimizer = build_optimizer(cfg, model)
    losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    optimizer.step()

    predictions = predict(model, batch)
    assert 0 < len(predictions[0]["scores"]) <= cfg.TEST.DETECTIONS_PER_IMAGE
    MultimodalCheckpointer(model, str(tmp_path), cfg=cfg).save("model")
    loaded = build_model(cfg)
    MultimodalCheckpointer(loaded, cfg=cfg).load(str(tmp_path / "model.pth"))
    for before, after in zip(predictions, predict(loaded, batch), strict=True):
        assert before.keys() == after.keys()
        torch.testing.assert_close(before["scores"], after["scores"])
        torch.testing.assert_close(before["pred_boxes"].tensor, after["pred_boxes"].tensor)
