"""Define MIMIC's ten clinical columns, the paper's five classes and the label vocabulary."""

from dataclasses import replace
from math import inf

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema

MIMIC_CLASSES = (
    "Enlarged cardiac silhouette",
    "Atelectasis",
    "Pleural abnormality",
    "Consolidation",
    "Pulmonary edema",
)


def mimic_clinical_schema(ranges: bool = True) -> ClinicalSchema:
    """Return age and eight triage values (numeric, without ``ranges`` of any size), and gender (categorical)."""
    schema = ClinicalSchema(
        (
            ClinicalColumn("age", "numeric", "years", 0, 120, description="age at the study"),
            ClinicalColumn("temperature", "numeric", "°F", 80, 113),
            ClinicalColumn("heartrate", "numeric", "/min", 20, 250),
            ClinicalColumn("resprate", "numeric", "/min", 4, 60),
            ClinicalColumn("o2sat", "numeric", "%", 50, 100, description="peripheral oxygen saturation"),
            ClinicalColumn("sbp", "numeric", "mmHg", 40, 300, description="systolic blood pressure"),
            ClinicalColumn("dbp", "numeric", "mmHg", 10, 200, description="diastolic blood pressure"),
            ClinicalColumn("pain", "numeric", "0-10", 0, 10, description="pain as the patient reports it"),
            ClinicalColumn("acuity", "numeric", "1-5", 1, 5, description="triage level, 1 is the most urgent"),
            ClinicalColumn("gender", "categorical", vocabulary=("F", "M")),
        )
    )
    return schema if ranges else ClinicalSchema(tuple(replace(c, minimum=-inf, maximum=inf) for c in schema.columns))


MERGED_LABELS = {
    "Pleural thickening": "Pleural abnormality",
    "Pleural effusion": "Pleural abnormality",
    "Mass": "Lung nodule or mass",
    "Nodule": "Lung nodule or mass",
    "Emphysema": "High lung volume / emphysema",
}
"""Label of phase 1 → label of phases 2 and 3; no other labels merge."""

KNOWN_LABELS = (
    "Abnormal mediastinal contour", "Acute fracture", "Airway wall thickening", "Atelectasis", "Consolidation",
    "Enlarged cardiac silhouette", "Enlarged hilum", "Fibrosis", "Fracture", "Groundglass opacity", "Hiatal hernia",
    "High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass", "Pleural abnormality",
    "Pneumothorax", "Pulmonary edema", "Support devices", "Wide mediastinum",
)  # fmt: skip
"""Merged labels that an ellipse may have (texts and image quality aside)."""
