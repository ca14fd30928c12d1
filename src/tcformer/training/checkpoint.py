"""Training checkpoints: what is in them, how they are written, found and restored.

A checkpoint is a plain dictionary of tensors and JSON-able values, so that a reader which never
runs code (`tcformer.weights.safe_torch.safe_torch_load`) can load it:

==============  ==================================================================================
key             content
==============  ==================================================================================
format          version of this layout
model           state dict of the model
model_ema       state dict of the averaged model, or None
optimizer       state dict of the optimizer
lr_scheduler    attributes of the schedule; for readers of the published layout, not restored here
                (the rate is a function of the epoch and the configuration)
scaler          state of the loss scaler, empty without one
epoch           last finished epoch, 0-based; -1 before the first is finished
step            batches done of the epoch after it; 0 at an epoch's end
samples         images of that epoch that all processes together have used
evaluated       whether `epoch` has been evaluated and logged
best            {"epoch", the metric} of the best evaluation so far, or empty
skips           counts of updates that were left out (`Skips`)
args            the configuration
about           what the weights are for, from the task: classes, input size; see `Task.about`
ranks           per process: random generator states and running averages
==============  ==================================================================================
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tcformer.errors import UserError, shown
from tcformer.files import atomic_write
from tcformer.runtime.distributed import World, gather_objects
from tcformer.runtime.logger import logger
from tcformer.training.config import TrainConfig
from tcformer.training.metrics import Skips, SmoothedValue
from tcformer.training.optim import Ema, Precision
from tcformer.weights.safe_torch import safe_torch_load

FORMAT = 1
_NO_TRAINING_STATE = (
    "is not a training checkpoint: it has no 'model' entry; for plain weights use --finetune, or "
    "--resume together with --eval."
)
# What the configuration decides of an optimizer's groups. The rest of them is state: several of
# timm's optimizers count their steps there.
_CONFIGURED = ("lr", "initial_lr", "weight_decay", "betas", "eps", "momentum")
# What a checkpoint of ours must hold to be resumed from.
_PARTS: dict[str, type] = {
    "optimizer": dict, "scaler": dict, "epoch": int, "step": int, "samples": int,
    "evaluated": bool, "best": dict, "ranks": list,
}  # fmt: skip
_PLAIN = (int, float, str, bool, type(None), list, tuple)
LAST, BEST, BEST_WEIGHTS = "checkpoint.pth", "best.pth", "best.safetensors"


@dataclass
class TrainState:
    """Everything that changes while a run goes on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    precision: Precision
    ema: Ema
    epoch: int = -1  # last finished
    step: int = 0  # batches done of the next
    evaluated: bool = True
    best: dict[str, float] = field(default_factory=dict)
    meters: dict[str, SmoothedValue] = field(default_factory=dict)  # of the epoch under way
    skips: Skips = field(default_factory=Skips)
    own: set[Path] = field(default_factory=set)  # files that may be replaced: read, or written


def snapshot(state: TrainState, cfg: TrainConfig, world: World) -> dict[str, Any]:
    """The content of a checkpoint. To be called by every process."""
    mine = {
        "rng": rng_state(world.device),
        "meters": {name: meter.state_dict() for name, meter in state.meters.items()},
    }
    average, schedule = state.ema.module, state.scheduler.state_dict()
    return {
        "format": FORMAT,
        "model": state.model.state_dict(),
        "model_ema": None if average is None else average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "lr_scheduler": {k: v for k, v in schedule.items() if isinstance(v, _PLAIN)},
        "scaler": state.precision.scaler.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "samples": state.step * cfg.data.batch_size * world.size,
        "evaluated": state.evaluated,
        "best": dict(state.best),
        "skips": dataclasses.asdict(state.skips),
        "args": cfg.to_json(),
        "ranks": gather_objects(world, mine),
    }


def save(content: Mapping[str, Any], paths: Iterable[Path]) -> None:
    """Write a snapshot under each of the names, whole or not at all; for the main process."""
    plain = _of_content_alone(dict(content))
    for path in paths:
        atomic_write(path, lambda stream: torch.save(plain, stream))


def _of_content_alone(value: Any) -> Any:
    """The same, built so that its pickle depends on what is in it only.

    Pickle writes an object that it meets again as a reference to the first: whether two equal
    strings are one object, of which a resumed run has others, would be seen in the file.
    """
    if type(value) is str:
        return sys.intern(value)
    if type(value) in (list, tuple):
        return type(value)(map(_of_content_alone, value))
    if type(value) in (dict, OrderedDict):
        copy = type(value)((_of_content_alone(k), _of_content_alone(v)) for k, v in value.items())
        if hasattr(value, "_metadata"):  # the versions of a state dict's modules
            copy._metadata = _of_content_alone(value._metadata)
        return copy
    return value


def rng_state(device: torch.device) -> dict[str, Any]:
    """States of the random generators of this process, as tensors and plain numbers."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [str(kind), torch.tensor(np.asarray(keys, np.int64)), position, has_gauss, cached],
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
    }


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the random generators back to `rng_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))


def seed_everything(seed: int, rank: int) -> None:
    """Seed torch (all devices), NumPy and Python; each process gets its own stream."""
    torch.manual_seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    random.seed(seed + rank)


def read(path: str | Path) -> dict[str, Any]:
    """A training checkpoint; a UserError where it is missing, damaged, or no training state."""
    content = {} if Path(path).suffix == ".safetensors" else safe_torch_load(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise UserError(f"{path} {_NO_TRAINING_STATE}")
    if "format" not in content:  # the published code's
        return content
    form = content["format"]
    if type(form) is int and form > FORMAT:
        raise UserError(
            f"{path} was written by a newer version of tcformer (format {form}, "
            f"this one reads up to {FORMAT}); update tcformer."
        )
    if type(form) is not int or form < 1:
        raise UserError(
            f"{path} has format {shown(form)}, but formats count from 1: it is damaged."
        )
    if damaged := next(_damage(content), None):
        raise UserError(
            f"{path} is damaged: {damaged} is missing or no training state; resume from "
            "another one."
        )
    return content


def _damage(content: Mapping[str, Any]) -> Iterator[str]:
    """Entries of a checkpoint of ours that are missing or no training state; the first is sure."""
    yield from (name for name, kind in _PARTS.items() if not isinstance(content.get(name), kind))
    if any(type(value) not in (int, float) for value in content["best"].values()):
        yield "best"
    least = {"epoch": -1, "step": 0, "samples": 0}
    yield from (name for name in least if content[name] < least[name])
    for mine in content["ranks"]:
        for name in ("rng", "meters"):
            if not (isinstance(mine, dict) and isinstance(mine.get(name), dict)):
                yield f"ranks/{name}"


def find_latest(folder: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run's folder, with its content; None if there is none.

    `checkpoint.pth` is the newest by construction. Only if it is damaged or gone are the others
    looked through. A damaged one is named and left alone.

    Raises:
        UserError: there are checkpoints, but none can be resumed from.
    """
    folder = Path(folder)
    damaged: dict[Path, str] = {}

    def whole(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in filter(Path.is_file, paths):
            try:
                content = read(path)
                int(content["epoch"])
                yield path, content
            except UserError as error:
                damaged[path] = str(error)
            except (KeyError, TypeError, ValueError):
                damaged[path] = f"{path} is damaged: it does not say its epoch."

    def progress(one: tuple[Path, dict[str, Any]]) -> tuple[int, int, bool]:
        # Of two that were saved at the end of an epoch, first comes the one that was not evaluated:
        # only from there the epoch surely gets its line in the log.
        content = one[1]
        samples = int(content.get("samples", 0))
        return int(content["epoch"]), samples, not content.get("evaluated", True)

    others = [*sorted(folder.glob("checkpoint_*.pth")), folder / BEST]
    found = next(whole([folder / LAST]), None) or max(whole(others), key=progress, default=None)
    if found is None and damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise UserError(
            f"No checkpoint in {folder} can be resumed from, and none is replaced: "
            f"{next(iter(damaged.values())).rstrip('.')}{more}. To start anew, move it away or "
            "name another --output_dir."
        )
    for path, problem in damaged.items():
        logger.info(f"NOTICE: leaving out {path}, which cannot be resumed from: {problem}")
    return found


@contextlib.contextmanager
def damage_told(source: str | Path) -> Iterator[None]:
    """Entries that are missing, of other types or of other shapes, become one sentence."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"the training state in {source} is damaged or not of this program "
            f"({type(error).__name__}: {shown(str(error))}); resume from another one, or start "
            "from its weights with --finetune."
        ) from error


def restore(
    state: TrainState,
    content: Mapping[str, Any],
    cfg: TrainConfig,
    world: World,
    load_weights: Callable[[nn.Module, Mapping[str, torch.Tensor]], None],
) -> list[str]:
    """Put `content` into `state`. Returns sentences about what could not be restored exactly.

    The published code's checkpoints work too: weights, epoch, and the optimizer where it fits. A
    damaged `content` raises whatever it comes to: see `damage_told`.
    """
    notes: list[str] = []
    load_weights(state.model, content["model"])
    average = state.ema.module
    if average is not None:
        load_weights(average, content.get("model_ema") or content["model"])
        if not content.get("model_ema"):
            notes.append("the checkpoint has no averaged weights, so the average starts anew")
    try:
        state.optimizer.load_state_dict(_with_own_settings(content["optimizer"], state.optimizer))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        notes.append(f"the optimizer starts anew, its saved state does not fit ({error})")
    if content.get("scaler"):
        state.precision.scaler.load_state_dict(content["scaler"])
    state.epoch = int(content.get("epoch", -1))
    if content.get("format") is None:
        notes.append("it was written by the published code, which saves no random state")
        return notes
    state.best = dict(content["best"])
    state.evaluated = bool(content["evaluated"])
    state.skips = Skips(**{name: int(n) for name, n in content.get("skips", {}).items()})
    state.step, rest = divmod(int(content["samples"]), cfg.data.batch_size * world.size)
    if rest:
        notes.append(f"the images per step have changed, so {rest} images are shown twice")
    if len(content["ranks"]) != world.size:
        notes.append(
            f"it was written by {len(content['ranks'])} process(es), now there are {world.size}, "
            "so dropout, drop path and mixup draw other numbers"
        )
        _put_together(state.meters, content["ranks"], world)
        return notes
    mine = content["ranks"][world.rank]
    for name, saved in mine["meters"].items():
        state.meters[name].load_state_dict(saved)
    set_rng_state(mine["rng"], world.device)
    return notes


def _put_together(
    meters: Mapping[str, SmoothedValue], ranks: list[Mapping[str, Any]], world: World
) -> None:
    """What other processes had averaged, on the first of these; each step weighs as much as ever.

    Every process adds one value a step, so what was added by two counts half among four.
    """
    if world.is_main:
        for name, meter in meters.items():
            saved = [mine["meters"][name] for mine in ranks if name in mine["meters"]]
            if saved:
                meter.load_state_dict(saved[0])
                meter.total = sum(float(one["total"]) for one in saved) * world.size / len(ranks)
                meter.count = sum(int(one["count"]) for one in saved) * world.size // len(ranks)


def _with_own_settings(
    saved: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Saved moments under the current settings (rates, decay): the configuration decides those."""
    groups = []
    for theirs, ours in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        settings = {key: ours[key] for key in _CONFIGURED if key in ours}
        groups.append({**ours, **theirs, **settings})
    sizes = [len(group["params"]) for group in groups]
    own = [group["params"] for group in optimizer.param_groups]
    if sizes != [len(params) for params in own]:
        raise ValueError("it has other parameter groups")
    order = [index for group in groups for index in group["params"]]
    for index, parameter in zip(order, (p for params in own for p in params), strict=True):
        for name, value in saved["state"].get(index, {}).items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}"
                )
    states = {index: dict(state) for index, state in saved["state"].items()}
    for state in states.values():
        if isinstance(state.get("step"), int):  # as torch before 1.12, the authors', saved it
            state["step"] = torch.tensor(float(state["step"]))
    return {"state": states, "param_groups": groups}


def configuration_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings a checkpoint was made with; the authors' are in an argparse namespace."""
    args = content.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return dict(args) if isinstance(args, Mapping) else {}
