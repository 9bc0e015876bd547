"""Pretrained trunks: both of a model, one or three channels, never silently a part of the file, never without need."""

import pytest
import timm
import torch
from detectron2.modeling import build_model

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine.trainer import MultimodalTrainer
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling import pretrained
from mdf_detectron.modeling.pretrained import load_pretrained_trunks

NAME = "mobilenetv3_small_100"
RGB = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [1.0] * 3, "MODEL.PIXEL_STD", [1.0] * 3]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A classifier of timm's, in evaluation mode, and its weights file; its norms have statistics of their own."""
    torch.manual_seed(7)
    model = timm.create_model(NAME).eval()
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) + 0.5)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    torch.save(model.state_dict(), path)
    return model, path


def map_of(classifier, x):
    """Compute the feature map of stride 16 of a 64-pixel image by timm's classifier, block by block."""
    x = classifier.bn1(classifier.conv_stem(x))
    for block in classifier.blocks:
        y = block(x)
        if y.shape[-1] < 4:
            break
        x = y
    return x


@pytest.mark.parametrize("channels", [1, 3])
def test_image_and_clinical_trunk_are_the_classifier(small_config, weights, channels):
    classifier, path = weights
    opts = RGB if channels == 3 else []
    cfg = small_config("synthetic_cxr/mdf_net.yaml", "MODEL.TIMM.WEIGHTS_FILE", str(path), *opts)
    backbone = (model := build_model(cfg)).backbone
    assert load_pretrained_trunks(cfg, model) == 2
    gray = torch.rand(2, 1, 64, 64)
    expected = map_of(classifier, gray.expand(-1, 3, -1, -1))
    image, clinical = backbone.image_backbone.trunk.eval(), backbone.clinical_branch.backbone.trunk.eval()
    torch.testing.assert_close(image(gray.expand(-1, channels, -1, -1))["c4"], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(clinical.model.conv_stem.weight, image.model.conv_stem.weight)
    assert torch.equal(clinical.model.bn1.bias, image.model.bn1.bias), "not the linear start"


def test_a_training_loads_them_once_and_a_resumed_one_not_at_all(small_config, tiny_folder, weights, tmp_path):
    register_prepared_folder(tiny_folder, "tiny_cxr")
    path = tmp_path / "trunk.pth"
    path.write_bytes(weights[1].read_bytes())
    opts = ["MODEL.CLINICAL.NUMERIC", [], "MODEL.CLINICAL.CATEGORICAL", [], "MODEL.ROI_HEADS.NUM_CLASSES", 2,
            "INPUT.IMAGE_SIZE", 64, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", (),
            "DATASETS.TRAIN", ("tiny_cxr_train",), "OUTPUT_DIR", str(tmp_path / "run")]  # fmt: skip
    cfg = small_config("synthetic_cxr/mask_rcnn.yaml", *opts, "MODEL.TIMM.WEIGHTS_FILE", str(path))
    trainer = MultimodalTrainer(cfg)
    trainer.resume_or_load(resume=False)
    expected = weights[0].conv_stem.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(trainer.model.backbone.image_backbone.trunk.model.conv_stem.weight, expected)
    trainer.train()
    path.unlink()
    MultimodalTrainer(cfg).resume_or_load(resume=True)
    with pytest.raises(ConfigError, match="WEIGHTS_FILE: no file at .*trunk.pth; or set MODEL.TIMM.PRETRAINED False"):
        MultimodalTrainer(cfg).resume_or_load(resume=False)


def test_files_of_other_models_and_damaged_ones(small_config, weights, tmp_path):
    def load(state, *opts):
        torch.save(state, tmp_path / "w.pth")
        cfg = small_config("synthetic_cxr/mask_rcnn.yaml", "MODEL.TIMM.WEIGHTS_FILE", str(tmp_path / "w.pth"), *opts)
        return load_pretrained_trunks(cfg, build_model(cfg))

    state = weights[0].state_dict()
    assert load(state) == 1
    with pytest.raises(ConfigError, match=r"w.pth lacks 1 weight\(s\) of .*\(conv_stem.weight …\): it is not of this"):
        load({k: v for k, v in state.items() if k != "conv_stem.weight"})
    with pytest.raises(ConfigError, match="could not load .*w.pth"):
        load({**state, "conv_stem.weight": torch.zeros(5, 3, 3, 3)})
    with pytest.raises(ConfigError, match=r"(lacks|could not load) .*(of this model|from scratch)$"):
        load(timm.create_model("resnet10t").state_dict())
    with pytest.raises(ConfigError, match="has no timm trunk; name its weights by MODEL.WEIGHTS"):
        load(state, "MODEL.IMAGE_BACKBONE.NAME", "build_resnet_backbone", "MODEL.RPN.IN_FEATURES", ["res4"],
             "MODEL.ROI_HEADS.IN_FEATURES", ["res4"])  # fmt: skip
    (tmp_path / "w.pth").write_bytes(b"PK broken")
    cfg = small_config("synthetic_cxr/mask_rcnn.yaml", "MODEL.TIMM.WEIGHTS_FILE", str(tmp_path / "w.pth"))
    with pytest.raises(ConfigError, match="could not load .*w.pth") as error:
        load_pretrained_trunks(cfg, build_model(cfg))
    assert "\n" not in str(error.value)


def test_without_a_network_one_line_says_what_to_do(small_config, monkeypatch):
    create = pretrained.create_trunk

    def offline(name, options, **weights):
        if weights:
            raise OSError("cannot find the file\non the Hub")
        return create(name, options)

    monkeypatch.setattr(pretrained, "create_trunk", offline)
    cfg = small_config("paper/mask_rcnn.yaml")
    model = build_model(cfg)
    message = (
        "could not load timm's pretrained weights of 'mobilenetv3_small_100'.*WEIGHTS_FILE, or set .* from scratch$"
    )
    with pytest.raises(ConfigError, match=message) as error:
        load_pretrained_trunks(cfg, model)
    assert "\n" not in str(error.value)
    assert load_pretrained_trunks(small_config("paper/mask_rcnn.yaml", "MODEL.TIMM.PRETRAINED", False), model) == 0
