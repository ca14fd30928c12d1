"""Disks that fail at a drawn operation, and (as root) real ones of a drawn size."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from campaign import Trial
from faulty import FaultyDisk, injected, may_mount, small_disk, train

TRIALS = 300
WIDTH = 20000


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Two of three trials fail at a drawn operation, the third is a small disk."""
    counting = FaultyDisk(stays=False)
    with contextlib.redirect_stdout(io.StringIO()):
        with counting.mounted():
            weights = train(folder / "whole")
        wide = train(folder / "whole_wide", WIDTH)
    root = may_mount(folder / "mounted")
    for number in range(trials):
        draw = random.Random(f"{seed}/{number}")
        place = folder / str(number)
        with contextlib.redirect_stdout(io.StringIO()):
            if root and number % 3 == 2:
                kind = "tmpfs too small"
                what, problem = small_disk(draw, place, folder / "whole_wide", wide, WIDTH)
            else:
                kind = "failing operation"
                what, problem = injected(draw, place, folder / "whole", weights, counting.count)
        shutil.rmtree(place)
        yield Trial(kind, f"seed {seed}, trial {number}: {what}", problem)
