"""What the parts of `checks/gpu.py` share: the device, the references, and what they find."""

from __future__ import annotations

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
