"""Clinical columns of the public collections, apart from their readers: the catalog needs no reader to know them."""

from __future__ import annotations

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema


def covid_clinical_schema() -> ClinicalSchema:
    """Columns known when the image is taken; most values are missing."""
    return ClinicalSchema(
        (
            ClinicalColumn("age", "numeric", "years", 0, 120),
            ClinicalColumn("temperature", "numeric", "°C", 30, 45),
            ClinicalColumn("pO2_saturation", "numeric", "%", 50, 100),
            ClinicalColumn("leukocyte_count", "numeric", "10^9/L", 0, 100),
            ClinicalColumn("neutrophil_count", "numeric", "10^9/L", 0, 100),
            ClinicalColumn("lymphocyte_count", "numeric", "10^9/L", 0, 100),
            ClinicalColumn("offset", "numeric", "days", -365, 3650, description="days since the first symptom"),
            ClinicalColumn("sex", "categorical", vocabulary=("F", "M")),
        )
    )


def age_sex_view_schema() -> ClinicalSchema:
    """What RSNA and NIH know of a patient."""
    return ClinicalSchema(
        (
            ClinicalColumn("age", "numeric", "years", 0, 120),
            ClinicalColumn("sex", "categorical", vocabulary=("F", "M")),
            ClinicalColumn("view", "categorical", vocabulary=("PA", "AP"), description="AP is mostly taken in bed"),
        )
    )


def vindr_schema() -> ClinicalSchema:
    """What the headers say; ``000Y`` stands for an unknown age."""
    return ClinicalSchema(
        (
            ClinicalColumn("age", "numeric", "years", 1, 120),
            ClinicalColumn("sex", "categorical", vocabulary=("F", "M")),
        )
    )


def padchest_schema() -> ClinicalSchema:
    """What the master table says of a patient."""
    return ClinicalSchema(
        (
            ClinicalColumn("age", "numeric", "years", 0, 120),
            ClinicalColumn("sex", "categorical", vocabulary=("F", "M")),
        )
    )
