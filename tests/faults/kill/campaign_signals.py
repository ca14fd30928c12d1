"""SIGTERM, SIGUSR1 and Ctrl-C anywhere: the run saves, says so, ends with 75, and goes on exactly.

A signal may reach one process of a run, its launcher, or everything it has started, loader workers
included, as Slurm and a terminal do it; while it imports, trains, evaluates or writes a file. Each
trial sends one to three, starts the same command after each, and compares as `campaign_kill` does.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from campaign import Trial
from reference import WHOLE, References, in_turn
from zygote import Ended

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


def trial(references: References, kind: str, seed: int, times: int | None = None) -> Trial:
    """One trial of a kind, of `times` signals; the seed decides which and when."""
    draw = random.Random(f"{kind} {seed}")
    size = 1 if kind.startswith("1") or (WHOLE in kind and seed % 2) else 2
    references.prepare(size)
    output = references.folder / f"signalled-{kind.replace(' ', '-')}-{seed}"
    told: list[str] = []
    problem = ""
    try:
        for _ in range(times or draw.choice((1, 1, 2, 3))):
            what, problem = _signalled(references, kind, size, output, draw)
            told.append(what)
            if problem or what.endswith("done"):
                break
        problem = problem or references.finished(kind, size, output)
    except AssertionError as error:
        problem = str(error)
    shutil.rmtree(output, ignore_errors=True)
    return Trial(kind, f"{kind}, seed {seed}: {', then '.join(told)}", problem)


def _signalled(
    references: References, kind: str, size: int, output: Path, draw: random.Random
) -> tuple[str, str]:
    """Start the run and signal it: (what was done, what was wrong with how it ended)."""
    number = draw.choice(SIGNALS)
    workers = ("--num_workers", draw.choice("001"))
    if kind.endswith("in a file"):
        at, name = references.an_event(size, draw)
        fault = {"FAULT_AT_0": str(at), "FAULT_SIGNAL": str(int(number))}
        running = references.start(kind, size, output, *workers, FAULT_ROOT=str(output), **fault)
        sent, what = None, f"{number.name} at event {at} ({name})"
    else:
        moment = draw.random() * references.seconds[size] * (2 if WHOLE in kind else 0.95)
        running = references.start(kind, size, output, *workers)
        while time.monotonic() < running.began + moment and None in running.poll():
            time.sleep(0.002)
        what = f"{number.name} after {moment:.2f} s"
        if kind.startswith("one of"):
            victim = draw.randrange(size)
            what = f"{what} to process {victim}"
            running.kill(number, victim)
        elif kind.endswith("everything"):
            running.kill_group(number)
        else:
            running.kill(number)
        sent = time.monotonic()
    ended = running.wait()
    problem = _how_it_ended(ended, number, output)
    late = sent is not None and max(one.at for one in ended) - sent > TO_SAVE
    return f"{what}: {_word(ended)}", problem or ("it took too long to end" if late else "")


def _word(ended: list[Ended]) -> str:
    return "done" if not any(one.status for one in ended) else str(ended[0].status)


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


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """`trials` trials; trial i of a seed is the same every time."""
    return in_turn(KINDS, trial, trials, seed, folder)
