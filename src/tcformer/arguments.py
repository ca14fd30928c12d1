"""Numbers that callers give: Python's, NumPy's, or tensors of no dimension.

Every public function that takes a count or a share reads it here, so that a number means the same
at each of them and nothing else gets through.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tcformer.errors import shown

__all__ = ["NotANumberError", "as_float", "as_int", "as_list", "as_size", "read_each"]


class NotANumberError(TypeError, ValueError):
    """A value of a type that cannot stand for the number that is asked for."""


def as_int(name: str, value: Any, low: int | None = 1) -> int:
    """The integer that a value stands for.

    Whatever has ``__index__`` does: an int, ``numpy.int64(3)``, ``torch.tensor(3)``, True for 1. A
    float does not, also where it is whole. Symbols of `torch.export` and `torch.compile` stay
    symbols.

    Args:
        name: of the argument, as the message shall begin.
        value: what the caller gave.
        low: the least integer allowed; None where the caller checks the range.

    Raises:
        NotANumberError: (a TypeError) the value has no ``__index__``.
        ValueError: it is less than ``low``.
    """
    number = value
    if type(value) is not int and not isinstance(value, torch.SymInt):
        try:
            number = operator.index(value)
        except Exception as error:  # tensors without values or of several have errors of their own
            raise NotANumberError(_not_an_integer(name, value, low)) from error
    if low is not None and number < low:
        raise ValueError(_not_an_integer(name, value, low))
    return number


def _not_an_integer(name: str, value: Any, low: int | None) -> str:
    least = "" if low is None else f" from {low}"
    return f"{name} must be an integer{least}, not {shown(value)}."


def as_float(
    name: str, value: Any, low: float = 0.0, high: float = math.inf, *, above: bool = False
) -> float:
    """The real number that a value stands for.

    Integers, NumPy's scalars and tensors of no dimension do; True and False, text and complex
    numbers do not. Symbols of `torch.export` and `torch.compile` stay symbols.

    Args:
        name: of the argument, as the message shall begin.
        value: what the caller gave.
        low: the least number allowed.
        high: the greatest number allowed; without one the number must be finite.
        above: whether ``low`` itself is not allowed.

    Raises:
        NotANumberError: (a TypeError) the value is no real number.
        ValueError: it lies outside the range, or is NaN.
    """
    if isinstance(value, torch.SymFloat):
        return value  # type: ignore[return-value]
    number = value
    if type(value) is not float:
        try:
            scalar = value.item() if getattr(value, "ndim", None) == 0 else value
            if isinstance(scalar, bool) or not isinstance(scalar, numbers.Real):
                raise TypeError
            number = float(scalar)
        except Exception as error:
            raise NotANumberError(_not_a_real(name, value, low, high, above)) from error
    # Of NaN every comparison is false.
    if not low <= number <= high or (above and number == low) or number == math.inf:
        raise ValueError(_not_a_real(name, value, low, high, above))
    return number


def _not_a_real(name: str, value: Any, low: float, high: float, above: bool) -> str:
    if high < math.inf:
        wanted = f"lie in {'(' if above else '['}{low:g}, {high:g}]"
    else:
        wanted = f"be a finite number {'above' if above else 'from'} {low:g}"
    return f"{name} must {wanted}, not {shown(value)}."


def as_size(name: str, value: Any) -> tuple[int, int]:
    """Two integers from 1, rows and columns (or height and width), from a pair of any kind.

    Raises:
        NotANumberError: (a TypeError) the value is no pair, or one of the two no integer.
        ValueError: one of the two is less than 1.
    """
    plain = type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int
    if plain and min(value) > 0:  # as in nearly every call
        return value
    pair = as_list(value)
    if pair is None or len(pair) != 2 or type(pair[0]) is bool or type(pair[1]) is bool:
        raise NotANumberError(f"{name} must be two integers from 1, not {shown(value)}.")
    return as_int(name, pair[0]), as_int(name, pair[1])


def read_each(owner: str, read: Callable[..., Any], **values: Any) -> list[Any]:
    """Read arguments of an owner in one way; `read` takes the name, as its message begins."""
    return [read(f"{owner}: {name}", value) for name, value in values.items()]


def as_list(value: Any) -> list[Any] | None:
    """The items of a sequence or array; None for a single value or text."""
    if isinstance(value, (str, bytes)):
        return None
    several = isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0
    return list(value) if several else None
