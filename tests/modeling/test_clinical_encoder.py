"""Encoder: statistics by hand, missing values, gradients, refusals. Clinical dropout: rates, what hides together."""

import math

import pytest
import torch

from mdf_detectron.modeling.clinical_encoder import ClinicalDropout, ClinicalEncoder

NAN = math.nan


def encoder(missing="token", numeric=2, vocabularies=(2,)):
    torch.manual_seed(0)
    module = ClinicalEncoder(num_numeric=numeric, vocabulary_sizes=list(vocabularies), embedding_dim=3, missing=missing)
    records = torch.tensor([[1.0, 10.0], [3.0, NAN], [8.0, 10.0]])[:, :numeric]
    codes = torch.tensor([[1], [1], [-1]])[:, : len(vocabularies)]
    module.fit(records, codes)
    return module


def test_statistics_by_hand():
    module = encoder()
    assert module.mean.tolist() == [4.0, 10.0]
    # variance of 1, 3, 8 is (9 + 1 + 16) / 2 = 13; a column of one value keeps 1
    assert module.std.tolist() == pytest.approx([math.sqrt(13), 1.0])
    assert module.median.tolist() == [3.0, 10.0]
    assert module.mode.tolist() == [1]


def test_output_by_hand_and_paper_width():
    out = encoder()(torch.tensor([[8.0, 12.0]]), torch.tensor([[0]]))
    assert out.shape == (1, 5)
    assert out[0, :2].tolist() == pytest.approx([4 / math.sqrt(13), 2.0])
    paper = ClinicalEncoder(num_numeric=9, vocabulary_sizes=[2], embedding_dim=55)
    assert paper.layout.dim == 64
    assert paper.embeddings[0].weight.numel() == 110


@pytest.mark.parametrize(
    ("missing", "numeric_fill"),
    [("token", 0.7), ("median", -1 / math.sqrt(13)), ("median_indicator", -1 / math.sqrt(13))],
)
def test_missing_values(missing, numeric_fill):
    module = encoder(missing)
    if missing == "token":
        module.numeric_token.data[0] = 0.7
    out = module(torch.tensor([[NAN, 11.0]]), torch.tensor([[-1]]))
    assert out[0, :2].tolist() == pytest.approx([numeric_fill, 1.0])
    expected = module.categorical_token[0] if missing == "token" else module.embeddings[0].weight[1]
    torch.testing.assert_close(out[0, 2:5], expected)
    assert out[0, 5:].tolist() == ([1.0, 0.0] if missing == "median_indicator" else [])
    assert torch.isfinite(out).all()


def test_every_parameter_gets_a_gradient():
    module = encoder()
    module(torch.tensor([[NAN, 1.0], [1.0, NAN]]), torch.tensor([[0], [-1]])).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    assert module.categorical_token.grad.abs().sum() > 0


def test_statistics_travel_with_the_state_dict():
    fresh = ClinicalEncoder(num_numeric=2, vocabulary_sizes=[2], embedding_dim=3)
    with pytest.raises(RuntimeError, match="statistics are not set"):
        fresh(torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.long))
    source = encoder()
    fresh.load_state_dict(source.state_dict())
    args = torch.tensor([[2.0, NAN]]), torch.tensor([[1]])
    torch.testing.assert_close(fresh(*args), source(*args))


def test_only_numeric_or_only_categorical_columns_and_an_empty_batch():
    numeric = encoder(vocabularies=())
    assert numeric(torch.zeros(0, 2), torch.zeros(0, 0, dtype=torch.long)).shape == (0, 2)
    categorical = encoder(numeric=0)
    assert categorical(torch.zeros(3, 0), torch.zeros(3, 1, dtype=torch.long)).shape == (3, 3)
    with pytest.raises(ValueError, match="at least one column"):
        ClinicalEncoder(num_numeric=0, vocabulary_sizes=[], embedding_dim=3)
    with pytest.raises(ValueError, match="missing="):
        ClinicalEncoder(num_numeric=1, vocabulary_sizes=[], embedding_dim=3, missing="zero")


@pytest.mark.parametrize(("record", "value", "hidden"), [(0.3, 0.0, 0.3), (0.0, 0.25, 0.25), (0.2, 0.5, 0.6)])
def test_dropout_hides_records_whole_and_values_each_on_its_own(record, value, hidden):
    """Together: 1 − (1 − 0.2)(1 − 0.5)."""
    torch.manual_seed(0)
    numeric, categorical = torch.ones(20_000, 3), torch.zeros(20_000, 2, dtype=torch.long)
    out = ClinicalDropout(record, value).train()(numeric, categorical)
    assert not torch.isnan(numeric).any() and not categorical.any(), "the inputs stay as they are"
    found = torch.cat([torch.isnan(out[0]), out[1] == -1], dim=1)
    assert found.float().mean(dim=0).tolist() == pytest.approx([hidden] * 5, abs=0.015)
    if not value:
        assert (found.all(dim=1) | ~found.any(dim=1)).all()
    if not record:
        assert torch.corrcoef(found.float().T).fill_diagonal_(0).abs().max() < 0.03


def test_dropout_in_evaluation_and_of_zero_hides_nothing():
    values = torch.ones(50, 3), torch.zeros(50, 1, dtype=torch.long)
    assert ClinicalDropout(0.9, 0.9).eval()(*values) == values
    assert ClinicalDropout().train()(*values) == values
    for probabilities, name in (((1.0, 0.0), "record_probability"), ((0.0, -0.1), "value_probability")):
        with pytest.raises(ValueError, match=name):
            ClinicalDropout(*probabilities)
