"""Clinical dropout: rates, what is hidden together, evaluation, refusals."""

import pytest
import torch

from mdf_detectron.modeling.clinical_encoder import ClinicalDropout


def hidden_cells(row, cell, count=20_000):
    torch.manual_seed(0)
    numeric, categorical = torch.ones(count, 3), torch.zeros(count, 2, dtype=torch.long)
    kept = numeric.clone(), categorical.clone()
    out = ClinicalDropout(row, cell).train()(numeric, categorical)
    assert torch.equal(numeric, kept[0]) and torch.equal(categorical, kept[1]), "the inputs stay as they are"
    return torch.cat([torch.isnan(out[0]), out[1] == -1], dim=1)


def test_rows_are_hidden_whole():
    hidden = hidden_cells(0.3, 0.0)
    assert (hidden.all(dim=1) | ~hidden.any(dim=1)).all()
    assert hidden[:, 0].float().mean().item() == pytest.approx(0.3, abs=0.015)


def test_cells_are_hidden_each_on_its_own():
    hidden = hidden_cells(0.0, 0.25).float()
    assert hidden.mean(dim=0).tolist() == pytest.approx([0.25] * 5, abs=0.015)
    assert torch.corrcoef(hidden.T).fill_diagonal_(0).abs().max() < 0.03


def test_both():
    # P = 1 - (1 - 0.2)(1 - 0.5)
    assert hidden_cells(0.2, 0.5).float().mean().item() == pytest.approx(0.6, abs=0.015)


def test_evaluation_and_zero_hide_nothing():
    cells = torch.ones(50, 3), torch.zeros(50, 1, dtype=torch.long)
    assert ClinicalDropout(0.9, 0.9).eval()(*cells) == cells
    assert ClinicalDropout().train()(*cells) == cells


def test_refusals():
    with pytest.raises(ValueError, match="record_probability"):
        ClinicalDropout(1.0, 0.0)
    with pytest.raises(ValueError, match="value_probability"):
        ClinicalDropout(0.0, -0.1)
