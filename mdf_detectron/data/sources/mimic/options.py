"""What the preparation of MIMIC data is told; every choice is written to the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mdf_detectron.data.sources.mimic.annotations import MASK_SHAPES
from mdf_detectron.data.sources.mimic.schema import KNOWN_LABELS, MIMIC_CLASSES
from mdf_detectron.errors import SourceDataError

RECORDS, VIEWS, PROTOCOLS = ("reading", "image"), ("frontal", "all"), ("patient", "paper")


@dataclass(frozen=True)
class MimicOptions:
    """Choices, checked.

    Attributes:
        stay_window_days: days after a departure within which an image still belongs to the visit; 0: only inside.
        keep_unmatched: keep images without a visit, with age and gender only.
        classes: labels that become boxes, in the order of the categories.
        min_certainty: least certainty (1–5) of a box.
        mask_shape: "ellipse" or "box".
        records: "reading" (one a reading, as the paper) or "image" (one an image, with all readers' boxes).
        view: "frontal" (AP and PA) or "all".
        drop_discarded: leave out readings whose eye tracking was discarded; their boxes are sound.
        split_by: "patient", or "row": readings, patients regardless, which leaks.
        image_size: shorter side in pixels of the resized copies; None links to the originals.
        seed, folds: of the splits; folds > 0 also writes that many cross-validation folders.
        protocol: "paper" overrides records, min_certainty, drop_discarded and split_by with the authors' choices.
    """

    stay_window_days: float = 7
    keep_unmatched: bool = False
    classes: Sequence[str] = MIMIC_CLASSES
    min_certainty: int = 3
    mask_shape: str = "ellipse"
    records: str = "reading"
    view: str = "frontal"
    drop_discarded: bool = False
    split_by: str = "patient"
    image_size: int | None = None
    seed: int = 1
    folds: int = 0
    protocol: str = "patient"

    def __post_init__(self) -> None:
        for name, allowed in (("mask_shape", MASK_SHAPES), ("records", RECORDS), ("view", VIEWS),
                              ("split_by", ("patient", "row")), ("protocol", PROTOCOLS)):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise SourceDataError(f"{name} '{getattr(self, name)}' is not one of {', '.join(allowed)}")
        if not (math.isfinite(self.stay_window_days) and self.stay_window_days >= 0):
            raise SourceDataError(f"stay_window_days must be at least 0, got {self.stay_window_days}")
        if self.min_certainty not in range(1, 6):
            raise SourceDataError(f"min_certainty must be 1 to 5, got {self.min_certainty}")
        if self.folds < 0 or self.folds in (1, 2):
            raise SourceDataError(f"folds must be 0 (none) or at least 3 (train, val, test), got {self.folds}")
        if self.image_size is not None and self.image_size < 32:
            raise SourceDataError(f"image_size must be at least 32 pixels, got {self.image_size}")
        unknown = [c for c in self.classes if c not in KNOWN_LABELS]
        if unknown or not self.classes or len(set(self.classes)) != len(self.classes):
            raise SourceDataError(f"classes {unknown or list(self.classes)} unknown, doubled or none; after merging "
                                  f"the labels are: {', '.join(KNOWN_LABELS)}")  # fmt: skip

    def effective(self) -> MimicOptions:
        """These options with what the protocol decides."""
        if self.protocol == "patient":
            return self
        return replace(self, records="reading", min_certainty=1, drop_discarded=True, split_by="row")

    def notes(self) -> list[str]:
        """Plain words on the choices that a reader of the numbers must know."""
        if self.protocol == "patient":
            return ["Split by patient: no patient, image or reading is in two splits."]
        return [
            "**This folder reproduces the authors' protocol, and it leaks.** Use it to compare with published numbers "
            "only.",
            "Leaks: readings are split one by one, so that an image that was read twice, and a patient with several "
            "images, can be in the train and in the test split.",
            "Does not leak, but counts wrong: certainty above 0 makes 'unlikely' (below 10 %) a positive box.",
            "Does not leak, but loses data: readings with discarded eye tracking are dropped, although their boxes "
            "are sound.",
        ]
