"""The progress of the demo: a live bar on a terminal, a line an epoch anywhere else."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tcformer.training.metrics import Progress


@contextmanager
def show_progress(
    log: Path, *, stream: TextIO | None = None, live: bool | None = None
) -> Iterator[Callable[[Progress], None]]:
    """Yield a callback for the training loop.

    Args:
        log: the run's log.txt, where the accuracy of finished epochs is read.
        stream: where to draw; the standard output as it is now, so that it may be redirected
            while the training prints its own lines.
        live: whether to draw a bar; by default, if the stream is a terminal.
    """
    stream = stream or sys.stdout
    live = stream.isatty() if live is None else live
    with (_bar if live else _lines)(log, stream) as draw:
        yield draw


@contextmanager
def _bar(log: Path, stream: TextIO) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(compact=False),
    )
    # The training's prints go to the log; rich must not catch them first.
    with Bar(
        *columns,
        console=Console(file=stream),
        redirect_stdout=False,
        redirect_stderr=False,
        speed_estimate_period=60,
    ) as bar:
        task = bar.add_task("preparing", total=None, numbers="")
        numbers = _Numbers(log)

        def draw(now: Progress) -> None:
            numbers.update(now)
            if now.phase == "train":
                bar.update(
                    task,
                    description=f"epoch {now.epoch + 1}/{now.epochs}",
                    total=now.epochs * now.steps,
                    completed=now.epoch * now.steps + now.step,
                )
            bar.update(task, numbers=str(numbers))

        yield draw
        numbers.read_accuracy()
        bar.update(task, numbers=str(numbers))


@contextmanager
def _lines(log: Path, stream: TextIO) -> Iterator[Callable[[Progress], None]]:
    numbers = _Numbers(log)
    began = time.monotonic()
    finished = 0  # epochs whose line is printed
    epochs = 0

    def line() -> None:
        nonlocal finished
        numbers.read_accuracy()
        finished += 1
        left = int((time.monotonic() - began) / finished * (epochs - finished))
        clock = f"eta {left // 60}:{left % 60:02d}"
        print(f"epoch {finished}/{epochs}  {numbers}  {clock}", file=stream, flush=True)

    def draw(now: Progress) -> None:
        nonlocal epochs
        epochs = now.epochs
        # The accuracy of an epoch is known when the next one begins.
        if now.phase == "train" and now.epoch > finished:
            line()
        numbers.update(now)

    yield draw
    if epochs:
        line()


class _Numbers:
    """The loss of now and the accuracy of the last epoch that was evaluated."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.loss: float | None = None
        self.accuracy: float | None = None

    def update(self, now: Progress) -> None:
        if now.phase == "train":
            self.loss = now.values.get("loss")
            if now.step == 1:
                self.read_accuracy()

    def read_accuracy(self) -> None:
        with suppress(OSError, IndexError, ValueError):
            last = json.loads(self.log.read_text(encoding="utf-8").splitlines()[-1])
            self.accuracy = last.get("test_acc1", self.accuracy)

    def __str__(self) -> str:
        loss = "" if self.loss is None else f"loss {self.loss:.3f}"
        accuracy = "" if self.accuracy is None else f"  accuracy {self.accuracy:.1f}%"
        return loss + accuracy
