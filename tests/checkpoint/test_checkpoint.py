"""A checkpoint is enough by itself, is verified on load, and refuses what means something else."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import radiograph, save

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, CONTENTS_KEY, DIGEST_KEY, Checkpoint, digest, signed
from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.checkpoint.contents import PROBABILITIES, check_schema, column_statistics
from mdf_detectron.checkpoint.published import ZOO_FOLDER
from mdf_detectron.cli import predict, publish
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.errors import CheckpointError
from mdf_detectron.inference.predictor import Predictor

CONFIGS = Path(__file__).parents[2] / "configs"
VARIANTS = {  # kind → file of a prepared folder, and what changes in it
    "classes": ("annotations/test.json", '"name": "bright"', '"name": "other"'),
    "unit": ("clinical_schema.yaml", "unit: °F", "unit: °C"),
}


@pytest.fixture
def saved(tiny_run):
    return Checkpoint.open(tiny_run / "model_final.pth").data


def test_a_trained_checkpoint_says_what_it_was_trained_on(saved):
    contents = saved[CONTENTS_KEY]
    assert contents["class_names"] == ["bright", "dark"] and contents["category_ids"] == [1, 2]
    assert contents["columns"] == ["age", "temperature", "gender"]
    temperature = next(c for c in contents["schema"]["columns"] if c["name"] == "temperature")
    assert (temperature["unit"], temperature["minimum"], temperature["maximum"]) == ("°F", 80, 113)
    training = contents["training"]
    assert training["images"] == 8 and training["patients"] == 8 and training["synthetic"] is False
    ages = np.arange(40, 48)
    assert training["columns"]["age"]["quantiles"] == pytest.approx(np.quantile(ages, PROBABILITIES))
    assert training["columns"]["temperature"]["count"] == 7  # one is missing
    assert training["columns"]["gender"]["frequencies"] == {"F": 4, "M": 4}
    assert saved[DIGEST_KEY] == digest(saved)


def test_statistics_of_columns_by_hand():
    schema = ClinicalSchema((ClinicalColumn("a", "numeric"), ClinicalColumn("b", "categorical", vocabulary=("x", "y"))))
    found = column_statistics(schema, [{"a": 1, "b": "y"}, {"a": 3}, None, {"b": "y"}])
    assert found["a"]["count"] == 2 and found["a"]["quantiles"][0] == 1 and found["a"]["quantiles"][-1] == 3
    assert found["a"]["quantiles"][PROBABILITIES.index(0.5)] == 2
    assert found["b"] == {"count": 2, "frequencies": {"x": 0, "y": 2}}
    assert column_statistics(schema, [])["a"] == {"count": 0, "quantiles": []}


def test_every_entry_counts_in_the_digest(saved, tmp_path):
    before = digest(saved)
    for change in (
        lambda d: d["model"].update({next(iter(d["model"])): next(iter(d["model"].values())) + 1}),
        lambda d: d[CONTENTS_KEY]["class_names"].reverse(),
        lambda d: d.update(mdf_config=d["mdf_config"] + " "),
    ):
        changed = {**saved, "model": dict(saved["model"]), CONTENTS_KEY: copy.deepcopy(saved[CONTENTS_KEY])}
        change(changed)
        assert digest(changed) != before
        torch.save(changed, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="damaged or was edited"):
            Checkpoint.open(tmp_path / "x.pth")
    assert digest({**saved, "iteration": -1}) == before


def test_a_flipped_bit_in_the_name_of_an_entry_is_noticed(saved, tmp_path):
    """Such a file looks as if it had no digest, no config or no training: it never loads without being verified."""
    assert len(saved) == 7
    for name in saved:
        flipped = {name[:-1] + chr(ord(name[-1]) ^ 1) if key == name else key: value for key, value in saved.items()}
        torch.save(flipped, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=r"x\.pth"):
            Checkpoint.open(tmp_path / "x.pth")
    torch.save({"model": saved["model"]}, tmp_path / "x.pth")  # another program's: weights alone
    assert Checkpoint.open(tmp_path / "x.pth").data.keys() == {"model"}


def test_damaged_and_non_finite_files_are_refused_with_one_line(saved, tiny_run, tmp_path):
    raw = bytearray((tiny_run / "model_final.pth").read_bytes())
    for position in (len(raw) // 3, len(raw) // 2):
        raw[position] ^= 0x40
    (tmp_path / "bits.pth").write_bytes(raw)
    (tmp_path / "short.pth").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.pth").write_text("no checkpoint")
    name = next(n for n, v in saved["model"].items() if v.is_floating_point())
    broken = {**saved, "model": {**saved["model"], name: saved["model"][name] * float("nan")}}
    torch.save(signed(broken), tmp_path / "nan.pth")
    torch.save([1], tmp_path / "list.pth")
    for file in tmp_path.glob("*.pth"):
        with pytest.raises(CheckpointError) as error:
            Checkpoint.open(file)
        assert file.name in str(error.value) and "\n" not in str(error.value)


def test_a_model_of_every_config_can_be_used_without_its_data_sets(small_config):
    for path in sorted(CONFIGS.glob("[!B]*/[!B]*.yaml")):  # without Base-*.yaml
        trained = small_config(path.relative_to(CONFIGS))
        cfg = Checkpoint(path.name, {CONFIG_KEY: trained.dump()}).cfg
        assert cfg.MODEL.META_ARCHITECTURE == trained.MODEL.META_ARCHITECTURE and cfg.DATASETS.VAL == (), path


def test_other_classes_units_and_ranges_are_refused(saved, tiny_run, tmp_path, tiny_folder):
    cfg = Checkpoint("x", saved).cfg
    for kind, message in (("classes", "the classes and their order"), ("unit", "unit '°F' of column 'temperature'")):
        folder = shutil.copytree(tiny_folder, tmp_path / kind)
        changed, old, new = VARIANTS[kind]
        file = folder / changed
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        register_prepared_folder(folder, f"variant_{kind}")
        cfg.DATASETS.TEST = (f"variant_{kind}_test",)
        with pytest.raises(CheckpointError, match=message):
            load_model(cfg, tiny_run / "model_final.pth")
    cfg.DATASETS.TEST = ("tiny_cxr_test",)
    load_model(cfg, tiny_run / "model_final.pth")


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        (ClinicalColumn("age", "numeric", "months", 0, 120), "unit"),
        (ClinicalColumn("age", "numeric", "years", 0, 90), "maximum"),
        (ClinicalColumn("age", "categorical", vocabulary=("old",)), "kind"),
        (ClinicalColumn("gender", "categorical", vocabulary=("M", "F")), "vocabulary"),
        (None, "does not have"),
    ],
)
def test_a_schema_that_means_something_else_is_refused(saved, changed, key):
    columns = list(ClinicalSchema.from_dict(saved[CONTENTS_KEY]["schema"]).columns)
    columns = columns[1:] if changed is None else [changed if c.name == changed.name else c for c in columns]
    with pytest.raises(CheckpointError, match=key):
        check_schema(saved[CONTENTS_KEY], ClinicalSchema(tuple(columns)), "other", "x.pth")


def test_checkpoints_and_images_are_opened_once(tiny_run, tiny_folder, tmp_path, openings):
    weights = tmp_path / "trained.pth"
    with openings(tmp_path) as counts:
        shutil.copy(tiny_run / "model_final.pth", weights)
    assert counts == {"trained.pth": 1}, "the hook counts"
    register_prepared_folder(tiny_folder, "tiny_cxr")
    with openings(tmp_path) as counts:
        Predictor(weights, device="cpu")
    assert counts == {"trained.pth": 1}
    with openings(tmp_path) as counts:
        publish.main(["--weights", str(weights), "--out", str(tmp_path / "published.pth"), "--resamples", "2"])
    assert counts["trained.pth"] == 1
    assert counts["published.pth"] == 1, "read back after it was written under another name"
    (tmp_path / "images").mkdir()
    shutil.copy(tiny_folder / "images" / "test_2.png", tmp_path / "images" / "a.png")
    dicom = radiograph(np.full((64, 64), 99, np.uint8), 8, PatientAge="043Y", Modality="DX")
    save(dicom, tmp_path / "images" / "b.dcm")
    for images, options in (("images", []), ("images/b.dcm", ["--dicom-record", "age=PatientAge"])):
        with openings(tmp_path) as counts:
            predict.main(["--weights", str(tmp_path / "published.pth"), "--images", str(tmp_path / images), *options,
                          "--out", str(tmp_path / "out"), "--device", "cpu"])  # fmt: skip
        found = {name: counts[name] for name in ("published.pth", "images/a.png", "images/b.dcm")}
        assert found == {"published.pth": 1, "images/a.png": images == "images", "images/b.dcm": 1}
    with openings(ZOO_FOLDER) as counts:
        Predictor("synthetic_cxr/logit_fusion", device="cpu")
    assert sum(count for name, count in counts.items() if name.endswith(".pth")) == 1


def test_the_format_before_zip_archives_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="m.pth cannot be loaded safely: it is not a zip archive.*save it again"):
        Checkpoint.open(tmp_path / "m.pth")
