"""A live progress bar for people at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tcformer.training.metrics import OnProgress, Progress


@contextmanager
def progress_bar(*, wanted: bool | None = None) -> Iterator[OnProgress | None]:
    """A callback that draws a bar, or None where nobody watches.

    The bar appears with the first call, so a process that is not the main one draws none.

    Args:
        wanted: True or False decides; None asks whether the output is a terminal.
    """
    if not (sys.stdout.isatty() if wanted is None else wanted):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    bar = Bar(*columns, transient=True)
    line = bar.add_task("", total=None, numbers="")

    def draw(now: Progress) -> None:
        bar.start()  # does nothing when it has started
        name = f"epoch {now.epoch + 1}/{now.epochs}" if now.epoch >= 0 else "evaluation"
        if now.epoch >= 0 and now.phase == "test":
            name += " test"
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in now.values.items())
        bar.update(line, description=name, completed=now.step, total=now.steps, numbers=numbers)

    try:
        yield draw
    finally:
        if bar.live.is_started:
            bar.stop()
