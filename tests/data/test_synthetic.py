"""The synthetic cohort: its oracle against simulation, what it promises about the signal, and its folder."""

import json

import numpy as np
import pytest
from raw_mimic.oracle import posteriors

from mdf_detectron.data.synthetic.cohort import (
    CLASS_PRIORS,
    CLASS_SHIFTS,
    CohortSettings,
    make_cohort,
    vital_correlation,
)
from mdf_detectron.data.synthetic.oracle import oracle_predictions
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.data.synthetic.scene import draw_radiograph, ellipse_box, ellipse_polygon
from mdf_detectron.evaluation import evaluate_coco


def test_posteriors():
    ambiguous = {"A": "ambiguous", "B": "ambiguous"}
    assert posteriors(ambiguous, None, 1.0)["A"] == pytest.approx(CLASS_PRIORS["A"])
    assert posteriors(ambiguous, [2.0] * 6, 0.0)["B"] == pytest.approx(CLASS_PRIORS["B"])
    told = posteriors({"A": "Consolidation", "B": "none"}, [0.0] * 6, 1.0)
    assert told["A"]["Consolidation"] == 1 and told["B"][None] == 1
    # by Bayes' rule, one archetype known: odds of the two classes of the other
    vitals = np.array([1.0, 0.5, 0.2, -0.3, 0.1, 0.0])
    chances = posteriors({"A": "ambiguous", "B": "none"}, vitals.tolist(), 1.0)["A"]
    precision = np.linalg.inv(vital_correlation())

    def weight(label):
        offset = vitals - np.array(CLASS_SHIFTS["A"][label])
        return CLASS_PRIORS["A"][label] * np.exp(-0.5 * offset @ precision @ offset)

    assert chances["Consolidation"] / chances["Atelectasis"] == pytest.approx(
        weight("Consolidation") / weight("Atelectasis")
    )


def test_cohort_keeps_its_promises():
    patients = make_cohort(CohortSettings(num_patients=1500, seed=0))
    visits = [v for p in patients for v in p.visits]
    labels = [v.findings[0].label for v in visits]
    for label, prior in CLASS_PRIORS["A"].items():
        assert np.mean([x == label for x in labels]) == pytest.approx(prior, abs=0.03)
    assert np.mean([v.findings[0].appearance == "ambiguous" for v in visits]) == pytest.approx(0.8, abs=0.03)
    assert np.mean([v.vitals_missing for v in visits]) == pytest.approx(0.1, abs=0.02)
    hot = np.mean([v.latent_vitals[0] for v in visits if v.findings[0].label == "Consolidation"])
    cold = np.mean([v.latent_vitals[0] for v in visits if v.findings[0].label == "Atelectasis"])
    assert hot - cold == pytest.approx(1.4, abs=0.15)
    for visit in visits:
        for archetype in "AB":
            assert len({(f.label, f.appearance) for f in visit.findings if f.archetype == archetype}) == 1
    assert make_cohort(CohortSettings(num_patients=5, seed=0)) == patients[:5]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_patients": 2}, "num_patients"), ({"ambiguity": 1.5}, "ambiguity"), ({"signal": -1.0}, "signal"),
     ({"image_size": 10}, "image_size"), ({"interaction": 1.5}, "interaction"),
     ({"interaction": float("nan")}, "interaction")],
)  # fmt: skip
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        CohortSettings(**{"num_patients": 5, "seed": 0, **change})


def test_drawing():
    visit = make_cohort(CohortSettings(num_patients=3, seed=0, image_size=96))[0].visits[0]
    radiograph = draw_radiograph(visit)
    assert radiograph.shape == (visit.height, visit.width) and radiograph.dtype == np.uint8
    assert np.array_equal(radiograph, draw_radiograph(visit))
    assert radiograph.std() > 20
    assert ellipse_box((0.5, 0.5), (0.1, 0.2), 100, 200) == pytest.approx([40, 60, 20, 80])
    polygon = np.array(ellipse_polygon((0.5, 0.5), (0.1, 0.2), 100, 200)).reshape(-1, 2)
    assert [polygon[:, 0].min(), polygon[:, 1].min()] == pytest.approx([40, 60])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "synthetic_cxr"
    assert prepare_synthetic(out, CohortSettings(num_patients=60, seed=3, image_size=64), num_workers=1)
    return out


def test_folder_and_idempotence(folder):
    settings = CohortSettings(num_patients=60, seed=3, image_size=64)
    assert not prepare_synthetic(folder, settings, num_workers=1)
    patients = {}
    for split in ("train", "val", "test"):
        data = json.loads((folder / "annotations" / f"{split}.json").read_text())
        patients[split] = {im["patient_id"] for im in data["images"]}
        assert all("appearance" not in json.dumps(im) for im in data["images"])
    assert not patients["train"] & patients["test"] and not patients["train"] & patients["val"]
    assert not list(folder.parent.glob("*.partial"))


def ap50(folder, oracle):
    truth = folder / "annotations" / "train.json"
    return evaluate_coco(truth, oracle_predictions(folder, "train", oracle))["bbox"]["AP50"]


def test_oracle_beats_the_image_alone_only_with_signal(folder, tmp_path):
    assert ap50(folder, "both") > ap50(folder, "image") + 8
    silent = tmp_path / "silent"
    prepare_synthetic(silent, CohortSettings(num_patients=60, seed=3, signal=0.0, image_size=64), num_workers=1)
    assert ap50(silent, "both") == pytest.approx(ap50(silent, "image"), abs=1e-9)
