"""A run of 2,000 steps, watched from outside: nothing that it holds may grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from campaign import Trial
from watched import grown, watch

TRIALS = 1
STEPS, STEPS_PER_EPOCH = 2000, 125
SETTLED = 4 * STEPS_PER_EPOCH  # from here on nothing is new


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Each trial is one whole run."""
    for number in range(trials):
        samples = watch(folder / str(number), STEPS, STEPS_PER_EPOCH)
        told, problem = grown(samples, SETTLED)
        yield Trial(f"{STEPS} steps", f"run {number}: {told}", problem, told=told)
