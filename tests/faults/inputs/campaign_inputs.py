"""Hostile input, thousands of times: `make faults ARGS="inputs --trials 10000 --seed 1"`.

Each trial makes one input (an image, a checkpoint, a list of labels, a config, a command line)
from the seed, its kind and its number, and hands it to the code that would read it in a run. It may
be read or refused in one sentence; a traceback, a crash, ten seconds of processor time, three
gigabytes of memory, a trace of code that ran, or a file that is left are failures. One of them
again:

    python tests/faults/inputs/campaign_inputs.py "KIND" NUMBER --seed SEED
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "helpers")]
    sys.path.insert(0, str(Path(__file__).parents[3] / "src"))

from campaign import Trial
from hostile.crew import crew
from hostile.everything import KINDS, planned
from hostile.kinds import attempt

TRIALS = 10_000


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Try that many inputs; those that held are counted kind by kind."""
    held: collections.Counter[str] = collections.Counter()
    workers = max(1, min(4, len(os.sched_getaffinity(0))))
    for outcome in crew(seed, planned(trials), folder, workers):
        if outcome.problem:
            yield Trial(outcome.kind, f"number {outcome.index}", outcome.problem)
        else:
            held[outcome.kind] += 1
    for kind, count in held.items():
        yield Trial(kind, f"{count} inputs", count=count)


def main() -> int:
    """Try one input again, here, and say what comes of it."""
    parser = argparse.ArgumentParser(description="Try one input of the campaign again.")
    parser.add_argument("kind", choices=[kind.name for kind in KINDS])
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kind = next(kind for kind in KINDS if kind.name == options.kind)
    folder = Path(tempfile.mkdtemp(prefix="tcf-input-"))
    problem = attempt(kind, options.seed, options.number, folder)
    print(f"{folder} holds it; {problem or 'it held'}")
    return int(bool(problem))


if __name__ == "__main__":
    sys.exit(main())
