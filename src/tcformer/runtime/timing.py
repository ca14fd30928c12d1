"""Time steps in turns, A B C A B C, so that a busy machine slows all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Step = Callable[[int], object]
"""One unit of work; the number says which of the rotating inputs to take."""

FEWEST_ROUNDS = 3
"""Rounds that are made even where the time budget is used up."""

GPU_CALLS = 20
"""Calls between two events on a GPU, unless a round of so many would be long."""

LONG_ROUND = 8.0

TURN = {"cpu": 0.05, "cuda": 0.2}
"""Seconds that a turn should last at least, for clocks and caches to settle."""

MOST_CALLS = 1000


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and minimum, as a record keeps them."""
    low, middle, high = quartiles(values)
    return {"median": middle, "low": low, "high": high, "min": min(values)}


def ratios(times: Mapping[str, Sequence[float]], baseline: str) -> dict[str, dict[str, float]]:
    """The time of each step over the baseline's, taken round by round."""
    below = times[baseline]
    return {
        name: spread([a / b for a, b in zip(own, below, strict=True)])
        for name, own in times.items()
        if name != baseline
    }


def interleaved(
    steps: Mapping[str, Step],
    *,
    device: torch.device,
    rounds: int,
    warmup: int = 2,
    turn: float | None = None,
    budget: float = math.inf,
    rest: float = 0.0,
) -> dict[str, list[float]]:
    """Run every step in every round, one after the other; seconds a call, round by round.

    All steps make the same number of calls a turn and see the same inputs in a round. `warmup`
    calls of each come beforehand. A turn lasts at least `turn` seconds: by device when left out,
    one call if 0. After `budget` seconds no further round begins, but three are made in any case.
    `rest` seconds of sleep and one untimed call precede each turn, for steps whose idle threads
    slow the others down.
    """
    if not steps:
        return {}
    for step in steps.values():
        for call in range(warmup):
            step(call)
    turn = TURN.get(device.type, 0.05) if turn is None else turn
    calls = 1 if turn <= 0 else _calls(steps, turn, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    begin = time.perf_counter()
    for number in range(rounds):
        if number >= min(FEWEST_ROUNDS, rounds) and time.perf_counter() - begin > budget:
            break
        for name, step in steps.items():
            if rest:
                time.sleep(rest)
                step(number)
            times[name].append(elapsed(step, number, calls, device) / calls)
    return times


def _calls(steps: Mapping[str, Step], turn: float, device: torch.device) -> int:
    """Calls a turn: enough for the fastest, not too many for the slowest."""
    once = [elapsed(step, 0, 1, device) for step in steps.values()]
    calls = min(MOST_CALLS, max(1, math.ceil(turn / max(min(once), 1e-7))))
    if device.type == "cuda" and sum(once) * GPU_CALLS < LONG_ROUND:
        calls = max(calls, GPU_CALLS)
    return calls


def elapsed(step: Step, first: int, calls: int, device: torch.device) -> float:
    """Seconds of `calls` calls, the device's work included."""
    if device.type == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for call in range(calls):
            step(first + call)
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1e3
    synchronize(device)
    begin = time.perf_counter()
    for call in range(calls):
        step(first + call)
    synchronize(device)
    return time.perf_counter() - begin


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
