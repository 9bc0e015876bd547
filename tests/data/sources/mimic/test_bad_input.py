"""Broken sources: one message with file, row and value; with ``on_error="skip"`` left out, counted and listed."""

import re

import pytest
from PIL import Image

from mdf_detectron.data.pseudonyms import Privacy
from mdf_detectron.data.sources.mimic.layout import mimic_eye_files
from mdf_detectron.errors import SourceDataError
from tests.data.sources.mimic.golden import Case, Tree, dicom, stay, subject
from tests.data.sources.reading_back import prepare_mimic, read_prepared

PATHS = {
    "patients": "mimiciv/2.2/hosp/patients.csv.gz",
    "edstays": "mimic-iv-ed/2.2/ed/edstays.csv.gz",
    "triage": "mimic-iv-ed/2.2/ed/triage.csv.gz",
    "images": "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-metadata.csv.gz",
    "readings": "reflacx-xray-localization/1.0.0/main_data/metadata_phase_3.csv",
}
FIRST = "P301R000000"
ELLIPSE = "10,20,110,220,4:Atelectasis"


def make_tree(count=6):
    return Tree([Case(f"c{k}", ellipses=[ELLIPSE]) for k in range(count)])


def lines_of(tree, table):
    return tree.readings[3] if table == "readings" else getattr(tree, table)


def replaced(table, old, new, line=1):
    """Damage: text of one line (the header is line 0)."""

    def damage(tree):
        lines = lines_of(tree, table)
        assert old in lines[line]
        lines[line] = lines[line].replace(old, new, 1)

    return damage


def doubled(table):
    return lambda tree: lines_of(tree, table).append(lines_of(tree, table)[1])


def ellipse_line(text):
    def damage(tree):
        tree.ellipses[FIRST] += text + "\n"

    return damage


def ellipse_text(old, new):
    def damage(tree):
        tree.ellipses[FIRST] = tree.ellipses[FIRST].replace(old, new)

    return damage


def triage_of(stay_id, owner):
    def damage(tree):
        tree.triage.append(tree.triage[1].replace(str(stay(0, 0)), stay_id).replace(str(subject(0)), owner))

    return damage


ROWS_OF = {"patients": "rows of the table of patients", "edstays": "rows of the table of visits",
           "triage": "rows of the table of triage", "images": "rows of the table of images",
           "readings": "rows of the readers' metadata", "ellipses": "rows of the ellipse files"}  # fmt: skip
VITALS = ",98.4,80,16,97,120,70,3,2,"
# what is damaged, table that loses a row, kind, message after the file's name
ROWS = {
    "patient twice": (lambda tree: tree.patients.append(tree.patients[1].replace(",F,", ",M,")), "patients",
                      "duplicated subject_id", "line 8: subject_id 90000001; exp"),
    "visit twice": (doubled("edstays"), "edstays", "duplicated stay_id", "line 8: stay_id 93000000; exp"),
    "triage twice": (doubled("triage"), "triage", "duplicated stay_id", "line 8: stay_id 93000000; exp"),
    "image twice": (doubled("images"), "images", "duplicated dicom_id", "line 8: dicom_id '00000000-0-0-0-0'; exp"),
    "reading twice": (doubled("readings"), "readings", "duplicated reading", "line 8: id 'P301R000000' occurs a"),
    "subject": (replaced("patients", "90000001", "9000x001"), "patients", "unusable subject_id",
                "line 2: subject_id '9000x001'; expected a whole number"),
    "negative age": (replaced("patients", ",60,", ",-1,"), "patients", "unusable anchor_age",
                     "line 2: anchor_age -1.0; expected a number from 0 on, or nothing"),
    "infinite subject": (replaced("patients", "90000001", "inf"), "patients", "unusable subject_id",
                         "line 2: subject_id 'inf'; expected a whole number"),
    "huge subject": (replaced("patients", "90000001", "1e300"), "patients", "unusable subject_id",
                     "line 2: subject_id '1e300'; expected a whole number"),
    "fraction of a day": (replaced("images", "21500110", "21500110.5"), "images", "unparsable time",
                          "line 2: StudyDate '21500110.5', StudyTime '100000.0'; expected yyyymmdd"),
    "infinite day": (replaced("images", "21500110", "inf"), "images", "unparsable time",
                     "line 2: StudyDate 'inf', StudyTime '100000.0'; expected yyyymmdd"),
    "time of another form": (replaced("edstays", "2150-01-10 08:00:00", "2150-01-10T08:00"), "edstays",
                             "unparsable time", "line 2: intime '2150-01-10T08:00'; expected YYYY"),
    "anchor_age": (replaced("patients", ",60,", ",old,"), "patients", "unusable anchor_age",
                   "line 2: anchor_age 'old'; expected a number or nothing"),
    "gender": (replaced("patients", ",F,", ",female,"), "patients", "unusable gender",
               "line 2: gender 'female'; expected 'F', 'M' or nothing"),
    "intime": (replaced("edstays", "2150-01-10 08", "2150-13-10 08"), "edstays", "unparsable time",
               "line 2: intime '2150-13-10 08:00:00'; expected YYYY-MM-DD HH:MM:SS"),
    "intime empty": (replaced("edstays", "2150-01-10 08:00:00", ""), "edstays", "unparsable time",
                     "line 2: intime ''; expected YYYY-MM-DD HH:MM:SS"),
    "outtime": (replaced("edstays", "2150-01-10 12:00:00", "noon", line=3), "edstays", "unparsable time",
                "line 4: outtime 'noon'; expected YYYY-MM-DD HH:MM:SS"),
    "stay_id": (replaced("triage", "93000000", "9300.5"), "triage", "unusable stay_id",
                "line 2: stay_id '9300.5'; expected a whole number"),
    "StudyDate": (replaced("images", "21500110", "21500230"), "images", "unparsable time",
                  "line 2: StudyDate '21500230', StudyTime '100000.0'; expected yyyymmdd and hhmmss.fff"),
    "StudyTime": (replaced("images", "100000.0", "10:00"), "images", "unparsable time",
                  "line 2: StudyDate '21500110', StudyTime '10:00'; expected yyyymmdd and hhmmss.fff"),
    "image without a name": (replaced("images", "00000000-0-0-0-0", ""), "images", "unusable dicom_id",
                            "line 2: dicom_id ''; expected an image's name"),
    "unknown visit": (triage_of("93999999", str(subject(0))), "triage", "triage row of an unknown visit",
                      "line 8: stay_id 93999999; expected a stay_id of the table of visits"),
    "visit of another": (replaced("triage", "90000001", "90000002"), "triage", "triage row of another patient",
                         "line 2: subject_id 90000002, stay_id 93000000; expected the visit's own patient"),
    "unquoted comma": (replaced("triage", VITALS, ",98,4,80,16,97,120,70,3,2,"), "triage",
                       "row of another length than the header", "line 2: 12 values, the header has 11; a row is cut"),
    "discarded": (replaced("readings", "False,x.dcm", "maybe,x.dcm"), "readings",
                  "unusable eye_tracking_data_discarded", "line 2: .*'maybe'; expected True or False"),
    "reading id": (replaced("readings", FIRST, "R1"), "readings", "unusable reading id", "line 2: id 'R1'; expected P"),
    "width": (replaced("readings", ",400,500,", ",0,500,"), "readings", "unusable image_size_x",
              "line 2: image_size_x '0'; expected a positive whole number"),
    "corner": (ellipse_line("1,x,3,4,5" + ",True" + ",False" * 5), "ellipses", "unusable ellipse",
               "line 3: ymin 'x'; expected a number"),
    "certainty": (ellipse_line("1,2,3,4,7" + ",True" + ",False" * 5), "ellipses", "unusable ellipse",
                  "line 3: certainty '7'; expected 1, 2, 3, 4 or 5"),
    "flag": (ellipse_line("1,2,3,4,5,yes" + ",False" * 5), "ellipses", "unusable ellipse",
             "line 3: Consolidation 'yes'; expected True or False"),
}  # fmt: skip


def both_ways(tree, tmp_path, message):
    """The preparation stops with the message and leaves nothing; skipped, it writes a folder, which is read back."""
    source = tree.write_physionet(tmp_path / "source")
    with pytest.raises(SourceDataError, match=message):
        prepare_mimic(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare_mimic(source, tmp_path / "out", on_error="skip", privacy=Privacy(show_values=True))
    return read_prepared(tmp_path / "out")


@pytest.mark.parametrize("name", ROWS)
def test_broken_row(tmp_path, name):
    damage, table, kind, message = ROWS[name]
    tree = make_tree()
    damage(tree)
    path = f"{FIRST}/anomaly_location_ellipses.csv" if table == "ellipses" else PATHS[table]
    _, report = both_ways(tree, tmp_path, f"{re.escape(path)} {message}")
    assert report["problems"][kind]["count"] == 1
    assert path in report["problems"][kind]["first"][0]
    assert kind in (tmp_path / "out/report.md").read_text()
    stage = next(s for s in report["flow"] if s["stage"] == ROWS_OF[table])
    assert stage["dropped"] == {kind: 1} and stage["in"] == stage["kept"] + 1


def test_all_problems_of_the_tables_are_told_at_once(tmp_path):
    tree = make_tree()
    for damage, *_ in (ROWS["subject"], ROWS["gender"], ROWS["StudyTime"], ROWS["certainty"]):
        damage(tree) if damage is not ROWS["gender"][0] else replaced("patients", ",F,", ",female,", line=2)(tree)
    source = tree.write_physionet(tmp_path / "source")
    with pytest.raises(SourceDataError) as caught:
        prepare_mimic(source, tmp_path / "out")
    text = str(caught.value)
    for part in ("subject_id '9000x001'", "gender 'female'", "StudyTime '10:00'", "certainty '7'", "--on-error skip"):
        assert part in text, text


def test_visit_that_ends_before_it_begins_has_no_departure(tmp_path):
    tree = make_tree()
    replaced("edstays", "2150-01-10 12:00:00", "2150-01-10 07:00:00")(tree)
    message = "line 2: outtime 2150-01-10 07:00:00 lies before intime 2150-01-10 08:00:00"
    images, report = both_ways(tree, tmp_path, message)
    assert report["problems"]["visit that ends before it begins"]["count"] == 1
    assert images[FIRST]["match"] == "within the window"


def test_reading_whose_ellipses_are_unknown_is_no_healthy_radiograph(tmp_path):
    tree = make_tree()
    del tree.ellipses[FIRST]
    message = f"no .*{FIRST}/anomaly_location_ellipses.csv; the metadata names reading {FIRST}, download"
    images, report = both_ways(tree, tmp_path, message)
    assert FIRST not in images and len(images) == 5
    readings = next(s for s in report["flow"] if s["stage"] == "readings")
    assert readings["dropped"] == {"ellipse file absent or unusable": 1}
    assert report["problems"]["reading without its ellipse file"]["count"] == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("certainty", "sure", "no column 'certainty'; it has xmin"), (",", "#", "no column 'xmin', 'ymin'")],
)
def test_ellipse_file_without_its_columns(tmp_path, old, new, message):
    tree = make_tree()
    ellipse_text(old, new)(tree)
    images, report = both_ways(tree, tmp_path, f"{FIRST}/anomaly_location_ellipses.csv: {message}")
    assert FIRST not in images and report["problems"]["unusable file"]["count"] == 1


@pytest.mark.parametrize(("table", "length"), [("patients", 0), ("edstays", 40), ("images", -9)])
def test_cut_off_download(tmp_path, table, length):
    source = make_tree().write_physionet(tmp_path / "source")
    path = source / PATHS[table]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SourceDataError, match=f"{PATHS[table]}: "):
        prepare_mimic(source, tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "origin"),
    [("patients", r"mimiciv .* --patients "), ("edstays", r"mimic-iv-ed .* --edstays "),
     ("triage", r"mimic-iv-ed .* --triage "), ("images", r"mimic-cxr-jpg.* --metadata "),
     ("readings", r"reflacx-xray-localization .* --reflacx ")],
)  # fmt: skip
def test_missing_columns_and_files_name_their_place(tmp_path, table, origin):
    tree, column = make_tree(), {"images": "StudyTime", "readings": "image_size_y"}.get(table, "subject_id")
    replaced(table, column, "something", line=0)(tree)
    source = tree.write_physionet(tmp_path / "source")
    with pytest.raises(SourceDataError, match=f"{PATHS[table]}: no column '{column}'; it has .*something"):
        prepare_mimic(source, tmp_path / "out")
    replaced(table, "something", column, line=0)(tree)
    path = tree.write_physionet(source) / PATHS[table].replace("phase_3", "phase_2")  # one of three files
    path.unlink()
    name = path.name.replace("2.0.0", ".*")
    with pytest.raises(SourceDataError, match=rf"no .*{name}; it comes from physionet.org/content/{origin}"):
        prepare_mimic(source, tmp_path / "out")
    if table == "readings":
        prepare_mimic(source, tmp_path / "out", on_error="skip")
        assert read_prepared(tmp_path / "out")[1]["problems"]["readers' metadata file absent"]["count"] == 1


@pytest.mark.parametrize("image_size", [None, 100])
def test_absent_truncated_and_turned_radiographs(tmp_path, image_size):
    source = make_tree(8).write_physionet(tmp_path / "source")
    radiographs = sorted(source.glob("mimic-cxr-jpg/2.0.0/files/**/*.jpg"))
    whole = radiographs[1].read_bytes()
    radiographs[0].unlink()
    radiographs[1].write_bytes(whole[: len(whole) * 2 // 3])  # a sound header, and then too little
    radiographs[2].write_bytes(b"no image")
    Image.new("L", (500, 400), 7).save(radiographs[3])
    options = {"image_size": image_size}
    messages = [
        f"no image file .*{dicom(0)}.jpg; download it again",
        f"cannot read image .*{dicom(1)}.jpg.*truncated",
        f"cannot read image .*{dicom(2)}.jpg",
        f"reading P301R000003 of image {dicom(3)}: its boxes are in 400 × 500 pixels, the file has 500 × 400",
    ]
    for radiograph, message in zip(radiographs, messages, strict=False):
        with pytest.raises(SourceDataError, match=message):
            prepare_mimic(source, tmp_path / "out", **options)
        if radiograph == radiographs[0]:
            prepare_mimic(source, tmp_path / "out", **options, on_error="skip")
            images, report = read_prepared(tmp_path / "out")
        Image.new("L", (400, 500), 9).save(radiograph)
    assert {i["dicom_id"] for i in images.values()} == {dicom(k) for k in range(4, 8)}
    counts = {kind: problem["count"] for kind, problem in report["problems"].items()}
    assert counts == {"image file absent": 1, "unreadable image": 2, "annotated at another shape": 1}
    stage = next(s for s in report["flow"] if s["stage"] == "annotated images")
    assert stage["dropped"] == counts


def test_mimic_eye_folder_with_a_broken_patient(tmp_path):
    source = make_tree().write_mimic_eye(tmp_path / "source")
    (source / f"patient_{subject(0)}/ED/triage.csv").write_text("subject,stay_id\n")
    with pytest.raises(SourceDataError, match=f"patient_{subject(0)}/ED/triage.csv: no column 'subject_id'"):
        prepare_mimic(source, tmp_path / "out")
    prepare_mimic(source, tmp_path / "out", on_error="skip")
    images, report = read_prepared(tmp_path / "out")
    assert report["problems"]["unusable file"]["count"] == 1
    assert images[FIRST]["clinical"]["heartrate"] is None and images["P301R000001"]["clinical"]["heartrate"] == 80


def test_mimic_eye_without_its_parts(tmp_path):
    with pytest.raises(SourceDataError, match="no folder .*nowhere; --mimic-eye points to the downloaded files"):
        mimic_eye_files(tmp_path / "nowhere")
    with pytest.raises(SourceDataError, match="no folder patient_<subject_id> in "):
        mimic_eye_files(tmp_path)
    source = make_tree(3).write_mimic_eye(tmp_path / "source")
    (source / "spreadsheets/cxr_meta.csv").unlink()
    with pytest.raises(SourceDataError, match="no .*spreadsheets/cxr_meta.csv; it is part of MIMIC-Eye"):
        mimic_eye_files(source)
    for path in source.glob("patient_*/ED/triage.csv"):
        path.unlink()
    with pytest.raises(SourceDataError, match=r"no patient folder of .* holds the table 'triage' \(3 folders\)"):
        mimic_eye_files(source)


def test_a_patient_row_that_repeats_another_is_counted_and_no_problem(tmp_path):
    tree = make_tree()
    doubled("patients")(tree)
    prepare_mimic(tree.write_physionet(tmp_path / "source"), tmp_path / "out")
    images, report = read_prepared(tmp_path / "out")
    stage = next(s for s in report["flow"] if s["stage"] == ROWS_OF["patients"])
    assert stage["dropped"] == {"repeats another row": 1} and stage["kept"] == 6
    assert images[FIRST]["clinical"]["age"] == 60


@pytest.mark.parametrize("arrival", ["2150-01-10 08:00:00.25", "2150-01-10T08:00:00Z", "2150-01-10 08:00:00.123456789",
                                     "2150-01-10 08:00:00+01:00", "2150-01-10T08:00:00.5-0500"])  # fmt: skip
def test_times_with_a_fraction_or_a_zone_are_read_as_written(tmp_path, arrival):
    tree = make_tree()
    replaced("edstays", "2150-01-10 08:00:00", arrival)(tree)
    prepare_mimic(tree.write_physionet(tmp_path / "source"), tmp_path / "out")
    images, report = read_prepared(tmp_path / "out")
    assert images[FIRST]["match"] == "inside a visit" and images[FIRST]["row_time"].startswith("2150-01-10T08:00:00")
    assert next(s for s in report["flow"] if s["stage"] == ROWS_OF["edstays"])["dropped"] == {}


def test_booleans_are_no_numbers(tmp_path):
    tree = make_tree()
    tree.triage[1:] = [line.replace(",2,", ",True,").replace(",3,True", ",,True") for line in tree.triage[1:]]
    prepare_mimic(tree.write_physionet(tmp_path / "source"), tmp_path / "out")
    images, _ = read_prepared(tmp_path / "out")
    assert {image["clinical"]["acuity"] for image in images.values()} == {None}
    tree = make_tree()
    tree.patients[1:] = [line.replace(",60,", ",True,") for line in tree.patients[1:]]
    source = tree.write_physionet(tmp_path / "ages")
    with pytest.raises(SourceDataError, match="line 2: anchor_age 'True'; expected a number or nothing"):
        prepare_mimic(source, tmp_path / "ages_out")
