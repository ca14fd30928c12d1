"""One progress bar for people at a terminal: training, verbs and downloads all draw this one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def progress_bar(
    total: float | None = None,
    *,
    label: str = "",
    stream: TextIO | None = None,
    wanted: bool | None = None,
    transient: bool = True,
    in_bytes: bool = False,
) -> Iterator[Callable[..., None]]:
    """Yield a function that moves a bar; where nobody watches it does nothing.

    The bar appears with the first call, so a process that is not the main one draws none. The
    function takes the arguments of `rich.progress.Progress.update`: `advance` or `completed`,
    `total`, `description`, and `numbers`, a text behind the bar. `wanted` draws it or not; None
    asks whether the stream, by default stderr, is a terminal. A `transient` bar disappears at the
    end.
    """
    stream = stream or sys.stderr
    if not (stream.isatty() if wanted is None else wanted):
        yield lambda **changes: None
        return
    from rich import progress as rich
    from rich.console import Console

    counted = (rich.DownloadColumn(), rich.TransferSpeedColumn())
    bar = rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        *(counted if in_bytes else (rich.MofNCompleteColumn(),)),
        rich.TextColumn("{task.fields[numbers]}"),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        console=Console(file=stream, force_terminal=wanted),
        transient=transient,
        # What is printed meanwhile may be the result, or go to a log: it is not the bar's.
        redirect_stdout=False,
        redirect_stderr=False,
        speed_estimate_period=60,
    )
    line = bar.add_task(label, total=total, numbers="")

    def update(**changes: object) -> None:
        bar.start()  # does nothing when it has started
        bar.update(line, **changes)  # type: ignore[arg-type]

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()
