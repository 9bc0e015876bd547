"""The paper's Fig. 5b against numbers by hand; the pictures are drawn."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mdf_detectron.data.sources.mimic.report import correlations, draw_correlations
from mdf_detectron.data.sources.mimic.schema import MIMIC_CLASSES, mimic_clinical_schema


def frame():
    columns = {c.name: [np.nan] * 4 for c in mimic_clinical_schema().numeric}
    return pd.DataFrame(columns | {
        "age": [20, 40, 60, 80], "temperature": [98.0, 99.0, 100.0, np.nan], "heartrate": [80.0] * 4,
        "gender": ["F", "F", "M", "M"],
        "certainty: Atelectasis": [0, 2, 4, np.nan],  # a phase without the label: absent, 0
        "certainty: Consolidation": [5.0, 5, 5, 5],
    })  # fmt: skip


def test_pearson_by_hand():
    table = correlations(frame(), ("Atelectasis", "Consolidation", "Pulmonary edema"))
    assert list(table.columns) == ["Atelectasis", "Consolidation", "Pulmonary edema"]
    assert list(table.index)[-1] == "gender (M)" and len(table) == 10
    # x − mean = (−30, −10, 10, 30), y − mean = (−1.5, .5, 2.5, −1.5): 20 / √(2000 · 11)
    assert table.at["age", "Atelectasis"] == pytest.approx(20 / np.sqrt(2000 * 11))
    assert table.at["temperature", "Atelectasis"] == pytest.approx(1)  # over the three rows that have both
    # (−.5, −.5, .5, .5) · y = 1; 1 / √(1 · 11)
    assert table.at["gender (M)", "Atelectasis"] == pytest.approx(1 / np.sqrt(11))
    assert np.isnan(table.at["heartrate", "Atelectasis"])  # does not vary
    assert table["Consolidation"].isna().all() and table["Pulmonary edema"].isna().all()
    assert np.isnan(table.at["pain", "Atelectasis"])  # nobody has it


@pytest.mark.parametrize("classes", [("Atelectasis",), MIMIC_CLASSES])
def test_pictures_are_drawn_even_of_nothing(tmp_path, classes):
    draw_correlations(correlations(frame(), classes), 4, tmp_path / "r.png")
    draw_correlations(correlations(frame().iloc[:1], classes), 1, tmp_path / "empty.png")
    for name in ("r.png", "empty.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 150 and len(picture.convert("RGB").getcolors(10**6)) > 10
