"""SIGKILL anywhere: the run that is started again ends like the one that nobody killed.

Each trial starts the run of `runs.py`, kills it once to three times at seeded moments, each
time starts the same command again, lets the last one finish, and compares every file (each tensor
by its bytes) and every loss printed after the last kill with the run that nobody killed. Kinds:

* "1 process" and "2 processes": killed at a moment in time;
* "... in a file": killed by `shim.c` with half of a write done, before or after a rename, ...;
* "one of 2 processes": only one is killed, and the other must end by itself within seconds;
* "whole command": `python -m tcformer` and `dist_train.sh` as people call them, imports included.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from campaign import Trial
from processes import Ended
from runs import WHOLE, References, in_turn

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


def trial(runs: References, kind: str, seed: int, times: int | None = None) -> Trial:
    """One trial of a kind, of `times` kills; the seed decides the moments."""
    draw = random.Random(f"{kind} {seed}")
    size = 1 if kind.startswith("1") or (kind == WHOLE and seed % 2) else 2
    kills = []

    def faults(output: Path) -> Iterator[tuple[str, str]]:
        # A resumed run does less, so a later moment may never come; the first one nearly always.
        for _ in range(times or draw.choice((1, 1, 2, 3))):
            moment, ended, sent, victim = runs.struck(kind, size, output, draw, signal.SIGKILL)
            if ended[victim].status != -signal.SIGKILL:
                yield f"not {moment}, when it had ended", ""
                return
            kills.append(moment)
            alone = kind.startswith("one of")
            yield f"killed {moment}", _end_of_the_other(ended[1 - victim], sent) if alone else ""

    done = runs.trial(kind, size, seed, faults)
    return done if kills or done.problem else trial(runs, kind, seed + 1_000_000, times)


def _end_of_the_other(other: Ended, killed: float) -> str:
    if other.status == 0 and other.seconds <= killed + 0.1:
        return ""  # both were done
    if other.status in (0, 75):
        return f"the other process ended with {other.status}"
    if other.seconds - killed > END_OF_THE_OTHERS:
        return f"the other process ended after {other.seconds - killed:.1f} s"
    if "Traceback" in other.err or other.err.count("error: ") != 1:
        return f"the other process said: {other.err[-300:]!r}"
    return ""


campaign = partial(in_turn, KINDS, trial)
