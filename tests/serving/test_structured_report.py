"""DICOM structured reports, checked by dcmtk and dicom3tools."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from dicom_files import radiograph, save
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from mdf_detectron.cli.predict import main
from mdf_detectron.errors import UserError
from mdf_detectron.inference.folders import Study, run_predictions
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.serving.structured_report import write_structured_report

hd = pytest.importorskip("highdicom", reason="highdicom is not installed (extra sr)")


@pytest.fixture(scope="module")
def predicted(tiny_run, tiny_folder, tmp_path_factory):
    """A DICOM image, one without identifiers, a PNG; and the output folder of their prediction."""
    tmp_path = tmp_path_factory.mktemp("predicted")
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.asarray(Image.open(tiny_folder / "images" / "test_2.png"))
    ids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "PatientID": "T1"}
    save(radiograph(pixels, 8, Modality="DX", PatientName="Test^One", **ids), folder / "a.dcm")
    save(radiograph(pixels, 8, Modality="DX"), folder / "b.dcm")
    shutil.copy(tiny_folder / "images" / "test_2.png", folder / "c.png")
    with pytest.raises(UserError, match="2 image"):
        main(["--weights", str(tiny_run / "model_final.pth"), "--images", str(folder), "--out", str(tmp_path / "out"),
              "--device", "cpu", "--format", "dicom-sr", "--threshold", "0.02"])  # fmt: skip
    return folder / "a.dcm", tmp_path / "out"


def test_the_report_says_what_the_findings_say(predicted):
    source, out = predicted
    image, report = dcmread(source), dcmread(next((out / "reports").iterdir()))
    assert (report.StudyInstanceUID, report.PatientID) == (image.StudyInstanceUID, "T1")
    text = report.to_json()
    assert image.SOPInstanceUID in text
    (findings,) = json.loads((out / "findings.json").read_text())
    above = [f for f in findings["findings"] if f["above_threshold"]]
    groups = [s for s in report.ContentSequence if s.ConceptNameCodeSequence[0].CodeValue == "126010"][
        0
    ].ContentSequence
    assert len(groups) == len(above) > 0
    for group, finding in zip(groups, above, strict=True):
        items = {item.ValueType: item for item in group.ContentSequence}
        assert items["CODE"].ConceptCodeSequence[0].CodeMeaning == finding["class"]
        value = float(items["NUM"].MeasuredValueSequence[0].NumericValue)
        assert value == pytest.approx(finding["score"], abs=1e-6)
        points = np.array(items["SCOORD"].GraphicData).reshape(-1, 2)
        assert [*points.min(axis=0), *points.max(axis=0)] == pytest.approx(finding["box"], abs=1e-3)


def test_what_cannot_have_a_report_is_named(predicted):
    errors = {e["image"][-5:]: e["error"] for e in json.loads((predicted[1] / "errors.json").read_text())}
    assert "StudyInstanceUID" in errors["b.dcm"] and "this is none" in errors["c.png"]


def test_an_image_without_findings_has_a_report_that_says_so(predicted, tiny_run, tmp_path):
    source, _ = predicted
    nothing = Predictor(tiny_run / "model_final.pth", device="cpu", threshold=1.0)(source)
    report = hd.sr.srread(write_structured_report(tmp_path / "empty.dcm", nothing, source))
    assert report.content.get_planar_roi_measurement_groups() == []
    (group,) = report.content.get_image_measurement_groups()
    (evaluation,) = group.get_qualitative_evaluations()
    assert evaluation.value.meaning == "No finding reaches its operating threshold"
    assert group.source_images[0].referenced_sop_instance_uid == dcmread(source).SOPInstanceUID
    validate(tmp_path / "empty.dcm", "dsrdump", "dciodvfy")


def test_a_report_that_cannot_be_written_does_not_end_the_run(tiny_predictor, tiny_folder, tmp_path):
    studies = [Study(tiny_folder / "images" / f"test_{n}.png", f"{n}.png", n) for n in range(2)]

    def broken(path, findings, source):
        if findings.image == "0.png":
            raise ValueError("a tag of no value")

    result = run_predictions(tiny_predictor, studies, tmp_path, ["dicom-sr"], write_report=broken)
    assert result.predicted == 1 and result.errors == [("0.png", "ValueError: a tag of no value")]


def validate(report, *validators):
    """Let validators check a report; without them the test is skipped."""
    for validator in validators:
        if shutil.which(validator) is None:
            pytest.skip(f"{validator} is not installed (apt-get install dcmtk dicom3tools)")
        done = subprocess.run([validator, str(report)], capture_output=True, text=True)
        assert done.returncode == 0 and "Error" not in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("validator", ["dsrdump", "dciodvfy"])
def test_validators_accept_it(predicted, validator):
    validate(next((predicted[1] / "reports").iterdir()), validator)
