"""A loader worker is killed anywhere: the run ends with 2 and one sentence, and goes on exactly.

Each trial starts the run of `killed_runs.py` with two workers for each process, kills one of the
workers, starts the same command again and compares as `campaign_kill` does. Kinds:

* a place in the code (`PLACES`): the run kills one of its workers there;
* "anywhere": a worker is killed at a moment in time, while other processes keep the cores busy.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from campaign import Trial
from killed_runs import build_shim, command, make_images
from reference import References
from zygote import Ended, Running, Zygote

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


def trial(references: References, kind: str, size: int, seed: int) -> Trial:
    """One trial of a kind in `size` processes; the seed decides the moments that time decides."""
    draw = random.Random(f"{kind} {size} {seed}")
    references.prepare(size)
    output = references.folder / f"workers-{kind.replace(' ', '-')}-{size}-{seed}"
    problem, what = "", kind
    try:
        if kind == ANYWHERE:
            what, ended = _anywhere(references, size, output, draw)
        else:
            module, owner, name, number = PLACES[kind]
            patch = _KILL.format(module=module, owner=owner, name=name, number=number)
            patches = {seed % size: patch}
            ended = _start(references, size, output, patches).wait()
        problem = told_wrongly(ended, what) or references.finished("", size, output)
    except AssertionError as error:
        problem = str(error)
    shutil.rmtree(output, ignore_errors=True)
    return Trial(f"{kind}, {size} process(es)", f"{what}, seed {seed}", problem)


def told_wrongly(ended: list[Ended], what: str) -> str:
    """What is wrong with how a run ended of which a worker was killed, if anything."""
    statuses, err = [one.status for one in ended], "".join(one.err for one in ended)
    if what.endswith("when it was over") and statuses == [0] * len(ended) and not err:
        return ""
    lines = err.strip().splitlines()
    if statuses == [2] * len(ended) and len(lines) == 1 and "A data worker died" in lines[0]:
        return ""
    return f"ended with {statuses}: {err[-2000:]}"


def _start(
    references: References, size: int, output: Path, patches: dict[int, str] | None = None
) -> Running:
    argv = command(references.images, output, "--num_workers", "2")
    return references.zygote.start(argv, size, patches=patches or {})


def _anywhere(
    references: References, size: int, output: Path, draw: random.Random
) -> tuple[str, list[Ended]]:
    """Kill a worker at some moment, under load."""
    with _busy(draw.randrange(4)):
        running = _start(references, size, output)
        moment = draw.random() * references.seconds[size] * 2
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
    over = "Training time" in ended[0].out or not victim
    return f"after {moment:.2f} s{', when it was over' if over else ''}", ended


def _workers(running: Running) -> list[int]:
    found: list[int] = []
    for pid in running.pids:
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found += [int(child) for child in children]
    return found


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """So many processes beside the run that do nothing but compute."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """The places in turn, in one and in two processes; every second trial is anywhere."""
    images = make_images(folder / "images")
    with Zygote(folder, build_shim(folder)) as zygote:
        references = References(folder, zygote, images)
        kinds = [kind for place in PLACES for kind in (place, ANYWHERE)]
        for number in range(trials):
            kind = kinds[number % len(kinds)]
            size = 1 + number // len(kinds) % 2
            yield trial(references, kind, size, seed * 1_000_000 + number)
