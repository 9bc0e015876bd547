"""The generator's source tree through the pipeline: its own truth must come out, and its dirt must be counted."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from raw_mimic.history import RawSettings
from raw_mimic.tree import write_raw_tree

from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.mimic.collection import MimicOptions, read_cohort
from mdf_detectron.data.sources.mimic.layout import physionet_files
from mdf_detectron.data.sources.mimic.schema import MIMIC_CLASSES
from mdf_detectron.data.sources.mimic.tables import VITAL_COLUMNS
from mdf_detectron.data.synthetic.cohort import CohortSettings
from tests.data.sources.reading_back import prepare_mimic, read_prepared

SETTINGS = RawSettings(CohortSettings(num_patients=90, seed=3, image_size=96), dirt=5.0)
RELATION_OF_MATCH = {
    "inside a visit": "inside",
    "inside several visits, the latest taken": "inside",
    "within the window": "after",
    "patient without a visit": "no_visit",
    "before the first arrival": "before_first_visit",
    "later than the window after every departure": "outside_window",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw") / "tree"
    assert write_raw_tree(root, SETTINGS)
    assert not write_raw_tree(root, SETTINGS)
    return root


@pytest.fixture(scope="module")
def prepared(tree):
    out = tree.parent / "prepared"
    prepare_mimic(tree / "physionet", out, keep_unmatched=True, min_certainty=1)
    return out, *read_prepared(out)


def test_synthetic_files_stay_synthetic_when_they_are_prepared(prepared):
    report = json.loads((prepared[0] / "report.json").read_text())
    assert report["synthetic"] is True and report["notes"][0].startswith("This data set is synthetic.")
    assert "This data set is synthetic." in (prepared[0] / "report.md").read_text()


def test_every_radiograph_finds_the_generators_visit(prepared, tree):
    truth = pd.read_csv(tree / "truth/images.csv", dtype={"stay_id": "Int64"}).set_index("dicom_id")
    for image in prepared[1].values():
        radiograph = truth.loc[image["dicom_id"]]
        assert RELATION_OF_MATCH[image["match"]] == radiograph["relation"]
        assert image["stay_id"] == (None if pd.isna(radiograph["stay_id"]) else radiograph["stay_id"])
        assert image["clinical"]["age"] == radiograph["age"]
        assert pd.Timestamp(image["study_time"]) == pd.Timestamp(radiograph["time"])  # to the millisecond


def test_rows_are_the_generators_where_dirt_left_them_intact(prepared, tree):
    truth = pd.read_csv(tree / "truth/rows.csv").set_index("stay_id")
    compared = 0
    for image in prepared[1].values():
        if image["stay_id"] is None:
            assert all(image["clinical"][c] is None for c in VITAL_COLUMNS)
            continue
        row = truth.loc[image["stay_id"]]
        tolerance = 0.011 if row["dirty"] else 0.0  # °C are written with two digits
        for column in VITAL_COLUMNS:
            value = image["clinical"][column]
            assert (value is None) == pd.isna(row[column])
            assert value is None or abs(value - row[column]) <= tolerance
            compared += 1
    assert compared > 300


def test_boxes_are_the_generators(prepared, tree):
    _, images, _ = prepared
    truth = pd.read_csv(tree / "truth/boxes.csv")
    truth = truth[truth["label"].isin(MIMIC_CLASSES)]
    for reading_id, image in images.items():
        expected = []
        for box in truth[truth["reading_id"] == reading_id].itertuples():
            x0, x1 = (min(max(v, 0), box.width) for v in (box.xmin, box.xmax))
            y0, y1 = (min(max(v, 0), box.height) for v in (box.ymin, box.ymax))
            expected.append((box.label, x0, y0, x1 - x0, y1 - y0, box.certainty))
        found = [(a["class"], *a["bbox"], a["certainty"]) for a in image["boxes"]]
        assert sorted(found) == sorted(expected)


def test_report_counts_the_injected_dirt(prepared, tree):
    _, images, report = prepared
    dirt = json.loads((tree / "truth/dirt.json").read_text())
    assert len(images) == dirt["readings"]
    assert report["changed"] == {"boxes clamped to their image": dirt["ellipses with a corner off the image"]}
    stages = {s["stage"]: s for s in report["flow"]}
    pairs = stages["boxes (ellipse and label)"]
    assert pairs["dropped"] == {"label not among the classes": dirt["ellipses with a second label"]}
    assert pairs["kept"] == stages["rows of the ellipse files"]["in"] == dirt["ellipses"]
    assert min(dirt["ellipses with a corner off the image"], dirt["ellipses with a second label"]) > 0
    triage = dirt["triage"]
    changed, removed = report["cleaning"]["changed"], report["cleaning"]["removed"]
    assert changed["temperature"] == {"°C converted to °F": triage["temperatures in °C"]}
    assert changed["o2sat"] == {"101 to 105 read as 100": triage["saturations above 100"]}
    assert changed["pain"]["'a-b' read as its mean"] == triage["pain written '5-6'"]
    assert changed["pain"]["'n/10' read as n"] == triage["pain written '8/10'"]
    assert removed["pain"]["not a number"] == triage["pain written 'unable'"] + triage["pain written 'ett'"]
    assert removed["pain"]["outside 0 to 10 0-10"] == triage["pain written '13'"]
    for column in ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp"):
        outside = sum(n for reason, n in removed[column].items() if reason.startswith("outside"))
        assert outside == triage[f"decimal slips in {column}"] > 0
        assert removed[column]["empty"] == triage["missing rows"]
    for column in ("sbp", "dbp"):
        assert removed[column]["diastolic not below systolic: both removed"] == triage["pressures swapped"]
    radiographs = {}
    for match, count in report["radiographs_by_match"].items():
        radiographs[RELATION_OF_MATCH[match]] = radiographs.get(RELATION_OF_MATCH[match], 0) + count
    assert radiographs == dirt["images"]
    several = report["radiographs_by_match"]["inside several visits, the latest taken"]
    assert several == dirt["images in overlapping visits"] > 0
    assert report["problems"] == {}


def test_dropping_discarded_readings_counts_the_generators(tree, tmp_path):
    dirt = json.loads((tree / "truth/dirt.json").read_text())
    prepare_mimic(tree / "physionet", tmp_path / "out", keep_unmatched=True, drop_discarded=True)
    report = read_prepared(tmp_path / "out")[1]
    readings = next(s for s in report["flow"] if s["stage"] == "readings")
    assert readings["dropped"] == {"eye tracking discarded": dirt["readings discarded"]}
    assert dirt["readings discarded"] > 0


def test_default_protocol_passes_the_audit(prepared):
    assert audit_folder(prepared[0]).problems == []


def test_clean_settings_leave_nothing_to_clean(tmp_path):
    write_raw_tree(tmp_path / "raw", replace(SETTINGS, dirt=0.0, reader_noise=0.0, tables_only=True), num_workers=1)
    cohort = read_cohort(physionet_files(tmp_path / "raw/physionet"), MimicOptions(), ProblemList(), Flow())
    log = cohort.cleaning.as_dict()
    assert log["changed"] == {} and {reason for r in log["removed"].values() for reason in r} == {"empty"}
    assert cohort.changed == {"boxes clamped to their image": 0}
