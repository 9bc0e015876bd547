"""What a training takes from another model: all that fits, classes by name, nothing of other columns."""

import re

import pytest
import torch
from tiny_training import SMALL, datasets, words

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, CONTENTS_KEY, Checkpoint
from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer
from mdf_detectron.checkpoint.transfer import starting_weights
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.errors import CheckpointError
from mdf_detectron.modeling.meta_arch import build_model

UNITS = {"age": "years", "temperature": "°F", "gender": ""}
OLD, NEW = ["bright", "dark", "round"], ["round", "other", "Bright", "fourth"]  # 0 ← 2, 2 ← 0


def contents(classes=OLD, **units):
    columns = [{"name": name, "unit": unit} for name, unit in (UNITS | units).items()]
    return {"class_names": classes, "schema": {"columns": columns}}


@pytest.fixture
def model_of(small_config):
    """``model_of(seed, *opts)``: config and model with random weights and buffers, none of them zero."""

    def make(seed, *opts, config="synthetic_cxr/logit_fusion.yaml", classes=3):
        columns = ["MODEL.CLINICAL.NUMERIC", ["age", "temperature"], "MODEL.CLINICAL.CATEGORICAL", ["gender"],
                   "MODEL.CLINICAL.VOCABULARIES", [["F", "M"]], "INPUT.IMAGE_SIZE", 64]  # fmt: skip
        key = "MODEL.RETINANET.NUM_CLASSES" if "retina" in config else "MODEL.ROI_HEADS.NUM_CLASSES"
        cfg = small_config(config, *columns, key, classes, *opts)
        model = build_model(cfg)
        generator = torch.Generator().manual_seed(seed)
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
        return cfg, model

    return make


def opened(cfg, model, said):
    checkpoint = Checkpoint("old.pth", {"model": model.state_dict(), CONFIG_KEY: cfg.dump(), CONTENTS_KEY: said})
    checkpoint.__dict__["contents"] = said  # not checked: only these entries are read
    return checkpoint


def transferred(old, new, before=None, now=None):
    """Load what is taken into the new model; return its state before, and what is said."""
    own = {name: value.clone() for name, value in new[1].state_dict().items()}
    weights, texts = starting_weights(opened(*old, before or contents()), own, new[0], now or contents())
    new[1].load_state_dict({n: v for n, v in weights.items() if n in own and v.shape == own[n].shape}, strict=False)
    return own, texts


def test_the_same_data_take_everything(model_of):
    old, new = model_of(1), model_of(2)
    _, texts = transferred(old, new)
    assert texts == [] and all(torch.equal(v, old[1].state_dict()[n]) for n, v in new[1].state_dict().items())


def test_classes_are_matched_by_name_in_every_head_of_a_region(model_of):
    """The heads give the matched classes the old model's outputs, and the new ones those that they had."""
    masks = ["MODEL.MASK_ON", True]
    old, new, same = model_of(1, *masks), model_of(2, *masks, classes=4), model_of(2, *masks, classes=4)
    own, texts = transferred(old, new, now=contents(NEW))
    assert texts == ["classes by name, 2 of 4 are new: ['other', 'fourth']"]
    heads, before, alone = (one[1].roi_heads.eval() for one in (new, old, same))
    x = torch.rand(5, old[1].roi_heads.box_predictor.cls_score.in_features)
    (logits, deltas), (logits_0, deltas_0), (logits_1, deltas_1) = (h.box_predictor(x) for h in (heads, before, alone))
    torch.testing.assert_close(logits[:, [0, 2, 4]], logits_0[:, [2, 0, 3]])  # the last is the background
    torch.testing.assert_close(logits[:, [1, 3]], logits_1[:, [1, 3]])
    deltas, deltas_0, deltas_1 = (d.unflatten(1, (-1, 4)) for d in (deltas, deltas_0, deltas_1))
    torch.testing.assert_close(deltas[:, [0, 2]], deltas_0[:, [2, 0]])
    torch.testing.assert_close(deltas[:, [1, 3]], deltas_1[:, [1, 3]])
    (name,) = [n for n in own if re.search(r"mask_head\.predictor\.weight", n)]
    assert torch.equal(new[1].state_dict()[name][[0, 2]], old[1].state_dict()[name][[2, 0]])
    for name, value in new[1].state_dict().items():  # fitted to the new classes, together
        assert not value.is_floating_point() or torch.equal(value, own[name]) == (".record_model." in name), name


def test_classes_of_a_dense_head(model_of):
    """Its outputs are (anchor, class): each class of each anchor is the old one."""
    config = "mimic_eye/retinanet_mdf_net.yaml"
    old, new = (model_of(seed, config=config, classes=n) for seed, n in ((1, 3), (2, 4)))
    transferred(old, new, now=contents(NEW))
    scores = [m.head.cls_score.weight.detach().unflatten(0, (-1, n)) for (_, m), n in ((old, 3), (new, 4))]
    assert scores[0].shape[0] > 1 and torch.equal(scores[1][:, [0, 2]], scores[0][:, [2, 0]])


@pytest.mark.parametrize(
    ("opts", "units", "said"),
    [
        (["MODEL.CLINICAL.NUMERIC", ["temperature", "age"]], {}, "numeric are ['age', 'temperature'] there"),
        (["MODEL.CLINICAL.NUMERIC", ["age"]], {}, "numeric are"),
        (["MODEL.CLINICAL.VOCABULARIES", [["M", "F"]]], {}, "vocabularies are [['F', 'M']] there"),
        ([], {"temperature": "°C"}, "units are ['years', '°F', ''] there and ['years', '°C', ''] here"),
    ],
)
def test_of_other_columns_nothing_that_reads_the_record_is_taken(model_of, opts, units, said):
    old, new = model_of(1), model_of(2, *opts)
    own, (text,) = transferred(old, new, now=contents(**units))
    assert said in text and "starts anew" in text
    of_image, state = set(model_of(3, config="synthetic_cxr/mask_rcnn.yaml")[1].state_dict()), new[1].state_dict()
    assert {"backbone.clinical_encoder.mean", "backbone.record_model.weight"} <= set(state) - of_image
    for name, value in state.items():
        expected = old[1].state_dict()[name] if name in of_image else own[name]
        assert torch.equal(value, expected), name


def test_files_of_which_nothing_fits_are_refused(model_of, tmp_path):
    sound = {"conv1.weight": torch.zeros(2, 1, 3, 3), "fc.weight": torch.zeros(2, 2)}
    cfg, model = model_of(1)
    for name, data, message in (
        ("names", sound, r"none of its 2 weights fits the model: they are called \['conv1.weight', 'fc.weight'\]"),
        ("shapes", {n: torch.zeros(1, 2, 3, 4, 5) for n in model.state_dict()}, "none of its .* weights fits"),
        ("lightning", {"state_dict": sound, "pytorch-lightning_version": "2.0"}, "a checkpoint of PyTorch Lightning"),
        ("other", {"ema": sound, "epoch": 3}, "a checkpoint of another program, with its weights under 'ema'"),
    ):
        torch.save(data, tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError, match=message):
            MultimodalCheckpointer(model, cfg=cfg).load(tmp_path / f"{name}.pth", [])


def test_train_from_a_model_of_the_zoo(run, tiny_folder, tmp_path):
    """Other classes and fewer columns than the zoo's model: one line says what is taken."""
    register_prepared_folder(tiny_folder, "tiny_cxr")
    command = ["train", "--config-file", "synthetic_cxr/logit_fusion.yaml", "--from", "synthetic_cxr/logit_fusion"]
    opts = words(*SMALL, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 1, *datasets("tiny_cxr"), "OUTPUT_DIR", tmp_path)
    text = run(*command, *opts)
    line = next(line for line in text.splitlines() if "start: " in line)
    assert re.search(r"start: (\d+) of \d+ weights from .*synthetic_cxr_logit_fusion.pth; what reads the record", line)
    assert "2 of 2 are new: ['bright', 'dark']" in line and int(re.search(r"start: (\d+)", line)[1]) > 150
    with pytest.raises(SystemExit, match="no checkpoint at absent.pth"):
        run(*command[:3], "--from", "absent.pth", *opts)
