"""Configs, overrides and checkpoints of earlier versions still load, with the same meaning."""

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from mdf_detectron.checkpoint.checkpointer import CONFIG_KEY, MultimodalCheckpointer, load_checkpoint_file
from mdf_detectron.checkpoint.contents import DIGEST_KEY
from mdf_detectron.engine.defaults import find_config_file, load_config
from mdf_detectron.errors import CheckpointError, ConfigError
from mdf_detectron.inference.predictor import config_of
from mdf_detectron.older_configs import BATCH_RENORM, CHANNELS_LAST, EXECUTION_SWITCHES


def as_written_before(cfg, **switches):
    """The text of a whole config as a version with the old switches dumped it."""
    tree = yaml.safe_load(cfg.dump())
    del tree["MODEL"]["CLINICAL"]["EXECUTION"]
    tree["MODEL"]["CLINICAL"] |= {"AUTOCAST": False, "COMPILE": False, "BATCH_RENORM": True} | switches
    tree["MODEL"]["SPATIALIZER"] |= {"CHECKPOINT": False, "CHANNELS_LAST": True}
    tree["MODEL"]["TIMM"]["CHANNELS_LAST"] = True
    if tree["MODEL"]["ROI_BOX_HEAD"]["NAME"] == "ClinicalFastRCNNConvFCHead":
        tree["MODEL"]["ROI_BOX_HEAD"]["NAME"] = "FastRCNNConvFCHead"
    return yaml.safe_dump(tree)


def test_a_whole_older_config_is_the_same_config(small_config, tmp_path, caplog):
    cfg = small_config("synthetic_cxr/mdf_net.yaml")
    (tmp_path / "config.yaml").write_text(as_written_before(cfg))
    loaded = load_config(tmp_path / "config.yaml")
    assert yaml.safe_load(loaded.dump()) == yaml.safe_load(cfg.dump())
    assert [r.message for r in caplog.records if "MODEL." in r.message] == [
        f"{BATCH_RENORM} True has no effect: the branch trains with batch norm; it infers as before",
        "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead is ClinicalFastRCNNConvFCHead with MODEL.CLINICAL.FUSION_1D",
    ]
    caplog.clear()
    for branch, value in (("compact", True), ("deconv", False)):
        small_config("synthetic_cxr/mdf_net.yaml", "MODEL.CLINICAL.BRANCH", branch, BATCH_RENORM, value)
    assert not caplog.records, "nothing changes for the other branches, nor where it was off"


def test_without_1d_fusion_the_box_head_stays(small_config):
    cfg = small_config("synthetic_cxr/msf_net_3d.yaml", "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead")
    assert cfg.MODEL.ROI_BOX_HEAD.NAME == "FastRCNNConvFCHead"


@pytest.mark.parametrize(("key", "option"), EXECUTION_SWITCHES.items())
def test_older_switches_of_the_branch(key, option, small_config, tmp_path, caplog):
    """By an override, and in a file that is the base of another."""
    assert small_config("synthetic_cxr/mdf_net.yaml", key, True).MODEL.CLINICAL.EXECUTION == [option]
    assert f"{key} True is now MODEL.CLINICAL.EXECUTION ['{option}']" in caplog.text
    assert small_config("synthetic_cxr/mdf_net.yaml", key, False).MODEL.CLINICAL.EXECUTION == []
    _, node, name = key.split(".")
    base = find_config_file("synthetic_cxr/mdf_net.yaml")
    (tmp_path / "base.yaml").write_text(f"_BASE_: {base}\nMODEL:\n  {node}:\n    {name}: True\n")
    (tmp_path / "child.yaml").write_text("_BASE_: base.yaml\nSEED: 3\n")
    cfg = load_config(tmp_path / "child.yaml")
    assert (cfg.MODEL.CLINICAL.EXECUTION, cfg.SEED) == ([option], 3)
    assert key not in cfg.dump() and not hasattr(cfg.MODEL[node], name)


def test_both_spellings_are_one_option(small_config):
    opts = ["MODEL.CLINICAL.EXECUTION", ["bfloat16"], "MODEL.CLINICAL.AUTOCAST", True, "MODEL.CLINICAL.COMPILE", True]
    assert small_config("synthetic_cxr/mdf_net.yaml", *opts).MODEL.CLINICAL.EXECUTION == ["bfloat16", "compile"]


def test_what_older_switches_may_be(small_config, caplog):
    with pytest.raises(ConfigError, match="MODEL.CLINICAL.COMPILE is 'fast'; it was a switch"):
        small_config("synthetic_cxr/mdf_net.yaml", "MODEL.CLINICAL.COMPILE", "fast")
    with pytest.raises(ConfigError, match="compile and checkpoint exclude each other"):
        opts = ["MODEL.CLINICAL.COMPILE", True, "MODEL.SPATIALIZER.CHECKPOINT", True]
        small_config("synthetic_cxr/mdf_net.yaml", *opts)
    for key in CHANNELS_LAST:
        small_config("synthetic_cxr/mdf_net.yaml", key, False)
        assert f"{key} False has no effect" in caplog.text


def test_a_checkpoint_with_an_older_config_predicts_the_same(small_config, make_batch, fit_encoder, tmp_path):
    cfg = small_config("synthetic_cxr/mdf_net.yaml")
    model = fit_encoder(build_model(cfg)).eval()
    MultimodalCheckpointer(model, str(tmp_path), cfg=cfg).save("new")
    data = load_checkpoint_file(tmp_path / "new.pth")
    data[CONFIG_KEY] = as_written_before(cfg)
    del data[DIGEST_KEY]  # these versions wrote none
    torch.save(data, tmp_path / "old.pth")
    old = config_of(load_checkpoint_file(tmp_path / "old.pth"), tmp_path / "old.pth")
    old.MODEL.DEVICE = "cpu"
    again = build_model(old).eval()
    MultimodalCheckpointer(again, cfg=old).load_whole(str(tmp_path / "old.pth"))
    batch = make_batch(cfg, 2)
    with torch.no_grad():
        for one, other in zip(model(batch), again(batch), strict=True):
            assert torch.equal(one["instances"].scores, other["instances"].scores)
            assert torch.equal(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)
    data[CONFIG_KEY] = as_written_before(cfg, COMPILE="maybe")
    with pytest.raises(CheckpointError, match="cannot be used by this version: .*was a switch"):
        config_of(data, "old.pth")
