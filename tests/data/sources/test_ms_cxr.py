"""MS-CXR's table of boxes joined with the hand-written tree of MIMIC."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from prepared_reading import read_prepared

from mdf_detectron.cli.prepare import main
from mdf_detectron.data.audit import audit_folder
from mdf_detectron.errors import SourceDataError
from tests.data.sources.mimic.golden import CASES, HEIGHT, NOTHING, WIDTH, Tree, dicom, subject

HEADER = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split"


def write_ms_cxr(root: Path, extra=(), release="1.1.0", tree: Tree | None = None) -> Path:
    """A box on each image of the tree, and a second one on the first."""
    (tree or Tree()).write_physionet(root)
    for folder in (root / "reflacx-xray-localization").rglob("*.csv"):
        folder.unlink()  # MS-CXR needs none of it
    size = f"{WIDTH},{HEIGHT},test"
    rows = [f'{dicom(i)},Pneumonia,"lower, left",p,{10 + i},20,100,50,{size}' for i in range(len(CASES))]
    rows += [f"{dicom(0)},Edema,both,p,1,2,30.5,40,{size}", f"{dicom(0)},Pneumonia,again,p,10,20,100,50,{size}", *extra]
    folder = root / "ms-cxr" / release
    folder.mkdir(parents=True)
    (folder / f"MS_CXR_Local_Alignment_v{release}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return root


def prepare(root: Path, out: Path, *options: str) -> None:
    main(["ms-cxr", "--root", str(root), "--out", str(out), "--num-workers", "1", *options])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ms_cxr")
    prepare(write_ms_cxr(folder / "raw"), folder / "out", "--keep-unmatched")
    return folder / "out"


@pytest.mark.parametrize("index", range(len(CASES)), ids=[c.name for c in CASES])
def test_the_record_of_an_image_is_that_of_its_visit(prepared, index):
    case, image = CASES[index], read_prepared(prepared).images[dicom(index)]
    expected = case.expected_row if case.stay is not None else {**NOTHING, "age": case.age, "gender": case.gender}
    assert image["clinical"] == expected
    assert image["patient_id"] == str(subject(index))
    assert ("Pneumonia", [10 + index, 20, 100, 50]) in image["boxes"]


def test_the_account(prepared):
    made = read_prepared(prepared)
    assert made.images[dicom(0)]["boxes"] == [("Pneumonia", [10, 20, 100, 50]), ("Edema", [1, 2, 30.5, 40])]
    total = len(CASES)
    assert made.flow["boxes"] == {"stage": "boxes", "in": total + 2, "kept": total + 1,
                                  "dropped": {"repeats another box": 1}}  # fmt: skip
    pressures = "diastolic not below systolic: both removed"
    assert made.flow["triage values"]["dropped"] == {
        "temperature: outside 80 to 113 °F": 1, "o2sat: outside 50 to 100 %": 1, "heartrate: empty": 1,
        "pain: empty": 1, "pain: not a number": 1, "pain: outside 0 to 10 0-10": 1, "acuity: outside 1 to 5 1-5": 1,
        f"sbp: {pressures}": 2, f"dbp: {pressures}": 2,
    }  # fmt: skip
    assert "1 values of temperature were changed: °C converted to °F." in made.report["notes"]
    assert any("healthy images from another folder" in note for note in made.report["notes"])
    assert audit_folder(prepared).problems == []


def test_images_without_a_visit_are_dropped(tmp_path):
    prepare(write_ms_cxr(tmp_path / "raw"), tmp_path / "out")
    made = read_prepared(tmp_path / "out")
    dropped: dict[str, int] = {}
    for case in CASES:
        if case.stay is None:
            dropped[case.match] = dropped.get(case.match, 0) + 1
    assert made.flow["annotated images"]["dropped"] == dropped
    assert all(image["row_time"] < image["study_time"] for image in made.images.values())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("unknown,Edema,x,p,1,2,3,4,400,500,", "unknown is not in the metadata of MIMIC-CXR-JPG"),
        (f"{dicom(1)},Edema,x,p,1,2,3,,400,500,", "box '1', '2', '3', ''; expected four numbers"),
        (f"{dicom(1)},Edema,x,p,1,2,3,4,500,400,", "has 500 × 400 pixels here and 400 × 500 before"),
        (f"{dicom(1)},Edema,x,p,1,2,3,4,many,500,", "image_width, image_height 'many', '500'"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, row, expected):
    root = write_ms_cxr(tmp_path / "raw", [row])
    with pytest.raises(SourceDataError) as error:
        prepare(root, tmp_path / "out")
    assert expected in str(error.value)
    prepare(root, tmp_path / "out", "--on-error", "skip")
    assert sum(read_prepared(tmp_path / "out").flow["annotated images"]["dropped"].values()) >= 1


def test_the_latest_release_and_absent_files(tmp_path):
    with pytest.raises(SourceDataError, match="patients"):
        prepare(tmp_path, tmp_path / "out")
    Tree().write_physionet(tmp_path / "raw")
    with pytest.raises(SourceDataError, match=r"physionet.org/content/ms-cxr, or point --boxes"):
        prepare(tmp_path / "raw", tmp_path / "out")
