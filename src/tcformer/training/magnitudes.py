"""Numbers that no run can mean: not finite, or beyond what any machine has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tcformer.errors import UserError, shown

# What is more would only be found out when the memory, or the processes, have run out.
_AT_MOST = {
    "--input-size": 16_384,
    "--crop-size": 2048,
    "--num_workers": 1024,
    "--batch-size": 1_000_000,
    "--accum": 1_000_000,
    "--num-classes": 10_000_000,
    "--in-chans": 1024,
    "--neck-channels": 65_536,
    "--neck-heads": 1024,
    "--head-channels": 65_536,
    "--recount": 1000,
    "--seed": 2**62,
}
_AT_MOST_ELSE = 2**31 - 1


def check_magnitudes(options: Mapping[str, Any]) -> None:
    """Raise `UserError` for the first number that is NaN, infinite or absurd; names its option."""
    for option, value in options.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{option} is {number}, but a finite number is meant.")
            most = _AT_MOST.get(option, _AT_MOST_ELSE)
            if isinstance(number, int) and abs(number) > most:
                raise UserError(f"{option} is {shown(number)}, but at most {most} is meant.")
