"""Interactions of look and record: the law against what is drawn, its three oracles, and what stays as it was."""

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest
from raw_mimic.history import RawSettings
from synthetic_oracle import main

from mdf_detectron.data.catalog import read_report
from mdf_detectron.data.synthetic.cohort import CLASS_PRIORS, CohortSettings, make_cohort
from mdf_detectron.data.synthetic.interaction import SIGNS, sign_chances, sign_likelihood
from mdf_detectron.data.synthetic.oracle import ORACLES, beliefs, late_fusion, oracle_predictions
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.data.synthetic.scene import draw_radiograph
from mdf_detectron.errors import SourceDataError
from mdf_detectron.evaluation import evaluate_coco

SETTINGS = CohortSettings(num_patients=1500, seed=4, image_size=64, interaction=1.0)


def visits_of(settings):
    return [v for p in make_cohort(settings) for v in p.visits]


@pytest.fixture(scope="module")
def visits():
    return visits_of(SETTINGS)


def known(visit):
    """An image of the truth file and its record, with the vitals as the oracle knows them."""
    vitals = None if visit.vitals_missing else list(visit.latent_vitals)
    return {"findings": [asdict(f) for f in visit.findings]}, visit.row | {"vitals": vitals}


def finding_of(visit, archetype):
    return next(f for f in visit.findings if f.archetype == archetype)


def test_looks_mean_the_opposite_in_another_record(visits):
    """Against counting: a core means the first class in women, the second in men; faint means nothing unless ill."""
    for archetype, gender in itertools.product("AB", "FM"):
        found = [finding_of(v, archetype) for v in visits if v.row["gender"] == gender]
        first, second, _ = CLASS_PRIORS[archetype]
        for sign, share in ((0, 0.97), (1, 0.9)):
            for label, expected in ((first, share), (second, 1 - share), (None, (0.85, 0.5)[sign])):
                told = expected if gender == "F" or label is None else 1 - expected
                counted = np.mean([f.signs[sign] for f in found if f.label == label])
                assert counted == pytest.approx(told, abs=0.07), (archetype, gender, SIGNS[sign], label)
    for ill, real, nothing in ((True, 0.45, 0.5), (False, 0.05, 0.9)):
        known_ill = [v for v in visits if v.row["acuity"] and (v.row["acuity"] <= 2) == ill]
        found = [finding_of(v, "A") for v in known_ill]
        assert np.mean([f.signs[2] for f in found if f.label]) == pytest.approx(real, abs=0.06)
        assert np.mean([f.signs[2] for f in found if not f.label]) == pytest.approx(nothing, abs=0.08)


def test_likelihoods_are_distributions():
    record = {"gender": np.array(["F", "M", "F"]), "acuity": np.array([1, 2, 5])}
    assert sign_chances(record).shape == (3, len(SIGNS), 3)
    combinations = itertools.product([False, True], repeat=3)
    assert sum(sign_likelihood(s, record) for s in combinations) == pytest.approx(np.ones((3, 3)))


@pytest.mark.parametrize("seen", ["image", "record", "both"])
def test_beliefs_are_calibrated_against_the_drawn_classes(visits, seen):
    """Of the images to which a chance of about p is given, a share p has the class."""
    chances, truth = [], []
    for visit in visits:
        image, record = known(visit)
        found = beliefs(image if seen != "record" else None, record if seen != "image" else None, 0.5)
        chances += found.values()
        truth += [label in {f.label for f in visit.findings} for label in found]
    chances, truth = np.array(chances), np.array(truth)
    for low in np.arange(0, 1, 0.1):
        chosen = (low <= chances) & (chances <= low + 0.1)
        noise = 4 * np.sqrt(np.sum(chances[chosen] * (1 - chances[chosen]))) + 0.5
        assert abs(np.sum(truth[chosen]) - np.sum(chances[chosen])) <= noise, low
    assert np.ptp(chances) > 0.4, "it can fail"


def test_late_fusion_by_hand():
    prior = CLASS_PRIORS["A"]["Consolidation"]
    odds = 0.6 / 0.4 * (0.8 / 0.2) / (prior / (1 - prior))
    fused = late_fusion({"Consolidation": 0.6, "Atelectasis": 1.0}, {"Consolidation": 0.8, "Atelectasis": 0.1})
    assert fused == pytest.approx({"Consolidation": odds / (1 + odds), "Atelectasis": 1.0})


def oracles(folder):
    truth = folder / "annotations" / "train.json"
    return [evaluate_coco(truth, oracle_predictions(folder, "train", o))["bbox_iobb"]["AP50"] for o in ORACLES]


def test_only_with_interaction_late_fusion_stays_below(tmp_path, capsys):
    for strength in (0.0, 1.0):
        prepare_synthetic(tmp_path / f"{strength:g}", CohortSettings(400, 1, image_size=64, interaction=strength), 1)
    image, late, both = oracles(tmp_path / "0")
    assert late == pytest.approx(both, abs=1.0) and late > image + 12
    image, late, both = oracles(tmp_path / "1")
    assert both > late + 8 and late > image + 5
    assert "interaction" not in read_report(tmp_path / "0")["arguments"], "the folder is that of before"
    main([str(tmp_path / "1"), "--split", "val"])
    assert [line.split("|")[2].strip() for line in capsys.readouterr().out.splitlines()[2:5]] == list(ORACLES)


def test_everything_else_stays(visits):
    for without, visit in zip(visits_of(replace(SETTINGS, interaction=0.0)), visits, strict=True):
        drawn = [[(f.label, f.radii, f.center[1]) for f in v.findings] for v in (without, visit)]
        assert drawn[0] == drawn[1]
        assert {k: without.row[k] for k in ("age", "gender", "acuity", "pain")}.items() <= visit.row.items()
    half = [finding_of(v, a).signs for v in visits_of(replace(SETTINGS, interaction=0.5)) for a in "AB"]
    assert np.mean([s is None for s in half]) == pytest.approx(0.5, abs=0.03)
    one = visits[0].findings[0]
    faint, plain = (replace(visits[0], findings=(replace(one, signs=(True, True, s)),)) for s in (True, False))
    assert draw_radiograph(faint).mean() < draw_radiograph(plain).mean()


def test_the_raw_tree_has_none():
    with pytest.raises(SourceDataError, match="interaction"):
        RawSettings(SETTINGS)
