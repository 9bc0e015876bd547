"""Homoscedastic weighting: by hand, against its closed-form optimum, and refusals."""

import math

import pytest
import torch

from mdf_detectron.modeling.losses import HomoscedasticLossWeighting


def test_by_hand():
    weighting = HomoscedasticLossWeighting(["a", "b"])
    weighting.log_alpha_squared.data = torch.tensor([0.0, math.log(4.0)])
    out = weighting({"b": torch.tensor(8.0), "a": torch.tensor(3.0)})
    assert out["a"].item() == pytest.approx(3 / 2)
    assert out["b"].item() == pytest.approx(8 / (2 * 4) + math.log(4))


def test_bounded_form_by_hand_is_never_negative():
    weighting = HomoscedasticLossWeighting(["a"], bounded=True)
    weighting.log_alpha_squared.data = torch.tensor([math.log(0.25)])
    out = weighting({"a": torch.tensor(0.1)})
    assert out["a"].item() == pytest.approx(0.1 / 0.5 + math.log(1.25))


def test_the_released_form_trains_alpha_itself():
    """The same loss as the bounded form, but a step of SGD is of α, against the derivative by hand."""
    released = HomoscedasticLossWeighting(["a", "b"], bounded=True, trains_alpha=True)
    bounded = HomoscedasticLossWeighting(["a", "b"], bounded=True)
    losses = {"a": torch.tensor(0.3), "b": torch.tensor(2.5)}
    released.alpha.data = torch.tensor([0.5, -1.5])
    bounded.log_alpha_squared.data = torch.tensor([0.25, 2.25]).log()
    assert {k: v.item() for k, v in released(losses).items()} == pytest.approx(
        {k: v.item() for k, v in bounded(losses).items()}
    )
    sum(released(losses).values()).backward()
    by_hand = [-loss / a**3 + 2 * a / (1 + a * a) for loss, a in ((0.3, 0.5), (2.5, -1.5))]
    assert released.alpha.grad.tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("loss", [0.05, 0.7, 3.0])
def test_training_reaches_the_optimum(loss):
    weighting = HomoscedasticLossWeighting(["a"])
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        weighting({"a": torch.tensor(loss)})["a"].backward()
        optimizer.step()
    assert weighting.log_alpha_squared.exp().item() == pytest.approx(loss / 2, rel=1e-3)


def test_other_losses_are_refused():
    with pytest.raises(KeyError, match="was built for"):
        HomoscedasticLossWeighting(["a"])({"b": torch.tensor(1.0)})
