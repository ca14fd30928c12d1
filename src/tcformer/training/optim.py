"""Optimizer, learning rate and precision of the recipe, over timm's parts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.training.config import TrainConfig

REFERENCE_BATCH = 512
"""Images per update that `--lr` is meant for."""

LEAST_SCALE = 2.0**-14
"""Least loss scale, at which gradients overflow float16 from 65504 * 2**14 = 1e9 on.

The scaler begins at 2**16 and is here after 30 updates of which none succeeded.
"""


def scaled_lr(cfg: TrainConfig, world_size: int) -> float:
    """The peak learning rate: `--lr` times the images per update over 512 (linear scaling)."""
    images = cfg.data.batch_size * world_size * cfg.optimization.accum
    return cfg.optimization.lr * images / REFERENCE_BATCH


def build_optimizer(cfg: TrainConfig, model: nn.Module, world_size: int) -> torch.optim.Optimizer:
    """The optimizer, by timm's name; group 0 is not decayed, group 1 is, each in module order.

    Decayed are the parameters with two or more dimensions that are not biases; with `--decay-all`
    there is one group of all.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    ours, known = cfg.optimization, list_optimizers()
    if ours.opt.lower().removeprefix("lookahead_") not in known:
        raise UserError(
            f"--opt {ours.opt} is not an optimizer of timm; known are {', '.join(known)}."
        )
    given = {"eps": ours.opt_eps, "betas": ours.opt_betas}
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=ours.opt.lower(),
            lr=scaled_lr(cfg, world_size),
            weight_decay=ours.weight_decay,
            momentum=ours.momentum,
            filter_bias_and_bn=not ours.decay_all,
            **{name: value for name, value in given.items() if value is not None},
        )
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        why = str(error).rstrip(".") or type(error).__name__
        raise UserError(f"--opt {ours.opt} cannot be used: {why}.") from error
    if ours.opt_betas is not None and "betas" not in optimizer.defaults:
        raise UserError(f"--opt {ours.opt} has no betas; leave --opt-betas out.")
    return optimizer


def state_entries(cfg: TrainConfig) -> list[set[str]]:
    """What `--opt` keeps after a first step, for a vector, a matrix and a filter.

    Empty where it cannot take a step by itself.
    """
    shapes = (64,), (64, 64), (64, 64, 3, 3)
    parameters = nn.ParameterList(nn.Parameter(torch.ones(shape)) for shape in shapes)
    optimizer = build_optimizer(cfg, parameters, 1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    except (RuntimeError, TypeError, ValueError):  # some want a closure, or a graph of gradients
        return []
    return [set(optimizer.state[parameter]) for parameter in parameters]


def build_scheduler(cfg: TrainConfig, optimizer: torch.optim.Optimizer) -> Any:
    """The schedule, by timm's name, a function of the epoch (see `set_learning_rate`)."""
    from timm.scheduler import create_scheduler_v2

    ours = cfg.optimization
    noise = ours.lr_noise[0] if ours.lr_noise and len(ours.lr_noise) == 1 else ours.lr_noise
    decay_rate = ours.decay_rate
    if decay_rate is None:  # timm takes it for the power of a polynomial, where 0.1 hardly decays
        decay_rate = 0.9 if ours.sched == "poly" else 0.1
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=ours.sched,
            num_epochs=ours.epochs,
            decay_epochs=ours.decay_epochs,
            # timm decays an epoch early: in the epoch that, counted from 1, is a milestone.
            decay_milestones=[milestone + 1 for milestone in ours.decay_milestones],
            cooldown_epochs=ours.cooldown_epochs,
            decay_rate=decay_rate,
            min_lr=ours.min_lr,
            warmup_lr=ours.warmup_lr,
            warmup_epochs=ours.warmup_epochs,
            noise=list(noise) if isinstance(noise, tuple) else noise,
            noise_pct=ours.lr_noise_pct,
            noise_std=ours.lr_noise_std,
            noise_seed=cfg.run.seed,
        )
    except (ValueError, AssertionError) as error:
        why = str(error).rstrip(".")
        raise UserError(f"--sched {ours.sched} cannot be used: {why}.") from error
    if scheduler is None:
        raise UserError("--sched none is refused: it would ignore the warm-up and every rate.")
    return scheduler


def set_learning_rate(scheduler: Any, epoch: int, *, compat: bool = False) -> None:
    """Set the rate of the epoch about to run.

    The published script steps its schedule with `e` after epoch `e`, so epoch e+1 runs at the rate
    meant for e and the first rate is used twice. `compat` does the same.
    """
    scheduler.step(max(epoch - 1, 0) if compat else epoch)


class WarmUp:
    """Raises the rates, which the schedule has just set, over the first `steps` steps of a run.

    At step t of n the rate is the schedule's times 1 - (1 - t / n) (1 - 0.001): a function of the
    step alone, so nothing of it needs saving.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.optimizer, self.steps = optimizer, steps
        self._full = [group["lr"] for group in optimizer.param_groups]

    def step(self, number: int) -> None:
        """Set the rates of step `number` of the run."""
        if number <= self.steps and self.steps:
            factor = 1 - (1 - number / self.steps) * (1 - 1e-3)
            for group, rate in zip(self.optimizer.param_groups, self._full, strict=True):
                group["lr"] = rate * factor


@dataclass
class Precision:
    """Autocast and loss scaling of a run."""

    device_type: str
    dtype: torch.dtype | None  # None: float32 throughout
    scaler: torch.amp.GradScaler
    paused: bool = False  # --fp32-resume: full precision for now

    @property
    def name(self) -> str:
        """As `--amp` calls it, what is automatic decided: off, fp16 or bf16."""
        return {None: "off", torch.float16: "fp16", torch.bfloat16: "bf16"}[self.dtype]

    @property
    def scales(self) -> bool:
        """Whether the loss is scaled at the moment."""
        return self.scaler.is_enabled() and not self.paused

    def step(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, max_norm: float | None
    ) -> bool:
        """Update, and clip the gradients of a scaled loss; False if they overflowed."""
        if not self.scales:
            optimizer.step()
            return True
        before = self.scaler.get_scale()
        self.scaler.unscale_(optimizer)
        if max_norm is not None:
            clip_gradients(model, max_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        stepped = self.scaler.get_scale() >= before
        if self.scaler.get_scale() < LEAST_SCALE:
            self.scaler.update(LEAST_SCALE)
        return stepped

    @property
    def exhausted(self) -> bool:
        """Whether the scale is so small that overflowing gradients are not the scale's fault."""
        return self.scales and self.scaler.get_scale() <= LEAST_SCALE

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The context for a forward pass."""
        if self.dtype is None or self.paused:
            yield
            return
        with torch.autocast(self.device_type, dtype=self.dtype):
            yield


def build_precision(cfg: TrainConfig, device: torch.device) -> Precision:
    """One precision, with one loss scaler, for the whole run.

    The published script makes a new scaler every epoch, so each epoch begins by overflowing.
    """
    amp = cfg.optimization.amp
    if amp == "auto":
        amp = "fp16" if device.type == "cuda" else "off"
    dtype = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}[amp]
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
    return Precision(device.type, dtype, scaler)


class Ema:
    """Moving average of the weights (timm's `ModelEmaV3`), or nothing when switched off."""

    def __init__(self, cfg: TrainConfig, model: nn.Module) -> None:
        from timm.utils import ModelEmaV3

        ours = cfg.optimization
        self._average = ModelEmaV3(model, decay=ours.ema_decay) if ours.ema else None

    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`, after an optimizer step."""
        if self._average is not None:
            self._average.update(model)

    @property
    def module(self) -> nn.Module | None:
        """The averaged model, or None."""
        return None if self._average is None else self._average.module


def parallel(model: nn.Module, world: World) -> nn.Module:
    """The model, averaging gradients over the processes when there are several."""
    if world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    # A depthwise kernel (C, 1, 3, 3) has strides that differ in the dimension of size 1 only, where
    # they mean nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return nn.parallel.DistributedDataParallel(model, device_ids=devices)


def clip_gradients(model: nn.Module, max_norm: float | None) -> torch.Tensor:
    """Scale the gradients down to `max_norm`, if given. Returns the 2-norm that they had."""
    if max_norm is None:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads)
    return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
