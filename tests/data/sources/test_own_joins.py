"""Own data: which file, row, patient and time belong to an image, where names repeat and times have zones."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema, TableRecipe
from mdf_detectron.data.sources.kit.collection import WriteOptions
from mdf_detectron.data.sources.kit.preparation import prepare as prepare_collection
from mdf_detectron.data.sources.own.collection import COLLECTION, OwnOptions
from mdf_detectron.data.splits import is_rounded
from mdf_detectron.data.study_records import table_records
from mdf_detectron.data.times import is_later, parse_time
from mdf_detectron.errors import DatasetError, SourceDataError
from tests.data.sources.reading_back import read_prepared

VISITS = [f"case{n}/{view}" for n in range(4) for view in ("pa", "lat")]


class Export:
    """Images in folders, an export that names them, and tables; all below one folder."""

    def __init__(self, root, names, listed=None):
        self.root, self.names = root, names
        for number, name in enumerate(names):
            path = root / "scans" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 48), np.uint8)).save(path)
        images = [{"id": i, "file_name": f, "width": 48, "height": 40} for i, f in enumerate(listed or [])]
        images = images or [{"id": i, "file_name": f"{n}.png", "width": 48, "height": 40} for i, n in enumerate(names)]
        boxes = [{"id": i["id"], "image_id": i["id"], "category_id": 1, "bbox": [4, 4, 9, 9]} for i in images]
        (root / "x.json").write_text(json.dumps({"images": images, "annotations": boxes,
                                                 "categories": [{"id": 1, "name": "mass"}]}))  # fmt: skip

    def table(self, header, rows):
        (self.root / "t.csv").write_text("\n".join([header, *rows]) + "\n")
        return self.root / "t.csv"

    def prepare(self, on_error="stop", **options):
        """Prepare; return the records, patients and times by the image's place in the export."""
        out, files = self.root / "out", {"annotations": [self.root / "x.json"], "images": self.root / "scans"}
        writing = options.pop("writing", None)
        prepare_collection(COLLECTION, out, writing, on_error=on_error, num_workers=0, **files, **options)
        images, self.report = read_prepared(out)
        if writing and writing.image_size:
            return images
        sources = {path.resolve().relative_to(self.root / "scans").with_suffix("").as_posix(): images[path.name]
                   for path in (out / "images").iterdir()}  # fmt: skip
        return {name: sources[name] for name in self.names if name in sources}


@pytest.mark.parametrize("key", ["{}", "{}.png", "/data/scans/{}.png", "Q:\\scans\\{}.png"])
@pytest.mark.parametrize("times", [{}, {"time": "taken", "record_time": "drawn"}])
def test_a_key_with_folders_is_compared_as_a_path(key, times, tmp_path):
    export = Export(tmp_path, VISITS)
    rows = [f"{key.format(name.replace('/', chr(92)) if key[0] == 'Q' else name)},m{i // 2},{50 + i},2021-03-02 10:00,"
            "2021-03-02 09:00" for i, name in enumerate(VISITS)]  # fmt: skip
    table = export.table("file,mrn,age,taken,drawn", rows)
    images = export.prepare(table=table, key="file", patient="mrn", columns=["age"], **times)
    assert {name: image["clinical"]["age"] for name, image in images.items()} == {
        n: 50 + i for i, n in enumerate(VISITS)
    }
    # mdf predict finds the same rows
    schema, folder = ClinicalSchema((ClinicalColumn("age", "numeric"),)), tmp_path / "scans"
    paths = [folder / f"{name}.png" for name in VISITS]
    found, _ = table_records(table, paths, folder, schema, key="file", ignored=["mrn", "taken", "drawn"])
    assert [one.values for one in found] == [{"age": 50 + i} for i in range(len(VISITS))]


def test_an_identifier_differs_in_each_row_though_two_images_share_one(tmp_path):
    export = Export(tmp_path, [f"p{n:02d}_{view}" for n in range(12) for view in ("pa", "lat")])
    table = export.table("file,age,acc", [f"p{n:02d},{50 + n},{7120031 + 21 * n}" for n in range(12)])
    images = export.prepare(table=table, key="file=stem=^(p..)_")
    assert (
        all(image["clinical"] == {"age": 50 + int(name[1:3])} for name, image in images.items()) and len(images) == 24
    )
    assert "acc: whole numbers, another one in each row" in str(export.report)


def test_a_name_that_several_images_have_is_no_key(tmp_path):
    export = Export(tmp_path, ["a/pa", "b/pa", "c/lat", "d/x", "e/y"])
    table = export.table("file,age", ["pa,50", "lat,51", "x,52", "y,53"])
    with pytest.raises(SourceDataError, match="t.csv line 2: pa may be a/pa or b/pa; write the whole path"):
        export.prepare(table=table, key="file", columns=["age"])
    images = export.prepare("skip", table=table, key="file", columns=["age"])
    assert {name: i["clinical"]["age"] for name, i in images.items()} == {"c/lat": 51, "d/x": 52, "e/y": 53}
    schema, folder = ClinicalSchema((ClinicalColumn("age", "numeric"),)), tmp_path / "scans"
    paths = [folder / f"{name}.png" for name in ("a/pa", "b/pa", "c/lat")]
    found, _ = table_records(table, paths, folder, schema, key="file")
    assert "a/pa or b/pa; write the whole path" in found[1].error and found[2].values == {"age": 51}
    with pytest.raises(DatasetError, match="--key file=id: new images have no ids"):
        table_records(table, paths, folder, ClinicalSchema(schema.columns, table=TableRecipe("file=id")))


@pytest.mark.parametrize(("key", "names", "rows", "ages"), [
    ("file", ["1", "a/1", "b/2"], ["a/1", "b/2"], [None, 50, 51]),  # 1.png is not the image of a/1
    ("file", ["1", "a/1", "b/2"], ["1", "b/2"], [50, None, 51]),
    ("file=name", ["p/f", "s2/p/f", "q"], ["p/f.png", "q.png"], [50, None, 51]),
    ("file", ["1", "x/a/1", "q"], ["a/1", "q"], ["a/1 may be 1 or x/a/1", "a/1 may be 1 or x/a/1", 51]),
    ("file", ["x/a/1", "y/a/1", "q"], ["/d/x/a/1", "q", "y/a/1"], [50, 52, 51]),
    ("file", ["0a1b2c3d-v", "1a1b2c3d-v", "q"], ["v", "q"],  # two uploads of Label Studio
     ["v may be 0a1b2c3d-v or 1a1b2c3d-v"] * 2 + [51]),
    ("file", ["0a1b2c3d-v", "v", "q"], ["v", "q"], [None, 50, 51]),
])  # fmt: skip
def test_a_row_of_a_file_is_one_images(key, names, rows, ages, tmp_path):
    table = Export(tmp_path, names).table("file,age", [f"{row},{50 + n}" for n, row in enumerate(rows)])
    schema, folder = ClinicalSchema((ClinicalColumn("age", "numeric"),)), tmp_path / "scans"
    found, _ = table_records(table, [folder / f"{name}.png" for name in names], folder, schema, key=key)
    for one, age in zip(found, ages, strict=True):
        assert (age in one.error) if isinstance(age, str) else (one.values == (age and {"age": age}) and not one.error)


@pytest.mark.parametrize(("column", "values"), [
    ("taken", ["2021-06-02", "2021-01-02"]), ("mrn", ["m1", "m2"]), ("part", ["train", "test"]),
])  # fmt: skip
def test_rows_of_one_image_agree_in_what_is_the_images(column, values, tmp_path):
    export = Export(tmp_path, ["P1_jan", "P1_jun", *(f"P{n}_a" for n in range(2, 6))])
    same = {"taken": "2021-07-01", "mrn": "m", "part": "train", "drawn": "2021-01-01"}
    rows = [same | {column: value, "drawn": f"2021-01-0{n + 1}", "key": "P1"} for n, value in enumerate(values)]
    rows += [
        same | {"key": f"P{n}", "mrn": f"m{n}", "part": ("train", "val", "test", "train")[n - 2]} for n in range(2, 6)
    ]
    table = export.table("key,taken,mrn,part,drawn,age",
                         [",".join([*(r[c] for c in ("key", "taken", "mrn", "part", "drawn")), str(50 + i)])
                          for i, r in enumerate(rows)])  # fmt: skip
    options = {"table": table, "key": "key=stem=^(P\\d)_", "patient": "mrn", "split_column": "part", "columns": ["age"],
               "time": "taken", "record_time": "drawn"}  # fmt: skip
    with pytest.raises(
        SourceDataError, match=f"t.csv line 2, t.csv line 3: rows of one key ..P1.. that differ in {column}"
    ):
        export.prepare(**options)
    assert list(export.prepare("skip", **options)) == [f"P{n}_a" for n in range(2, 6)]


@pytest.mark.parametrize(("files", "listed", "absent"), [
    (["a/1", "b/1", "b/2"], ["a/1.png", "b/1.png", "a/2.png"], "a/2.png"),  # b's is another patient's
    (["a/1", "b/1", "2"], ["a/1.png", "b/1.png", "c/2.png"], "c/2.png"),
    (["1", "s/2", "3"], ["up/1.png", "up/s/2.png", "up/3.png"], None),  # the tool's own folder
    (["1", "2", "3"], ["up/7/1.png", "up/8/2.png", "up/8/3.png"], None),
    (["a/x y", "b/é", "c/3"], ["up/0a1b2c3d-x%20y.png", "b/%C3%A9.png", "c/3.png"], None),
])  # fmt: skip
def test_an_absent_file_is_not_replaced_by_another_folders(files, listed, absent, tmp_path):
    export = Export(tmp_path, files, listed)
    if absent:
        with pytest.raises(SourceDataError, match=f"image {absent}: no file of that name"):
            export.prepare()
    else:
        assert list(export.prepare()) == files


@pytest.mark.parametrize("key, patient", [("mrn=stem=^(Q\\d)-", "mrn"), ("mrn=path=^(Q\\d)/", "path=^(Q\\d)/")])
def test_a_row_a_patient(key, patient, tmp_path):
    names = [f"Q{n}{'-/'['path' in key]}{view}" for n in range(4) for view in ("pa", "lat")]
    export = Export(tmp_path, names)
    table = export.table("mrn,age", [f"Q{n},{60 + n}" for n in range(4)])
    images = export.prepare(table=table, key=key, patient=patient, columns=["age"])
    assert [(i["patient_id"], i["clinical"]["age"]) for i in images.values()] == [(f"Q{n // 2}", 60 + n // 2)
                                                                                  for n in range(8)]  # fmt: skip
    with pytest.raises(SourceDataError, match="write --key 'mrn=stem=REGEX'"):
        export.prepare(table=table, key="mrn", patient="mrn", columns=["age"])
    for wrong in ("stem=Q\\d", "path=(Q"):
        with pytest.raises(SourceDataError, match="a regular expression with a group"):
            OwnOptions(key=f"mrn={wrong}")


def test_ids_that_a_spreadsheet_rounded_are_refused(tmp_path):
    export = Export(tmp_path, [f"s{n}" for n in range(5)])
    rows = [f"s{n},{mrn},{50 + n}" for n, mrn in enumerate(["1.20457E+08", "1.20457E+08", "7", "8", "9"])]
    options = {"key": "file", "patient": "mrn", "columns": ["age"]}
    with pytest.raises(SourceDataError, match="s0.png: patient '1.20457E.08'; a spreadsheet rounded it.*as text"):
        export.prepare(table=export.table("file,mrn,age", rows), **options)
    images = export.prepare("skip", table=tmp_path / "t.csv", **options)
    assert list(images) == ["s2", "s3", "s4"]
    with pytest.raises(SourceDataError, match="t.csv line 2: column 'mrn' is '1.20457E.08'; a spreadsheet rounded"):
        export.prepare(table=tmp_path / "t.csv", key="mrn", columns=["age"])
    rounded = {"1E+08": True, "2,5E+11": True, 1e15: True, 1234567.0: False, "12E5": False, "E+08": False,
               "P1.2E+03x": False, math.nan: False, None: False}  # fmt: skip
    assert {value: is_rounded(value) for value in rounded} == rounded


@pytest.mark.parametrize(("image", "record", "late"), [
    ("2021-03-02T10:00+01:00", "2021-03-02T09:30Z", True), ("2021-03-02T10:00+01:00", "2021-03-02T08:30Z", False),
    ("2021-03-02T10:00+01:00", "2021-03-02T09:00+00:00", False), ("2021-03-02T10:00+01:00", "2021-03-02 09:30", None),
    ("2021-03-02 10:00", "2021-03-02T09:30-05:00", None), ("2021-03-02", "2021-03-02T23:30-05:00", None),
    ("2021-03-02T10:00+01:00", "2021-03-03", None), ("2021-03-02 10:00", "2021-03-02", False),
    ("2021-03-02 10:00", "2021-03-03", True),
])  # fmt: skip
def test_times_are_compared_in_utc(image, record, late, tmp_path):
    assert is_later(parse_time(record), parse_time(image)) is late
    export = Export(tmp_path, [f"s{n}" for n in range(4)])
    rows = [f"s{n},m{n},{50 + n},2021-03-02,2021-03-01" for n in range(3)]
    table = export.table("file,mrn,age,taken,drawn", [*rows, f"s3,m3,53,{image},{record}"])
    options = {"key": "file", "patient": "mrn", "columns": ["age"], "time": "taken", "record_time": "drawn"}
    if late is not False:
        with pytest.raises(SourceDataError, match="later record knows" if late else "one names its time zone"):
            export.prepare(table=table, **options)
    images = export.prepare("skip", table=table, **options)
    assert images.get("s3", {"clinical": {"age": None}})["clinical"]["age"] == (53 if late is False else None)
    assert ("s3" in images) == (late is not None)
    assert audit_folder(tmp_path / "out").problems == []
    if late:  # and the audit finds it
        path = next(p for p in (tmp_path / "out/annotations").iterdir() if "s3.png" in p.read_text())
        text = json.loads(path.read_text())
        for entry in text["images"]:
            entry |= {"study_time": image, "row_time": record} if entry["file_name"] == "s3.png" else {}
        path.write_text(json.dumps(text))
        assert [p.kind for p in audit_folder(tmp_path / "out").problems] == ["image older than its clinical record"]


def test_times_of_every_kind_are_read():
    assert parse_time(pd.Timestamp("2021-03-02 10:00", tz="Europe/Berlin")).utc == datetime(2021, 3, 2, 9)
    assert parse_time("02.03.2021 10:00 +0100", "%d.%m.%Y %H:%M %z").utc == datetime(2021, 3, 2, 9)
    assert str(parse_time(datetime(2021, 3, 2))) == "2021-03-02"
    for zone, is_refused in (("%Z", True), ("%%Z", False), ("%z", False)):
        with pytest.raises(SourceDataError, match="expected %z") if is_refused else nullcontext():
            OwnOptions(time_format=f"%Y-%m-%d %H:%M {zone}")
    assert [parse_time(text) for text in ("0001-01-01T00:00+14:00", "today", 7, pd.NaT, None)] == [None] * 5


def test_augmented_versions_of_one_image_stay_together(tmp_path):
    names = [f"{part}/knee_{n}_png.rf.{n * 7 + v:032x}" for n in range(5) for v, part in enumerate(("train", "valid"))]
    export = Export(tmp_path, names)
    images = export.prepare()
    assert len({image["patient_id"] for image in images.values()}) == 5
    assert all(len({i["split"] for name, i in images.items() if f"knee_{n}_" in name}) == 1 for n in range(5))
    assert any("10 images are augmented versions" in note for note in export.report["notes"])
    rows = [f"knee_{n},{70 + n}" for n in range(5)]  # a row of the original is each version's
    images = export.prepare(table=export.table("file,age", rows), key="file", columns=["age"])
    assert [image["clinical"]["age"] for image in images.values()] == [70 + n // 2 for n in range(10)]


@pytest.mark.parametrize("size", [None, 32])
def test_pixels_that_patients_share_and_a_split_of_one_patient_are_said(size, tmp_path):
    export = Export(tmp_path, [f"s{n}" for n in range(12)])
    for n in (9, 10):  # copies by another name, one of them in another format
        with Image.open(tmp_path / "scans/s0.png") as image:
            image.save(tmp_path / f"scans/s{n}.png", "TIFF" if n == 9 else "PNG")
    rows = [f"s{n},m{max(n - 6, 0)},{50 + n},{'train' if n < 7 else 'val' if n < 10 else 'test'}" for n in range(12)]
    options = {"key": "file", "patient": "mrn", "columns": ["age"], "split_column": "part"}
    export.prepare(table=export.table("file,mrn,age,part", rows), writing=WriteOptions(image_size=size), **options)
    notes = "\n".join(export.report["notes"])
    assert "7 of the 7 images of split train are one patient's" in notes and "split val" not in notes
    assert "3 images have the pixels of another patient's image** (1 groups, 1 in several splits)" in notes
    (problem,) = audit_folder(tmp_path / "out").problems
    assert problem.kind == "equal pixels in several splits"
    assert all(f"{split} (s{n}.png)" in problem.message for split, n in (("train", 0), ("val", 9), ("test", 10)))
    export.prepare(table=tmp_path / "t.csv", writing=WriteOptions(image_size=size, seed=2), **options)  # from the cache
    assert "3 images have the pixels" in "\n".join(export.report["notes"])
