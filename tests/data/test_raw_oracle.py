"""The ceiling of a folder prepared from the raw tree: boxes, chances and readers' noise against slow references."""

import itertools
import json

import numpy as np
import pytest
from raw_mimic.history import RawSettings
from raw_mimic.oracle import posteriors, raw_oracle_predictions, read_as, read_settings
from raw_mimic.tree import write_raw_tree

from mdf_detectron.data.sources.kit.preparation import prepare
from mdf_detectron.data.sources.mimic.collection import COLLECTION
from mdf_detectron.data.synthetic.cohort import CLASS_PRIORS, CLASS_SHIFTS, CohortSettings, vital_correlation
from mdf_detectron.errors import SourceDataError
from mdf_detectron.evaluation import evaluate_coco


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """``make(patients, reader_noise, **cohort)`` → (prepared folder, raw tree)."""

    def make(patients: int, reader_noise: float, **cohort):
        root = tmp_path_factory.mktemp("raw")
        settings = RawSettings(
            CohortSettings(num_patients=patients, seed=3, image_size=64, **cohort), reader_noise=reader_noise
        )
        write_raw_tree(root / "tree", settings)
        assert read_settings(root / "tree") == settings
        prepare(COLLECTION, root / "prepared", physionet=root / "tree" / "physionet", min_certainty=1)
        return root / "prepared", root / "tree"

    return make


@pytest.fixture(scope="module")
def noisy(make):
    return make(800, 1.0, signal=1.0)


def ap50(prepared, tree, use_record, **options):
    predictions = raw_oracle_predictions(prepared, tree, "train", use_record, **options)
    return evaluate_coco(prepared / "annotations" / "train.json", predictions)["bbox"]["AP50"]


def test_with_certain_looks_and_perfect_readers_nothing_is_lost(make):
    prepared, tree = make(120, 0.0, ambiguity=0.0)
    assert ap50(prepared, tree, False) == pytest.approx(100.0) == ap50(prepared, tree, True)


def test_the_record_lifts_the_ceiling_and_a_useless_one_does_not(noisy, make):
    image_only, both = ap50(*noisy, False), ap50(*noisy, True)
    assert both > image_only + 10
    useless = make(200, 1.0, signal=0.0)
    assert ap50(*useless, True) == pytest.approx(ap50(*useless, False), abs=0.01)


def test_with_records_of_others_the_lift_is_gone(noisy):
    assert ap50(*noisy, True, exchange=0) < ap50(*noisy, False) + 3 < ap50(*noisy, True) - 5


def test_chances_are_calibrated_against_what_readers_named(noisy):
    """Of the regions that a reader drew or missed, the share named as a class is the mean of its chances."""
    prepared, tree = noisy
    data = json.loads((prepared / "annotations" / "train.json").read_text())
    names = {c["id"]: c["name"] for c in data["categories"]}
    drawn = {name: np.sum([names[a["category_id"]] == name for a in data["annotations"]]) for name in names.values()}
    expected, variance = dict.fromkeys(names.values(), 0.0), dict.fromkeys(names.values(), 0.0)
    for prediction in raw_oracle_predictions(prepared, tree, "train", True):
        chance = 0.85 * prediction["score"]  # 15 % of the regions are missed
        expected[names[prediction["category_id"]]] += chance
        variance[names[prediction["category_id"]]] += 2 * chance * (1 - chance)  # two regions of a visit share a class
    for name, count in drawn.items():
        assert count == pytest.approx(expected[name], abs=3 * variance[name] ** 0.5), name
        assert name == "Enlarged cardiac silhouette" or 3 * variance[name] ** 0.5 < 0.35 * expected[name], "it can fail"


def test_swapped_classes_against_counting():
    rng = np.random.default_rng(0)
    chances = {"x": 0.5, "y": 0.2, None: 0.3}
    truth = rng.choice(3, size=200_000, p=list(chances.values()))
    swapped = np.where((truth < 2) & (rng.random(len(truth)) < 0.05), 1 - truth, truth)
    for number, name in enumerate("xy"):
        assert read_as(chances, 0.05)[name] == pytest.approx(np.mean(swapped == number), abs=0.004)


def test_missing_vitals_are_integrated_out():
    """Against a numeric integral over the missing value."""
    vitals = [1.0, 0.5, float("nan"), -0.3, 0.1, 0.0]
    looks = {"A": "ambiguous", "B": "ambiguous"}
    inverse, grid = np.linalg.inv(vital_correlation()), np.linspace(-9, 9, 2001)
    weights = {}
    for a, b in itertools.product(CLASS_PRIORS["A"], CLASS_PRIORS["B"]):
        mean = np.array(CLASS_SHIFTS["A"][a]) + np.array(CLASS_SHIFTS["B"][b])
        offsets = np.array([[*vitals[:2], x, *vitals[3:]] for x in grid]) - mean
        density = np.exp(-0.5 * np.einsum("ni,ij,nj->n", offsets, inverse, offsets)).sum()
        weights[a, b] = CLASS_PRIORS["A"][a] * CLASS_PRIORS["B"][b] * density
    for label in CLASS_PRIORS["A"]:
        chance = sum(w for (a, _), w in weights.items() if a == label) / sum(weights.values())
        assert posteriors(looks, vitals, 1.0)["A"][label] == pytest.approx(chance, abs=1e-6)
    assert posteriors(looks, [float("nan")] * 6, 1.0) == posteriors(looks, None, 1.0)


def test_a_tree_of_other_images_is_named(noisy, make, tmp_path):
    with pytest.raises(SourceDataError, match="is not of the tree"):
        raw_oracle_predictions(noisy[0], make(60, 1.0, ambiguity=0.0)[1], "test", True)
    (tmp_path / "report.json").write_text('{"arguments": {"num_patients": 3}}')
    with pytest.raises(SourceDataError, match="write_raw_mimic"):
        raw_oracle_predictions(noisy[0], tmp_path, "test", True)
