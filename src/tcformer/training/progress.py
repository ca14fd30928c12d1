"""The progress of a run for people at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tcformer.progress import progress_bar as bar
from tcformer.training.metrics import OnProgress, Progress


@contextmanager
def progress_bar(*, wanted: bool | None = None) -> Iterator[OnProgress | None]:
    """A callback that draws a bar, or None where nobody watches.

    Args:
        wanted: True or False decides; None asks whether the output is a terminal.
    """
    if not (sys.stdout.isatty() if wanted is None else wanted):
        yield None
        return
    with bar(stream=sys.stdout, wanted=True) as update:

        def draw(now: Progress) -> None:
            name = f"epoch {now.epoch + 1}/{now.epochs}" if now.epoch >= 0 else "evaluation"
            if now.epoch >= 0 and now.phase == "test":
                name += " test"
            numbers = "  ".join(f"{k} {v:.4g}" for k, v in now.values.items())
            update(description=name, completed=now.step, total=now.steps, numbers=numbers)

        yield draw
