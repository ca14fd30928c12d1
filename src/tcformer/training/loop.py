"""The training loop, to be read from the top: `fit`, then `train_one_epoch`.

It trains whatever `Task` it is given: resume, one epoch after another, evaluate, keep the best,
stop when asked, and leave behind files from which the run goes on bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tcformer.runtime.distributed import World, all_reduce_sums, interrupt_reason
from tcformer.runtime.logger import logger
from tcformer.runtime.signals import interrupt
from tcformer.training import checkpoint as ckpt
from tcformer.training.checkpoint import TrainState
from tcformer.training.config import TrainConfig
from tcformer.training.log import RunLog
from tcformer.training.metrics import MetricLogger, OnProgress, SmoothedValue, hms
from tcformer.training.nonfinite import NonFiniteSteps, NotFinite, Step, refuse_nonfinite_weights
from tcformer.training.optim import (
    Ema,
    WarmUp,
    build_optimizer,
    build_precision,
    build_scheduler,
    clip_gradients,
    parallel,
    set_learning_rate,
)
from tcformer.training.record import current
from tcformer.training.resume import resume
from tcformer.training.retention import prepare_folder, prune, spare
from tcformer.training.task import Task

__all__ = ["FitResult", "Interrupted", "NotFinite", "build_state", "count_parameters", "fit"]


class Interrupted(Exception):
    """The run was asked to stop, has saved what there was to save, and stops now."""


@dataclass(frozen=True)
class FitResult:
    """What a training run came to."""

    best: float  # of the task's metric
    best_epoch: int
    last: dict[str, float]  # the last evaluation
    best_result: dict[str, float]  # that of the best epoch; empty if it was before a resume


def fit(
    task: Task,
    cfg: TrainConfig,
    world: World,
    *,
    on_progress: OnProgress | None = None,
) -> FitResult:
    """Train `task` as `cfg` says, and keep the record of the run (`recording`) up to date.

    Raises:
        Interrupted: a signal asked for the end; everything is saved.
        NotFinite: on every process, when the loss or gradient of any is not finite, more often than
            `--skip-nonfinite` allows.
    """
    state = build_state(task, cfg, world)
    source = resume(state, task, cfg, world)
    resumed = bool(source)
    if cfg.run.compile:
        state.model.compile()
    if cfg.run.output_dir and world.is_main:
        prepare_folder(cfg, state, source)
    model = parallel(state.model, world)
    epochs = cfg.optimization.epochs + cfg.optimization.cooldown_epochs
    pending = not state.evaluated  # stopped after an epoch was saved, before it was evaluated
    first = state.epoch + 1
    log = RunLog(cfg, world, first_epoch=first - pending, resumed=resumed)
    record = current()
    if record.path is not None:
        record.begin(task.facts_for_record(), resumed=resumed, first_epoch=first - pending)
    run = _Run(task, cfg, world, state, model, log, on_progress, first, epochs)

    logger.info(f"Start training for {cfg.optimization.epochs} epochs")
    began = time.monotonic()
    try:
        for epoch in range(first - pending, epochs):
            if epoch < first:  # killed between its two files, it left only the first
                run.set_learning_rate(epoch)
            else:
                run.train_one_epoch(epoch)
            run.save_epoch()
            run.finish_epoch()
    finally:
        log.close()
    logger.info(f"Training time {hms(time.monotonic() - began)}")
    best = state.best
    return FitResult(
        best.get(task.metric, math.nan), int(best.get("epoch", -1)), run.last, run.best_result
    )


@dataclass
class _Run:
    """The parts of a run that its steps share."""

    task: Task
    cfg: TrainConfig
    world: World
    state: TrainState
    model: nn.Module  # state.model, or that wrapped for several processes
    log: RunLog
    on_progress: OnProgress | None
    first_epoch: int
    epochs: int

    def __post_init__(self) -> None:
        self.last: dict[str, float] = {}
        self.best_result: dict[str, float] = {}
        self.nonfinite = NonFiniteSteps(self.task, self.cfg, self.world, self.state)

    def train_one_epoch(self, epoch: int) -> None:
        """From `state.step` (0, or where an interrupted run stopped) to the end of the epoch."""
        task, state, precision = self.task, self.state, self.state.precision
        ours, every, steps = self.cfg.optimization, self.cfg.run.save_steps, task.steps_per_epoch
        accum = ours.accum
        self.set_learning_rate(epoch)
        warm_up = WarmUp(state.optimizer, ours.warmup_steps)
        precision.paused = ours.fp32_resume and epoch < self.first_epoch + 2
        self.model.train()
        state.optimizer.zero_grad(set_to_none=True)
        # The whole group whose gradients are added is repeated if a resume falls inside one.
        start = state.step // accum * accum
        if start == 0:
            reset_meters(state)
        meters = self._meters(epoch, "train")
        meters.meters = state.meters
        batches = task.batches(epoch, start)
        for step, batch in meters.log_every(batches, steps, f"Epoch: [{epoch}]", start=start):
            group = min(accum, steps - step // accum * accum)
            updates = (step + 1) % accum == 0 or step + 1 == steps
            warm_up.step(epoch * steps + step)
            if step % accum == 0:
                self.nonfinite.begin(step)
            value, norm = 0.0, None
            if not self.nonfinite.dropping:
                # Between the steps of a group, processes need not exchange their gradients.
                with contextlib.nullcontext() if updates else no_sync(self.model):
                    with precision.autocast():
                        loss = task.loss(self.model, batch)
                    scaled = loss / group
                    (precision.scaler.scale(scaled) if precision.scales else scaled).backward()
                value = loss.item()
                if updates and not precision.scales:  # the loss scaler looks for itself
                    norm = clip_gradients(state.model, ours.clip_grad).item()
            here = Step(epoch, step, batch, value, norm)
            stop = self._agree(here)
            state.meters["lr"].update(state.optimizer.param_groups[0]["lr"])
            if not self.nonfinite.dropping:
                state.meters["loss"].update(value)
            if not updates:
                continue
            if not self.nonfinite.dropping:
                self._update(here)
            before, state.step = state.step, step + 1
            due = every > 0 and before // every < state.step // every
            if state.step < steps and (stop or due):
                self._save(ckpt.LAST)
                if stop:
                    raise Interrupted(self._farewell())
        meters.synchronize()
        self._tell_averages(meters, -(-steps // accum))
        state.epoch, state.step, state.evaluated = epoch, 0, False

    def set_learning_rate(self, epoch: int) -> None:
        """Set the schedule's rate of an epoch."""
        compat = self.cfg.optimization.lr_schedule_compat
        set_learning_rate(self.state.scheduler, epoch, compat=compat)

    def _agree(self, here: Step) -> bool:
        """Whether anybody was asked to stop; deals with a step that is bad on any process.

        One small sum over all processes a step lets all do the same at the same step.
        """
        bad = not math.isfinite(here.loss + (here.norm or 0.0))
        flags = all_reduce_sums(self.world, torch.tensor([interrupt.requested, bad]))
        stop, anywhere_bad = (bool(flag) for flag in flags.tolist())
        if anywhere_bad:
            self.nonfinite.handle(here)
        return bool(stop and interrupt_reason(self.world))

    def _update(self, here: Step) -> None:
        """One step of the optimizer with the gradients at hand."""
        state, precision = self.state, self.state.precision
        if precision.step(state.optimizer, state.model, self.cfg.optimization.clip_grad):
            state.ema.update(state.model)
        # Averaged gradients are the same everywhere, so every process takes the same branch.
        elif precision.exhausted:
            self.nonfinite.handle(here)
        else:
            state.skips.overflow += 1
            state.skips.epoch_overflow += 1
        state.optimizer.zero_grad(set_to_none=True)

    def _tell_averages(self, meters: MetricLogger, updates: int) -> None:
        """The published line, and how many updates of the epoch were left out, if any."""
        overflow, nonfinite = self.state.skips.epoch_overflow, self.state.skips.epoch_nonfinite
        skipped = overflow + nonfinite
        left_out = f"  skipped: {skipped}/{updates}" if skipped else ""
        logger.info(f"Averaged stats: {meters}{left_out}")
        if skipped == updates:
            logger.info(
                f"NOTICE: all {updates} updates of this epoch were left out ({overflow} by the "
                f"loss scaler, {nonfinite} by --skip-nonfinite), so the weights are those of the "
                "epoch before; lower --lr, give --clip-grad, or --amp bf16 or off."
            )

    def save_epoch(self) -> None:
        """Save the epoch that was just trained, before its evaluation, as published."""
        every = self.cfg.run.save_every
        keep = every > 0 and self.state.epoch % every == 0
        # The last one last: should a disk be full between them, a resumed run writes both again.
        self._save(*([f"checkpoint_{self.state.epoch}.pth"] if keep else []), ckpt.LAST)
        if keep and self.cfg.run.output_dir and self.world.is_main:
            prune(self.cfg, self.state)
        if interrupt_reason(self.world):
            raise Interrupted(self._farewell())

    def finish_epoch(self) -> None:
        """Evaluate the last trained epoch, keep it if it is the best, and log it."""
        state, task, cfg = self.state, self.task, self.cfg
        epoch = state.epoch
        due = (epoch + 1) % cfg.run.eval_every == 0 or epoch + 1 == self.epochs
        result = self._evaluate() if due else {}
        state.evaluated = True
        if due:
            self.last = result
            if is_better(task, result[task.metric], state.best.get(task.metric)):
                state.best = {"epoch": epoch, task.metric: result[task.metric]}
                self.best_result = result
                self._save(ckpt.BEST)
                self._save_best_weights()
            name = "accuracy" if task.metric == "acc1" else task.metric
            most = "Min" if task.lower_is_better else "Max"
            logger.info(f"{most} {name}: {state.best.get(task.metric, math.nan):.2f}%")
        numbers = {
            **{f"train_{name}": meter.global_avg for name, meter in state.meters.items()},
            **{f"test_{name}": value for name, value in result.items()},
            "epoch": epoch,
            "n_parameters": count_parameters(state.model),
            **task.epoch_facts(),
        }
        if state.precision.scaler.is_enabled():
            numbers["skipped_overflow"] = state.skips.epoch_overflow
        if cfg.optimization.skip_nonfinite:
            numbers["skipped_nonfinite"] = state.skips.epoch_nonfinite
        self.log.write(numbers)
        current().epoch(numbers)

    def _evaluate(self) -> dict[str, float]:
        log = self._meters(self.state.epoch, "test")
        average = self.state.ema.module
        model = self.state.model if average is None else average
        result = self.task.evaluate(model, log, self.state.precision.autocast)
        for line in self.task.report(result):
            logger.info(line)
        return result

    def _farewell(self) -> str:
        folder = self.cfg.run.output_dir
        saved = (
            f"saved {Path(folder) / ckpt.LAST}"
            if folder
            else "nothing saved, --output_dir is empty"
        )
        return f"Stopped by {interrupt.reason}; {saved}."

    def _save(self, *names: str) -> None:
        if folder := self.cfg.run.output_dir:
            refuse_nonfinite_weights(self.state, folder)
            content = ckpt.snapshot(self.state, self.cfg, self.world)
            content["about"] = self.task.about()
            paths = [Path(folder) / name for name in names]
            if self.world.is_main:
                spare(paths, self.state)
                ckpt.save(content, paths)

    def _save_best_weights(self) -> None:
        if self.cfg.run.output_dir and self.world.is_main:
            best = self.state.ema.module or self.state.model
            path = Path(self.cfg.run.output_dir) / ckpt.BEST_WEIGHTS
            spare([path], self.state)
            self.task.save_weights(best.state_dict(), path)

    def _meters(self, epoch: int, phase: str) -> MetricLogger:
        return MetricLogger(self.world, self.on_progress, phase, epoch, self.epochs)


def is_better(task: Task, value: float, best: float | None) -> bool:
    """Whether an evaluation beats the best one so far."""
    if best is None:
        return not math.isnan(value)
    return value < best if task.lower_is_better else value > best


def build_state(task: Task, cfg: TrainConfig, world: World) -> TrainState:
    """Optimiser, schedule, precision and average around the task's model."""
    optimizer = build_optimizer(cfg, task.model, world.size)
    state = TrainState(
        model=task.model,
        optimizer=optimizer,
        scheduler=build_scheduler(cfg, optimizer),
        precision=build_precision(cfg, world.device),
        ema=Ema(cfg, task.model),
        epoch=cfg.optimization.start_epoch - 1,
    )
    reset_meters(state)
    return state


def reset_meters(state: TrainState) -> None:
    """Start the averages and counts of an epoch."""
    state.skips.epoch_nonfinite = state.skips.epoch_overflow = 0
    state.meters = {"lr": SmoothedValue("{value:.6f}"), "loss": SmoothedValue()}


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep gradients to this process, where there are several."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def count_parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
