"""A loader worker is killed anywhere: the run ends with 2 and one sentence, and goes on exactly.

Each trial starts the run of `runs.py` with two workers for each process, kills one of the
workers, starts the same command again and compares as `campaign_kill` does. Kinds:

* a place in the code (`PLACES`): the run kills one of its workers there;
* "anywhere": a worker is killed at a moment in time, while other processes keep the cores busy.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from campaign import Trial
from processes import Ended, Running
from runs import References, in_turn

TRIALS = 40

# Before the function is called for the N-th time, the last worker of the process is killed.
_KILL = """
import os, signal, time
import {module} as module
from tcformer.data import loader
owner, name = {owner}, {name!r}
real, calls = getattr(owner, name), [0]
def killing(*args, **options):
    calls[0] += 1
    if calls[0] == {number}:
        worker = [w for one in loader._loaders for w in one.workers][-1]
        os.kill(worker.pid, signal.SIGKILL)
        while worker.exitcode is None:
            time.sleep(0.01)
    return real(*args, **options)
setattr(owner, name, killing)
"""
PLACES: dict[str, tuple[str, str, str, int]] = {
    "training": ("tcformer.tasks.classification.task", "module.ClassificationTask", "loss", 3),
    "saving": ("torch", "module", "save", 1),
    "saving the best": ("tcformer.tasks.base", "module", "save_weights", 1),
    "evaluation": ("tcformer.tasks.evaluator", "module.BaseEvaluator", "over_processes", 1),
    "the log": ("tcformer.training.log", "module.RunLog", "write", 1),
    "the record": ("tcformer.training.record", "module.RunRecord", "epoch", 1),
    "between epochs": ("tcformer.training.loop", "module", "set_learning_rate", 2),
    "the last save": ("tcformer.training.checkpoint", "module", "save", 5),
    "the end": ("tcformer.training.log", "module.RunLog", "close", 1),
}
ANYWHERE = "anywhere"
KINDS = {f"{kind}, {size} process(es)": 1 for kind in (*PLACES, ANYWHERE) for size in (1, 2)}


def trial(runs: References, kind: str, seed: int) -> Trial:
    """One trial of a kind; the seed decides the moments that time decides."""
    draw = random.Random(f"{kind} {seed}")
    place, size = kind.split(", ")[0], 1 if ", 1" in kind else 2

    def faults(output: Path) -> Iterator[tuple[str, str]]:
        if place == ANYWHERE:
            what, ended = _anywhere(runs, size, output, draw)
        else:
            module, owner, name, number = PLACES[place]
            patch = _KILL.format(module=module, owner=owner, name=name, number=number)
            what, ended = place, _start(runs, size, output, {seed % size: patch}).wait()
        yield what, _told_wrongly(ended, what)

    return runs.trial(kind, size, seed, faults)


def _told_wrongly(ended: list[Ended], what: str) -> str:
    """What is wrong with how a run ended of which a worker was killed, if anything."""
    statuses, err = [one.status for one in ended], "".join(one.err for one in ended)
    if what.endswith("when it was over") and statuses == [0] * len(ended) and not err:
        return ""
    lines = err.strip().splitlines()
    if statuses == [2] * len(ended) and len(lines) == 1 and "A data worker died" in lines[0]:
        return ""
    return f"ended with {statuses}: {err[-2000:]}"


def _start(
    runs: References, size: int, output: Path, patches: dict[int, str] | None = None
) -> Running:
    return runs.start("", size, output, "--num_workers", "2", patches=patches)


def _anywhere(
    runs: References, size: int, output: Path, draw: random.Random
) -> tuple[str, list[Ended]]:
    """Kill a worker at some moment, while up to three other processes do nothing but compute."""
    busy = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(busy) for _ in range(draw.randrange(4))]
    try:
        running = _start(runs, size, output)
        moment = draw.random() * runs.seconds[size] * 2
        workers: list[int] = []
        while None in running.poll() and (
            time.monotonic() < running.began + moment or not (workers := _workers(running))
        ):
            time.sleep(0.002)
        victim = draw.choice(sorted(workers)) if workers else 0
        if victim:
            with suppress(OSError):
                os.kill(victim, signal.SIGKILL)
        ended = running.wait()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    over = "Training time" in ended[0].out or not victim
    return f"after {moment:.2f} s{', when it was over' if over else ''}", ended


def _workers(running: Running) -> list[int]:
    found: list[int] = []
    for pid in running.pids:
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found += [int(child) for child in children]
    return found


campaign = partial(in_turn, KINDS, trial)
