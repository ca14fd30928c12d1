"""Hostile input, thousands of times: `make faults ARGS="inputs --trials 10000 --seed 1"`.

Each trial makes one input (an image, a checkpoint, a list of labels, a config, a command line)
from the seed, its kind and its number, and hands it to the code that would read it in a run. It may
be read or refused in one sentence; a traceback, a crash, ten seconds of processor time, three
gigabytes of memory, a trace of code that ran, or a file that is left are failures. One of them
again, which leaves the input in a temporary folder:

    python tests/faults/inputs/campaign_inputs.py "KIND" NUMBER [SEED]
"""

from __future__ import annotations

import collections
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    TESTS = Path(__file__).parents[2]
    sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS / "helpers"), str(TESTS / "faults/inputs")]

from campaign import Trial
from hostile.crew import BY_NAME, crew, planned
from hostile.kinds import tried

TRIALS = 10_000


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Try that many inputs; those that held are counted kind by kind."""
    held: collections.Counter[str] = collections.Counter()
    workers = max(1, min(4, len(os.sched_getaffinity(0))))
    for kind, number, problem in crew(seed, planned(trials), folder, workers):
        if problem:
            yield Trial(kind, f"number {number}", problem)
        else:
            held[kind] += 1
    for kind, count in held.items():
        yield Trial(kind, f"{count} inputs", count=count)


if __name__ == "__main__":
    name, number, seed = (*sys.argv[1:], "0")[:3]
    place = Path(tempfile.mkdtemp(prefix="tcf-input-"))
    problem = tried(BY_NAME[name], int(seed), int(number), place)
    sys.exit(f"{place} holds it: {problem}" if problem else 0)
