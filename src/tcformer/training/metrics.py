"""Running averages and the progress lines of the published code."""

from __future__ import annotations

import datetime
import math
import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from tcformer.runtime.distributed import World, all_reduce_sums
from tcformer.runtime.logger import logger

T = TypeVar("T")
PRINT_EVERY = 10


@dataclass(frozen=True)
class Progress:
    """Where a run is; handed to whoever wants to draw a progress bar, on the main process."""

    phase: str  # "train" or "test"
    epoch: int  # 0-based; -1 outside training
    epochs: int
    step: int  # steps done of this epoch or evaluation
    steps: int
    values: dict[str, float]


OnProgress = Callable[[Progress], None]


class SmoothedValue:
    """A series of numbers: the median and mean of the last 20, and the mean of all; NaN of none.

    "All" is a sum and a count, so that series of several processes can be put together.
    """

    def __init__(self, fmt: str = "{median:.4f} ({global_avg:.4f})", window: int = 20) -> None:
        self.fmt = fmt
        self.recent: deque[float] = deque(maxlen=window)
        self.total = 0.0
        self.count = 0

    def update(self, value: float, n: int = 1) -> None:
        """Add a value that stands for `n` items."""
        self.recent.append(value)
        self.total += value * n
        self.count += n

    @property
    def median(self) -> float:
        """Median of the last values; of an even number of them the lower one, as published."""
        return statistics.median_low(self.recent) if self.recent else math.nan

    @property
    def avg(self) -> float:
        """Mean of the last values."""
        return sum(self.recent) / len(self.recent) if self.recent else math.nan

    @property
    def global_avg(self) -> float:
        """Mean of all values."""
        return self.total / self.count if self.count else math.nan

    @property
    def value(self) -> float:
        """The last value."""
        return self.recent[-1] if self.recent else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, JSON-able."""
        return {"recent": list(self.recent), "total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.recent.clear()
        self.recent.extend(map(float, state["recent"]))
        self.total, self.count = float(state["total"]), int(state["count"])

    def __str__(self) -> str:
        return self.fmt.format(
            median=self.median, avg=self.avg, global_avg=self.global_avg, value=self.value
        )


@dataclass
class Skips:
    """Updates that were left out: of the whole run, and of the epoch under way."""

    nonfinite: int = 0  # a loss or gradient was not finite, and --skip-nonfinite allowed it
    overflow: int = 0  # scaled gradients were beyond float16; the loss scaler tries a smaller scale
    epoch_nonfinite: int = 0
    epoch_overflow: int = 0


@dataclass
class MetricLogger:
    """Named series, and `log_every`, which prints them while it hands out batches."""

    world: World
    on_progress: OnProgress | None = None
    phase: str = "train"
    epoch: int = -1
    epochs: int = 0
    meters: dict[str, SmoothedValue] = field(default_factory=dict)

    def add(self, name: str, fmt: str | None = None) -> SmoothedValue:
        """Add a series; the order of adding is the order of printing."""
        self.meters[name] = SmoothedValue(fmt) if fmt else SmoothedValue()
        return self.meters[name]

    def __str__(self) -> str:
        return "  ".join(f"{name}: {meter}" for name, meter in self.meters.items())

    def synchronize(self) -> None:
        """Make the sums of all series those over all processes."""
        pairs = [[meter.total, float(meter.count)] for meter in self.meters.values()]
        sums = all_reduce_sums(self.world, torch.tensor(pairs, dtype=torch.float64))
        for meter, (total, count) in zip(self.meters.values(), sums.tolist(), strict=True):
            meter.total, meter.count = total, int(count)

    def log_every(
        self, batches: Iterable[T], steps: int, header: str, *, start: int = 0
    ) -> Iterator[tuple[int, T]]:
        """Yield (step, batch) for `start`..`steps`-1; print every 10 steps and at the last."""
        step_time, data_time = SmoothedValue("{avg:.4f}"), SmoothedValue("{avg:.4f}")
        width = len(str(steps))
        began = end = time.monotonic()
        for step, batch in enumerate(batches, start):
            data_time.update(time.monotonic() - end)
            yield step, batch
            step_time.update(time.monotonic() - end)
            if step % PRINT_EVERY == 0 or step == steps - 1:
                place = f"{header}  [{step:>{width}}/{steps}]"
                eta = f"eta: {hms(step_time.global_avg * (steps - 1 - step))}"
                times = f"time: {step_time}  data: {data_time}"
                memory = f"max mem: {peak_memory_mib(self.world.device):.0f}"
                logger.info("  ".join(filter(None, [place, eta, str(self), times, memory])))
            if self.on_progress and self.world.is_main:
                now = {name: meter.value for name, meter in self.meters.items()}
                progress = Progress(self.phase, self.epoch, self.epochs, step + 1, steps, now)
                self.on_progress(progress)
            end = time.monotonic()
        total = time.monotonic() - began
        each = total / max(steps - start, 1)
        logger.info(f"{header} Total time: {hms(total)} ({each:.4f} s / it)")


def hms(seconds: float) -> str:
    """Whole seconds as H:MM:SS."""
    return str(datetime.timedelta(seconds=int(seconds)))


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory in use so far, MiB: tensors on a GPU, the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
