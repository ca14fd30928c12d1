"""Scenarios for several processes.

What `scenario(world, folder)` returns is written to FOLDER/SCENARIO.RANK.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from toy_task import ToyTask, config

from tcformer.runtime.distributed import init_world, interrupt_reason, shutdown
from tcformer.runtime.signals import interrupt
from tcformer.training import checkpoint as ckpt
from tcformer.training.loop import Interrupted, NotFinite, fit


class Shared(ToyTask):
    """Each process draws other batches; process 1 alone is asked to stop, or gets the NaN."""

    def batches(self, epoch, start):
        mine = torch.distributed.get_rank()
        for number in range(start, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(1000 * epoch + 10 * number + mine)
            x = torch.randn(4, 6, generator=generator)
            if mine == 1 and self.stop_at == len(self.losses):
                interrupt.request("SIGUSR1")
            if mine == 1 and self.poison_at == len(self.losses):
                x[0, 0] = float("nan")
            yield x, torch.randn(4, 3, generator=generator)


def numbers(task):
    return {
        "losses": task.losses,
        "weights": [p.double().sum().item() for p in task.model.parameters()],
    }


def start(world, cfg, **kw):
    interrupt.clear()
    task = Shared(cfg, **kw)
    ckpt.seed_everything(cfg.run.seed, world.rank)
    return task


def resume(world, folder):
    """An uninterrupted run, and one stopped by a signal that only process 1 received."""
    on = {"ema": True, "ema_decay": 0.9, "accum": 2}
    whole = start(world, config(**on))
    fit(whole, whole.cfg, world)
    cfg = config(output_dir=str(folder), **on)
    first = start(world, cfg, stop_at=6)
    try:
        fit(first, cfg, world)
        reason = ""
    except Interrupted:
        reason = interrupt_reason(world)
    second = start(world, config(output_dir=str(folder), resume="auto", **on))
    torch.rand(5 + world.rank)
    fit(second, second.cfg, world)
    return {
        "reason": reason,
        "whole": numbers(whole),
        "first": first.losses,
        "second": numbers(second),
        "best": ckpt.read(folder / "best.pth")["best"],
    }


def not_finite(world, folder):
    """Only process 1 has the NaN."""
    task = start(world, config(epochs=1, output_dir=str(folder / "not_finite")))
    task.poison_at = 2
    try:
        fit(task, task.cfg, world)
    except NotFinite as error:
        return {"said": str(error), "steps": len(task.losses), **numbers(task)}
    return {}


def skipping(world, folder):
    """Process 1 has a NaN in the first step of a group of two; both leave out the group."""
    on = {"epochs": 1, "accum": 2, "ema": True, "ema_decay": 0.9, "skip_nonfinite": 1}
    task = start(world, config(output_dir=str(folder / "skipping"), **on), steps=6)
    task.poison_at = 2
    fit(task, task.cfg, world)
    return {"numbers": numbers(task), "seen": len(task.losses)}


def mean_gradient(world, folder):
    """Two processes of 4 images each are one process of 8."""
    cfg = config(epochs=1, warmup_epochs=0)
    task = start(world, cfg, steps=3)
    task.model[2] = nn.Identity()
    fit(task, cfg, world)
    return numbers(task)


def main(folder):
    world = init_world("cpu")
    for scenario in (resume, not_finite, skipping, mean_gradient):
        result = scenario(world, Path(folder))
        file = Path(folder, f"{scenario.__name__}.{world.rank}.json")
        file.write_text(json.dumps(result))
    shutdown(world)
