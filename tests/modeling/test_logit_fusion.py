"""The record model and the fusion in the class logits: slow references, the start, and what a missing record does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from scipy.optimize import minimize
from torch import nn

from mdf_detectron.config_file import load_config
from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.clinical_encoder import EncodedRecord
from mdf_detectron.modeling.logit_fusion import relative_boxes
from mdf_detectron.modeling.record_model import KNOTS, RecordModel, _best_penalty, fit_logistic, patient_folds

NAN = float("nan")


def a_model(vocabulary=(2,), classes=2):
    model = RecordModel(1, list(vocabulary), classes)
    model.knots[0] = torch.linspace(0, 10, KNOTS)
    return model


def test_the_additive_model_interpolates_between_its_knots():
    """f is piecewise linear in a number, constant outside of the knots, a table of words, a level where missing."""
    model, generator = a_model(), torch.Generator().manual_seed(0)
    model.weight.copy_(torch.randn(model.weight.shape, generator=generator))
    model.bias.fill_(0.3)
    rises, missing, words = model.weight[:, : KNOTS - 1], model.weight[:, KNOTS - 1], model.weight[:, KNOTS:]
    for value, code in ((3.7, 0), (-5.0, 1), (99.0, -1), (NAN, 1)):
        at_knots = np.concatenate([np.zeros((2, 1)), np.cumsum(rises.numpy(), axis=1)], axis=1)
        number = (
            missing.numpy() if np.isnan(value) else [np.interp(value, np.linspace(0, 10, KNOTS), f) for f in at_knots]
        )
        logit = 0.3 + np.asarray(number) + words[:, code].numpy()
        found = model(torch.tensor([[value]]), torch.tensor([[code]]))[0]
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_a_record_without_any_value_leaves_the_odds():
    model = a_model()
    model.weight.fill_(1.0)
    model.prior.fill_(0.2)
    assert (model.log_odds_ratio(torch.tensor([[NAN]]), torch.tensor([[-1]])) == 0).all()
    torch.testing.assert_close(model(torch.tensor([[NAN]]), torch.tensor([[-1]])), torch.full((1, 2), 0.2))


def test_newtons_method_finds_the_minimum_of_the_penalized_likelihood():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = (rng.random(60) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)

    def loss(beta):
        z = beta[0] + x @ beta[1:]
        return np.sum(np.logaddexp(0, z) - y * z) + 2.0 / 2 * np.sum(beta[1:] ** 2)

    options = {"maxiter": 20000, "fatol": 1e-12, "xatol": 1e-8}
    slow = minimize(loss, np.zeros(4), method="Nelder-Mead", options=options).x
    bias, weight = fit_logistic(x, y, 2.0)
    np.testing.assert_allclose([bias, *weight], slow, atol=1e-4)


def test_a_record_that_says_nothing_is_left_out_and_a_patient_is_in_one_fold():
    rng = np.random.default_rng(1)
    groups = [f"p{i // 3}" for i in range(300)]
    fold = patient_folds(groups)
    assert all(len(set(fold[i : i + 3])) == 1 for i in range(0, 300, 3)) and set(fold) == set(range(5))
    assert (patient_folds(groups[::-1])[::-1] == fold).all()
    noise = rng.normal(size=(300, 20))
    penalty, _ = _best_penalty(noise, (rng.random(300) < 0.3).astype(float), fold)
    assert penalty >= 30 and not np.any(fit_logistic(noise, np.ones(300), np.inf)[1])


def test_the_fit_finds_who_has_what_and_a_class_in_no_image_keeps_its_prior():
    rng = np.random.default_rng(2)
    age, sex = rng.uniform(20, 90, 2000), rng.integers(0, 2, 2000)
    chance = 1 / (1 + np.exp(-((age - 55) / 8 + 1.5 * sex - 1)))
    present = np.column_stack([rng.random(2000) < chance, np.zeros(2000, dtype=bool)])
    model = RecordModel(1, [2], 2)
    numeric, categorical = torch.tensor(age)[:, None].float(), torch.tensor(sex)[:, None]
    fit = model.fit(numeric, categorical, present, [str(i) for i in range(2000)])
    found = model(numeric, categorical).numpy()
    assert np.abs(found[:, 0] - chance).mean() < 0.03 and np.abs(fit.held_out[:, 0] - chance).mean() < 0.04
    assert (found[:, 1] == pytest.approx(0.5 / 2001)) and np.isnan(fit.penalty[1])


def test_bayes_by_hand_when_look_and_record_are_independent_given_the_class():
    """P(class | look, record) of four facts: the odds given the look times the odds ratio of the record."""
    prior, look, value = 0.3, (0.8, 0.1), (0.6, 0.2)  # P(look | class), P(look | no class); the same of the record
    joint = prior * look[0] * value[0] / (prior * look[0] * value[0] + (1 - prior) * look[1] * value[1])
    given_look = prior * look[0] / (prior * look[0] + (1 - prior) * look[1])
    given_record = prior * value[0] / (prior * value[0] + (1 - prior) * value[1])
    model = RecordModel(0, [2], 1)
    model.prior.fill_(prior)
    model.bias.fill_(float(np.log(given_record / (1 - given_record))))
    ratio = model.log_odds_ratio(torch.zeros(1, 0), torch.tensor([[0]]))
    updated = torch.sigmoid(torch.logit(torch.tensor(given_look)) + ratio)
    assert float(updated) == pytest.approx(joint, rel=1e-5)


LOGITS = [
    "MODEL.CLINICAL.DROPOUT_RECORD",
    0.0,
    "MODEL.CLINICAL.FUSION_LOGITS",
    True,
    "MODEL.CLINICAL.FUSION_3D",
    False,
    "MODEL.CLINICAL.FUSION_1D",
    False,
]
CASCADE = ["MODEL.ROI_HEADS.NAME", "ClinicalCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]


@pytest.mark.parametrize(
    ("config", "opts"),
    [("synthetic_cxr/mdf_net.yaml", []), ("synthetic_cxr/mdf_net.yaml", CASCADE),
     ("mimic_eye/retinanet_mdf_net.yaml", ["MODEL.RETINANET.SCORE_THRESH_TEST", 0.0])],
)  # fmt: skip
def test_logit_fusion_starts_as_late_fusion_and_learns(config, opts, fitted, event_storage):
    """The record model raises the scores, and every learned part has a gradient at the start."""
    model, batch = fitted(config, *LOGITS, *opts, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    record_model = model.eval().backbone.record_model
    with torch.no_grad():
        before = [x["instances"] for x in model(batch)]
        record_model.bias += 1.0  # every class has e times its odds, whatever the record
        after = [x["instances"] for x in model(batch)]
    highest = [(b.scores.max(), a.scores.max()) for b, a in zip(before, after, strict=True) if len(b)]
    assert highest and all(b < a for b, a in highest)
    losses = model.train()(batch)
    sum(losses.values()).backward()
    fusions = [m for m in model.modules() if hasattr(m, "exponent")]
    for fusion in fusions:
        assert fusion.out.weight.grad.abs().sum() > 0


def test_the_odds_of_a_class_change_by_the_records_ratio_unless_there_is_no_record(fitted):
    """At the start; later the learned terms add to it, but still nothing without a record."""
    heads = fitted("synthetic_cxr/mdf_net.yaml", *LOGITS)[0].roi_heads
    fusion, regions = heads.logit_fusion[0], torch.randn(4, 64, 7, 7)
    log_odds = torch.tensor([[1.0] * 5, [-2.0] * 5, [0.0] * 5])
    record = EncodedRecord(torch.randn(3, fusion.record.in_features - 4), torch.eye(3)[:, :2] > 0, log_odds)
    boxes = [Boxes(torch.tensor([[0.0, 0.0, 8.0, 8.0]] * count)) for count in (1, 2, 1)]
    places = relative_boxes([Instances((8, 16), proposal_boxes=one) for one in boxes])
    torch.testing.assert_close(places[0], torch.tensor([-0.5, 0.0, 0.5, 1.0]))
    given = record, torch.tensor([1, 2, 1]), regions, places
    torch.testing.assert_close(fusion(*given), log_odds[[0, 1, 1, 2]])
    nn.init.normal_(fusion.out.weight)
    added = fusion(*given)
    assert (added[3] == 0).all() and not torch.isclose(added[:3], log_odds[[0, 1, 1]]).any()
    joined = torch.cat([regions[1].flatten(), record.vector[1], places[1]])
    weight = torch.cat([fusion.region.weight, fusion.record.weight], dim=1)
    head = fusion.out(F.relu(F.linear(joined, weight, fusion.record.bias)))
    torch.testing.assert_close(added[1], log_odds[1] + head, rtol=1e-4, atol=1e-4)


def test_the_class_loss_is_asked_with_and_without_the_record(fitted, event_storage):
    """Where the record model says e times the odds of every class, the loss is the mean of two cross-entropies.

    The box loss is computed once, and the logged accuracy is that of the logits with the record.
    """
    model, batch = fitted("synthetic_cxr/mdf_net.yaml", *LOGITS, "MODEL.LOSS_WEIGHTING.NAME", "none")
    seen = []
    model.backbone.record_model.bias.fill_(1.0)
    predictor = model.roi_heads.box_predictor
    plain = predictor.losses
    predictor.losses = lambda found, given: seen.append((found[0], given)) or plain(found, given)
    loss = model(batch)["loss_cls"]
    ((logits, proposals),) = seen
    classes = torch.cat([one.gt_classes for one in proposals])
    alone = logits - torch.tensor([1.0] * 5 + [0.0])
    torch.testing.assert_close(loss, (F.cross_entropy(logits, classes) + F.cross_entropy(alone, classes)) / 2)
    accuracy = event_storage.latest()["fast_rcnn/cls_accuracy"][0]
    assert accuracy == pytest.approx((logits.argmax(dim=1) == classes).float().mean())


def test_with_3d_fusion_the_detector_stays_image_only_and_the_small_head_reads_the_fused_maps(fitted):
    """Without a record the answer is that of the untrained head, whatever the head and the branch have learned."""
    options = ["MODEL.CLINICAL.FUSION_3D", True, "MODEL.CLINICAL.BRANCH", "compact"]
    options += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
    model, batch = fitted("synthetic_cxr/mdf_net.yaml", *LOGITS, *options)
    model.eval()
    numbers, words = ("clinical_numeric", "clinical_categorical")
    empty = [{**x, numbers: x[numbers] * NAN, words: x[words] * 0 - 1} for x in batch]

    def scores(given):
        with torch.no_grad():
            return torch.cat([x["instances"].scores for x in model(given)])

    start = scores(batch)
    torch.testing.assert_close(scores(empty), start)
    nn.init.normal_(model.roi_heads.logit_fusion[0].out.weight)
    learned = scores(batch)
    assert not torch.allclose(learned, start)
    torch.testing.assert_close(scores(empty), start)
    for fusion in model.backbone.fusions.values():
        nn.init.normal_(fusion.conv.bias)
    assert not torch.allclose(scores(batch), learned)
    torch.testing.assert_close(scores(empty), start)


def test_heads_that_read_no_record_are_refused():
    with pytest.raises(ConfigError, match="FUSION_LOGITS is on, but MODEL.ROI_HEADS.NAME 'StandardROIHeads'"):
        load_config("synthetic_cxr/mdf_net.yaml", [*LOGITS, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"])
    with pytest.raises(ConfigError, match="LOGITS_HIDDEN is 0: set it to 64, or FUSION_3D to False"):
        load_config("synthetic_cxr/logit_fusion.yaml", ["MODEL.CLINICAL.LOGITS_HIDDEN", 0])


def test_a_step_of_retinanet_moves_its_running_normalizer_once(fitted, event_storage):
    """A step with logit fusion, which asks the class loss twice, leaves it as a step without logit fusion does."""
    after = []
    for more in (LOGITS, [*LOGITS, "MODEL.CLINICAL.FUSION_LOGITS", False]):
        model, batch = fitted("mimic_eye/retinanet_mdf_net.yaml", *more)
        model.loss_normalizer = 7.0
        model.train()(batch)
        after.append(model.loss_normalizer)
    assert after[0] == pytest.approx(after[1]) and after[0] != 7.0
