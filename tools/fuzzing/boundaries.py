"""Every boundary by name."""

from __future__ import annotations

from fuzzing.images import DICOM, IMAGE
from fuzzing.models import CHECKPOINT, UPLOAD
from fuzzing.tables import OWN, RECORDS
from fuzzing.texts import ANNOTATIONS, CONFIG, PLAN, PREDICTION, SCHEMAS

ALL = (CONFIG, SCHEMAS, PLAN, ANNOTATIONS, PREDICTION, OWN, RECORDS, IMAGE, DICOM, CHECKPOINT, UPLOAD)
BOUNDARIES = {boundary.name: boundary for boundary in ALL}
