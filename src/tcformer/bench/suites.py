"""Suites: everything that issue 3 asks for, in one command, with a verdict for each figure.

Every part is on its own: one that fails or runs out of its time is reported so, and the rest goes
on. A figure without a bound is recorded only.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

GPU_SECONDS = 450.0
"""For the whole GPU suite, the machine's start not counted: under eight minutes."""

STATES = ("goal met", "must met", "missed", "measured", "failed", "out of time", "not run")


@dataclass(frozen=True)
class Bound:
    """What a figure should be.

    Attributes:
        figure: its name in a part's result.
        text: what it is, for people.
        unit: of the number.
        must, goal: the bounds; None where there is none.
        at_least: whether larger is better.
    """

    figure: str
    text: str
    unit: str = ""
    must: float | None = None
    goal: float | None = None
    at_least: bool = False

    def judge(self, value: float | None) -> str:
        """One of `STATES`."""
        if value is None:
            return "not run"
        if self.must is None and self.goal is None:
            return "measured"
        if self.goal is not None and self._holds(value, self.goal):
            return "goal met"
        if self.must is not None and self._holds(value, self.must):
            return "must met"
        return "missed"

    def _holds(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


@dataclass
class Result:
    """What became of one part."""

    name: str
    state: str = "done"
    seconds: float = 0.0
    problem: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """One piece of a suite.

    Attributes:
        name: for the report.
        run: does it; puts figures and rows into the result as it gets them, so that what was
            measured before a failure is kept.
        bounds: of its figures.
        limit: seconds after which it is stopped.
    """

    name: str
    run: Callable[[Result], None]
    bounds: Sequence[Bound]
    limit: float = float("inf")


class OutOfTime(BaseException):
    """A part took longer than it may. No `Exception`: libraries swallow those here and there."""


def run_parts(
    parts: Sequence[Part],
    *,
    seconds: float = float("inf"),
    report: Callable[[Result], None],
) -> list[Result]:
    """Run the parts one after the other, each within its own limit and all within `seconds`."""
    begin = time.monotonic()
    results = []
    for part in parts:
        result = Result(part.name)
        results.append(result)
        left = min(part.limit, seconds - (time.monotonic() - begin))
        if left <= 0:
            result.state, result.problem = "out of time", "no time was left for it"
            report(result)
            continue
        start = time.monotonic()
        try:
            with time_limit(left):
                part.run(result)
        except OutOfTime:
            result.state, result.problem = "out of time", f"stopped after {left:.0f} s"
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            first = (str(error).strip().splitlines() or [""])[0][:300]
            place = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
            result.state = "failed"
            result.problem = f"{type(error).__name__} at {place}: {first}"
        result.seconds = time.monotonic() - start
        report(result)
    return results


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after some seconds, where the system has timers for that.

    Only the main thread can be interrupted; elsewhere the block simply runs.
    """
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds == float("inf") or not usable:
        yield
        return

    running = True

    def stop(number: int, frame: FrameType | None) -> None:
        if running:
            raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    # Again every few seconds: the first one may be lost in a callback that cannot raise.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def verdicts(parts: Sequence[Part], results: Sequence[Result]) -> list[dict[str, Any]]:
    """One entry a bound: the figure, what it should be, what it is, and the verdict.

    Where several parts measured the same figure in different ways, the best one counts.
    """
    found = []
    for part, result in zip(parts, results, strict=True):
        for bound in part.bounds:
            values = [r.figures[bound.figure] for r in results if bound.figure in r.figures]
            best = max if bound.at_least else min
            value = best(values) if values else None
            state = bound.judge(value)
            if value is None and result.state != "done":
                state = result.state
            found.append({**asdict(bound), "part": part.name, "value": value, "verdict": state})
    return found


def table(entries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The verdicts as rows of text, the heading first."""
    rows = [["figure", "measured", "must", "goal", "verdict"]]
    for entry in entries:
        sign = ">= " if entry["at_least"] else "<= "
        limits = [
            "-" if entry[kind] is None else f"{sign}{_number(entry[kind])}"
            for kind in ("must", "goal")
        ]
        unit = f" {entry['unit']}" if entry["unit"] else ""
        value = "-" if entry["value"] is None else f"{_number(entry['value'])}{unit}"
        rows.append([entry["text"], value, *limits, entry["verdict"]])
    return rows


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.095 else f"{value:.3g}"
