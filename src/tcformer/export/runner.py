"""How every exported file is called, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Runner = Callable[[NDArray[Any]], dict[str, NDArray[Any]]]
"""A batch of images as the contract says -> its outputs by name."""
