"""Spatializer: against torch's own modules, shapes, gradients, and its parameter count."""

import copy

import pytest
import torch
from plain_spatializer import PlainSpatializer

from mdf_detectron.modeling.deconv_fast.spatializer import Spatializer


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_plain_module_in_values_and_gradients(training):
    torch.manual_seed(0)
    fast = Spatializer(in_dim=5, out_channels=2, num_stages=4, channels=8)
    for parameter in fast.parameters():  # norms and biases too, away from where they start
        torch.nn.init.normal_(parameter, mean=0.3, std=0.5)
    for _ in range(5):
        fast(torch.randn(6, 5), (16, 16))  # running statistics of their own
    fast.train(training)
    slow = PlainSpatializer(fast).train(training)
    row_fast = torch.randn(3, 5, requires_grad=True)
    row_slow = row_fast.detach().clone().requires_grad_()
    outputs = fast(row_fast, (16, 16)), slow(row_slow, (16, 16))
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(outputs[0])
    for out in outputs:
        (out * weights).sum().backward()
    torch.testing.assert_close(row_fast.grad, row_slow.grad, atol=1e-4, rtol=1e-3)
    for (name, a), b in zip(fast.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-3, msg=name)
    for (name, a), b in zip(fast.named_buffers(), slow.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_of_the_maps(channels_last):
    module = Spatializer(in_dim=5, out_channels=3, num_stages=4, channels=8, channels_last=channels_last)
    formats = []
    for stage in module.stages[1:]:
        stage.register_forward_hook(
            lambda m, args, out: formats.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    module.train()(torch.randn(2, 5), (16, 16))
    module.eval()(torch.randn(2, 5), (16, 16))
    assert formats == [channels_last] * 6


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_few_columns_get_through(columns, norm):
    torch.manual_seed(0)
    module = Spatializer(in_dim=columns, out_channels=1, num_stages=5, channels=16, norm=norm)
    rows = torch.tensor([[2.0, 2.0], [-2.0, -2.0], [1.0, -1.0], [0.5, 3.0]])[:, :columns].requires_grad_()
    out = module(rows, (32, 32))
    assert (out[0] - out[1]).abs().mean() > 0.3
    out.square().sum().backward()
    assert all(p.grad.abs().max() < 1e4 for p in module.parameters())


def test_parameters_are_those_of_the_paper():
    module = Spatializer(in_dim=64, out_channels=3, num_stages=9, channels=64)
    assert sum(p.numel() for p in module.parameters()) == 447_369


def test_recomputing_the_stages_changes_nothing():
    torch.manual_seed(0)
    stored = Spatializer(in_dim=5, out_channels=1, num_stages=3, channels=8)
    stored(torch.randn(7, 5), (8, 8))  # statistics other than the next batch's
    recomputed = copy.deepcopy(stored)
    recomputed.use_checkpoint = True
    rows = torch.randn(2, 5)
    for module in (stored, recomputed):
        module(rows, (8, 8)).square().sum().backward()
    for a, b in zip(stored.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for (name, a), b in zip(stored.named_buffers(), recomputed.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=f"{name}: the statistics moved twice")


@pytest.mark.parametrize(("norm", "uniform"), [("BN", 0), ("GN", 7)])
def test_the_row_is_most_of_what_an_untrained_map_shows(norm, uniform):
    """The spread between rows against the whole spread of S, behind nine stages."""
    torch.manual_seed(0)
    module = Spatializer(
        in_dim=9, out_channels=4, num_stages=7, channels=32, norm=norm, num_uniform=7 if uniform else 0
    )
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


def test_group_norm_codes_each_row_by_itself():
    torch.manual_seed(0)
    module = Spatializer(in_dim=9, out_channels=4, num_stages=3, channels=8, norm="GN").train()
    rows = torch.randn(5, 9)
    torch.testing.assert_close(module(rows, (8, 8))[:2], module(rows[:2], (8, 8)))
    batch_norm = Spatializer(in_dim=9, out_channels=4, num_stages=3, channels=8).train()
    assert not torch.allclose(batch_norm(rows, (8, 8))[:2], batch_norm(rows[:2], (8, 8)))
    with pytest.raises(ValueError, match="norm must be one of"):
        Spatializer(in_dim=9, out_channels=1, norm="IN")


def test_other_sizes_are_resized_and_bad_arguments_refused():
    module = Spatializer(in_dim=5, out_channels=1, num_stages=3, channels=4).eval()
    assert module(torch.randn(2, 5), (12, 20)).shape == (2, 1, 12, 20)
    with pytest.raises(ValueError, match="num_stages"):
        Spatializer(in_dim=5, out_channels=1, num_stages=0)


def test_recomputation_knows_its_own_statistics():
    """Another forward between a forward and its backward, and two backward passes of one forward."""
    torch.manual_seed(0)
    stored = Spatializer(in_dim=5, out_channels=1, num_stages=3, channels=8)
    recomputed = copy.deepcopy(stored)
    recomputed.use_checkpoint = True
    gradients, first, second = [], torch.randn(4, 5), torch.randn(4, 5) * 3
    for module in (stored, recomputed):
        out = module(first, (8, 8)).square().sum()
        module(second, (8, 8))
        for _ in range(2):
            gradients.append(torch.autograd.grad(out, list(module.parameters()), retain_graph=True))
    for others in gradients[1:]:
        for a, b in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(a, b)
    for a, b in zip(stored.buffers(), recomputed.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_equal_rows_in_the_first_batch_do_no_lasting_harm(count):
    """All the same, or all missing: batch norm then sees no variance between them at all."""
    torch.manual_seed(0)
    module = Spatializer(in_dim=9, out_channels=1, num_stages=7, channels=16)
    out = module(torch.randn(1, 9).expand(count, -1), (128, 128))
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad.abs().max() < 1e5 for p in module.parameters())
    rows = torch.randn(4, 9, requires_grad=True)
    for _ in range(3):
        out = module(rows, (128, 128))
    (out * torch.randn_like(out)).sum().backward()
    assert out.isfinite().all() and out.abs().max() < 100
    assert 1.0 < rows.grad.norm() < 1e4


@pytest.mark.parametrize("low", [False, True])
def test_compiled_it_computes_the_same(low):
    """As the one graph that inductor gets, without a C++ compiler."""
    torch.manual_seed(0)
    eager = Spatializer(in_dim=8, out_channels=1, num_stages=3, channels=8)
    compiled = copy.deepcopy(eager)
    compiled.compile(backend="aot_eager", fullgraph=True)
    for training in (True, False):
        outputs = []
        for module in (eager.train(training), compiled.train(training)):
            module.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
                out = module(torch.linspace(-2, 2, 32).view(4, 8), (8, 8))
            out.float().square().sum().backward()
            outputs.append([out, *(p.grad for p in module.parameters()), *module.buffers()])
        for a, b in zip(*outputs, strict=True):  # bfloat16: fused operations round less often
            torch.testing.assert_close(a, b, atol=0.02 if low else 1e-4, rtol=0.1 if low else 1e-4)


def test_statistics_are_float32_under_autocast():
    torch.manual_seed(0)
    low = Spatializer(in_dim=16, out_channels=1, num_stages=1, channels=8)
    full, rows = copy.deepcopy(low), torch.randn(64, 16) * torch.rand(64, 1) * 20
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low(rows, (2, 2))
    full(rows, (2, 2))
    for name in ("running_mean", "running_var"):
        a, b = (getattr(module.stages[0][1], name) for module in (low, full))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
