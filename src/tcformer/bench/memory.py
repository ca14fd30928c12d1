"""Peak memory of a step, what is free, and whether a case would fit."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from tcformer.runtime.provenance import resident, total_memory

_CLEAR = Path("/proc/self/clear_refs")

SHARE = 0.8
"""Share of the free memory that a case may be expected to take."""


class Peak(NamedTuple):
    """Bytes: beyond what was there before the step, and altogether."""

    extra: int
    total: int


def peak(device: torch.device, step: Callable[[], object]) -> Peak | None:
    """Run a step that has been run before and watch its memory; None where nobody tells.

    On a GPU what torch allocated (weights and inputs are in `total`); on Linux the resident memory
    of this process.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        highest = torch.cuda.max_memory_allocated(device)
        return Peak(highest - before, highest)
    if device.type != "cpu":
        return None
    _return_free_memory()
    before_cpu = resident("VmRSS")
    if before_cpu is None or not _forget_peak():
        return None
    step()
    highest_cpu = resident("VmHWM")
    if highest_cpu is None:
        return None
    return Peak(max(0, highest_cpu - before_cpu), highest_cpu)


def _return_free_memory() -> None:
    """Hand freed memory back, which would otherwise hide what the step asks for (glibc only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> bool:
    try:
        _CLEAR.write_text("5")  # Linux: set the high-water mark to what is resident now
    except OSError:
        return False
    return True


def free(device: torch.device) -> int:
    """Bytes that could be had now."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return total_memory() // 2
    available = next((line for line in lines if line.startswith("MemAvailable:")), None)
    if available is None:
        return total_memory() // 2
    taken = resident("VmRSS") or 0
    return min(int(available.split()[1]) * 1024, max(0, total_memory() - taken))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch (or Python) could not get memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "not enough memory" in text or "can't allocate memory" in text
    )
