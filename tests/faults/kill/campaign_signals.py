"""SIGTERM, SIGUSR1 and Ctrl-C anywhere: the run saves, says so, ends with 75, and goes on exactly.

A signal may reach one process of a run, its launcher, or everything it has started, loader workers
included, as Slurm and a terminal do it; while it imports, trains, evaluates or writes a file. Each
trial sends one to three, starts the same command after each, and compares as `campaign_kill` does.
"""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from campaign import Trial
from processes import Ended
from runs import WHOLE, References, in_turn

TRIALS = 40
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
TO_SAVE = 30.0  # seconds that Slurm gives; the step and the save of this run take far less

KINDS = {
    "1 process": 2,
    "1 process, in a file": 2,
    "2 processes": 1,
    "2 processes, in a file": 2,
    "one of 2 processes": 2,
    f"{WHOLE}, to the process or launcher": 1,
    f"{WHOLE}, to everything": 2,
}


def trial(runs: References, kind: str, seed: int, times: int | None = None) -> Trial:
    """One trial of a kind, of `times` signals; the seed decides which and when."""
    draw = random.Random(f"{kind} {seed}")
    size = 1 if kind.startswith("1") or (WHOLE in kind and seed % 2) else 2

    def faults(output: Path) -> Iterator[tuple[str, str]]:
        for _ in range(times or draw.choice((1, 1, 2, 3))):
            number = draw.choice(SIGNALS)
            moment, ended, sent, victim = runs.struck(kind, size, output, draw, number)
            problem = _how_it_ended(ended, number, output)
            if not problem and max(one.seconds for one in ended) - sent > TO_SAVE:
                problem = "it took too long to end"
            to = f" to process {victim}" if kind.startswith("one of") else ""
            yield f"{number.name} {moment}{to}: {ended[0].status}", problem
            if not any(one.status for one in ended):
                return

    return runs.trial(kind, size, seed, faults)


def _how_it_ended(ended: list[Ended], number: signal.Signals, output: Path) -> str:
    """What is wrong with statuses and words, if anything."""
    statuses = {one.status for one in ended}
    said = "".join(one.out + one.err for one in ended)
    if "Traceback" in said:
        return f"a traceback: {said[-1500:]}"
    if statuses == {0}:
        return ""  # too late to be of interest
    if statuses == {75}:
        # One line, and a checkpoint if it says so.
        lines = re.findall(r"^Stopped by (\w+)(.*) Exit status 75\.$", said, re.M)
        if len(lines) != 1 or lines[0][0] != number.name:
            return f"it said: {said[-500:]!r}"
        if "saved" in lines[0][1] and not (output / "checkpoint.pth").is_file():
            return "it tells of a checkpoint that is not there"
        return ""
    if statuses <= {-number, 128 + number} and "TrainConfig" not in said:
        return ""  # Python itself was starting: nothing was there to save
    return f"statuses {statuses}: {said[-1500:]}"


campaign = partial(in_turn, KINDS, trial)
