"""Pictures: the record's text by hand, and that what is given is what is drawn."""

import numpy as np
from PIL import Image

from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.report.images import Panel, record_text, save_panels

SCHEMA = ClinicalSchema(
    (ClinicalColumn("age", "numeric", "years"), ClinicalColumn("sex", "categorical", vocabulary=("F", "M")))
)


def test_record_text():
    assert record_text(SCHEMA, {"age": 61.0, "sex": None}).splitlines() == [
        "age             61 years",
        "sex             missing",
    ]


def test_boxes_and_masks_change_the_picture(tmp_path):
    image = np.full((60, 80), 90, dtype=np.uint8)
    full = Panel("truth", [[10, 10, 50, 40]], [1], polygons=[[[10, 10, 50, 10, 50, 40]]])
    bare = Panel("truth", [], [])
    pictures = []
    for number, panel in enumerate((full, bare)):
        path = save_panels(tmp_path / f"{number}.png", image, [panel, bare], ["a", "b"], "age 61")
        pictures.append(np.asarray(Image.open(path).convert("RGB")).astype(int))
    assert pictures[0].shape == pictures[1].shape
    blue = (pictures[0] == [79, 195, 247]).all(axis=2)  # the color of class 1
    assert blue.sum() > 100 and not (pictures[1] == [79, 195, 247]).all(axis=2).any()
