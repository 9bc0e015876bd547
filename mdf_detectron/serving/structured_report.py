"""Write findings as a DICOM structured report (TID 1500) whose boxes refer to the source image."""

import warnings
from pathlib import Path

import mdf_detectron
from mdf_detectron.data.readers import is_dicom
from mdf_detectron.errors import ImageReadError, UserError
from mdf_detectron.fileio import atomic_path
from mdf_detectron.inference.findings import DetectedFinding, StudyFindings

SCHEME = "99MDF"
"""Private coding scheme: a model's class names come from its data set, not from a standard."""

_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


def write_structured_report(path: Path, findings: StudyFindings, source: Path) -> Path:
    """Write the findings above their threshold as a Comprehensive SR document.

    Args:
        source: the DICOM file of the image; the report names its patient, study and image.

    Raises:
        ImageReadError: the source is not a DICOM file, or lacks identifiers that a report needs.
        UserError: highdicom is not installed.
    """
    try:
        import highdicom as hd
        import pydicom
    except ImportError:
        raise UserError("DICOM structured reports need highdicom: pip install 'mdf_detectron[dicom,sr]'") from None
    if not is_dicom(source):
        raise ImageReadError(f"{source}: a structured report refers to a DICOM image, and this is none")
    image = pydicom.dcmread(source, stop_before_pixels=True)
    if absent := [keyword for keyword in _REQUIRED if not image.get(keyword)]:
        raise ImageReadError(f"{source}: no {', '.join(absent)}, which a structured report refers to")
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
                    "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
        if keyword not in image:
            setattr(image, keyword, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names and values of the source may break DICOM's rules
        report = hd.sr.ComprehensiveSR(
            evidence=[image],
            content=_content(hd, findings, image),
            series_instance_uid=hd.UID(),
            series_number=99,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="mdf_detectron",
            is_complete=False,
            is_verified=False,
            series_description="Findings of a detector (research)",
        )
        with atomic_path(path) as partial:
            report.save_as(partial)
    return path


def _content(hd, findings: StudyFindings, image):
    observer = hd.sr.ObserverContext(
        observer_type=hd.sr.coding.CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name="mdf_detectron", model_name=f"mdf_detectron {mdf_detectron.__version__}"
        ),
    )
    groups = [_group(hd, finding, number, image) for number, finding in enumerate(findings.above_threshold, start=1)]
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.coding.CodedConcept("399208008", "SCT", "Plain X-ray of chest"),
        imaging_measurements=groups or [_no_finding(hd, image)],
        title=hd.sr.coding.CodedConcept("126000", "DCM", "Imaging Measurement Report"),
    )


def _group(hd, finding: DetectedFinding, number: int, image):
    code = hd.sr.coding.CodedConcept
    x0, y0, x1, y1 = finding.box
    region = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=_closed_polyline(x0, y0, x1, y1),
        source_image=hd.sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
    )
    score = hd.sr.Measurement(
        name=code("score", SCHEME, "Score of the detector"),
        value=round(finding.score, 6),
        unit=code("1", "UCUM", "no units"),
    )
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), f"finding {number}"),
        referenced_region=region,
        finding_type=code(f"class-{finding.class_index}", SCHEME, finding.class_name[:64]),
        measurements=[score],
    )


def _no_finding(hd, image):
    """Return an entry for the whole image that no finding reaches its threshold; a report needs an entry."""
    code = hd.sr.coding.CodedConcept
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), "image"),
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(
                code("result", SCHEME, "Result of the detector"),
                code("no-finding", SCHEME, "No finding reaches its operating threshold"),
            )
        ],
        source_images=[hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
    )


def _closed_polyline(x0: float, y0: float, x1: float, y1: float):
    import numpy as np

    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])
