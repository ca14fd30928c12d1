"""Groups, rates and precision of the recipe."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from toy_task import config

from tcformer.errors import UserError
from tcformer.training.optim import (
    Ema,
    build_optimizer,
    build_precision,
    build_scheduler,
    scaled_lr,
)


class Odd(nn.Module):
    """A bias with two dimensions, a Conv1d, a norm and a scalar."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.skip = nn.Conv1d(4, 4, 1, bias=False)
        self.norm = nn.LayerNorm(4)
        self.table = nn.Module()
        self.table.bias = nn.Parameter(torch.zeros(2, 2))
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_groups_are_those_of_the_published_checkpoints():
    model = Odd()
    names = {id(p): n for n, p in model.named_parameters()}
    none, decayed = build_optimizer(config(), model, 1).param_groups
    assert [names[id(p)] for p in none["params"]] == [
        "scale", "first.bias", "norm.weight", "norm.bias", "table.bias",
    ]  # fmt: skip
    assert [names[id(p)] for p in decayed["params"]] == ["first.weight", "skip.weight"]
    assert (none["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)


def test_adamw_as_published():
    group = build_optimizer(config(), Odd(), 1).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    group = build_optimizer(config(opt_betas=(0.8, 0.9), opt_eps=1e-6), Odd(), 1).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-6)


def test_rate_is_scaled_by_the_images_of_an_update():
    assert scaled_lr(config(lr=5e-4, batch_size=128), 8) == pytest.approx(1e-3)
    assert scaled_lr(config(lr=5e-4, batch_size=128, accum=2), 4) == pytest.approx(1e-3)


def test_momentum_reaches_sgd():
    cfg = config(opt="sgd", opt_eps=None, momentum=0.7)
    assert build_optimizer(cfg, Odd(), 1).param_groups[0]["momentum"] == 0.7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"opt": "adamx"}, "--opt adamx"),
        ({"opt": "sgd", "opt_betas": (0.9, 0.9)}, "sgd has no betas"),
        ({"opt_betas": (0.9, 2.0)}, "--opt adamw cannot be used: Invalid beta"),
    ],
)
def test_optimisers_that_cannot_be(changes, words):
    with pytest.raises(UserError, match=words):
        build_optimizer(config(**changes), Odd(), 1)


def rate(epoch, **changes):
    cfg = config(epochs=100, warmup_epochs=0, lr=1.0, batch_size=512, **changes)
    optimizer = build_optimizer(cfg, Odd(), 1)
    build_scheduler(cfg, optimizer).step(epoch)
    return optimizer.param_groups[0]["lr"]


def test_schedules_and_their_options():
    assert rate(30, sched="step", decay_epochs=20, decay_rate=0.5) == pytest.approx(0.5)
    assert rate(30, sched="step", decay_epochs=20) == pytest.approx(0.1)
    assert rate(50, sched="poly", min_lr=0.0) == pytest.approx(0.5**0.9)
    assert rate(50, sched="poly", min_lr=0.0, decay_rate=0.1) == pytest.approx(0.5**0.1)
    assert rate(99, min_lr=0.25) == pytest.approx(0.25, abs=1e-3)
    calm, noisy = rate(70), rate(70, lr_noise=(0.6,))
    assert calm != noisy
    assert abs(noisy / calm - 1) <= 0.67
    assert rate(50, lr_noise=(0.6,)) == rate(50)
    assert rate(70, lr_noise=(0.1, 0.6)) == calm
    assert abs(rate(70, lr_noise=(0.6,), lr_noise_pct=0.01) / calm - 1) <= 0.01
    assert rate(70, lr_noise=(0.6,), seed=1) != noisy
    small = abs(rate(70, lr_noise=(0.6,), lr_noise_std=0.001) / calm - 1)
    assert 0 < small < 0.01
    with pytest.raises(UserError, match="--sched nope"):
        rate(0, sched="nope")


def test_precision():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert build_precision(config(), cpu).dtype is None
    assert build_precision(config(amp="off"), gpu).dtype is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the scaler's, that there is no GPU
        assert build_precision(config(), gpu).dtype is torch.float16
    half = build_precision(config(amp="fp16"), cpu)
    assert half.scales
    assert not build_precision(config(amp="bf16"), cpu).scales
    with half.autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.float16
    half.paused = True
    assert not half.scales
    with half.autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.float32


def test_average():
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    ema = Ema(config(ema=True, ema_decay=0.75), model)
    nn.init.ones_(model.weight)
    ema.update(model)
    assert ema.module is not None
    assert ema.module.weight.item() == pytest.approx(0.25)
    assert Ema(config(), model).module is None
