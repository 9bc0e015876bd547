"""Gradient accumulation: in parts a batch gives the steps of the whole one (float64, no layer mixes images)."""

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from mdf_detectron.engine.accumulation import in_parts
from mdf_detectron.engine.processes import plan_processes
from mdf_detectron.errors import ConfigError


class Images(nn.Module):
    """Losses that are means over images, with a norm within each image."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 1, 3))
        self.seen = []

    def forward(self, batch):
        self.seen.append(len(batch))
        out = self.layers(torch.stack(batch))
        return {"loss_a": out.square().mean(dim=(1, 2, 3)).mean(), "loss_b": (out - 1).abs().mean(dim=(1, 2, 3)).mean()}


def train(parts, batch_size, steps=4):
    torch.manual_seed(0)
    model = Images().double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = [[torch.randn(2, 8, 8, dtype=torch.float64) for _ in range(batch_size)] for _ in range(steps)]
    loop = in_parts(SimpleTrainer, parts)(model, data, optimizer)
    checks = HookBase()
    checks.after_backward = lambda: checked.append(True)
    checked, grads = [], []
    loop.register_hooks([checks])
    with EventStorage() as storage:
        for step in range(steps):
            loop.iter = step
            loop.run_step()
            grads.append([p.grad.clone() for p in model.parameters()])
        losses = {name: storage.history(name).values() for name in ("loss_a", "loss_b", "total_loss")}
    return model, grads, losses, len(checked)


@pytest.mark.parametrize(("parts", "batch_size", "sizes"), [(2, 4, [2, 2]), (3, 5, [1, 2, 2]), (4, 4, [1] * 4)])
def test_in_parts_each_step_is_that_of_the_whole_batch(parts, batch_size, sizes):
    whole, whole_grads, whole_losses, _ = train(1, batch_size)
    model, grads, losses, checked = train(parts, batch_size)
    assert whole.seen == [batch_size] * 4 and model.seen == sizes * 4
    assert checked == 4 * parts, "losses are checked after each part's backward pass"
    for one, other in zip(grads, whole_grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=1e-11)
    torch.testing.assert_close([*model.parameters()], [*whole.parameters()], atol=1e-12, rtol=1e-10)
    for name, values in whole_losses.items():
        assert [v for v, _ in losses[name]] == pytest.approx([v for v, _ in values], rel=1e-12)


def test_a_part_needs_an_image(small_config):
    cfg = small_config("synthetic_cxr/mask_rcnn.yaml", "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE", 4)
    plan_processes(cfg)
    with pytest.raises(ConfigError, match=r"ACCUMULATE 4 parts of the 2 image\(s\) of a process: a part needs"):
        plan_processes(cfg, num_gpus=2)
