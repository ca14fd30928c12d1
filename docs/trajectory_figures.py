"""What docs/make_trajectory.py reads out of a record of benchmarks/trajectory.py."""

from __future__ import annotations

import math
from statistics import mean, stdev
from typing import Any

BASE, IMPOSED, AGAIN, SHIPPED = "float64", "imposed", "again", "shipped"
ASKED = 1e-3
"""How closely the origin of the published losses asks them to be followed."""
PARTED = 1e-4
"""Runs that differ by more have parted: rounding alone stays well below it."""
AFTER = 10
"""Steps, that of the flip included, in which its consequence is looked for."""
ENDS = 20
"""Steps of the two spans whose differences say whether rounding grows by itself."""
LAST = 100
"""Steps at the end whose mean loss is compared."""
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}
"""Degrees of freedom -> bound that Student's t stays below in 95 % of cases, both signs."""
FLOOR = 1e-9
"""Differences below, such as none at all, have no place on a logarithmic axis."""

Record = dict[str, Any]


def short(value: float) -> str:
    """1.2e-5: two digits, and no zero in the exponent; none of either where there is nothing."""
    if value == 0:
        return "0"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def gap(record: Record, name: str, base: str = BASE) -> list[float]:
    """Differences of the loss between two runs, step by step."""
    losses = (record["variants"][one]["losses"] for one in (name, base))
    return [abs(a - b) for a, b in zip(*losses, strict=True)]


def flip(record: Record, name: str) -> tuple[int, int] | None:
    """Step and merge of the first partition that differs from the float64 run's."""
    (pair,) = (p for p in record["pairs"] if p["pair"] == [BASE, name])
    found = [(step, int(merge)) for merge, step in pair["first_flip"].items() if step is not None]
    return min(found, default=None)


def others(record: Record) -> list[str]:
    """The runs that are compared with float64, each once."""
    return [name for name in record["variants"] if name not in (BASE, AGAIN)]


def free(record: Record) -> list[str]:
    """Of those the ones that choose their clusters themselves."""
    return [name for name in others(record) if name != IMPOSED]


def early(record: Record) -> list[str]:
    """The runs that parted from float64 before any of their partitions differed."""
    found = []
    for name in free(record):
        first = flip(record, name)
        before = gap(record, name)[: None if first is None else first[0]]
        if max(before, default=0.0) > PARTED:
            found.append(name)
    return found


def largest(record: Record) -> tuple[float, float]:
    """Largest differences from the published losses: of the float32 runs, and of float64."""
    runs = record["variants"]
    far = [run["largest_from_published"] for run in runs.values() if run["dtype"] == "float32"]
    return max(far), runs[BASE]["largest_from_published"]


def published_gap(record: Record) -> list[float]:
    """The published code's float32 run from its float64 run."""
    both = zip(record["published"]["float32"], record["published"][BASE], strict=True)
    return [abs(a - b) for a, b in both]


def last(record: Record) -> int:
    """How many steps the end has."""
    return min(LAST, record["steps"])


def shift(record: Record, name: str) -> tuple[float, float]:
    """Mean difference of the last losses from the float64 run's, and its standard error."""
    count = last(record)
    both = (record["variants"][one]["losses"][-count:] for one in (name, BASE))
    apart = [a - b for a, b in zip(*both, strict=True)]
    return mean(apart), stdev(apart) / math.sqrt(count)
