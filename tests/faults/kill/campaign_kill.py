"""SIGKILL anywhere: the run that is started again ends like the one that nobody killed.

Each trial starts the run of `killed_runs.py`, kills it once to three times at seeded moments, each
time starts the same command again, lets the last one finish, and compares every file (each tensor
by its bytes) and every loss printed after the last kill with the run that nobody killed. Kinds:

* "1 process" and "2 processes": forked from a zygote (`zygote.py`), killed at a moment in time;
* "... in a file": killed by `shim.c` with half of a write done, before or after a rename, ...;
* "one of 2 processes": only one is killed, and the other must end by itself within seconds;
* "whole command": `python -m tcformer` and `dist_train.sh` as people call them, imports included.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from campaign import Trial
from reference import WHOLE, References, in_turn
from zygote import Ended

TRIALS = 60
END_OF_THE_OTHERS = 10.0  # seconds; a launcher would end them after two

# Of twelve trials so many are of each kind, in this order.
KINDS = {
    "1 process": 3,
    "1 process, in a file": 3,
    "2 processes": 2,
    "2 processes, in a file": 2,
    "one of 2 processes": 1,
    WHOLE: 1,
}


def trial(references: References, kind: str, seed: int, times: int | None = None) -> Trial:
    """One trial of a kind, of `times` kills; the seed decides the moments."""
    draw = random.Random(f"{kind} {seed}")
    size = 1 if kind.startswith("1") or (kind == WHOLE and seed % 2) else 2
    references.prepare(size)
    output = references.folder / f"killed-{kind}-{seed}"
    moments: list[str] = []
    problem = ""
    times = times or draw.choice((1, 1, 2, 3))
    kills = 0
    try:
        # A resumed run does less, so a later moment may never come; the first one nearly always.
        for _ in range(times):
            dead, moment, problem = _killed(references, kind, size, output, draw)
            kills += dead
            moments.append(moment if dead else f"not {moment}, when it had ended")
            if problem or not dead:
                break
        problem = problem or references.finished(kind, size, output)
    except AssertionError as error:
        problem = str(error)
    shutil.rmtree(output, ignore_errors=True)
    if not kills and not problem:
        return trial(references, kind, seed + 1_000_000, times)
    return Trial(kind, f"{kind}, seed {seed}: killed {', then '.join(moments)}", problem)


def _killed(
    references: References, kind: str, size: int, output: Path, draw: random.Random
) -> tuple[bool, str, str]:
    """Start the run and kill it: (whether it was still running, when, what was wrong)."""
    workers = ("--num_workers", draw.choice("001"))
    if kind.endswith("in a file"):
        at, name = references.an_event(size, draw)
        running = references.start(
            kind, size, output, *workers, FAULT_ROOT=str(output), FAULT_AT_0=str(at)
        )
        running.wait_for(lambda: running.poll()[0] is not None)
        running.kill()  # the other process, whose machine has failed as well
        ended = running.wait()
        return ended[0].status == -signal.SIGKILL, f"at event {at} ({name})", ""
    # A command of its own imports first, which takes about as long again.
    moment = draw.random() * references.seconds[size] * (2 if kind == WHOLE else 0.95)
    running = references.start(kind, size, output, *workers)
    if kind == "one of 2 processes":
        # Whoever waits for a process that never comes gives up after five minutes.
        running.wait_for(lambda: "TrainConfig(" in running.out())
    while time.monotonic() < running.began + moment and None in running.poll():
        time.sleep(0.002)
    if kind == "one of 2 processes":
        victim = draw.randrange(2)
        running.kill(index=victim)
        killed = time.monotonic()
        ended = running.wait()
        dead = ended[victim].status == -signal.SIGKILL
        problem = _end_of_the_other(ended[1 - victim], killed) if dead else ""
        return dead, f"process {victim} after {moment:.2f} s", problem
    running.kill_group()
    ended = running.wait()
    return ended[0].status == -signal.SIGKILL, f"after {moment:.2f} s", ""


def _end_of_the_other(other: Ended, killed: float) -> str:
    if other.status == 0 and other.at <= killed + 0.1:
        return ""  # both were done
    if other.status in (0, 75):
        return f"the other process ended with {other.status}"
    if other.at - killed > END_OF_THE_OTHERS:
        return f"the other process ended after {other.at - killed:.1f} s"
    if "Traceback" in other.err or other.err.count("error: ") != 1:
        return f"the other process said: {other.err[-300:]!r}"
    return ""


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """`trials` trials; trial i of a seed is the same every time."""
    return in_turn(KINDS, trial, trials, seed, folder)
