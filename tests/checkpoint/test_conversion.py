"""The zoo's pickles: read without executing code, renamed, and loaded into the image backbone."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_resnet_backbone

from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer, for_dual_backbone, read_zoo_weights
from mdf_detectron.errors import CheckpointError


@pytest.fixture
def resnet_config(small_config):
    def load(*opts):
        small = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 16]
        return small_config("mimic_eye/mdf_net_resnet50_fpn.yaml", "MODEL.CLINICAL.BRANCH", "deconv", *small, *opts)

    return load


def write(path, content):
    with open(path, "wb") as file:
        pickle.dump(content, file)
    return path


def imagenet_arrays(cfg):
    torch.manual_seed(5)
    trunk = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    return {name: value.numpy() for name, value in trunk.state_dict().items()}


def test_imagenet_weights_reach_the_image_backbone(resnet_config, tmp_path):
    cfg = resnet_config()
    arrays = imagenet_arrays(cfg)
    content = {"model": {**arrays, "fc.weight": np.zeros((2, 2))}, "__author__": "torchvision"}
    state, dropped = for_dual_backbone(read_zoo_weights(write(tmp_path / "r.pkl", content)))
    assert dropped == ["fc.weight"]
    torch.save({"model": state}, tmp_path / "r.pth")
    model = build_model(cfg)
    MultimodalCheckpointer(model, cfg=cfg).load(str(tmp_path / "r.pth"))
    trunk = model.backbone.image_backbone.bottom_up.state_dict()
    assert trunk.keys() == arrays.keys()
    assert all(torch.equal(trunk[name], torch.from_numpy(np.array(value))) for name, value in arrays.items())
    other = model.backbone.clinical_branch.backbone.bottom_up.stem.conv1.weight
    assert not torch.equal(other, trunk["stem.conv1.weight"]), "the pseudo-image's backbone is not a radiograph's"


def test_one_channel_gives_the_same_on_gray_images(tmp_path):
    kernel = torch.randn(4, 3, 7, 7)
    path = write(tmp_path / "r.pkl", {"model": {"stem.conv1.weight": kernel.numpy()}, "__author__": "torchvision"})
    state, _ = for_dual_backbone(read_zoo_weights(path), input_channels=1)
    image = torch.randn(1, 1, 9, 9)
    gray = torch.nn.functional.conv2d(image, state["backbone.image_backbone.bottom_up.stem.conv1.weight"])
    torch.testing.assert_close(gray, torch.nn.functional.conv2d(image.expand(-1, 3, -1, -1), kernel))


def test_names_of_whole_detectors_and_of_caffe2(tmp_path):
    arrays = {"backbone.bottom_up.res2.0.conv1.weight": np.ones(1), "roi_heads.box_head.fc1.weight": np.ones(1)}
    state, dropped = for_dual_backbone(
        read_zoo_weights(write(tmp_path / "d.pkl", {"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    )
    assert sorted(state) == ["backbone.image_backbone.bottom_up.res2.0.conv1.weight", "roi_heads.box_head.fc1.weight"]
    assert not dropped
    caffe2 = {"conv1_w": np.ones(1), "res2_0_branch2a_bn_s": np.ones(1), "pred_w": np.ones(1), "lr": 0.1}
    state, dropped = for_dual_backbone(read_zoo_weights(write(tmp_path / "c.pkl", caffe2)))
    names = ["res2.0.conv1.norm.weight", "stem.conv1.weight"]
    assert sorted(state) == [f"backbone.image_backbone.bottom_up.{name}" for name in names]
    assert len(dropped) == 1


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_no_code_is_executed(tmp_path):
    path = write(tmp_path / "bad.pkl", {"model": {"a": Malicious(tmp_path / "owned")}, "__author__": "x"})
    with pytest.raises(CheckpointError, match="bad.pkl cannot be loaded safely: it asks for .*open"):
        read_zoo_weights(path)
    assert not (tmp_path / "owned").exists()
    with pytest.raises(CheckpointError, match="no weights at"):
        read_zoo_weights(tmp_path / "absent.pkl")
    (tmp_path / "cut.pkl").write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="cut.pkl cannot be loaded safely"):
        read_zoo_weights(tmp_path / "cut.pkl")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_zoo_weights(write(tmp_path / "list.pkl", [1]))
