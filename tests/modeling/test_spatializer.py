"""Spatializer: against torch's own modules, by hand, shapes, gradients, and how it starts."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdf_detectron.modeling import spatializer
from mdf_detectron.modeling.spatializer import Spatializer, SpatializerStage


def plainly(module, encoded, size):
    """The same by torch's own deconvolution, norms and convolution, one after the other, nothing folded."""
    x = encoded[:, :, None, None]
    for stage in module.stages:
        for layer in stage:
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("out_channels", "norm", "cells"),
    [(1, "BN", 4096), (3, "BN", 17), (7, "BN", 4096), (1, "GN", 4096)],
    ids=["one strip", "strips of a row", "no strips", "group norm"],
)
def test_equals_torchs_own_modules(training, out_channels, norm, cells, monkeypatch):
    """Outputs, gradients and running statistics, in double precision."""
    monkeypatch.setattr(spatializer, "STRIP_CELLS", cells)
    torch.manual_seed(0)
    fast = Spatializer(in_dim=5, out_channels=out_channels, num_stages=4, channels=8, norm=norm).double()
    for parameter in fast.parameters():  # norms and biases too, away from where they start
        nn.init.normal_(parameter, mean=0.3, std=0.5)
    for _ in range(3):
        fast(torch.randn(6, 5).double(), (16, 16))  # running statistics of their own
    slow, records, found = copy.deepcopy(fast), torch.randn(3, 5).double().requires_grad_(), []
    for module, function in ((fast, fast), (slow, lambda *given: plainly(slow, *given))):
        module.train(training)
        out = function(records, (16, 16))
        gradients = torch.autograd.grad(out.square().sum(), [records, *module.parameters()])
        found.append([out, *gradients, *module.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_stage_by_hand():
    """A cell of 2 becomes pixels 2, 4, 6 and −8, the last rectified; the kernel adds what is left and below-left."""
    stage = SpatializerStage(1, 1, 1, last=True).eval()
    for norm in (stage[1], stage[4]):
        norm.eps = 0.0
    stage[0].weight.data, stage[0].bias.data = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]]), torch.zeros(1)
    stage[3].weight.data, stage[3].bias.data = torch.zeros(1, 1, 3, 3), torch.tensor([0.5])
    stage[3].weight.data[0, 0, 1, 0], stage[3].weight.data[0, 0, 2, 0] = 10.0, 1.0
    assert stage(torch.tensor([[[[2.0]]]])).tolist() == [[[[0.5, 26.5], [0.5, 60.5]]]]


def test_statistics_of_a_large_mean_do_not_cancel():
    """Float32, and a mean of a hundred standard deviations."""
    torch.manual_seed(0)
    x, stage = torch.randn(4, 8, 16, 16) + 100.0, SpatializerStage(8, 6, 1)
    with torch.no_grad():
        mean, variance = stage._statistics(x)
        out = stage[0].double()(x.double())
    torch.testing.assert_close(mean.double(), out.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(variance.double(), out.var(dim=(0, 2, 3), correction=0), rtol=1e-4, atol=0)


def test_statistics_are_float32_under_autocast():
    torch.manual_seed(0)
    low = Spatializer(in_dim=16, out_channels=1, num_stages=1, channels=8)
    full, records = copy.deepcopy(low), torch.randn(64, 16) * torch.rand(64, 1) * 20
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low(records, (2, 2))
    full(records, (2, 2))
    for name in ("running_mean", "running_var"):
        a, b = (getattr(module.stages[0][1], name) for module in (low, full))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_few_columns_get_through(columns, norm):
    torch.manual_seed(0)
    module = Spatializer(in_dim=columns, out_channels=1, num_stages=5, channels=16, norm=norm)
    records = torch.tensor([[2.0, 2.0], [-2.0, -2.0], [1.0, -1.0], [0.5, 3.0]])[:, :columns].requires_grad_()
    out = module(records, (32, 32))
    assert (out[0] - out[1]).abs().mean() > 0.3
    out.square().sum().backward()
    assert all(p.grad.abs().max() < 1e4 for p in module.parameters())


def test_parameters_are_those_of_the_paper():
    module = Spatializer(in_dim=64, out_channels=3, num_stages=9, channels=64)
    assert sum(p.numel() for p in module.parameters()) == 447_369


@pytest.mark.parametrize(("norm", "uniform"), [("BN", 0), ("GN", 7)])
def test_the_record_is_most_of_what_an_untrained_map_shows(norm, uniform):
    """The spread between records against the whole spread of S, after all stages."""
    torch.manual_seed(0)
    module = Spatializer(in_dim=9, out_channels=4, num_stages=7, channels=32, norm=norm, num_uniform=uniform)
    with torch.no_grad():
        out = module(torch.randn(32, 9), (128, 128))
    assert (out - out.mean(dim=0)).square().mean() > 0.6 * (out - out.mean()).square().mean()
    spread_in_space = out.var(dim=(2, 3)).mean() / out.var()
    assert spread_in_space < 1e-3 if uniform else spread_in_space > 0.5


def test_a_pattern_that_repeats():
    torch.manual_seed(0)
    module = Spatializer(in_dim=9, out_channels=1, num_stages=6, channels=16, norm="GN", num_uniform=3)
    with torch.no_grad():
        out = module(torch.randn(32, 9), (64, 64))[:, :, 8:-8, 8:-8]  # the borders are padded with zeros
    torch.testing.assert_close(out[..., 8:, :], out[..., :-8, :])
    torch.testing.assert_close(out[..., 8:], out[..., :-8])
    assert not torch.allclose(out[..., 4:], out[..., :-4], atol=0.1)


@pytest.mark.parametrize(("norm", "alone"), [("GN", True), ("BN", False)])
def test_group_norm_codes_each_record_by_itself(norm, alone):
    torch.manual_seed(0)
    module = Spatializer(in_dim=9, out_channels=4, num_stages=3, channels=8, norm=norm).train()
    records = torch.randn(5, 9)
    assert torch.allclose(module(records, (8, 8))[:2], module(records[:2], (8, 8)), atol=1e-5) == alone


def test_other_sizes_are_resized_and_bad_arguments_refused():
    module = Spatializer(in_dim=5, out_channels=1, num_stages=3, channels=4).eval()
    assert module(torch.randn(2, 5), (12, 20)).shape == (2, 1, 12, 20)
    for arguments, message in (({"num_stages": 0}, "num_stages"), ({"norm": "IN"}, "norm must be one of")):
        with pytest.raises(ValueError, match=message):
            Spatializer(in_dim=5, out_channels=1, **arguments)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_equal_records_in_the_first_batch_do_no_lasting_harm(count):
    """All the same, or all missing: batch norm then sees no variance between them at all."""
    torch.manual_seed(0)
    module = Spatializer(in_dim=9, out_channels=1, num_stages=7, channels=16)
    out = module(torch.randn(1, 9).expand(count, -1), (128, 128))
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad.abs().max() < 1e5 for p in module.parameters())
    records = torch.randn(4, 9, requires_grad=True)
    for _ in range(3):
        out = module(records, (128, 128))
    (out * torch.randn_like(out)).sum().backward()
    assert out.isfinite().all() and out.abs().max() < 100
    assert 1.0 < records.grad.norm() < 1e4
