"""The command line of `tcformer train` and `tcformer evaluate`."""

from __future__ import annotations

import sys
from typing import Any

from tcformer.runtime.signals import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from tcformer.training.options import parse

_TRAIN = "Train a network to classify or segment images (with --eval: measure one)."
_EVALUATE = "Measure a network on its validation set; --resume names the weights."


def main(argv: list[str], *, verb: str = "train") -> int:
    """Parse, run, and turn the outcome into an exit status (see `tcformer.runtime.signals`)."""
    fixed: dict[str, Any] = {"eval": True} if verb == "evaluate" else {}
    about = _EVALUATE if verb == "evaluate" else _TRAIN
    cfg = parse(argv, prog=f"tcformer {verb}", description=about, **fixed)

    # Only now, when the command line is known to be right, the imports that take seconds.
    from tcformer.runtime.distributed import leave
    from tcformer.runtime.launcher import read_environment
    from tcformer.tasks.runner import run
    from tcformer.training.loop import Interrupted, NotFinite
    from tcformer.training.progress import progress_bar

    status = EXIT_OK
    try:
        with progress_bar() as on_progress:
            run(cfg, on_progress=on_progress, command=[verb, *argv])
    except Interrupted as stop:
        print(f"{stop} Exit status {EXIT_INTERRUPTED}.")
        status = EXIT_INTERRUPTED
    except NotFinite as problem:
        if read_environment().rank == 0:  # all processes stop with it, one tells
            print(problem, file=sys.stderr)
        status = EXIT_FAILED
    return leave(status)
