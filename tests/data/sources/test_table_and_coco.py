"""Own data: joins, patients, times, boxes of every form, proposed schemas, and all problems told at once."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml
from own_files import CLASSES, write_all, write_coco, write_images
from PIL import Image

from mdf_detectron.cli.prepare import main
from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.readers import read_pixels
from mdf_detectron.data.schema import ClinicalSchema, TableRecipe
from mdf_detectron.data.sources.kit.collection import WriteOptions
from mdf_detectron.data.sources.kit.preparation import prepare as prepare_collection
from mdf_detectron.data.sources.own.collection import COLLECTION
from mdf_detectron.data.sources.own.options import OwnOptions, parse_columns
from mdf_detectron.errors import SourceDataError
from tests.data.sources.reading_back import read_prepared

COLUMNS = "Age:age Sex:sex Lactate:lactate Smoker:smoker"
MESSY = {"key": "File", "patient": "MRN", "columns": [COLUMNS], "decimal_comma": True}


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("own"))


def prepare(files, out, on_error="stop", schema=None, **options):
    table = files.get("table")
    writing = WriteOptions(**{name: options.pop(name) for name in ("image_size", "bit_depth") if name in options})
    given = {"annotations": [files["annotations"]], "images": files["images"], "table": table, "schema": schema}
    prepare_collection(COLLECTION, out, writing, on_error=on_error, num_workers=1, **given, **options)
    images, report = read_prepared(out)
    return images, Counter(box["class"] for image in images.values() for box in image["boxes"]), report


def stage(report, name):
    return next(s for s in report["flow"] if s["stage"].startswith(name))


def test_a_messy_table_and_half_dicom(messy, tmp_path):
    images, boxes, report = prepare(messy, tmp_path / "mine", time="Taken", record_time="Drawn", **MESSY)
    assert len(images) == 40 and boxes == {"opacity": 10, "nodule": 20}
    first = images["scan_00.dcm"]
    assert (first["patient_id"], first["clinical"]) == ("100", {"age": 62, "sex": "F", "lactate": 1.4, "smoker": "yes"})
    assert (first["study_time"], first["row_time"]) == ("2020-01-02T10:00:00", "2020-01-02T09:00:00")
    assert images["scan_14.dcm"]["clinical"]["lactate"] is None  # 999
    rows = stage(report, "rows of lab values.csv")
    assert (rows["in"], rows["kept"]) == (42, 40) and rows["dropped"]["repeats another row"] == 1
    changes = {(c, reason): n for c, _, reason, n in report["tables"][0]["rows"]}  # and no values
    assert changes["sex", "another spelling"] == 27 and changes["age", "an age with its unit"] == 16
    splits = {}
    for image in images.values():
        splits.setdefault(image["patient_id"], set()).add(image["split"])
    assert len(splits) == 20 and all(len(s) == 1 for s in splits.values())
    assert audit_folder(tmp_path / "mine").problems == []


def test_the_proposed_schema_is_a_schema_that_prepares_the_same(messy, tmp_path):
    options = {**MESSY, "columns": [COLUMNS, "Ward:ward"]}
    _, _, report = prepare(messy, tmp_path / "mine", **options)
    text = (tmp_path / "mine" / "clinical_schema.yaml").read_text()
    schema = ClinicalSchema.load(tmp_path / "mine" / "clinical_schema.yaml")
    assert [c.name for c in schema.columns] == ["age", "sex", "lactate", "smoker"]
    assert (schema.columns[2].minimum, schema.columns[2].maximum, schema.columns[2].missing) == (0, 360, (999,))
    assert "DECIDE: 999 (2 times) is apart from all others" in text and "ward: 40 distinct texts" in text
    assert schema.table == TableRecipe(key="File", patient="MRN", decimal_comma=True)
    edited = yaml.safe_load(text)
    edited["columns"][2] |= {"maximum": 2000, "missing": []}
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(edited))
    images, _, _ = prepare(messy, tmp_path / "again", schema=tmp_path / "schema.yaml")  # and no option repeated
    assert images["scan_14.dcm"]["clinical"] == {"age": None, "sex": "M", "lactate": 999, "smoker": "no"}
    assert images["scan_00.dcm"]["patient_id"] == "100"


def test_dicom_tags_are_key_patient_time_and_columns(messy, tmp_path):
    table = tmp_path / "by_accession.csv"
    table.write_text("Acc,Creatinine\n" + "".join(f"ACC{n},{n / 10}\n" for n in range(0, 40, 2)))
    options = {
        "key": "Acc=AccessionNumber", "patient": "dicom:PatientID", "time": "dicom",
        "columns": ["Creatinine"], "dicom_columns": ["PatientAge:age PatientSex:sex"],
    }  # fmt: skip
    with pytest.raises(SourceDataError, match="20 problems") as caught:
        prepare({**messy, "table": table}, tmp_path / "mine", **options)
    assert "scan_01.png: no patient" in str(caught.value)
    images, _, report = prepare({**messy, "table": table}, tmp_path / "mine", "skip", **options)
    assert len(images) == 20 and stage(report, "annotated images")["dropped"] == {"no patient": 20}
    assert images["scan_04.dcm"]["clinical"] == {"Creatinine": 0.4, "age": 34, "sex": "M"}
    assert images["scan_04.dcm"]["study_time"] == "2020-01-02T10:15:00"


def test_a_record_later_than_its_image_is_refused(messy, tmp_path):
    text = messy["table"].read_text().splitlines()
    text[6] = text[6].rsplit(";", 1)[0] + ";2020-01-02 23:00"
    table = tmp_path / "late.csv"
    table.write_text("\n".join(text))
    times = {"time": "Taken", "record_time": "Drawn"}
    with pytest.raises(SourceDataError, match=r"late.csv line 7: record of 2020-01-02T23:00:00, its image scan_05.png"):
        prepare({**messy, "table": table}, tmp_path / "mine", **MESSY, **times)
    images, _, report = prepare({**messy, "table": table}, tmp_path / "mine", "skip", **MESSY, **times)
    # when it was taken nothing was known: the image stays, in its patient's split, without a record
    late = images["scan_05.png"]
    assert set(late["clinical"].values()) == {None} and late["split"] == images["scan_04.dcm"]["split"]
    assert (late["patient_id"], late["row_time"], len(images)) == ("102", None, 40)
    assert stage(report, "rows of late.csv")["dropped"]["record later than its image"] == 1
    kept = stage(report, "images with a record")
    assert kept["dropped"] == {"record later than its image (image kept)": 1} and kept["kept"] == 39
    assert report["problems"]["record later than its image"] == {"count": 1}


@pytest.mark.parametrize("column", ["Taken", "Drawn"])
def test_a_record_whose_time_cannot_be_read_is_not_used(column, messy, tmp_path):
    lines = [line.split(";") for line in messy["table"].read_text().splitlines()]
    at = lines[0].index(column)
    lines[6][at], lines[7][at] = "yesterday", ""
    table = tmp_path / "times.csv"
    table.write_text("\n".join(map(";".join, lines)))
    times = {"time": "Taken", "record_time": "Drawn"}
    with pytest.raises(SourceDataError, match=f"times.csv line 7: column '{column}' is 'yesterday'; expected ISO 8601"):
        prepare({**messy, "table": table}, tmp_path / "mine", **MESSY, **times)
    # nobody knows whether it knows the future, nor whether anything was known: the image leaves
    images, _, report = prepare({**messy, "table": table}, tmp_path / "mine", "skip", **MESSY, **times)
    assert "scan_05.png" not in images and len(images) == 39
    assert stage(report, "annotated images")["dropped"] == {"unreadable time": 1}
    assert stage(report, "rows of times.csv")["dropped"]["unreadable time"] == 1
    # without a time it is used, and the report says so
    assert images["scan_06.dcm"]["clinical"]["age"] is not None
    assert any("**1 records may be later than their images**" in note for note in report["notes"])


def test_of_several_records_the_latest_before_the_image_is_taken(messy, tmp_path):
    days = {"2020-01-01": 1, "2020-01-05": 3, "2020-01-02": 2, "2019-12-31": 0}
    rows = "".join(f"scan_00,{day},{value},7\n" for day, value in days.items())
    table = tmp_path / "records.csv"
    table.write_text("File,Drawn,Lactate,x\n" + rows + "scan_01,2020-01-01,5,8\nscan_03,2020-01-01,6,9\n")
    options = {"key": "File", "time": "dicom", "columns": ["Lactate x"]}
    with pytest.raises(SourceDataError, match="line 2.*several rows of one File .*'scan_00'.* that differ"):
        prepare({**messy, "table": table}, tmp_path / "mine", **options)
    images, _, _ = prepare({**messy, "table": table}, tmp_path / "mine", record_time="Drawn", **options)
    assert images["scan_00.dcm"]["clinical"]["Lactate"] == 2
    # skipped, an image whose record is not known leaves: with an empty one it would pass for a patient without values
    images, _, report = prepare({**messy, "table": table}, tmp_path / "skipped", "skip", **options)
    assert "scan_00.dcm" not in images and len(images) == 39 and images["scan_01.png"]["clinical"]["x"] == 8
    assert stage(report, "annotated images")["dropped"] == {"several rows of one key": 1}
    assert stage(report, "rows of records.csv")["kept"] == 2


def test_all_problems_of_the_input_are_told_at_once(messy, tmp_path):
    table = tmp_path / "bad.csv"
    table.write_text("File,MRN,Age\nscan_00,1,62\nscan_01,2\n,3,50\nscan_02,,40\nscan_03,4,41\nscan_03,4,42\n")
    coco = json.loads(messy["annotations"].read_text())
    coco["images"].append({"id": 77, "file_name": "absent.png", "width": 9, "height": 9})
    coco["annotations"].append({"id": 99, "image_id": 1, "category_id": 9, "bbox": [1, 1, 2, 2]})
    (tmp_path / "bad.json").write_text(json.dumps(coco))
    files = {**messy, "table": table, "annotations": tmp_path / "bad.json"}
    with pytest.raises(SourceDataError) as caught:
        prepare(files, tmp_path / "mine", key="File", patient="MRN")
    text = str(caught.value)
    for part in ("bad.csv line 3: 2 values", "bad.csv line 4: column 'File'", "scan_02.dcm: no patient",
                 "bad.csv line 6, bad.csv line 7: several rows", "category_id 9", "absent.png: no file"):  # fmt: skip
        assert part in text, part
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("form", ["corners", "size", "fraction", "tensorflow"])
def test_tables_of_boxes(form, messy, tmp_path):
    lines = {"corners": ["file;label;xmin;ymin;xmax;ymax", "scan_01.png;Mass;10,0;20,0;30;60", "scan_03.png;;;;;",
                         "scan_02;mass;5;6;25;26"],
             "size": ["image,class,x,y,width,height", "scan_01.png,Mass,10,20,20,40", "scan_03.png,No finding,,,,",
                      "scan_02,mass,5,6,20,20"],
             "fraction": ["image,class,x1,y1,x2,y2", f"scan_01.png,Mass,{10 / 96},{20 / 80},{30 / 96},{60 / 80}",
                          "scan_03.png,,,,,", f"scan_02,mass,{5 / 96},{6 / 80},{25 / 96},{26 / 80}"],
             "tensorflow": ["filename,width,height,class,xmin,ymin,xmax,ymax", "scan_01.png,192,160,Mass,20,40,60,120",
                            "scan_03.png,192,160,,,,,", "scan_02,96,80,mass,5,6,25,26"]}[form]  # fmt: skip
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    files = {**messy, "annotations": tmp_path / "boxes.csv"}
    options = {**MESSY, "patient": None, "box_units": "fraction" if form == "fraction" else "pixels"}
    images, boxes, report = prepare(files, tmp_path / "mine", **options)
    assert {n: [(b["bbox"], b["class"]) for b in i["boxes"]] for n, i in images.items()} == {
        "scan_01.png": [([10, 20, 20, 40], "Mass")], "scan_02.dcm": [([5, 6, 20, 20], "Mass")], "scan_03.png": [],
    }  # fmt: skip
    assert any("37 image files have no entry" in note for note in report["notes"])


def test_unusable_boxes_name_their_line_and_a_map_their_columns(messy, tmp_path):
    lines = ["pic,kind,l,t,r,b", "scan_01.png,Mass,10,20,5,60", "scan_02,Mass,a,1,2,3", "scan_03,Mass,1,1,,9"]
    good = [f"scan_{n:02d},Mass,1,2,3,4" for n in (5, 7, 9)]
    (tmp_path / "boxes.csv").write_text("\n".join([*lines, *good]))
    files = {**messy, "annotations": tmp_path / "boxes.csv"}
    for header in (lines[0], "a,b,c,d,e," + "f" * 900):  # a header of any length is one short line
        (tmp_path / "boxes.csv").write_text("\n".join([header, *lines[1:], *good]))
        with pytest.raises(SourceDataError, match="which columns are the image and the box") as caught:
            prepare(files, tmp_path / "mine", **MESSY)
        assert len(str(caught.value).replace(str(tmp_path), "")) < 340
    (tmp_path / "boxes.csv").write_text("\n".join([*lines, *good]))
    names = ["image=pic", "class=kind", "x1=l", "y1=t", "x2=r", "y2=b"]
    with pytest.raises(SourceDataError) as caught:
        prepare(files, tmp_path / "mine", **MESSY, box_columns=names)
    assert all(f"boxes.csv line {n}: l " in str(caught.value) for n in (2, 3, 4))
    _, boxes, report = prepare(files, tmp_path / "mine", "skip", **MESSY, box_columns=names)
    assert boxes == {"Mass": 3} and stage(report, "boxes")["dropped"] == {"unusable box": 3}


def test_names_that_labeling_tools_changed_and_sizes_that_do_not_fit(messy, tmp_path):
    coco = json.loads(messy["annotations"].read_text())
    coco["images"] = coco["images"][:4]
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] < 4]
    hexes = "0123456789abcdef0123456789abcdef"
    coco["images"][0]["file_name"] = "images/1a2b3c4d-scan_00.dcm"
    coco["images"][1]["file_name"] = f"scan_01_png.rf.{hexes}.jpg"
    coco["images"][2].update(file_name="scan_02.png", width=192, height=160)
    for a in coco["annotations"]:
        if a["image_id"] == 2:
            a["bbox"] = [2 * v for v in a["bbox"]]
    coco["images"][3].update(width=80, height=96)
    (tmp_path / "x.json").write_text(json.dumps(coco))
    files = {**messy, "annotations": tmp_path / "x.json"}
    without_patients = {**MESSY, "patient": None}
    with pytest.raises(SourceDataError, match="scan_03.png: its boxes are in 80 × 96 pixels.*sides are swapped"):
        prepare(files, tmp_path / "mine", **without_patients)
    images, _, report = prepare(files, tmp_path / "mine", "skip", **without_patients)
    whole, _, _ = prepare(messy, tmp_path / "whole", **without_patients)
    assert set(images) == {"scan_00.dcm", "scan_01.png", "scan_02.dcm"}
    for name, image in images.items():
        assert [b["bbox"] for b in image["boxes"]] == [b["bbox"] for b in whole[name]["boxes"]]
        assert image["clinical"] == whole[name]["clinical"]
    assert stage(report, "annotated images")["dropped"] == {"annotated at another shape": 1}


@pytest.mark.parametrize("size, depth", [(40, 8), (40, 16)])
def test_copies_scale_boxes_and_masks_and_keep_depth(size, depth, tmp_path):
    entries = write_images(tmp_path / "scans", 6)
    coco = json.loads(write_coco(tmp_path / "x.json", entries).read_text())
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tmp_path / "x.json").write_text(json.dumps(coco))
    files = {"annotations": tmp_path / "x.json", "images": tmp_path / "scans"}
    options = {"dicom_columns": ["PatientAge:age PatientID:id{P0=a,P1=b}"]}
    images, _, _ = prepare(files, tmp_path / "mine", image_size=size, bit_depth=depth, **options)
    box = images["scan_01.png"]["boxes"][0]
    assert box["bbox"] == [4.5, 5, 20, 18] and box["segmentation"] == [[4.5, 5, 24.5, 5, 24.5, 23, 4.5, 23]]
    pixels, done = read_pixels(tmp_path / "mine/images/scan_02.png", depth)
    assert (done.width, done.height, done.bits) == (48, 40, depth)
    assert (len(np.unique(pixels)) > 256) == (depth == 16)


def test_a_split_column_is_kept_and_a_patient_in_two_splits_is_refused(messy, tmp_path):
    rows = [f"scan_{n:02d},{n // 2},{n},{('train', 'Training', 'valid', 'test')[n // 2 % 4]}" for n in range(40)]
    table = tmp_path / "splits.csv"
    table.write_text("\n".join(["File,MRN,v,fold", *rows]))
    options = {"key": "File", "patient": "MRN", "columns": ["v"], "split_column": "fold"}
    images, _, _ = prepare({**messy, "table": table}, tmp_path / "mine", **options)
    assert images["scan_04.dcm"]["split"] == "val" and Counter(i["split"] for i in images.values())["train"] == 20
    table.write_text("\n".join(["File,MRN,v,fold", *rows]).replace("scan_05,2,5,valid", "scan_05,2.0 ,5,test"))
    with pytest.raises(SourceDataError, match="scan_05.png: patient '2' is in val and in test"):
        prepare({**messy, "table": table}, tmp_path / "mine", **options)


def test_excel_parquet_and_tsv_give_the_same_as_csv(messy, tmp_path):
    frame = pd.DataFrame({"File": [f"scan_{n:02d}" for n in range(40)], "MRN": [float(200 + n // 2) for n in range(40)],
                          "Age": [30.5 + n if n % 7 else None for n in range(40)],
                          "Sex": [("f", "Male")[n % 2] for n in range(40)]})  # fmt: skip
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    options = {"key": "File", "patient": "MRN", "columns": ["Age:age Sex:sex"]}
    made = [
        prepare({**messy, "table": tmp_path / f"t.{s}"}, tmp_path / s, **options)[0]
        for s in ("csv", "tsv", "xlsx", "parquet")
    ]
    assert made[0] == made[1] == made[2] == made[3] and made[0]["scan_01.png"]["clinical"] == {"age": 31.5, "sex": "M"}
    assert made[0]["scan_01.png"]["patient_id"] == "200"


ROWS = ["File;Größe;CRP [mg/l]", *(f"scan_{n:02d};{150 + n};{n},5" for n in range(40))]


def written(folder, form):
    """Write ROWS as programs do; the numbers of the workbook are numbers."""
    path, text = folder / "t.csv", "\n".join(ROWS)
    cells = [row.replace(",", ".").split(";") for row in ROWS]
    cells[1:] = [[file, *map(float, rest)] for file, *rest in cells[1:]]
    if form == "pandas":
        path.write_text("\n".join(f"{n or ''};{row}" for n, row in enumerate(ROWS)))
    elif form in ("cp1252", "utf-8-sig"):
        path.write_text("sep=;\n" + text, encoding=form)
    else:
        path = folder / "t.xlsx"
        with pd.ExcelWriter(path) as book:
            pd.DataFrame(cells).to_excel(book, sheet_name="Werte", index=False, header=False)
            pd.DataFrame([["a", "b"]]).to_excel(book, sheet_name="Legende", index=False, header=False)
    return path


@pytest.mark.parametrize("form, needs", [("pandas", {}), ("utf-8-sig", {}), ("cp1252", {"encoding": "cp1252"}),
                                         ("workbook", {"sheet": "Werte"})])  # fmt: skip
def test_tables_as_programs_write_them(form, needs, messy, tmp_path):
    files = {**messy, "table": written(tmp_path, form)}
    options = {"key": "File", "columns": ["CRP [mg/l]:crp", "Größe"], "decimal_comma": True}
    if needs:
        with pytest.raises(SourceDataError, match="--encoding cp1252|which sheet of Werte, Legende. .*--sheet"):
            prepare(files, tmp_path / "mine", **options)
    images, _, _ = prepare(files, tmp_path / "mine", **options, **needs)
    schema = ClinicalSchema.load(tmp_path / "mine" / "clinical_schema.yaml")
    assert images["scan_07.png"]["clinical"] == {"crp": 7.5, "Größe": 157}
    assert (schema.columns[0].unit, schema.columns[0].source, schema.columns[0].maximum) == ("mg/l", "CRP [mg/l]", 1000)
    assert schema.table == TableRecipe(key="File", decimal_comma=True, **needs)


@pytest.mark.parametrize("cells, message", [
    ([["File", "x", "x"], ["scan_00", 1, 2]], "the column 'x' is in the header twice"),
    ([["File", "x", None], ["scan_00", 1, 2]], "column 3 of the header has no name"),
    ([["File", "x", "y"], ["scan_00", 1, "=B2*2"], ["scan_01", 2, "=B3*2"]], "2 formulas without a result, .* C2:"),
])  # fmt: skip
def test_workbooks_that_cannot_be_meant(cells, message, messy, tmp_path):
    pd.DataFrame(cells).to_excel(tmp_path / "t.xlsx", index=False, header=False)
    with pytest.raises(SourceDataError, match=message):
        prepare({**messy, "table": tmp_path / "t.xlsx"}, tmp_path / "mine", key="File", columns=["x"])


def test_a_text_of_a_parquet_file_that_is_no_utf_8_is_one_line(messy, tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"File": ["scan_00", "scan_01"], "Age": [30.0, 31.0]}).to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b"scan_00", b"\xf3can_00"))
    with pytest.raises(SourceDataError, match="t.parquet: cannot be read as a table .*save it again"):
        prepare({**messy, "table": path}, tmp_path / "mine", key="File", columns=["Age"])


def test_options_that_cannot_be_meant(messy, tmp_path):
    assert parse_columns('"White Cells":wbc Sex:sex{male=M,female=F}')[1].mapping == {"male": "M", "female": "F"}
    for text in ("Age:age:x", "A:b B:b", "Sex:sex{male}", "Sex{"):
        with pytest.raises(SourceDataError, match="columns: "):
            parse_columns(text)
    with pytest.raises(SourceDataError, match="no column 'Wrong' .--key.; it has File, MRN"):
        prepare(messy, tmp_path / "mine", key="Wrong")
    with pytest.raises(SourceDataError, match="which column names the image"):
        prepare(messy, tmp_path / "mine")
    with pytest.raises(SourceDataError, match="no row belongs to any image: column 'Ward' has 'W0'"):
        prepare(messy, tmp_path / "mine", key="Ward")
    without = {key: messy[key] for key in ("annotations", "images")}
    with pytest.raises(SourceDataError, match="--key, --patient, --columns: there is no --table"):
        prepare(without, tmp_path / "mine", **MESSY)
    with pytest.raises(SourceDataError, match="--record-time"):
        OwnOptions(record_time="Drawn")
    for options in ({"bit_depth": 16}, {"folds": 2}, {"image_size": 8}, {"fractions": (0.5, 0.5, 0.5)}):
        with pytest.raises(SourceDataError, match=f"--{next(iter(options)).replace('_', '-')}"):
            WriteOptions(**options)


def test_numbers_with_a_decimal_comma_name_the_option(messy, tmp_path):
    options = {**MESSY, "decimal_comma": False}
    prepare(messy, tmp_path / "mine", **options)
    text = (tmp_path / "mine" / "clinical_schema.yaml").read_text()
    assert "#   lactate: numbers with a decimal comma; prepare again with --decimal-comma" in text


def test_unknown_patients_are_said(messy, tmp_path):
    images, _, report = prepare(messy, tmp_path / "mine", key="File", columns=["Age:age"])
    assert len({i["patient_id"] for i in images.values()}) == 40
    assert any("Patients are not known" in note for note in report["notes"])
    assert any("the sources do not tell whose they are" in text for text in audit_folder(tmp_path / "mine").unchecked)


def test_images_alone_make_a_folder_without_columns(tmp_path):
    entries = [entry for entry in write_images(tmp_path / "scans", 24) if entry["name"].endswith(".png")]
    for path in (tmp_path / "scans").glob("*.dcm"):
        path.unlink()
    files = {"annotations": write_coco(tmp_path / "x.json", entries), "images": tmp_path / "scans"}
    images, _, report = prepare(files, tmp_path / "mine")
    assert len(images) == 12 and all(image["clinical"] == {} for image in images.values())
    assert any("No clinical column" in note for note in report["notes"])
    assert ClinicalSchema.load(tmp_path / "mine" / "clinical_schema.yaml").columns == ()
    assert audit_folder(tmp_path / "mine").problems == []


def test_an_unreadable_image_stops_or_is_counted(messy, tmp_path):
    entries = write_images(tmp_path / "scans", 8)
    (tmp_path / "scans" / "scan_03.png").write_bytes((tmp_path / "scans" / "scan_03.png").read_bytes()[:500])
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "scans" / "more.png")
    files = {"annotations": write_coco(tmp_path / "x.json", entries), "images": tmp_path / "scans"}
    options = {"dicom_columns": ["PatientAge:age"]}
    with pytest.raises(SourceDataError, match="cannot read image .*scan_03.png"):
        prepare(files, tmp_path / "mine", **options)
    images, boxes, report = prepare(files, tmp_path / "mine", "skip", **options)
    assert len(images) == 7 and stage(report, "boxes")["dropped"] == {"its image was dropped": 1}
    assert set(boxes) == set(CLASSES) and not (tmp_path / "mine/images/more.png").exists()


def coco(path, annotations, classes=("mass",), size=(96, 80), **more):
    """Write COCO JSON of scan_01.png and scan_03.png; annotations are (image, box, further keys)."""
    images = [{"id": n, "file_name": f"scan_{n:02d}.png", "width": size[0], "height": size[1]} for n in (1, 3)]
    entries = [{"id": i, "image_id": n, "category_id": 0, "bbox": box, **keys}
               for i, (n, box, keys) in enumerate(annotations)]  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories, **more}))
    return path


def prepared(messy, tmp_path, *paths, on_error="stop", **options):
    prepare_collection(COLLECTION, tmp_path / "out", WriteOptions(fractions=(0.4, 0.3, 0.3)), on_error=on_error,
                       num_workers=1, annotations=paths, images=messy["images"], **options)  # fmt: skip
    images, report = read_prepared(tmp_path / "out")
    return {name: [box["bbox"] for box in image["boxes"]] for name, image in images.items()}, report


def three(tmp_path, annotations, **keys):
    """Write COCO JSON with a third image, as there are three splits."""
    path = coco(tmp_path / "boxes.json", annotations, **keys)
    data = json.loads(path.read_text())
    data["images"].append({"id": 5, "file_name": "scan_05.png", "width": 96, "height": 80})
    path.write_text(json.dumps(data))
    return path


def test_turned_repeated_and_nearly_equal_boxes_of_coco(messy, tmp_path):
    boxes = [(1, [20, 30, 40, 8], {"attributes": {"occluded": False, "rotation": 60.0}}), (3, [10, 10, 20, 20], {}),
             (3, [10.0, 10, 20, 20], {"iscrowd": 0}), (3, [11, 10, 20, 20], {})]  # fmt: skip
    found, report = prepared(messy, tmp_path, three(tmp_path, boxes))
    # 40 cos 60° + 8 sin 60° wide, 40 sin 60° + 8 cos 60° high, about (40, 34)
    assert found["scan_01.png"] == [[26.54, 14.68, 26.93, 38.64]]
    assert found["scan_03.png"] == [[10, 10, 20, 20], [11, 10, 20, 20]] and found["scan_05.png"] == []
    assert stage(report, "boxes")["dropped"] == {"repeats another box": 1}
    notes = " ".join(report["notes"])
    assert "1 turned boxes became the boxes that enclose them." in notes
    assert "1 boxes of 1 images nearly coincide with another one of their class" in notes and "scan_03" not in notes


@pytest.mark.parametrize("keys, count", [
    ({"segmentation": [[11, 12, 31, 12, 31, 28, 11, 28]]}, 2), ({"area": 320}, 2),
    ({"area": 64, "segmentation": []}, 0),
    ({"segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]], "area": 40}, 0), ({"area": 0}, 0), ({}, 0)])  # fmt: skip
def test_boxes_that_contradict_their_mask_or_area_are_said(keys, count, messy, tmp_path):
    _, report = prepared(messy, tmp_path, three(tmp_path, [(1, [2, 2, 8, 8], keys), (3, [2, 2, 8, 8], keys)]))
    said = [note for note in report["notes"] if "disagree with their mask or area" in note]
    assert len(said) == (count > 0) and all("2 of the first 2 boxes of boxes.json" in note for note in said)


def test_fractions_are_asked_for(messy, tmp_path):
    path = three(tmp_path, [(1, [0.25, 0.5, 0.5, 0.25], {}), (3, [0.5, 0.5, 0.5, 0.5], {})])
    with pytest.raises(
        SourceDataError, match=r"(?s)2 problems.*scan_01.png: box .* within the first pixel; .*--box-units"
    ):
        prepared(messy, tmp_path, path)
    found, _ = prepared(messy, tmp_path, path, box_units="fraction")
    assert found["scan_01.png"] == [[24, 40, 48, 20]] and found["scan_03.png"] == [[48, 40, 48, 40]]
    path = three(tmp_path, [(1, [0.25, 0.5, 0.5, 0.25], {}), (3, [10, 10, 20, 20], {})])
    with pytest.raises(SourceDataError, match="scan_03.png: box .* is in pixels; a fraction"):
        prepared(messy, tmp_path, path, box_units="fraction")


def test_an_image_with_unusable_boxes_alone_is_not_healthy(messy, tmp_path):
    data = json.loads(messy["annotations"].read_text())
    kept = [a for a in data["annotations"] if a["image_id"] == 1]
    kept[0]["bbox"] = [10, 10, -5, 5]
    (tmp_path / "x.json").write_text(json.dumps(data))
    _, _, report = prepare({**messy, "annotations": tmp_path / "x.json"}, tmp_path / "mine", "skip", **MESSY)
    assert stage(report, "annotated images")["dropped"] == {"none of its boxes is usable": 1}


def test_two_tasks_on_the_same_images_are_put_together(messy, tmp_path):
    first = three(tmp_path, [(1, [10, 10, 20, 20], {})])
    second = coco(tmp_path / "second.json", [(1, [10, 10, 20, 20], {}), (3, [5, 5, 9, 9], {})], classes=("cyst",))
    found, report = prepared(messy, tmp_path, first, second)
    assert found == {"scan_01.png": [[10, 10, 20, 20]] * 2, "scan_03.png": [[5, 5, 9, 9]], "scan_05.png": []}
    assert stage(report, "annotated images")["in"] == 5 and stage(report, "annotated images")["kept"] == 3
    notes = " ".join(report["notes"])
    assert "2 images are in several annotation files" in notes and "**1 are in one of them only**" in notes
    coco(tmp_path / "second.json", [(3, [5, 5, 9, 9], {})], size=(48, 40))  # which of the sizes is it?
    with pytest.raises(SourceDataError, match="second.json: image scan_01.png: its file .* belongs to boxes.json"):
        prepared(messy, tmp_path, first, tmp_path / "second.json")


def test_an_export_without_annotations_says_so(messy, tmp_path):
    with pytest.raises(SourceDataError, match="boxes.json: 3 images and no box in it; was it exported before"):
        prepared(messy, tmp_path, three(tmp_path, []))


@pytest.mark.parametrize("box", ["[10, 20, 20, 40]", "10 20 20 40", "{10;20;20;40}"])
def test_a_box_in_one_column(box, messy, tmp_path):
    rows = [f'scan_01.png,96,80,"{box}",mass', "scan_03.png,96,80,,", 'scan_05.png,96,80,"[1, 2, 3]",mass']
    (tmp_path / "boxes.csv").write_text("\n".join(["image_id,width,height,bbox,class", *rows]))
    with pytest.raises(SourceDataError, match=r"boxes.csv line 4: bbox '\[1, 2, 3\]': .*: expected four numbers"):
        prepared(messy, tmp_path, tmp_path / "boxes.csv")
    (tmp_path / "boxes.csv").write_text(
        "\n".join(["image_id,width,height,bbox,class", *rows]).replace("2, 3]", "2, 3, 4]")
    )
    found, report = prepared(messy, tmp_path, tmp_path / "boxes.csv")
    assert found == {"scan_01.png": [[10, 20, 20, 40]], "scan_03.png": [], "scan_05.png": [[1, 2, 3, 4]]}
    assert "boxes.csv: 'bbox' is read as x, y, width, height." in report["notes"]


def test_corners_in_the_place_of_a_size_are_said(messy, tmp_path):
    boxes = [(1, [50, 40, 80, 70], {}), (3, [60, 50, 90, 75], {}), (5, [1, 1, 9, 9], {})]
    _, report = prepared(messy, tmp_path, three(tmp_path, boxes))
    assert any("**2 of 3 boxes reach beyond their images**" in note for note in report["notes"])


def test_a_folder_of_a_labeling_tool(messy, tmp_path, capsys):
    (tmp_path / "set/labels").mkdir(parents=True)
    (tmp_path / "set/classes.txt").write_text("nodule\nmass\n")
    for name, text in {"scan_01": "1 0.5 0.5 0.5 0.25", "scan_03": "", "scan_06": "0 0.5 0.5 0.25 0.25"}.items():
        (tmp_path / f"set/labels/{name}.txt").write_text(text)
    command = [
        "own",
        "--annotations",
        str(tmp_path / "set"),
        "--images",
        str(messy["images"]),
        "--out",
        str(tmp_path / "out"),
    ]
    main([*command, "--fractions", "0.4", "0.3", "0.3"])
    images, report = read_prepared(tmp_path / "out")
    assert images["scan_01.png"]["boxes"][0]["bbox"] == [24, 30, 48, 20]
    assert images["scan_06.dcm"]["boxes"][0]["bbox"] == [36, 30, 24, 20] and images["scan_03.png"]["boxes"] == []
    assert "classes: mass 1 boxes, nodule 1 boxes" in capsys.readouterr().out
    assert str(tmp_path) not in (tmp_path / "out/annotations/train.json").read_text() and "scan_01" not in json.dumps(
        report
    )
    main([*command, "--fractions", "0.4", "0.3", "0.3"])
    assert "already up to date" in capsys.readouterr().out
    (tmp_path / "set/classes.txt").write_text("mass\nnodule\n")
    main([*command, "--fractions", "0.4", "0.3", "0.3"])
    assert read_prepared(tmp_path / "out")[0]["scan_01.png"]["boxes"][0]["class"] == "nodule"
