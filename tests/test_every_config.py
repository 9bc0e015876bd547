"""Every config below configs/, at a small size: builds, trains a step, evaluates, saves and loads."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import MultimodalTrainer, check_datasets, evaluate_checkpoint

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(
    p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml") if not p.name.startswith(("Base-", "Recipe-"))
)
SMALL = ["INPUT.IMAGE_SIZE", 64, "MODEL.SPATIALIZER.CHANNELS", 8,
         "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.PRE_NMS_TOPK_TEST", 50,
         "MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
         "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 20,
         "MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.RESNETS.STEM_OUT_CHANNELS", 16,
         "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.WIDTH_PER_GROUP", 16]  # fmt: skip


def test_recipe_for_pretrained_weights_freezes_the_image_path_only(small_config):
    frozen = ["MODEL.CLINICAL.BRANCH", "deconv", "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", 2]
    backbone = build_model(small_config("mimic_eye/mdf_net_resnet50_fpn.yaml", *SMALL, *frozen)).backbone
    assert not backbone.image_backbone.bottom_up.stem.conv1.weight.requires_grad
    clinical = backbone.clinical_branch.backbone
    assert all(p.requires_grad for p in clinical.parameters())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in clinical.modules())


@pytest.mark.parametrize("name", MODELS)
def test_trains_evaluates_saves_and_loads(name, small_config, folder_for, tmp_path):
    """The trainer with its loaders, optimizer, hooks, evaluator and checkpointer, as the command line uses it."""
    torch.manual_seed(0)
    datasets = ["DATASETS.TRAIN", ("every_cxr_train",), "DATASETS.TEST", ("every_cxr_test",), "DATASETS.VAL", ()]
    opts = [*SMALL, "SOLVER.MAX_ITER", 1, "SOLVER.WARMUP_ITERS", 0, "OUTPUT_DIR", str(tmp_path)]
    opts += ["MODEL.TIMM.PRETRAINED", False, "MODEL.BACKBONE.FREEZE_AT", 0]  # no network, no file of weights
    cfg = small_config(name, *opts, "SOLVER.IMS_PER_BATCH", 2, "CLINICAL_DIAGNOSTICS.NUM_IMAGES", 2)
    cfg.merge_from_list(datasets)
    register_prepared_folder(folder_for(cfg), "every_cxr")
    check_datasets(cfg, ("every_cxr_train", "every_cxr_test"))
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(False)
    results = trainer.train()
    assert [n for n, p in trainer.model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert len(trainer.optimizer.state) == len(list(trainer.model.parameters())), "each has taken a step"
    tasks = {"bbox", "bbox_iobb"} | ({"segm", "segm_iobb"} if cfg.MODEL.MASK_ON else set())
    assert tasks <= set(results) and ("segm" in results) == cfg.MODEL.MASK_ON
    assert results["bbox_iobb"].keys() >= {"AP50-class 0", "AR50-class 0"}
    found = json.loads((tmp_path / "inference" / "every_cxr_test" / "coco_instances_results.json").read_text())
    assert 0 < len(found) <= 4 * cfg.TEST.DETECTIONS_PER_IMAGE
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    assert json.dumps(evaluate_checkpoint(cfg)) == json.dumps(results)
