"""The list of metrics: one object more that shows up everywhere and changes no other."""

import numpy as np
import pytest
from evaluation_cases import dataset, random_case, results
from slow_reference import slow_ap_ar, slow_matches

from mdf_detectron.evaluation import evaluate_coco
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.matching import match
from mdf_detectron.evaluation.metrics import METRICS, Metric, ap, metric_names, metric_support, metric_values

AP25 = Metric("AP25", ap, (0.25,))


@pytest.fixture
def with_ap25(monkeypatch):
    monkeypatch.setattr("mdf_detectron.evaluation.metrics.METRICS", [*METRICS, AP25])


def test_a_metric_more_changes_no_other_and_equals_loops(monkeypatch):
    for seed in range(9):
        annotations, predictions = case = random_case(seed, num_images=3 + seed, num_classes=2 + seed % 4)
        plain = evaluate_coco(*case)
        with monkeypatch.context() as patch:
            patch.setattr("mdf_detectron.evaluation.metrics.METRICS", [*METRICS, AP25])
            found = evaluate_coco(*case)
        for table, values in found.items():
            others = {name: value for name, value in values.items() if "AP25" not in name}
            assert str(others) == str(plain[table]), "the same values, in the same order"
            kind = "iobb" if table == "bbox_iobb" else "iou"
            slow = [slow_ap_ar(*slow_matches(annotations, predictions, c["id"], kind, 0.25, 10))[0]
                    for c in annotations["categories"]]  # fmt: skip
            of_class = [values[f"AP25-{c['name']}"] for c in annotations["categories"]]
            np.testing.assert_allclose(of_class, 100 * np.array(slow), atol=1e-9)
            defined = [v for v in slow if not np.isnan(v)]
            assert values["AP25"] == pytest.approx(100 * np.mean(defined) if defined else np.nan, nan_ok=True)


@pytest.mark.usefixtures("with_ap25")
def test_tables_are_matched_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "mdf_detectron.evaluation.scoring.match", lambda *a, **k: calls.append(k["thresholds"]) or match(*a, **k)
    )
    evaluate_coco(*random_case(1))
    assert len(calls) == 2  # by IoBB and by IoU
    np.testing.assert_allclose(calls[0], [0.25, *np.linspace(0.5, 0.95, 10)])


def test_a_metric_of_its_own_kind():
    """Precision of all detections at IoBB 0.5, from matches and weights; it rests on every image."""

    def precision(scores):
        out = np.full((len(scores.weights), 1, len(scores.matches.class_names)), np.nan)
        for k in range(out.shape[2]):
            own = scores.matches.category == k
            weights = scores.weights[:, scores.matches.image[own]]
            hits = (weights * scores.matches.true_positive[scores.rows[0], own]).sum(axis=1)
            total = weights.sum(axis=1)
            out[:, 0, k] = np.divide(hits, total, out=np.full(len(hits), np.nan), where=total > 0)
        return out

    def every_image(matches):
        return np.ones((1 + len(matches.class_names), matches.num_images), dtype=bool)

    own = Metric("precision", precision, (0.5,), support=every_image)
    box = (0, 0, 10, 10)
    truth = GroundTruth.load(dataset([(1, 1, box, 0)], num_images=3))
    found = results([(1, 1, box, 0.9), (2, 1, box, 0.8), (2, 1, box, 0.7), (3, 2, box, 0.6)])
    matches = match(truth, Detections.load(found, truth))
    names, values = metric_values(matches, np.array([[1, 1, 1], [2, 1, 0]]), [own])
    assert names == ["precision", "precision-effusion", "precision-mass", "precision-never seen"]
    np.testing.assert_allclose(values[0], [100 / 6, 100 / 3, 0, np.nan])
    np.testing.assert_allclose(values[1, 1], 50)
    assert metric_support(matches, [own]).shape == (4, 3) and metric_support(matches, [own]).all()


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'AP25'"):
        metric_names([], [AP25, AP25])


def test_wrong_metrics_are_named():
    for thresholds in ((), (50,)):
        with pytest.raises(ValueError, match="'F1' needs overlap thresholds in"):
            Metric("F1", ap, thresholds)
    truth = GroundTruth.load(dataset([]))
    with pytest.raises(ValueError, match=r"'F1' gives values of shape \(1, 1\), expected \(1, 1, 3\)"):
        metric_values(
            match(truth, Detections.load([], truth)), metrics=[Metric("F1", lambda s: s.ap.mean(axis=2), (0.5,))]
        )


def test_threshold_that_was_not_matched():
    truth = GroundTruth.load(dataset([]))
    with pytest.raises(ValueError, match=r"no matches at overlap 0\.25"):
        metric_values(match(truth, Detections.load([], truth)), metrics=[AP25])
