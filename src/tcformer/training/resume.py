"""Going on from a checkpoint: which one, and back into the run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tcformer.errors import UserError, shown
from tcformer.runtime.distributed import World, broadcast_object
from tcformer.runtime.logger import logger
from tcformer.runtime.signals import was_queued_again
from tcformer.training import checkpoint as ckpt
from tcformer.training.checkpoint import TrainState
from tcformer.training.config import TrainConfig, option
from tcformer.training.optim import state_entries
from tcformer.training.task import Task

# Options that may change within a run, but make another network of it.
_ANOTHER_NETWORK = ("input_size", "crop_size", "keep_ratio", "num_clusters", "k", "part_grids")


def resume(state: TrainState, task: Task, cfg: TrainConfig, world: World) -> str:
    """Restore `--resume`, if there is something to resume from; the file, or ''."""
    path, content = None, None
    if world.is_main:
        path, content = find_resume(cfg)
    source = broadcast_object(world, str(path) if path else "")
    if not source:
        return ""
    if content is None:
        content = ckpt.read(source)
    logger.info(f"resume from{source}")

    ours = {**cfg.flat(), "amp": state.precision.name, "ema": bool(cfg.optimization.ema)}
    _refuse_another_run(source, content, ours, "task", "model")

    def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        task.load_weights(model, weights, source)  # tells of other classes
        _refuse_another_run(source, content, ours, "opt", "sched", "ema", "amp")
        if ckpt.configuration_of(content).get("opt") is None:
            _refuse_another_state(source, content.get("optimizer"), state.optimizer, cfg)

    about = content.get("about")
    with ckpt.damage_told(source):
        said = task.follow(about if isinstance(about, dict) else {}, content["model"], source)
        notes = ckpt.restore(state, content, cfg, world, load_weights)
    saved, now = ckpt.configuration_of(content), cfg.to_json()
    changed = [
        f"trained with {option(name)} {saved[name]}, and now it is {now[name]}"
        for name in _ANOTHER_NETWORK
        if name in saved and saved[name] != now[name] and "format" in content
    ]
    for note in [*said, *changed, *notes]:
        logger.info(f"NOTICE: resuming from {source}: {note}.")
    return source


def _refuse_another_run(
    source: str, content: Mapping[str, Any], ours: Mapping[str, Any], *names: str
) -> None:
    """Refuse a checkpoint whose options `names` are not `ours`: its state would not fit."""
    theirs = ckpt.configuration_of(content)
    if "ema" in theirs:
        theirs["ema"] = bool(theirs["ema"])
    if "amp" in theirs:  # what it came to where it says auto
        precise = "bf16" if theirs["amp"] == "bf16" else "off"
        theirs["amp"] = "fp16" if content.get("scaler") else precise
    if "format" not in content:  # the published code's: its weights decide, and its schedule fits
        names = tuple({"opt"}.intersection(names))
    for name in names:
        saved, wanted = theirs.get(name), ours[name]
        if saved is not None and str(saved).lower() != str(wanted).lower():
            raise UserError(
                f"{source} is of a run with {option(name)} {saved}, but this one has "
                f"{option(name)} {wanted}; go on with the same, or start from its weights with "
                f"--finetune {source} and another --output_dir."
            )


def _refuse_another_state(
    source: str, saved: Any, optimizer: torch.optim.Optimizer, cfg: TrainConfig
) -> None:
    """Refuse the state of an optimizer that no option names, if it cannot be that of `--opt`.

    It is another's where it has settings that ours lacks, or lacks moments that ours keeps.
    """
    if not isinstance(saved, Mapping):
        return
    ours = optimizer.param_groups[0]
    of_schedules = {"lr_scale", "initial_lr"}
    strange: set[str] = set()
    for group in saved.get("param_groups", ()):
        strange |= group.keys() - ours.keys() - of_schedules
        decoupled = "decoupled_weight_decay"  # all that tells Adam from AdamW
        if group.get(decoupled, ours.get(decoupled)) != ours.get(decoupled):
            strange.add(decoupled)
    kept = [entry.keys() for entry in saved.get("state", {}).values() if entry]
    needs = state_entries(cfg)
    lacking = [names for names in kept if needs and not any(need <= names for need in needs)]
    if strange or lacking:
        found = sorted(strange or set().union(*lacking))[:3]
        raise UserError(
            f"{source} does not name its optimizer, but its state ({shown(', '.join(found))}) is "
            f"not that of --opt {cfg.optimization.opt}; give its own --opt, or start from its "
            f"weights with --finetune {source} and another --output_dir."
        )


def find_resume(cfg: TrainConfig) -> tuple[str | Path | None, dict[str, Any] | None]:
    """Where to go on from. A run that was started again by Slurm or torchrun goes on by itself."""
    if cfg.run.output_dir and (cfg.run.resume == "auto" or was_restarted()):
        found = ckpt.find_latest(cfg.run.output_dir)
        if found:
            return found
    if cfg.run.resume in ("", "auto"):
        return None, None
    if not Path(cfg.run.resume).is_file():
        # The published script starts from scratch instead: days of training lost to a typing error.
        raise UserError(
            f"--resume {cfg.run.resume} does not exist; mend the path, or give --resume auto to go "
            "on from whatever there is in --output_dir."
        )
    return cfg.run.resume, None


def was_restarted() -> bool:
    """Whether Slurm requeued this job, or torchrun restarted its processes."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return was_queued_again() or (count.isdigit() and int(count) > 0)
