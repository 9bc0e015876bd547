"""Batch renormalization: the paper's equations in plain operations, its relation to batch norm, and its converter."""

import copy

import pytest
import torch
from detectron2.layers import BatchNorm2d as DetectronBatchNorm2d
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from timm.layers import BatchNormAct2d
from torch import nn

from mdf_detectron.errors import ConfigError
from mdf_detectron.modeling.deconv_fast.batch_renorm import BatchRenorm2d, BatchRenormAct2d, with_batch_renorm
from mdf_detectron.modeling.deconv_fast.deconvolution import Deconvolution2x2
from mdf_detectron.modeling.deconv_fast.spatializer import SpatializerStage


def by_the_paper(x, norm):
    """Equations 4 to 6, with running statistics that already hold this batch's share."""
    mean, std = x.mean(dim=(0, 2, 3)), (x.var(dim=(0, 2, 3), correction=0) + norm.eps).sqrt()
    running_std = (norm.running_var + norm.eps).sqrt()
    r, d = (std / running_std).detach(), ((mean - norm.running_mean) / running_std).detach()
    normalized = (x - mean[:, None, None]) / std[:, None, None] * r[:, None, None] + d[:, None, None]
    return normalized * norm.weight[:, None, None] + norm.bias[:, None, None]


def trained_norm(channels=3):
    """Away from its start: statistics of some batches, and weights."""
    torch.manual_seed(0)
    norm = BatchRenorm2d(channels).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    for _ in range(4):
        norm(torch.randn(2, channels, 4, 4, dtype=torch.float64) * 2 + 1)
    return norm


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_the_papers(memory_format):
    norm = trained_norm()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    out, weights = norm(x), torch.randn(2, 3, 5, 4, dtype=torch.float64)
    expected = by_the_paper(x, norm)
    torch.testing.assert_close(out, expected)
    wanted = [x, norm.weight, norm.bias]
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), wanted) for y in (out, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_folded_into_a_deconvolution_it_is_the_same():
    torch.manual_seed(0)
    stage = SpatializerStage(3, 4, 2, norm="BRN", last=True).double()
    for _ in range(3):
        stage(torch.randn(2, 3, 4, 4, dtype=torch.float64) + 1)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    out, weights = stage(x), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    deconvolution, norm, _, convolution, last = stage
    assert isinstance(deconvolution, Deconvolution2x2)
    expected = by_the_paper(convolution(by_the_paper(deconvolution(x), norm).relu()), last)
    torch.testing.assert_close(out, expected)
    wanted = [x, *stage.parameters()]
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), wanted) for y in (out, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


def test_evaluation_is_batch_norms():
    torch.manual_seed(0)
    renorm, norm = BatchRenorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 16, 16) * 3 + 2
    for _ in range(3):
        renorm(torch.randn(2, 3, 4, 4))
    norm.load_state_dict(renorm.state_dict())
    torch.testing.assert_close(renorm.eval()(x), norm.eval()(x))
    assert not torch.allclose(renorm.train()(x), norm.train()(x), atol=0.1)


def test_running_statistics_by_hand():
    """They start as one batch of mean 0 and variance 1; each further one weighs the same, until momentum says more."""
    norm = BatchRenorm2d(1, momentum=0.4)
    expected = []
    for share, value in ((0.5, 4.0), (0.4, 2.0), (0.4, 2.0)):
        mean, var = expected[-1] if expected else (0.0, 1.0)
        expected.append((mean + share * (value - mean), var + share * (2.0 - var)))
        norm(torch.tensor([value - 1, value + 1]).view(2, 1, 1, 1))  # unbiased variance 2
        torch.testing.assert_close((norm.running_mean.item(), norm.running_var.item()), expected[-1])


def test_a_row_becomes_the_same_in_training_and_at_inference():
    """But for the share that its own batch has in the running statistics; of batch norm only the former is true."""
    torch.manual_seed(0)
    norm = BatchRenorm2d(8, momentum=0.01)
    for _ in range(300):
        norm(torch.randn(4, 8, 1, 1))
    x = torch.randn(4, 8, 1, 1)
    difference = norm(x) - norm.eval()(x)
    assert difference.norm() < 0.02 * x.norm()


def test_converter():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), BatchNormAct2d(4, act_layer=nn.Hardswish)),
        DetectronBatchNorm2d(4),
        FrozenBatchNorm2d(4),
        nn.GroupNorm(2, 4),
    )
    for p in model.parameters():
        nn.init.normal_(p)
    model.train()(torch.randn(2, 1, 8, 8))
    frozen = copy.deepcopy(model[3].state_dict())
    before = copy.deepcopy(model)
    converted = with_batch_renorm(model)
    for norm in (m for m in before.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.num_batches_tracked == 1
        norm.reset_running_stats()
    assert [type(m) for m in (*converted[1], *converted[2:])] == [
        BatchRenorm2d,
        BatchRenormAct2d,
        BatchRenorm2d,
        FrozenBatchNorm2d,
        nn.GroupNorm,
    ]
    assert (converted[1][0].eps, converted[1][0].momentum) == (1e-3, 0.2)
    assert converted.state_dict().keys() == before.state_dict().keys()
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(converted.eval()(x), before.eval()(x))
    assert all(torch.equal(frozen[k], v) for k, v in converted[3].state_dict().items())


@pytest.mark.parametrize(
    "norm",
    [nn.SyncBatchNorm(4), NaiveSyncBatchNorm(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None)],
)
def test_other_batch_norms_are_refused(norm):
    with pytest.raises(ConfigError, match="BATCH_RENORM does not know how to replace"):
        with_batch_renorm(nn.Sequential(nn.Conv2d(1, 4, 1), norm))
