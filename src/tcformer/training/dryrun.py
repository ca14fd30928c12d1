"""`--dry-run`: find out before the queue what would end a job after it.

Everything is built as for a real run and one training step is made, on made-up data. Nothing is
written. What comes out is the plan, with a memory estimate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from tcformer.errors import UserError
from tcformer.runtime.distributed import World, broadcast_object
from tcformer.training import loop
from tcformer.training.checkpoint import TrainState
from tcformer.training.config import TrainConfig
from tcformer.training.metrics import peak_memory_mib
from tcformer.training.optim import clip_gradients, parallel, scaled_lr
from tcformer.training.resume import resume
from tcformer.training.retention import room
from tcformer.training.task import Task

_CPU_BATCH = 4  # a whole batch of a large model could take minutes there


def dry_run(task: Task, cfg: TrainConfig, world: World, *, facts: Mapping[str, str]) -> list[str]:
    """Try one step; the lines of the plan, among them the `facts` that the task wants shown.

    Raises:
        UserError: something that would end the real run.
    """
    _check_output(cfg)
    state = loop.build_state(task, cfg, world)
    resumes = resume(state, task, _with_existing_folder(cfg), world)
    if cfg.run.compile:
        state.model.compile()
    model = parallel(state.model, world)
    ours, batch, accum = cfg.optimization, cfg.data.batch_size, cfg.optimization.accum
    size = batch if world.device.type == "cuda" else min(batch, _CPU_BATCH)
    saved = _one_step(task, cfg, state, model, size)
    less = "" if size == batch else f", fewer than --batch-size {batch}"
    told = f" ({world.launcher}, {world.backend})" if world.size > 1 else ""
    dtype = state.precision.dtype
    epochs = ours.epochs + ours.cooldown_epochs
    updates = -(-task.steps_per_epoch // accum)
    lines = [
        "Dry run: everything was built and one step was made on made-up data; nothing was written.",
        *(f"{name}: {text}" for name, text in facts.items()),
        f"model: {cfg.network.model}, {loop.count_parameters(task.model):,} parameters",
        f"processes: {world.size} on {world.device.type}{told}",
        f"batch: {batch} per process x {world.size} processes x {accum} accumulated "
        f"= {batch * world.size * accum} images per update",
        f"schedule: {epochs - state.epoch - 1} epochs of {task.steps_per_epoch} steps "
        f"({updates} updates), {ours.opt}, peak learning rate {scaled_lr(cfg, world.size):g}",
        f"precision: {'float32' if dtype is None else str(dtype).removeprefix('torch.')}",
        f"step tried with: {size} images per process{less}",
        f"memory per process, estimated: {_memory(cfg, model, saved, size)}",
        f"output: {_output(cfg, task.model)}",
        f"resume: {'from epoch ' + str(state.epoch + 1) if resumes else 'no, starts anew'}",
        *_slurm(world, cfg),
    ]
    if world.device.type == "cuda":
        peak = peak_memory_mib(world.device)
        lines.append(f"memory in use at the peak of that step: {peak:.0f} MiB")
    return broadcast_object(world, lines)


def _one_step(task: Task, cfg: TrainConfig, state: TrainState, model: nn.Module, size: int) -> int:
    """Forward, backward and update; returns the bytes that were kept for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    batch = task.fake_batch(size)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, state.precision.autocast():
        loss = task.loss(model, batch)
    if not torch.isfinite(loss):
        raise UserError(
            f"the loss of the first step is {loss.item()}; check --resume and --finetune."
        )
    state.precision.scaler.scale(loss).backward()
    state.precision.scaler.unscale_(state.optimizer)
    clip_gradients(state.model, cfg.optimization.clip_grad)
    state.precision.scaler.step(state.optimizer)
    return sum(kept.values())


def _memory(cfg: TrainConfig, model: nn.Module, saved: int, size: int) -> str:
    """Weights, gradients, two moments and an average, plus what the backward pass keeps."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    average = " and average" if cfg.optimization.ema else ""
    copies = 4 + bool(average)
    activations = saved / size * cfg.data.batch_size
    total = weights * copies + activations
    return (
        f"{total / 2**30:.2f} GiB ({copies} x {weights / 2**20:.0f} MiB of weights, gradients, "
        f"optimizer{average}; {activations / 2**30:.2f} GiB for backward)"
    )


def _check_output(cfg: TrainConfig) -> None:
    """Refuse a folder that could not be written to, without creating it."""
    if not cfg.run.output_dir:
        return
    folder = Path(cfg.run.output_dir).absolute()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    if not parent.is_dir():
        raise UserError(f"--output_dir {cfg.run.output_dir} cannot be made: {parent} is a file.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(
            f"--output_dir {cfg.run.output_dir} cannot be written: no permission in {parent}."
        )


def _with_existing_folder(cfg: TrainConfig) -> TrainConfig:
    """The configuration without an output folder that is not there to resume from."""
    if Path(cfg.run.output_dir).is_dir():
        return cfg
    resume = "" if cfg.run.resume == "auto" else cfg.run.resume
    return cfg.replace(output_dir="", tensorboard=False, resume=resume)


def _output(cfg: TrainConfig, model: nn.Module) -> str:
    """Where checkpoints would go, and their size against the space that is left."""
    if not cfg.run.output_dir:
        return "nothing is saved (--output_dir is empty)"
    needs = room(cfg, model)
    note = "" if needs.free > needs.checkpoint * (needs.kept + 1) else ", WHICH IS NOT ENOUGH"
    return (
        f"{cfg.run.output_dir}, up to {needs.kept} checkpoints of about "
        f"{needs.checkpoint / 2**20:.0f} MiB, {needs.free / 2**30:.1f} GiB free{note}"
    )


def _slurm(world: World, cfg: TrainConfig) -> list[str]:
    """What Slurm gave, and what about it looks wrong."""
    env = os.environ
    if "SLURM_JOB_ID" not in env:
        return ["slurm: not under Slurm"]
    tasks, cpus = env.get("SLURM_NTASKS", "1"), env.get("SLURM_CPUS_PER_TASK", "?")
    workers, gpus = cfg.data.num_workers, env.get("SLURM_GPUS_ON_NODE", "no")
    warnings = []
    if world.launcher == "slurm" and tasks.isdigit() and int(tasks) != world.size:
        warnings.append(f"{tasks} tasks were asked for, but {world.size} run.")
    if cpus.isdigit() and workers > int(cpus):
        warnings.append(f"--num_workers {workers} exceeds the {cpus} CPUs of a task.")
    if world.device.type == "cpu" and gpus not in ("", "0", "no"):
        warnings.append("the job has GPUs, but this process runs on the CPU.")
    return [
        f"slurm: job {env['SLURM_JOB_ID']}, {env.get('SLURM_NNODES', '?')} node(s), {tasks} "
        f"task(s), {cpus} CPUs each, {gpus} GPUs on this node",
        *(f"slurm: warning: {warning}" for warning in warnings),
    ]
