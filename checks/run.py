"""What the parts of `checks/gpu.py` share: the device, the references, and what they find."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from tcformer.runtime import timing


class Run:
    """What the parts share: the device, the references, and the problems and numbers they find."""

    def __init__(self, device: torch.device, refs: dict[str, Any], quick: bool) -> None:
        self.device, self.refs, self.quick = device, refs, quick
        self.problems: list[str] = []
        self.numbers: dict[str, Any] = {}
        self.dtype = torch.float32 if quick else torch.bfloat16

    def require(self, holds: Any, text: str) -> None:
        """Note a wrong answer; the part goes on, to find the others as well."""
        if not bool(holds):
            self.problems.append(text)

    def close(
        self, actual: Tensor, expected: Tensor, allowed: float, text: str, *, least: float = 1e-30
    ) -> None:
        """Require a small error relative to the expected norm (at least `least`), and keep it."""
        expected = expected.detach().to(actual.device).double()
        difference = float((actual.detach().double() - expected).norm())
        error = difference / max(float(expected.norm()), least)
        self.numbers[text] = error
        self.require(error <= allowed, f"{text}: error {error:.2e}, allowed {allowed:.0e}")

    def size(self, full: int, quick: int) -> int:
        """A size of the real run, or of the quick one."""
        return quick if self.quick else full

    @property
    def on_gpu(self) -> bool:
        """Whether this is the real thing."""
        return self.device.type == "cuda"


def synchronize(run: Run) -> None:
    """Wait for the device, so that an illegal access shows in the part that made it."""
    timing.synchronize(run.device)


class OutOfTime(BaseException):
    """A block took longer than it may. No `Exception`: libraries swallow those here and there."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after some seconds, where the system has timers for that.

    Only the main thread can be interrupted; elsewhere the block simply runs.
    """
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds == math.inf or not usable:
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
