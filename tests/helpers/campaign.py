"""What a fault campaign hands to `tests/faults/run.py`, and how two results are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


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


def differs(a: Any, b: Any, where: str = "") -> str:
    """Where two nested values differ, or ''. Tensors are compared by bytes: NaN, -0.0 count."""
    if type(a) is not type(b):
        return f"{where}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{where}: entries {sorted(map(str, a.keys() ^ b.keys()))}"
        return next(filter(None, (differs(a[k], b[k], f"{where}/{k}") for k in a)), "")
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{where}: {len(a)} and {len(b)} entries"
        pairs = enumerate(zip(a, b, strict=True))
        return next(filter(None, (differs(x, y, f"{where}/{i}") for i, (x, y) in pairs)), "")
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    else:
        same = a == b or (a != a and b != b)
    return "" if same else where or "the values"


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
