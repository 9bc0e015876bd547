"""Schema, splits, format and registration of prepared folders."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st

from mdf_detectron.data.annotations import read_annotations
from mdf_detectron.data.catalog import (
    dataset_schema,
    register_all,
    register_prepared_folder,
)
from mdf_detectron.data.prepared import Flow, PreparedImage, staged_folder, write_annotations
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema, TableRecipe
from mdf_detectron.data.sources import COLLECTIONS
from mdf_detectron.data.sources.kit.values import CODE, EMPTY, read_given, read_value
from mdf_detectron.data.splits import balanced_parts, grouped_folds, train_val_test
from mdf_detectron.errors import DatasetError

SCHEMA = ClinicalSchema(
    (ClinicalColumn("age", "numeric", "years", 0, 120), ClinicalColumn("sex", "categorical", vocabulary=("F", "M")))
)


def test_schema_round_trip_and_parsing(tmp_path):
    SCHEMA.save(tmp_path / "s.yaml")
    assert ClinicalSchema.load(tmp_path / "s.yaml") == SCHEMA
    parsed = SCHEMA.parse_record({"age": "61", "sex": "M"}, "here")
    assert parsed == {"age": 61.0, "sex": "M"} and SCHEMA.encode(parsed, "here") == ([61.0], [1])
    assert SCHEMA.parse_record(parsed, "here") == parsed and SCHEMA.encode({"age": "61", "sex": "M"}, "here")[1] == [1]
    assert SCHEMA.parse_record({"age": math.nan, "sex": ""}, "here") == {"age": None, "sex": None}
    assert str(SCHEMA.encode(None, "here")) == "([nan], [-1])"
    assert SCHEMA.parse_record({"age": 120}, "here")["age"] == 120.0
    assert SCHEMA.subset(["age"], []).names == ["age"]


RAW = (999, 999.0, "999", "999.0", "1.200", "38,1", "> 89", 38.5, None, np.int64(7), np.float64(999))


@pytest.mark.parametrize("recipe", [TableRecipe(), TableRecipe(decimal_comma=True, thousands=".")])
@pytest.mark.parametrize("raw", RAW)
def test_a_record_given_in_python_is_read_as_a_table(raw, recipe):
    column = ClinicalColumn("crp", "numeric", maximum=2000, missing=(999,))
    code = ClinicalColumn("stage", "categorical", vocabulary=("1", "2"), missing=("9",), mapping={"1": "2"})
    schema = ClinicalSchema((column, code), table=recipe)
    (expected, _, why_not) = read_value(raw, column, recipe)
    if why_not not in (None, EMPTY, CODE):
        with pytest.raises(DatasetError, match="'crp' is"):
            read_given({"crp": raw}, schema, "here")
        return
    parsed = read_given({"crp": raw, "stage": 9}, schema, "here")
    assert parsed == {"crp": expected, "stage": None} == read_given(parsed, schema, "here")
    assert read_given({"stage": "1"}, schema, "here")["stage"] == "1"  # a word, and no spelling of a table
    if not isinstance(raw, str):
        assert str(schema.encode({"crp": raw, "stage": 9}, "here")) == str(schema.encode(parsed, "here"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"age": 121}, r"here: column 'age' is 121, outside its legal range \[0, 120\] years"),
        ({"age": "old"}, "column 'age' is 'old', not a number"),
        ({"sex": "f"}, r"column 'sex' is 'f'; the schema allows \['F', 'M'\]"),
        ({"weight": 80}, r"unknown clinical column\(s\) \['weight'\]"),
    ],
)
def test_values_that_the_schema_refuses(row, message):
    with pytest.raises(DatasetError, match=message):
        SCHEMA.parse_record(row, "here")
    if "weight" not in row:
        with pytest.raises(DatasetError, match=message):
            SCHEMA.encode(row, "here")


def test_bad_schemas(tmp_path):
    with pytest.raises(DatasetError, match="no clinical schema at"):
        ClinicalSchema.load(tmp_path / "absent.yaml")
    (tmp_path / "s.yaml").write_text("columns: [{name: age, kind: number}]")
    with pytest.raises(DatasetError, match=r"s.yaml: columns\[0\]: column 'age': kind 'number'"):
        ClinicalSchema.load(tmp_path / "s.yaml")
    with pytest.raises(DatasetError, match="minimum: 10+.* is not a number"):
        ClinicalSchema.from_dict({"columns": [{"name": "a", "kind": "numeric", "minimum": 10**400}]})
    with pytest.raises(DatasetError, match="named twice"):
        ClinicalSchema((SCHEMA.columns[0], SCHEMA.columns[0]))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("{name: smoker, kind: categorical, vocabulary: [yes, no]}",
         r"columns\[0\].vocabulary: YAML made True \(bool\) of a value; quote it, for example \[\"yes\", \"no\"\]"),
        ("{name: x, kind: categorical, vocabulary: [1.0, 2.0]}", r"YAML made 1.0 \(float\) of a value; quote it"),
        ("{name: x, kind: categorical, vocabulary: [2020-01-01]}", r"\(date\) of a value; quote it, as the records"),
        ("{name: x, kind: categorical, vocabulary: F}", r"columns\[0\].vocabulary: 'F' is not a list; write \[F, M\]"),
        ("{name: age, kind: numeric, maximum: 1e3}",
         r"columns\[0\].maximum: '1e3' is not a number: YAML reads it as text; write 1000$"),
        ("{name: age, kind: numeric, minimum: low}", "minimum: 'low' is not a number$"),
        ("{name: age, kind: numeric, minimum: yes}", "minimum: True is not a number$"),
        ("{name: on, kind: numeric}", r"columns\[0\].name: YAML reads an unquoted yes, no, on"),
        ("{name: age, kind: numeric, maximun: 3}", r"unknown key 'columns\[0\].maximun'"),
        ("{name: age}", r"no 'columns\[0\].kind'"),
        ("{name: a, kind: null}", "kind '' is not one of"),
        (f"{{name: a, kind: categorical, vocabulary: {['0'] * 3000}}}", "distinct values, got"),
        ("{name: ' ', kind: numeric}", r"columns\[0\]: a column has no name"),
        ("age", r"columns\[0\]: 'age': input should be a dictionary"),
    ],
)  # fmt: skip
def test_what_yaml_made_of_it_is_said(tmp_path, column, message):
    (tmp_path / "s.yaml").write_text(f"columns:\n  - {column}\n")
    with pytest.raises(DatasetError, match=f"s.yaml: .*{message}") as error:
        ClinicalSchema.load(tmp_path / "s.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(tmp_path))


def test_whole_numbers_are_codes_of_a_vocabulary(tmp_path):
    (tmp_path / "s.yaml").write_text("version: 1\ncolumns: [{name: acuity, kind: categorical, vocabulary: [1, 2]}]")
    schema = ClinicalSchema.load(tmp_path / "s.yaml")
    assert [schema.encode({"acuity": v}, "here")[1] for v in (2, "2", 2.0, " ")] == [[1], [1], [1], [-1]]
    with pytest.raises(DatasetError, match="'acuity' is the boolean True, not one of"):
        schema.parse_record({"acuity": True}, "here")
    with pytest.raises(DatasetError, match="'acuity' is inf; the schema allows"):
        schema.parse_record({"acuity": math.inf}, "here")
    for text, message in (("version: 9\ncolumns: [{name: a, kind: numeric}]", "version: 9: input should be 1"),
                          ("columns: {a: 1}", "no 'columns'"), ("- a", "no 'columns'"),
                          ("{", "not safe YAML")):  # fmt: skip
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(DatasetError, match=message):
            ClinicalSchema.load(tmp_path / "s.yaml")


def test_what_is_written_is_what_is_read(tmp_path):
    record = PreparedImage("a.png", 64, 48, 200.0, {"age": 50}, [{"bbox": [1, 2, 3, 4], "category_id": 1}])
    write_annotations(tmp_path, {"train": [record]}, ("mass",), SCHEMA, "test")
    (image,) = read_annotations(tmp_path / "annotations/train.json", prepared=True, schema=SCHEMA).images
    assert image["patient_id"] == "200" and image["clinical"] == {"age": 50, "sex": None}
    for change, message in (({"patient_id": math.nan}, "no patient_id"), ({"file_name": "../a.png"}, "leads out"),
                            ({"clinical": {"age": 500}}, "outside its legal range")):  # fmt: skip
        with pytest.raises(DatasetError, match=f"train.json: images.*{message}"):
            write_annotations(tmp_path, {"train": [replace(record, **change)]}, ("mass",), SCHEMA, "test")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=3, max_size=80), st.integers(0, 1000))
def test_splits_never_share_a_patient(groups, seed):
    if len(set(groups)) < 3:
        with pytest.raises(ValueError, match="at least 3 patients"):
            train_val_test(groups, groups, seed)
        return
    sides = train_val_test(groups, [g % 3 for g in groups], seed)
    assert len(sides) == len(groups) and set(sides) == {"train", "val", "test"}
    for group in set(groups):
        assert len({s for s, g in zip(sides, groups, strict=True) if g == group}) == 1


def test_split_sizes_and_folds():
    groups = [i // 2 for i in range(2000)]
    sides = train_val_test(groups, [i % 5 for i in groups], 0)
    assert [sides.count(s) / 2000 for s in ("train", "val", "test")] == pytest.approx([0.7, 0.15, 0.15], abs=0.01)
    folds = grouped_folds(groups, groups, 5, 0)
    assert sorted(set(folds)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="cannot make 5 folds of 2 patients"):
        grouped_folds([1, 1, 2], [0, 0, 0], 5, 0)


@settings(max_examples=100)
@given(
    rows=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3), st.integers(0, 2)), min_size=3, max_size=80),
    parts=st.sampled_from([(0.7, 0.15, 0.15), (0.25,) * 4]),
    seed=st.integers(0, 100),
)
def test_balanced_parts_never_share_a_patient_and_are_never_empty(rows, parts, seed):
    groups, counts = [r[0] for r in rows], np.array([r[1:] for r in rows])
    if len(set(groups)) < len(parts):
        with pytest.raises(ValueError, match=f"into {len(parts)} parts needs as many patients"):
            balanced_parts(groups, counts, parts, seed)
        return
    part = balanced_parts(groups, counts, parts, seed)
    assert set(part) == set(range(len(parts)))
    assert len({(g, p) for g, p in zip(groups, part, strict=True)}) == len(set(groups))
    assert (part == balanced_parts(groups, counts, parts, seed)).all()


def test_balanced_parts_hold_their_share_of_every_class():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 300, size=500)
    counts = rng.poisson([0.05, 0.3, 1.0], size=(500, 3))
    for seed in range(5):
        part = balanced_parts(groups, counts, (0.7, 0.15, 0.15), seed)
        shares = np.array([counts[part == k].sum(axis=0) for k in range(3)]) / counts.sum(axis=0)
        assert np.abs(shares - [[0.7], [0.15], [0.15]]).max() < 0.04  # a box of the rarest class is 1 / 24
        assert np.abs(np.bincount(part) / 500 - [0.7, 0.15, 0.15]).max() < 0.01
    by_hand = balanced_parts(list("abcd"), np.array([[1, 0], [1, 0], [0, 1], [0, 1]]), (0.5, 0.5), 0)
    assert by_hand[0] != by_hand[1] and by_hand[2] != by_hand[3]
    with pytest.raises(ValueError, match="positive and sum to 1"):
        balanced_parts(groups, counts, (0.7, 0.3, 0.3), 0)


def test_flow_refuses_a_loss():
    flow = Flow()
    flow.add("images", 5, 3, {"dark": 2})
    with pytest.raises(AssertionError, match="stage 'boxes': 5 in"):
        flow.add("boxes", 5, 3, {"small": 1})


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "set"
    with staged_folder(out) as folder:
        (folder / "report.json").write_text("{}")
        assert not out.exists()
    with pytest.raises(KeyboardInterrupt):
        with staged_folder(out) as folder:
            (folder / "half").write_text("")
            raise KeyboardInterrupt
    assert [p.name for p in out.iterdir()] == ["report.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    (out / "report.json").rename(out / "thesis.txt")
    with pytest.raises(DatasetError, match="not a prepared dataset folder"), staged_folder(out):
        pass
    assert (out / "thesis.txt").read_text() == "{}"


def test_a_run_killed_between_the_two_moves_loses_nothing(tmp_path, monkeypatch):
    out = tmp_path / "set"
    with staged_folder(out) as folder:
        (folder / "report.json").write_text("first")
    rename = Path.rename

    def fail(path, target):
        if path.name.endswith(".partial"):
            raise OSError("no")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="no"), staged_folder(out) as folder:
            (folder / "report.json").write_text("second")
    assert (out / "report.json").read_text() == "first"
    out.rename(tmp_path / "set.old")  # as a run leaves it that was killed for good at that moment
    with pytest.raises(KeyboardInterrupt), staged_folder(out):
        assert (out / "report.json").read_text() == "first"
        raise KeyboardInterrupt
    assert (out / "report.json").read_text() == "first"


def test_registered_records(tiny_folder):
    register_prepared_folder(tiny_folder, "tiny_cxr")
    register_prepared_folder(tiny_folder, "tiny_cxr")
    records = DatasetCatalog.get("tiny_cxr_train")
    assert len(records) == 8 and records[0]["annotations"] == []
    assert records[2]["clinical"] == {"age": 42, "temperature": 98.6, "gender": "F"}
    assert records[1]["annotations"][0]["category_id"] == 1 and records[1]["patient_id"] == "train-1"
    assert MetadataCatalog.get("tiny_cxr_train").thing_classes == ["bright", "dark"]


def test_every_known_collection_has_its_schema_before_it_is_prepared():
    for folder, name in COLLECTIONS.folders().items():
        assert dataset_schema(f"{folder}_train") == COLLECTIONS[name].schema
    assert dataset_schema("rsna_train").names == ["age", "sex", "view"] and dataset_schema("vindr_val").numeric


def test_every_prepared_folder_below_the_root_is_registered(tiny_folder, tmp_path, monkeypatch):
    (tmp_path / "our_hospital").symlink_to(tiny_folder)
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_all()
    assert {"our_hospital_train", "our_hospital_test", "mimic_eye_val"} <= set(DatasetCatalog.list())
    assert "notes_train" not in DatasetCatalog.list()
    assert len(DatasetCatalog.get("our_hospital_val")) == 2
    for split in ("train", "val", "test"):
        DatasetCatalog.remove(f"our_hospital_{split}")
        MetadataCatalog.remove(f"our_hospital_{split}")
    monkeypatch.undo()
    register_all()


def test_files_changed_since_the_preparation_are_told(tiny_folder, tmp_path, caplog):
    root = shutil.copytree(tiny_folder, tmp_path / "own_cxr")
    register_prepared_folder(root, "own_cxr")
    DatasetCatalog.get("own_cxr_train")
    assert caplog.text == ""
    path = root / "annotations" / "train.json"
    path.write_text(path.read_text().replace('"age": ', '"age":  ', 1))
    DatasetCatalog.get("own_cxr_val")
    assert caplog.text == ""
    DatasetCatalog.get("own_cxr_train")
    assert "train.json has been changed since its folder was prepared" in caplog.text
    (root / "report.json").unlink()  # a folder that somebody wrote by hand
    caplog.clear()
    DatasetCatalog.get("own_cxr_train")
    assert caplog.text == ""
