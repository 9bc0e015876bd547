"""``mdf predict``: equal to the evaluator's predictions, resumable, and one bad study does not lose the others."""

import csv
import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from dicom_files import radiograph, save
from PIL import Image

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, Checkpoint
from mdf_detectron.cli import publish, train
from mdf_detectron.cli.predict import main
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.readers import OpenImage
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema, TableRecipe
from mdf_detectron.data.study_records import dicom_record, dicom_tags, table_records
from mdf_detectron.errors import CheckpointError, DatasetError, SourceDataError, UserError
from mdf_detectron.evaluation.coco import Detections, GroundTruth


@pytest.fixture
def weights(tiny_run):
    return tiny_run / "model_final.pth"


@pytest.fixture
def images(tiny_folder, tmp_path):
    """A folder of the four test images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((tiny_folder / "images").glob("test_*.png")):
        shutil.copy(path, folder)
    return folder


def read(path):
    return json.loads(path.read_text())


def predict(weights, *words):
    main(["--weights", str(weights), "--device", "cpu", *map(str, words)])


def test_coco_results_equal_those_of_eval_only_and_can_be_scored(weights, tiny_folder, tmp_path):
    """To the last digit, from one file each: the published model, and --eval-only in a run of its own."""
    published = tmp_path / "model.pth"
    publish.main(["--weights", str(weights), "--out", str(published), "--no-data"])
    register_prepared_folder(tiny_folder, "tiny_cxr")
    (tmp_path / "config.yaml").write_text(Checkpoint.open(weights).data[CONFIG_KEY])
    words = ["--config-file", str(tmp_path / "config.yaml"), "--eval-only", "OUTPUT_DIR", str(tmp_path / "evaluated")]
    train.main([*words, "MODEL.WEIGHTS", str(weights)])
    kept = (tmp_path / "evaluated" / "config.yaml").read_bytes()
    with pytest.raises(CheckpointError, match="no checkpoint at nope.pth; give a .pth file"):
        train.main([*words, "MODEL.WEIGHTS", "nope.pth"])
    assert (tmp_path / "evaluated" / "config.yaml").read_bytes() == kept
    predict(published, "--images", tiny_folder / "images", "--annotations", tiny_folder / "annotations" / "test.json",
            "--out", tmp_path / "out", "--format", "coco")  # fmt: skip
    expected = read(tmp_path / "evaluated" / "inference" / "tiny_cxr_test" / "coco_instances_results.json")
    assert len(expected) > 4 and read(tmp_path / "out" / "coco_instances_results.json") == expected
    ground_truth = GroundTruth.load(tiny_folder / "annotations" / "test.json")
    assert len(Detections.load(tmp_path / "out" / "coco_instances_results.json", ground_truth)) == len(expected)


def test_every_format_says_the_same(weights, images, tmp_path, capsys):
    predict(weights, "--images", images, "--record", "age=43", "gender=F", "--out", tmp_path / "out",
            "--format", "json", "csv", "coco", "png", "--threshold", "0.2")  # fmt: skip
    out = tmp_path / "out"
    findings = read(out / "findings.json")
    assert [one["image"] for one in findings] == [str(images / f"test_{i}.png") for i in range(4)]
    for one in findings:
        assert set(one) >= {"image", "width", "height", "record", "missing", "findings"}
        assert one["record"] == {"age": 43.0, "temperature": None, "gender": "F"} and one["missing"] == ["temperature"]
        assert all(f["above_threshold"] == (f["score"] >= 0.2) for f in one["findings"])
    flat = [(one["image"], f["class"], f["score"]) for one in findings for f in one["findings"]]
    rows = list(csv.DictReader((out / "findings.csv").open()))
    assert [(r["image"], r["class"], float(r["score"])) for r in rows] == flat
    coco, files = read(out / "coco_instances_results.json"), read(out / "coco_images.json")
    names = {c["id"]: c["name"] for c in files["categories"]}
    paths = {i["id"]: i["file_name"] for i in files["images"]}
    assert [(paths[r["image_id"]], names[r["category_id"]], r["score"]) for r in coco] == flat
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == 4 and np.asarray(Image.open(pictures[0])).std() > 10
    above = [sum(f["above_threshold"] for f in one["findings"]) for one in findings]
    said = capsys.readouterr().out
    assert f"findings above the threshold: {sum(above)}; {above.count(0)} image(s) have none" in said
    assert "4 image(s) predicted" in said
    predict(weights, "--images", images, "--out", tmp_path / "none", "--threshold", "1")
    assert "findings above the threshold: 0; 4 image(s) have none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "folders", "error"),
    [
        (("a/7.png", "b/7.png"), ("",), ""),
        (("a/7.png", "b/7.png"), ("b", "a"), ""),
        (("c/7.png", "8"), ("",), "no row belongs to any image"),
        (("7.png", "8"), ("",), "7"),
    ],
)
def test_keys_are_paths_and_some_must_fit(weights, images, tmp_path, keys, folders, error):
    for number, name in enumerate("ab"):
        (images / name).mkdir()
        shutil.move(images / f"test_{number}.png", images / name / "7.png")
    table, out = tmp_path / "table.csv", tmp_path / "out"
    rows = "".join(f"{key};{age};98;F\n" for key, age in zip(keys, (43, 45), strict=True))
    table.write_text("image;age;temperature;gender\n" + rows)
    with pytest.raises(UserError, match=error) if error else nullcontext():
        predict(weights, "--images", *(images / one for one in folders), "--records", table, "--key", "image",
                "--out", out)  # fmt: skip
    assert out.exists() != ("no row" in error)
    if not error:
        ages = {one["image"]: one["record"]["age"] for one in read(out / "findings.json")}
        assert [ages[str(images / name / "7.png")] for name in ("a", "b")] == [43, 45]


def test_records_by_key_and_what_goes_wrong_is_counted(weights, images, tmp_path, capsys):
    (images / "broken.png").write_bytes((images / "test_0.png").read_bytes()[:200])
    (images / "notes.doc").write_text("no image")
    rows = ["image,years,temperature,gender,ward", "test_0,40,98.6,F,a", "test_1.png,41,,M,b", "test_2,42,37,F,c",
            "test_3,43,98.6,M,d", "test_3,44,98.6,M,d", "ghost,50,98,F,e"]  # fmt: skip
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    options = ("--images", images, "--records", table, "--key", "image", "--columns", "age=years",
               "--out", tmp_path / "o")  # fmt: skip
    with pytest.raises(DatasetError, match=r"unknown clinical column.*ward"):
        predict(weights, *options)
    with pytest.raises(UserError, match="3 image"):
        predict(weights, *options, "--ignore-columns", "ward")
    said = capsys.readouterr().out
    assert "1 file(s) in the folders are no images" in said and "3 row(s) of" in said and "1 image(s) have no" in said
    errors = {e["image"].split("/")[-1]: e["error"] for e in read(tmp_path / "o" / "errors.json")}
    assert set(errors) == {"broken.png", "test_2.png", "test_3.png"}
    assert "table.csv line 4: column 'temperature' is '37': outside 80 to 113 °F" in errors["test_2.png"]
    assert "line 5, table.csv line 6: several rows of one image" in errors["test_3.png"]
    good = read(tmp_path / "o" / "findings.json")
    assert [one["record"]["age"] for one in good] == [40, 41]


def test_a_run_goes_on_where_it_stopped(weights, images, tmp_path, capsys, caplog):
    options = ("--images", images, "--out", tmp_path / "o", "--record", "age=43")
    predict(weights, *options)
    whole = (tmp_path / "o" / "findings.json").read_bytes()
    progress = tmp_path / "o" / "progress.jsonl"
    lines = progress.read_text().splitlines()
    progress.write_text("\n".join(lines[:3]) + "\n" + lines[3][: len(lines[3]) // 2])  # killed while it wrote
    capsys.readouterr()
    predict(weights, *options)
    assert "2 image(s) predicted, 2 were there already" in capsys.readouterr().out
    assert (tmp_path / "o" / "findings.json").read_bytes() == whole
    progress.write_text(progress.read_text().replace('"score": 0.', '"score": 0.0', 1))  # damaged, still JSON
    predict(weights, *options)
    assert "1 image(s) predicted, 3 were there already" in capsys.readouterr().out
    assert "1 damaged line(s); these images are predicted again" in caplog.text
    assert (tmp_path / "o" / "findings.json").read_bytes() == whole
    progress.write_text("x" + progress.read_text())
    predict(weights, *options)
    assert "4 image(s) predicted, 0 were there already" in capsys.readouterr().out
    assert "or is damaged; its 4 image(s) are predicted again" in caplog.text
    Image.fromarray(np.full((80, 96), 90, np.uint8)).save(images / "test_1.png")  # another image of the same name
    predict(weights, *options)
    assert "1 image(s) predicted, 3 were there already" in capsys.readouterr().out
    for changed in (("--record", "age=44"), ("--threshold", "0.9")):
        predict(weights, *options, *changed)
        assert "4 image(s) predicted, 0 were there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--record", "Age=43"), "unknown clinical column"),
        (("--record", "age"), "expected NAME=VALUE"),
        (("--record", "age=1", "age=2"), "given twice"),
        (("--record", "age=500"), "'500': outside 0 to 120"),
        (("--record", "temperature=98,1"), "'98,1': a decimal comma"),
        (("--dicom-record",), "no column from DICOM tags; write COLUMN=TAG"),
        (("--dicom-record", "age=PatientAge", "sex=PatientSex"), "unknown clinical column"),
        (("--annotations", "absent.json"), "absent.json"),
        (("--annotations", "nameless.json"), "image 1 has no file_name"),
    ],
)
def test_mistakes_are_told_before_anything_is_predicted(weights, images, tmp_path, words, message):
    (tmp_path / "nameless.json").write_text('{"images": [{"id": 1}]}')
    words = [tmp_path / word if word == "nameless.json" else word for word in words]
    with pytest.raises(UserError, match=message):
        predict(weights, "--images", images, "--out", tmp_path / "o", *words)
    assert not (tmp_path / "o" / "findings.json").exists()


def test_dicom_images_and_records_from_their_tags(weights, images, tmp_path):
    folder = tmp_path / "dicom"
    folder.mkdir()
    pixels = np.asarray(Image.open(images / "test_2.png"))
    save(
        radiograph(pixels, 8, PatientAge="043Y", PatientSex="F", AccessionNumber="77", Modality="DX"), folder / "a.dcm"
    )
    save(radiograph(pixels, 8, PatientAge="006M", PatientSex="", AccessionNumber="78", Modality="CT"), folder / "b.dcm")
    tags = ("--dicom-record", "age=PatientAge", "gender=PatientSex")
    with pytest.raises(UserError, match=r"1 image.*modality CT.*--force"):
        predict(weights, "--images", folder, "--out", tmp_path / "o", *tags)
    predict(weights, "--images", folder, "--out", tmp_path / "o", "--force", *tags)
    first, second = read(tmp_path / "o" / "findings.json")
    assert first["record"] == {"age": 43.0, "temperature": None, "gender": "F"}
    assert second["record"]["gender"] is None and second["record"]["age"] == pytest.approx(0.5, abs=0.001)
    assert any("modality CT" in note for note in second["notes"])
    schema = ClinicalSchema((ClinicalColumn("age", "numeric", source="dicom:PatientAge"),))
    with OpenImage(folder / "a.dcm") as image:
        assert dicom_record(image, dicom_tags({}, schema), schema).values == {"age": 43.0}
    (tmp_path / "t.csv").write_text("acc,age\n77,41\n78,42\n")
    by_tag = ("--images", folder, "--out", tmp_path / "o", "--records", tmp_path / "t.csv")
    predict(weights, *by_tag, "--key", "acc=AccessionNumber", "--force")
    assert [one["record"]["age"] for one in read(tmp_path / "o" / "findings.json")] == [41, 42]


def found(path, names, schema, **options):
    """Return the records of images of these names, and what is said."""
    records, said = table_records(path, [path.parent / name for name in names], path.parent, schema, **options)
    return [one.values or one.error for one in records], said


def test_a_table_is_checked(tmp_path):
    schema = ClinicalSchema((ClinicalColumn("age", "numeric"),))
    path = tmp_path / "t.csv"
    for text, message in (
        ("id,age\n1,2\n1,2,3\n", "line 3: 3 values"),
        ("name,age\n1,2\n", r"no column 'id' \(--key\)"),
        ("id,Age\n1,2\n", "unknown clinical column"),
        ("id,age\n1,2\n,3\n", "line 3: column 'id' is ''; every row needs its key"),
        ("id,age\n7,2\n", "no row belongs to any image: column 'id' has '7', the images' stem '1'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            found(path, ["1.png"], schema, key="id")
    with pytest.raises(SourceDataError, match="which column names the image of a row"):
        found(path, ["1.png"], schema)
    path.write_text("id,age,years\n1,2,3\n")
    with pytest.raises(DatasetError, match=r"unknown clinical column.s. .'age'"):
        found(path, ["1.png"], schema, key="id", columns={"age": "years"})
    path.write_text("id,age\n7, 60 \n8,abc\n")
    records, said = found(path, ["7.png", "x.png", "8.png"], schema, key="id")
    assert records == [{"age": 60}, "", {"age": None}] and said == ["1 image(s) have no record: no row of the table"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".parquet"])
def test_tables_of_every_kind_that_prepare_reads(tmp_path, suffix):
    for package in {".xlsx": ["openpyxl"], ".parquet": ["pyarrow"]}.get(suffix, []):
        pytest.importorskip(package)
    frame = pd.DataFrame({"scan": [7, 8, 8], "Alter": [60.5, None, None]})
    path = tmp_path / f"t{suffix}"
    writers = {".xlsx": frame.to_excel, ".parquet": frame.to_parquet}
    options = {".csv": {"sep": ";"}, ".tsv": {"sep": "\t"}}.get(suffix, {})
    writers.get(suffix, frame.to_csv)(path, index=False, **options)
    schema = ClinicalSchema((ClinicalColumn("age", "numeric"),))
    records, _ = found(path, ["7.png", "8.png"], schema, key="scan", columns={"age": "Alter"})  # 8 is there twice
    assert records == [{"age": 60.5}, {"age": None}]
    if suffix == ".xlsx":  # another year's only sheet
        frame.to_excel(path, sheet_name="2024", index=False)
        schema = replace(schema, table=TableRecipe("scan", sheet="2023"))
        records, said = found(path, ["7.png", "8.png"], schema, columns={"age": "Alter"})
        assert records[0] == {"age": 60.5} and said[0] == "t.xlsx: no sheet 2023; its only one, 2024, is read."
        with pd.ExcelWriter(path) as book:
            for name in ("jan", "feb"):
                frame.to_excel(book, sheet_name=name, index=False)
        expected = r"which sheet of jan, feb\? Save it as a .csv(?!.*--)"
        with pytest.raises(SourceDataError, match=expected):
            found(path, ["7.png", "8.png"], replace(schema, table=TableRecipe("scan")), columns={"age": "Alter"})


TABLE = TableRecipe("Bild", None, "Aufnahme", "Abnahme", "%d.%m.%Y", decimal_comma=True, encoding="cp1252")
RECIPE = ClinicalSchema((
    ClinicalColumn("age", "numeric", "years", 0, 120, source="Alter"),
    ClinicalColumn("crp", "numeric", "mg/l", 0, 1000, source="CRP [mg/l]", missing=(-9,)),
    ClinicalColumn("sex", "categorical", vocabulary=("F", "M"), mapping={"weibl.": "F"}),
), table=TABLE)  # fmt: skip


def test_a_table_of_new_patients_is_read_as_that_of_training(tmp_path):
    """Names, spellings, units, marks, codes and times by the recipe; columns that training did not have are ignored."""
    rows = ["Bild;Alter;CRP [mg/l];sex;Station;Aufnahme;Abnahme", "a/1;> 89;12,5 mg/l;weibl.;Süd;02.03.2021;01.03.2021",
            "a/1;88;7,5;M;Süd;02.03.2021;28.02.2021", "b/1;061Y;-9;x;West;02.03.2021;01.03.2021",
            "b/2;40;1.200,5;m;Ost;02.03.2021;01.03.2021", "b/3;41;2;f;Ost;02.03.2021;05.03.2021"]  # fmt: skip
    path, names = tmp_path / "neu.csv", ["a/1.png", "b/1.png", "b/2.png", "b/3.png"]
    path.write_text("\n".join(rows), encoding="cp1252")
    schema = ClinicalSchema.from_dict(RECIPE.to_dict())  # as a checkpoint holds it
    records, said = found(path, names, schema)
    assert (
        schema == RECIPE
        and records[0] == {"age": 89, "crp": 12.5, "sex": "F"}
        and records[1] == {"age": 61, "crp": None, "sex": None}
    )
    assert "neu.csv line 5: column 'crp' is '1.200,5': outside 0 to 1000 mg/l; correct the value" in records[2]
    assert records[3] == "" and "1 image(s) have no record: record later than its image" in said
    one = table_records(path, [tmp_path / "b" / "1.png"], tmp_path, RECIPE)[0][0]
    assert one.notes == ["column 'sex' is 'x': not in the vocabulary; it is missing to the model"]
    # what is wrong is said without options that mdf predict does not have
    points = ClinicalSchema(RECIPE.columns, table=TableRecipe("Bild", None, "Aufnahme", "Abnahme"))
    header, row = rows[0], "a/1;40;12,5;F;Süd;2021-03-02;2021-03-01"
    for schema, text, message in (
        (points, f"{header}\n{row}", "a decimal comma, and it is read as the training table was .key Bild, time Auf"),
        (points, f"{header}\n{row.replace('2021-03-02', '02.03.2021')}", "expected ISO 8601, as 2019-05-31 14:05, and"),
        (RECIPE, f"{header.replace('Aufnahme', 'x')}\n{row}", "no column 'Aufnahme' .as the training table had."),
        (
            replace(points, table=TableRecipe("Bild")),
            f"{header}\n{row}\n{row}X",
            "that differ; keep one, and it is read",
        ),
        (points, f"{header}\n{row}".encode("cp1252"), "not a text in UTF-8 .*; save it again as UTF-8, and it is read"),
    ):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            one = table_records(path, [tmp_path / "a" / "1.png"], tmp_path, schema)[0][0]
            said = f"{one.error} {one.notes}"
        except UserError as error:
            said = str(error)
        assert re.search(message, said) and not re.search("--(?!key|columns|ignore-columns)", said)
    rows = ["Bild;age;CRP;sex", "a/1;30;1;f"]
    path.write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"no column 'CRP .mg/l.' .*--columns crp=COLUMN, or .*--ignore-columns crp"):
        found(path, names, RECIPE)
    records, said = found(path, names, RECIPE, columns={"crp": "CRP"})
    assert records[0] == {"age": 30, "crp": 1, "sex": "F"} and "no column Abnahme: times" in said[0]
    assert found(path, names, RECIPE, ignored=["crp"])[0][0] == {"age": 30, "sex": "F"}
