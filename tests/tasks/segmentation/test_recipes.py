"""The ADE20K recipes say what docs/segmentation.md says of them."""

from __future__ import annotations

import pytest
import torch

from tcformer.training.optim import build_optimizer, build_scheduler, set_learning_rate
from tcformer.training.options import build, load_config


@pytest.mark.parametrize("name", ["ade20k_tcformer_light", "ade20k_tcformerv2_base"])
def test_forty_thousand_iterations_at_the_authors_rate(name):
    cfg = build(load_config(f"configs/segmentation/{name}.py"))
    assert cfg.segmentation.steps_per_epoch * cfg.optimization.epochs == 40_000
    assert cfg.segmentation.steps_per_epoch * cfg.run.eval_every == 4000
    assert (cfg.neck.neck_channels, cfg.neck.neck_heads, cfg.segmentation.head_channels) == (
        256,
        4,
        128,
    )
    optimizer = build_optimizer(cfg, torch.nn.Linear(2, 2), world_size=8)  # 8 x 4 crops
    scheduler = build_scheduler(cfg, optimizer)
    for epoch in range(cfg.optimization.epochs):
        set_learning_rate(scheduler, epoch)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([2e-4 * (1 - epoch / 40) ** 0.9] * 2, rel=1e-9)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 1e-4]
