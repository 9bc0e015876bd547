"""The hand-written tree through the whole pipeline, in every layout, and the options."""

from dataclasses import replace

import pytest

from mdf_detectron.cli import audit_dataset
from mdf_detectron.cli.prepare import main
from mdf_detectron.data.audit import audit_folder
from mdf_detectron.errors import SourceDataError
from tests.data.sources.mimic.golden import (
    CASES,
    CLEAN,
    HEIGHT,
    NO_VISIT,
    TOO_LATE,
    WIDTH,
    Case,
    Tree,
    add_eye_tracking,
    dicom,
    reading,
    stay,
    subject,
)
from tests.data.sources.reading_back import prepare_mimic, read_prepared

LAYOUTS = {
    "physionet, gz": lambda tree, root: tree.write_physionet(root, zipped=True),
    "physionet, plain": lambda tree, root: tree.write_physionet(root, zipped=False),
    "physionet, plain, CRLF": lambda tree, root: tree.write_physionet(root, False, newline="\r\n"),
    "mimic-eye": lambda tree, root: tree.write_mimic_eye(root),
    "mimic-eye, older": lambda tree, root: tree.write_mimic_eye(root, older=True),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def prepared(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    source = LAYOUTS[request.param](Tree(), folder / "source")
    assert prepare_mimic(source, folder / "out", keep_unmatched=True)
    return read_prepared(folder / "out")


@pytest.mark.parametrize("index", range(len(CASES)), ids=[c.name for c in CASES])
def test_golden_case(prepared, index):
    images, _ = prepared
    case = CASES[index]
    image = images[reading(index, case)]
    assert image["match"] == case.match
    assert image["stay_id"] == (None if case.stay is None else stay(index, case.stay))
    row = case.expected_row if case.stay is not None else {**dict.fromkeys(CLEAN), "age": case.age, "gender": "F"}
    assert image["clinical"] == row
    boxes = [(a["class"], *a["bbox"]) for a in image["boxes"]]
    assert sorted(boxes) == sorted(case.boxes)
    assert image["patient_id"] == str(subject(index)) and image["dicom_id"] == dicom(index)
    assert (image["width"], image["height"]) == (WIDTH, HEIGHT)


def test_report_counts(prepared):
    _, report = prepared
    flow = {s["stage"]: s for s in report["flow"]}
    assert flow["readings"] == {"stage": "readings", "in": len(CASES), "kept": len(CASES), "dropped": {}}
    assert flow["boxes (ellipse and label)"]["dropped"] == {
        "label not among the classes": 2, "certainty below 3": 1, "without area": 1, "outside the image": 1,
    }  # fmt: skip
    assert flow["ellipses with a label"] == {
        "stage": "ellipses with a label", "in": 11, "kept": 7, "dropped": {"none of its labels became a box": 4}
    }  # fmt: skip
    changed, removed = report["cleaning"]["changed"], report["cleaning"]["removed"]
    assert changed == {
        "temperature": {"°C converted to °F": 1},
        "o2sat": {"101 to 105 read as 100": 1},
        "pain": {"'a-b' read as its mean": 1, "'n/10' read as n": 1},
    }
    assert removed["pain"] == {"empty": 1, "not a number": 1, "outside 0 to 10 0-10": 1}
    assert removed["sbp"] == removed["dbp"] == {"diastolic not below systolic: both removed": 2}
    assert removed["temperature"] == {"outside 80 to 113 °F": 1}
    assert report["changed"] == {"boxes clamped to their image": 2}
    assert report["radiographs_by_match"]["patient without a visit"] == 1
    # what each split's share of it is adds up (every visit but the one that was not chosen)
    for what, column, reason, count in (
        ("changed", "temperature", "°C converted to °F", 1),
        ("changed", "pain", "'n/10' read as n", 1),
        ("removed", "sbp", "diastolic not below systolic: both removed", 2),
    ):
        by_split = [c[what].get(column, {}).get(reason, 0) for c in report["cleaning_by_split"].values()]
        assert sum(by_split) == count
    records = [split["patients"] for split in report["splits"].values()]
    matches = [sum(split.values()) for split in report["records_by_match"].values()]
    assert matches == records and sum(records) == len(CASES)
    held = [split["Pleural abnormality"] for split in report["classes"].values()]
    assert [sum(h[k] for h in held) for k in ("boxes", "records", "patients")] == [3, 3, 3]
    held = [split["Atelectasis"] for split in report["classes"].values()]
    assert [sum(h[k] for h in held) for k in ("boxes", "records", "patients")] == [3, 2, 2]


def stage(report, name):
    return next(s for s in report["flow"] if s["stage"] == name)


def prepare(tmp_path, tree, **choices):
    prepare_mimic(tree.write_physionet(tmp_path / "source"), tmp_path / "out", **choices)
    return read_prepared(tmp_path / "out")


def test_unmatched_radiographs_are_dropped_by_reason_and_the_window_can_be_closed(tmp_path):
    images, report = prepare(tmp_path, Tree(), stay_window_days=0)
    dropped = next(s["dropped"] for s in report["flow"] if s["stage"] == "readings")
    unmatched = [c for c in CASES if c.match not in ("inside a visit", "inside several visits, the latest taken")]
    assert sum(dropped.values()) == len(unmatched)
    assert dropped["only visits without a departure time"] == 2
    assert len(images) == len(CASES) - len(unmatched)


def two_readers():
    cases = [Case(f"c{k}", ellipses=["10,20,110,220,4:Atelectasis"]) for k in range(6)]
    tree = Tree(cases)
    for index in (0, 1):
        tree.add_reading(index, replace(cases[index], ellipses=["50,60,150,260,5:Consolidation"]), reader=1)
    return tree


def test_two_readers_are_two_records_or_one(tmp_path):
    by_reading, _ = prepare(tmp_path / "a", two_readers())
    assert len(by_reading) == 8
    assert by_reading["P301R000000"]["split"] == by_reading["P302R000000"]["split"]
    by_image, report = prepare(tmp_path / "b", two_readers(), records="image")
    assert len(by_image) == 6
    joined = by_image["P301R000000 P302R000000"]
    assert [a["class"] for a in joined["boxes"]] == ["Atelectasis", "Consolidation"]
    assert stage(report, "records")["dropped"] == {"joined with the image's first": 2}


def test_patient_with_several_radiographs_is_in_one_split(tmp_path):
    tree = Tree([Case(f"c{k}") for k in range(8)])
    tree.images[2:5] = [line.replace(str(subject(k)), str(subject(0))) for k, line in enumerate(tree.images[2:5], 1)]
    for k in range(1, 4):
        tree.readings[3][k + 1] = tree.readings[3][k + 1].replace(str(subject(k)), str(subject(0)))
    source = tree.write_physionet(tmp_path / "source")
    for k in range(1, 4):  # their files lie in the first patient's folder
        old = source / f"mimic-cxr-jpg/2.0.0/files/p90/p{subject(k)}/s{5000 + k}"
        old.rename(source / f"mimic-cxr-jpg/2.0.0/files/p90/p{subject(0)}/s{5000 + k}")
    prepare_mimic(source, tmp_path / "out")
    images, _ = read_prepared(tmp_path / "out")
    own = [image for image in images.values() if image["patient_id"] == str(subject(0))]
    assert len(own) == 4 and len({image["split"] for image in own}) == 1


def test_discarded_and_lateral_readings(tmp_path):
    tree = Tree([Case("d", discarded="True"), Case("l", view="LATERAL"), Case("u", view=""),
                 *(Case(f"c{k}") for k in range(4))])  # fmt: skip
    images, report = prepare(tmp_path / "a", tree, drop_discarded=True)
    assert len(images) == 4
    assert stage(report, "readings")["dropped"] == {"eye tracking discarded": 1, "view LATERAL": 1, "view unknown": 1}
    assert len(prepare(tmp_path / "b", tree, view="all")[0]) == 7


def audit(folder, monkeypatch, capsys):
    """Exit status and output of the tool."""
    return audit_dataset.main([str(folder)]), capsys.readouterr().out


ECS, ATL, CON, PLE = "Enlarged cardiac silhouette", "Atelectasis", "Consolidation", "Pleural abnormality"
ONE = {"protocol": "paper", "classes": [ATL]}


def test_paper_protocol_leaks_and_says_so(tmp_path, monkeypatch, capsys):
    cases = [Case(f"c{k}", ellipses=["10,20,110,220,1:Atelectasis"]) for k in range(12)]
    tree = Tree(cases)
    for index, case in enumerate(cases):
        tree.add_reading(index, case, reader=1)
    images, report = prepare(tmp_path, tree, **ONE)
    assert all(len(i["boxes"]) == 1 for i in images.values())  # certainty above 0
    assert "authors' protocol" in report["notes"][0] and "exactly one visit" in report["notes"][1]
    assert all(leak in report["notes"][2] for leak in ("readings are split one by one", "patient with several images"))
    sides = {}
    for image in images.values():
        sides.setdefault(image["dicom_id"], set()).add(image["split"])
    shared = {name for name, splits in sides.items() if len(splits) > 1}
    findings = {f.kind: [g.message for g in audit_folder(tmp_path / "out").problems if g.kind == f.kind]
                for f in audit_folder(tmp_path / "out").problems}  # fmt: skip
    assert set(findings) == {"patient in several splits", "image in several splits"} and shared
    assert len(findings["image in several splits"]) == len(shared)
    status, text = audit(tmp_path / "out", monkeypatch, capsys)
    assert status == 1 and all(f"image {name}.jpg is in " in text for name in shared)
    prepare(tmp_path / "patient", tree)
    assert audit(tmp_path / "patient" / "out", monkeypatch, capsys)[0] == 0


def test_the_papers_cohort_by_hand(tmp_path):
    """Inside one visit, not discarded, the first label in the authors' order as a rectangle; steps and values told."""
    after, twice = CASES[6], CASES[3]  # taken at the departure; inside two visits
    several = "10,20,110,220,1:Consolidation+Enlarged cardiac silhouette+Atelectasis"
    tree = Tree([Case("first", ellipses=[several], triage={"temperature": "37.0", "o2sat": "103", "pain": "8/10"}),
                 *(Case(f"a{k}", ellipses=["30,40,80,90,2:Atelectasis+Consolidation"]) for k in range(4)),
                 Case("c", ellipses=["30,40,80,90,5:Consolidation", "1,2,31,42,5:Groundglass opacity+Consolidation"]),
                 Case("healthy"), Case("no eyes", discarded="True"), after, twice,
                 Case("nobody", visits=[])])  # fmt: skip
    images, report = prepare(tmp_path, tree, protocol="paper", classes=[ECS, ATL, CON], raw_values=True)
    first = images["P301R000000"]
    assert [(b["class"], b["bbox"], b["certainty"]) for b in first["boxes"]] == [(ECS, [10, 20, 100, 200], 1)]
    assert first["boxes"][0]["segmentation"] == [[10, 20, 110, 20, 110, 220, 10, 220]]
    assert (first["clinical"]["temperature"], first["clinical"]["o2sat"], first["clinical"]["pain"]) == (37, 103, None)
    assert [[b["class"] for b in i["boxes"]] for i in images.values()].count([ATL]) == 4 and len(images) == 7
    assert [b["class"] for b in images["P301R000005"]["boxes"]] == [CON, CON]
    (steps,) = [t["rows"] for t in report["tables"] if "step by step" in t["title"]]
    assert steps == [
        ["readings of the metadata", 11, 3052], ["minus: eye tracking discarded", 10, ""],
        [f"minus: {TOO_LATE}", 9, ""], [f"minus: {NO_VISIT}", 8, ""],
        ["minus: inside several visits", 7, ""], ["readings that are left", 7, 670],
        ["images that are left", 7, 590], ["patients that are left", 7, 540],
        [f"boxes of {ECS}", 1, 154], [f"boxes of {ATL}", 4, 143], [f"boxes of {CON}", 2, 112],
    ]  # fmt: skip
    assert stage(report, "boxes (ellipse and label)")["dropped"] == {
        "not the first label of its ellipse": 6, "label not among the classes": 1
    }  # fmt: skip
    assert "as they were written" in report["notes"][1]
    with pytest.raises(SourceDataError, match=f"^no box of class '{PLE}' in the 7 readings that are left"):
        prepare(tmp_path / "absent", tree, protocol="paper", classes=[ECS, PLE])


def split_file(path, rows, header="reading_id,age,split"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return {"splits": str(path)}


def test_a_file_of_splits_names_the_cohort(tmp_path):
    """One image's two readings are in two splits only where that is said; a reading that it lacks is dropped."""
    tree, rows = two_readers(), [f"P301R{k:06},5,{s}" for k, s in enumerate(["train", "Train", "val", "test", "train"])]
    images, report = prepare(tmp_path, tree, **split_file(tmp_path / "s.csv", rows))
    assert [images[f"P301R{k:06}"]["split"] for k in range(5)] == ["train", "train", "val", "test", "train"]
    assert stage(report, "annotated images")["dropped"] == {"not in the file of --splits": 3}
    shared = split_file(tmp_path / "s.csv", [*rows, "P302R000000,5,test"])
    message = "P302R000000 of image .*: patient '90000001' is in train and in test; put all .*--allow-shared-patients"
    with pytest.raises(SourceDataError, match=message) as error:
        prepare(tmp_path / "a", tree, **shared)
    assert "\n" not in str(error.value)
    images, report = prepare(tmp_path / "b", tree, **shared, allow_shared_patients=True, **ONE)
    assert {images[f"P30{k}R000000"]["split"] for k in (1, 2)} == {"train", "test"}
    assert "1 of 5 patients are in several splits" in report["notes"][-1] and "Splits: s.csv" in report["notes"][2]
    by_image = [f"{dicom(k)},{s}" for k, s in enumerate(["train", "train", "val", "test", "train", "train"])]
    images, _ = prepare(tmp_path / "c", tree, **split_file(tmp_path / "s.csv", by_image, "dicom_id,split"))
    assert len(images) == 8 and images["P302R000000"]["split"] == "train"


@pytest.mark.parametrize("rows, header, message", [
    (["P301R000009,5,train"], None, r"s.csv line 7: reading_id 'P301R000009' is not among the 8 entries that are left"),
    (["P301R000000,5,test"], None, "s.csv line 7: reading_id 'P301R000000' is in test and in train; name one"),
    (["P301R000005,5,both"], None, "s.csv line 7: reading_id 'P301R000005' has split 'both'; expected train, val or"),
    ([], "reading,age,split", "s.csv: it has reading, age, split; name the column of readings or images one of"),
    ([], "reading_id,age,fold", r"s.csv: no column 'split' \(--splits\); it has reading_id, age, fold"),
])  # fmt: skip
def test_a_file_of_splits_that_is_wrong_is_one_line(tmp_path, rows, header, message):
    good = [f"P301R{k:06},5,{s}" for k, s in enumerate(["train", "train", "val", "test", "train"])]
    with pytest.raises(SourceDataError, match=message) as error:
        prepare(tmp_path, two_readers(), **split_file(tmp_path / "s.csv", good + rows, *([header] if header else [])))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", ["physionet, gz", "mimic-eye", "mimic-eye, older"])
def test_eye_tracking_files_change_nothing(tmp_path, layout):
    tree = Tree([Case(f"c{k}", ellipses=["10,20,110,220,4:Atelectasis"]) for k in range(4)])
    without = LAYOUTS[layout](tree, tmp_path / "source")
    prepare_mimic(without, tmp_path / "without")
    assert add_eye_tracking(tmp_path / "source") >= 8
    prepare_mimic(tmp_path / "source", tmp_path / "with")
    assert read_prepared(tmp_path / "with")[0] == read_prepared(tmp_path / "without")[0]
    assert (tmp_path / "with/report.md").read_text() == (tmp_path / "without/report.md").read_text()


def test_folds_are_prepared_folders_and_cover_every_patient_once(tmp_path):
    tree = Tree([Case(f"c{k}", ellipses=["100,120,200,260,5:Consolidation"]) for k in range(9)])
    prepare(tmp_path, tree, folds=3)
    tested = [i["patient_id"] for k in range(3)
              for i in read_prepared(tmp_path / f"out/fold_{k}")[0].values() if i["split"] == "test"]  # fmt: skip
    assert sorted(tested) == sorted(str(subject(k)) for k in range(9))
    assert audit_folder(tmp_path / "out").problems == []


def test_command_line_end_to_end(tmp_path, capsys):
    source, out = Tree([Case(f"c{k}") for k in range(5)]).write_mimic_eye(tmp_path / "eye"), tmp_path / "out"
    words = ["mimic-eye", "--mimic-eye", str(source), "--out", str(out), "--num-workers", "1"]
    main(words)
    assert "written" in capsys.readouterr().out and (out / "report.md").is_file()
    main(words)
    assert "already up to date" in capsys.readouterr().out
    with pytest.raises(SourceDataError, match="--triage goes with --physionet"):
        main([*words, "--triage", "t.csv"])
    (source / "spreadsheets/cxr_meta.csv").unlink()
    with pytest.raises(SourceDataError, match="no .*cxr_meta.csv"):
        main(words)
