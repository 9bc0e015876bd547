"""The generator's source tree through the pipeline: its own visits and boxes must come out, and no dirt."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from raw_mimic.history import RawSettings, make_history
from raw_mimic.readers import choose_radiographs, make_readings, make_scene
from raw_mimic.tree import write_raw_tree

from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.prepared import Flow
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.mimic.cohort import MimicOptions, read_cohort
from mdf_detectron.data.sources.mimic.layout import physionet_files
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


def test_every_radiograph_finds_the_generators_visit(prepared):
    history = make_history(SETTINGS)
    truth, stays = history.radiographs.set_index("dicom_id"), history.visits["stay_id"]
    for image in prepared[1].values():
        radiograph = truth.loc[image["dicom_id"]]
        assert RELATION_OF_MATCH[image["match"]] == radiograph["relation"]
        assert image["stay_id"] == (stays[radiograph["visit"]] if radiograph["visit"] >= 0 else None)
        assert image["clinical"]["age"] == radiograph["age"]
        assert pd.Timestamp(image["study_time"]) == pd.Timestamp(radiograph["time"])  # to the millisecond
    several = prepared[2]["radiographs_by_match"]["inside several visits, the latest taken"]
    assert several > 0 and prepared[2]["problems"] == {}


def test_boxes_are_the_generators(prepared):
    radiographs = make_history(SETTINGS).radiographs
    rows = choose_radiographs(SETTINGS, radiographs)
    readings = make_readings(SETTINGS, rows, [make_scene(SETTINGS, radiographs.iloc[row], int(row)) for row in rows])
    assert {reading.reading_id for reading in readings} == set(prepared[1])
    for reading in readings:
        width, height = radiographs.iloc[reading.radiograph][["width", "height"]]
        expected = []
        for box in reading.ellipses:
            x0, x1 = (min(max(box[k], 0), width) for k in ("xmin", "xmax"))
            y0, y1 = (min(max(box[k], 0), height) for k in ("ymin", "ymax"))
            expected.append((box["label"], x0, y0, x1 - x0, y1 - y0, box["certainty"]))
        found = [(a["class"], *a["bbox"], a["certainty"]) for a in prepared[1][reading.reading_id]["boxes"]]
        assert sorted(found) == sorted(expected)


def test_dirt_is_cleaned_and_counted(prepared):
    cleaning = prepared[2]["cleaning"]
    assert cleaning["changed"].keys() == {"temperature", "o2sat", "pain"}
    for column in ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp"):
        assert any(reason.startswith("outside") for reason in cleaning["removed"][column])
    assert prepared[2]["changed"]["boxes clamped to their image"] > 0


def test_default_protocol_passes_the_audit(prepared):
    assert audit_folder(prepared[0]).problems == []


def test_clean_settings_leave_nothing_to_clean(tmp_path):
    write_raw_tree(tmp_path / "raw", replace(SETTINGS, dirt=0.0, reader_noise=0.0, tables_only=True), num_workers=1)
    cohort = read_cohort(physionet_files(tmp_path / "raw/physionet"), MimicOptions(), ProblemList(), Flow())
    log = cohort.cleaning.as_dict()
    assert log["changed"] == {} and {reason for r in log["removed"].values() for reason in r} == {"empty"}
    assert cohort.changed == {"boxes clamped to their image": 0}
