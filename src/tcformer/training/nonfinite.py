"""Steps whose loss or gradient is not finite: kept for reproduction, then left out or the end.

What is left out is the whole update: the group of steps whose gradients are added. Weights,
average, optimizer and buffers (the statistics of batch norm) stay as they were before it, on every
process, and the run goes on with the next batch. `--skip-nonfinite` says how often that may happen;
the count is in the checkpoint, so a resumed run goes on counting.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tcformer.errors import UserError
from tcformer.files import atomic_write, make_folder
from tcformer.runtime.distributed import World, broadcast_object, gather_objects
from tcformer.runtime.logger import logger
from tcformer.training import checkpoint as ckpt
from tcformer.training.checkpoint import TrainState
from tcformer.training.config import TrainConfig
from tcformer.training.log import plain_number
from tcformer.training.optim import clip_gradients
from tcformer.training.task import Task

_NAMED = 4  # files in the sentence; the record has all of them


class NotFinite(Exception):
    """A loss or gradient became infinite or NaN; the message names step, rate, norm and files."""


class Step(NamedTuple):
    """A training step of this process."""

    epoch: int
    number: int  # within the epoch
    batch: Any
    loss: float
    norm: float | None  # of the gradient, where it is known


class NonFiniteSteps:
    """Takes steps back, keeps their circumstances and decides whether the run goes on.

    Attributes:
        dropping: the group of steps under way is to be left out.
    """

    def __init__(self, task: Task, cfg: TrainConfig, world: World, state: TrainState) -> None:
        self.task, self.cfg, self.world, self.state = task, cfg, world, state
        self.dropping = False
        self._buffers = list(state.model.buffers())
        self._before: list[Tensor] = []
        self._rng: dict[str, Any] = {}
        self._first = 0

    def begin(self, first: int) -> None:
        """Note what the group of steps that starts with number `first` may have to go back to."""
        self.dropping = False
        self._first = first
        self._before = [buffer.clone() for buffer in self._buffers]
        self._rng = ckpt.rng_state(self.world.device)

    def handle(self, step: Step) -> None:
        """Deal with a step that is bad on some process. To be called by every process.

        Raises:
            NotFinite: on every process, unless `--skip-nonfinite` allows one more.
        """
        state, cfg = self.state, self.cfg
        norm = clip_gradients(state.model, None).item() if step.norm is None else step.norm
        skip = state.skips.nonfinite < cfg.optimization.skip_nonfinite
        files = self.task.describe(step.batch)
        loss_and_norm = {"loss": plain_number(step.loss), "gradient_norm": plain_number(norm)}
        told = {"files": files, "targets": _targets(step.batch)}
        mine: dict[str, Any] = {"rank": self.world.rank, **loss_and_norm, **told}
        ranks = gather_objects(self.world, mine)
        # If no loss is bad, the batch of any process may have made the gradient that all share.
        seen = [r for r in ranks if isinstance(r["loss"], str)] or ranks
        if not skip and cfg.run.output_dir:
            for culprit in seen:
                culprit["batch"] = self._place(step, f".rank{culprit['rank']}.pt").name
            if self.world.rank in [culprit["rank"] for culprit in seen]:
                self._keep_batch(step, files)
        state.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self._buffers, self._before, strict=True):
                buffer.copy_(before)
        if skip:
            state.skips.nonfinite += 1
            state.skips.epoch_nonfinite += 1
            self.dropping = True
        saved = self._keep_record(step, ranks, skip)
        where = self._circumstances(step, seen[0])
        if skip:
            most = cfg.optimization.skip_nonfinite
            done = f"{state.skips.nonfinite} of at most {most}, --skip-nonfinite"
            logger.info(f"NOTICE: {where[0]}, skipped ({done}; {where[1]}); {saved}.")
            return
        after = f" after {state.skips.nonfinite} skipped" if state.skips.nonfinite else ""
        raise NotFinite(f"{where[0]}, stopping training{after} ({where[1]}); {saved}.")

    def _circumstances(self, step: Step, culprit: dict[str, Any]) -> tuple[str, str]:
        """What is wrong, and where it happened, for a sentence."""
        loss, norm = culprit["loss"], culprit["gradient_norm"]
        rate = self.state.optimizer.param_groups[0]["lr"]
        bad_loss = isinstance(loss, str)
        what = f"Loss is {loss}" if bad_loss else f"Gradient norm is {norm}"
        other = f"gradient norm {norm}" if bad_loss else f"loss {loss:g}"
        files = culprit["files"]
        more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        process = f", process {culprit['rank']}" if self.world.size > 1 and bad_loss else ""
        return what, (
            f"epoch {step.epoch}, step {step.number}, lr {rate:g}, {other}{process}, "
            f"files: {', '.join(files[:_NAMED])}{more}"
        )

    def _place(self, step: Step, suffix: str) -> Path:
        name = f"nonfinite_epoch{step.epoch}_step{step.number}{suffix}"
        return Path(self.cfg.run.output_dir) / name

    def _keep_batch(self, step: Step, files: list[str]) -> None:
        """Write this process's batch as the network saw it."""
        path = self._place(step, f".rank{self.world.rank}.pt")
        names = getattr(step.batch, "_fields", None) or map(str, range(len(step.batch)))
        values = dict(zip(names, step.batch, strict=True))
        batch = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in values.items()}
        content = {"files": files, "batch": batch}
        with contextlib.suppress(UserError):  # the record, which comes next, says what is wrong
            make_folder(path.parent)
            atomic_write(path, lambda stream: torch.save(content, stream))

    def _keep_record(self, step: Step, ranks: list[dict[str, Any]], skip: bool) -> str:
        """Write the circumstances and, before the run ends, the state to repeat the step from.

        Returns what was saved, in words; the same on every process.
        """
        if not self.cfg.run.output_dir:
            return "nothing saved, --output_dir is empty"
        state, cfg = self.state, self.cfg
        state_file = self._place(step, ".pth")
        facts: dict[str, Any] = {
            "epoch": step.epoch,
            "step": step.number,
            "lr": state.optimizer.param_groups[0]["lr"],
            "loss_scale": state.precision.scaler.get_scale() if state.precision.scales else None,
            "seed": cfg.run.seed,
            "batch_size": cfg.data.batch_size,
            "accum": cfg.optimization.accum,
            "first_step_of_update": self._first,
            "skipped": skip,
            "ranks": ranks,
        }
        content = None
        if not skip:
            # The place, weights, statistics and random states before the update: to be resumed.
            ckpt.set_rng_state(self._rng, self.world.device)
            state.step = self._first
            content = ckpt.snapshot(state, cfg, self.world)
            facts["repeat"] = f"the same command with --resume {state_file} --output_dir ''"
        said = ""
        if self.world.is_main:
            record = self._place(step, ".json")
            text = json.dumps(facts, indent=1) + "\n"
            try:
                make_folder(record.parent)
                atomic_write(record, lambda stream: stream.write(text.encode()))
                said = f"the circumstances are in {record}"
                if content is not None:
                    ckpt.save(content, [state_file])
                    said += f", and --resume {state_file} repeats the step"
            except UserError as error:
                said = f"{said}, but {error}" if said else str(error)
        return broadcast_object(self.world, said)


def refuse_nonfinite_weights(state: TrainState, output_dir: str) -> None:
    """Let no checkpoint be replaced by weights that are not finite.

    Finite gradients can make such weights at a very high rate, and no step after the last of an
    epoch would notice before it is saved. Weights are the same on every process.

    Raises:
        NotFinite: some weight is infinite or NaN.
    """
    fit = [weight.isfinite().all() for weight in state.model.parameters()]
    if not torch.stack(fit).all():
        rate = state.optimizer.param_groups[0]["lr"]
        raise NotFinite(
            f"The weights are not finite any more, stopping training (epoch {state.epoch}, lr "
            f"{rate:g}); what was saved in {output_dir} before is left as it is, lower --lr."
        )


def _targets(batch: Any) -> Any:
    """The labels where there is one for each image."""
    targets = getattr(batch, "targets", None)
    return targets.tolist() if isinstance(targets, Tensor) and targets.ndim == 1 else None
