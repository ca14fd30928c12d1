"""Numbers as colours: a ramp from dark (little) to bright (much)."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.viz.images import as_array

STOPS = (
    (0, (16, 12, 58)),
    (51, (78, 24, 112)),
    (102, (160, 42, 108)),
    (153, (224, 84, 74)),
    (204, (250, 166, 62)),
    (255, (255, 246, 196)),
)
"""Levels and their colours; between two of them the ramp is straight."""


class Scale(NamedTuple):
    """What the two ends of the ramp mean, in words."""

    low: str
    high: str


@cache
def ramp() -> NDArray[np.uint8]:
    """The colour of each of the levels 0 to 255: (256, 3) uint8; ever brighter."""
    levels = np.arange(256)
    colours = np.empty((256, 3), np.int64)
    for (start, one), (stop, other) in pairwise(STOPS):
        part = levels[start : stop + 1] - start
        for channel in range(3):
            change = other[channel] - one[channel]
            colours[start : stop + 1, channel] = one[channel] + change * part // (stop - start)
    return colours.astype(np.uint8)


def heat_colours(
    values: Any, *, low: float | None = None, high: float | None = None
) -> NDArray[np.uint8]:
    """A colour of the ramp for every number.

    Args:
        values: (N,) numbers; array or tensor. Where they are not finite, the colour is grey.
        low: what the dark end stands for; by default the least of the values.
        high: what the bright end stands for; by default the greatest. Equal ends: all bright.

    Returns:
        (N, 3) uint8.

    Raises:
        UserError: ``values`` is not one list of numbers.
    """
    numbers = as_array(values).astype(np.float64)
    if numbers.ndim != 1:
        raise UserError(f"heat is one number for each token, not an array {numbers.shape}")
    finite = np.isfinite(numbers)
    if not finite.any():
        return np.full((len(numbers), 3), 128, np.uint8)
    low = float(numbers[finite].min()) if low is None else low
    high = float(numbers[finite].max()) if high is None else high
    part = np.ones_like(numbers)
    if high > low:
        part = np.clip((np.where(finite, numbers, low) - low) / (high - low), 0, 1)
    colours = ramp()[np.floor(part * 255 + 0.5).astype(np.int64)]
    colours[~finite] = 128
    return colours


def number(value: float) -> str:
    """A number for people: three digits that matter at most."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"
