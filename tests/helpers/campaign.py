"""What a fault campaign hands to `tests/faults/run.py`: one `Trial` after another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One injected fault and what came of it.

    Attributes:
        kind: the group it is counted in, such as "SIGKILL, 2 processes".
        what: enough to repeat it: the seed, the moment, the input.
        problem: why the promise was broken; empty if it held.
        count: trials that this stands for, where there are too many to tell one by one.
        told: a measurement in words, for the record and the page; the last of a kind is kept.
    """

    kind: str
    what: str
    problem: str = ""
    count: int = 1
    told: str = ""
