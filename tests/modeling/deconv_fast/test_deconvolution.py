"""The deconvolution and what it is fused with: against torch's own modules, by hand, and as operators of torch."""

import pytest
import torch
import torch.nn.functional as F

from mdf_detectron.modeling.deconv_fast import deconvolution
from mdf_detectron.modeling.deconv_fast.channel_moments import channel_moments, deconvolution_moments
from mdf_detectron.modeling.deconv_fast.deconvolution import (
    Deconvolution2x2,
    convolve_by_strips,
    deconvolve_and_convolve,
)


def random_operands(out_channels, dtype=torch.float64, sizes=(3, 4, 6, 7, 5)):
    torch.manual_seed(0)
    n, in_channels, height, width, channels = sizes
    shapes = [
        (n, in_channels, height, width),
        (in_channels, channels, 2, 2),
        (channels,),
        (out_channels, channels, 3, 3),
        (out_channels,),
    ]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def by_torch(x, weight, bias, kernel, kernel_bias):
    return F.conv2d(F.conv_transpose2d(x, weight, bias, stride=2).relu(), kernel, kernel_bias, padding=1)


def test_deconvolution_by_hand():
    layer = Deconvolution2x2(1, 1)
    layer.weight.data = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    layer.bias.data = torch.tensor([0.5])
    out = layer(torch.tensor([[[[10.0, 20.0]]]]))
    assert out.tolist() == [[[[10.5, 20.5, 20.5, 40.5], [30.5, 40.5, 60.5, 80.5]]]]


def test_deconvolution_and_convolution_by_hand():
    """One pixel of value 2 becomes 2, 4, 6 and −8, the last rectified; the kernel adds what is left and below-left."""
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 0], kernel[0, 0, 2, 0] = 10.0, 1.0
    out = deconvolve_and_convolve(
        torch.tensor([[[[2.0]]]]),
        torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]]),
        torch.zeros(1),
        kernel,
        torch.tensor([0.5]),
    )
    assert out.tolist() == [[[[0.5, 26.5], [0.5, 60.5]]]]


@pytest.mark.parametrize("cells", [7, 15, 4096], ids=["strips of a row", "of two rows", "one"])
@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_strips_equal_torchs_own_convolutions(cells, out_channels, memory_format, monkeypatch):
    monkeypatch.setitem(deconvolution.STRIP_CELLS, "cpu", cells)
    operands = random_operands(out_channels)
    x = operands[0].detach().contiguous(memory_format=memory_format).requires_grad_()
    ours, expected = deconvolve_and_convolve(x, *operands[1:]), by_torch(*operands)
    torch.testing.assert_close(ours, expected)
    assert ours.is_contiguous(memory_format=memory_format)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad(ours, [x, *operands[1:]], weights)
    for mine, reference in zip(gradients, torch.autograd.grad(expected, operands, weights), strict=True):
        torch.testing.assert_close(mine, reference)


def test_no_maps_give_no_maps():
    operands = random_operands(2, torch.float32, (0, 4, 6, 7, 5))
    out = deconvolve_and_convolve(*operands)
    assert out.shape == (0, 2, 12, 14)
    out.sum().backward()
    assert all(operand.grad.abs().sum() == 0 for operand in operands)


def test_strips_are_a_sound_operator():
    x, weight, bias, kernel, _ = random_operands(2, torch.float32)
    projection = kernel.detach().permute(2, 3, 0, 1).reshape(18, 5, 1, 1).requires_grad_()
    first = weight.detach().permute(2, 3, 1, 0).reshape(20, 4, 1, 1).requires_grad_()
    torch.library.opcheck(convolve_by_strips, (x, first, bias.detach().repeat(4).requires_grad_(), projection))


@pytest.mark.parametrize("cells", [64, 4096])
def test_strips_in_bfloat16_are_as_near_float32_as_torchs_own(cells, monkeypatch):
    """Also where the gradient is a sum over many strips (32 of 64 cells), all of one sign."""
    monkeypatch.setitem(deconvolution.STRIP_CELLS, "cpu", cells)
    operands = random_operands(1, torch.float32, (2, 16, 32, 32, 16))
    weights, errors = torch.rand(2, 1, 64, 64), []
    expected = by_torch(*operands)
    reference = [expected, *torch.autograd.grad((expected * weights).sum(), operands)]
    for function in (deconvolve_and_convolve, by_torch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = function(*operands)
        assert out.dtype == torch.bfloat16
        low = [out.float(), *torch.autograd.grad((out.float() * weights).sum(), operands)]
        assert all(g.dtype == torch.float32 for g in low)
        errors.append([float((a - b).detach().norm() / b.detach().norm()) for a, b in zip(low, reference, strict=True)])
    assert all(0 < mine < 1.5 * torchs + 1e-3 for mine, torchs in zip(*errors, strict=True)), errors


@pytest.mark.parametrize("strip", [5, 16384])
def test_moments_against_numpys_and_their_gradient(strip, monkeypatch):
    monkeypatch.setattr("mdf_detectron.modeling.deconv_fast.channel_moments.STRIP_POSITIONS", strip)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    mean, covariance = channel_moments(x)
    positions = x.detach().permute(1, 0, 2, 3).reshape(3, -1)
    torch.testing.assert_close(mean, positions.mean(dim=1))
    torch.testing.assert_close(covariance, torch.cov(positions, correction=0))
    assert torch.autograd.gradcheck(channel_moments, x)


def test_moments_of_a_deconvolution_without_computing_it():
    """Float32, and a mean of a hundred standard deviations: nothing cancels."""
    torch.manual_seed(0)
    x, layer = torch.randn(4, 8, 16, 16) + 100.0, Deconvolution2x2(8, 6)
    with torch.no_grad():
        layer.bias += 3.0
        mean, variance = deconvolution_moments(layer.weight, layer.bias, *channel_moments(x))
        out = layer.double()(x.double())
    torch.testing.assert_close(mean.double(), out.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(variance.double(), out.var(dim=(0, 2, 3), correction=0), rtol=1e-4, atol=0)
