"""The model zoo: names, verified weights, and what is said where there are none."""

import hashlib

import pytest
import torch
from detectron2.modeling import build_model

from mdf_detectron import model_zoo
from mdf_detectron.checkpoint import published as zoo
from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer
from mdf_detectron.errors import CheckpointError, ConfigError

NAME = "synthetic_cxr/msf_net_1d.yaml"


def test_names_are_those_of_the_package():
    assert model_zoo.get_config(NAME).MODEL.CLINICAL.FUSION_1D
    for entry in zoo.read_zoo().values():
        assert model_zoo.get_config(entry.config) and entry.command.startswith("mdf ")
    with pytest.raises(ConfigError, match="no config file at 'synthetic_cxr/mdf_nett.yaml'.*near it: mdf_net"):
        model_zoo.get_config("synthetic_cxr/mdf_nett.yaml")


def test_a_model_without_weights():
    model = model_zoo.get(NAME)
    assert not model.training and not model.backbone.clinical_encoder.fitted
    with pytest.raises(CheckpointError, match="no weights of '.*' are published; this command makes them: mdf train"):
        model_zoo.get("synthetic_cxr/mdf_net.yaml", trained=True)
    with pytest.raises(CheckpointError, match="no weights of 'mimic_eye/mdf_net.yaml' are published$"):
        model_zoo.get("mimic_eye/mdf_net.yaml", trained=True)


@pytest.fixture
def published(tmp_path, monkeypatch, fit_encoder):
    """A zoo with one trained model; returns its folder and its model."""
    cfg = model_zoo.get_config(NAME)
    cfg.MODEL.DEVICE = "cpu"
    model = fit_encoder(build_model(cfg))
    MultimodalCheckpointer(model, str(tmp_path), cfg=cfg).save("tiny")
    digest = hashlib.sha256((tmp_path / "tiny.pth").read_bytes()).hexdigest()
    entry = zoo.ZooEntry(config=NAME, command="mdf train", data="x", weights="tiny.pth", sha256=digest)
    monkeypatch.setattr(zoo, "read_zoo", lambda: {NAME: entry})
    return tmp_path, model


def test_weights_are_found_and_verified(published, monkeypatch, openings):
    folder, model = published
    with pytest.raises(CheckpointError, match="set MDF_MODEL_ZOO to the folder or URL that holds tiny.pth"):
        model_zoo.get(NAME, trained=True)
    for base in (str(folder), f"file://{folder}/"):
        monkeypatch.setenv("MDF_MODEL_ZOO", base)
        with openings(folder) as counts:
            loaded = model_zoo.get(NAME, trained=True)
        assert counts == {"tiny.pth": 1}, "hashed and read in one opening"
        for name, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])
    (folder / "tiny.pth").write_bytes((folder / "tiny.pth").read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="has SHA-256 .*, not .*; remove it"):
        model_zoo.get(NAME, trained=True)
    monkeypatch.setenv("MDF_MODEL_ZOO", str(folder / "absent"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        model_zoo.get(NAME, trained=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [("models: 3\n", "zoo.yaml: models: 3: input should be a valid list"),
     ("models:\n - {config: a, command: c, data: d, nope: 1}\n", r"zoo.yaml: unknown key 'models\[0\].nope'"),
     ("models:\n - {config: a, command: c, data: d, weights: w.pth}\n", "weights and sha256 go together"),
     ("models:\n - {config: a, command: c, data: d, seeds: [1, 2], results: {m: [3]}}\n", "m needs one value for"),
     ("models:\n - {config: a, command: c, data: d, seeds: [1], results: {m: 3.0}}\n", "results.m: 3.0: "),
     ("models:\n - {config: a, command: c, data: d}\n - {config: a, command: c, data: d}\n", "two entries"),
     ("models: !!python/name:os.system\n", "not safe YAML")],
)  # fmt: skip
def test_bad_zoo_files(tmp_path, monkeypatch, text, message):
    (tmp_path / "zoo.yaml").write_text(text)
    monkeypatch.setattr(zoo, "ZOO_FILE", tmp_path / "zoo.yaml")
    with pytest.raises(ConfigError, match=message):
        zoo.read_zoo()
