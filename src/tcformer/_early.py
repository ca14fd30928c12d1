"""Ctrl-C while the command starts: one line, not the traceback of some import.

The package imports this first. It does nothing where the package is a library.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def is_command() -> bool:
    """Whether this process was started as `tcformer` or as `python -m tcformer...`."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    script = os.path.basename(sys.argv[0]) if sys.argv else ""
    return module.partition(".")[0] == "tcformer" or script == "tcformer"


def _leave(*_: Any) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


def obey_ctrl_c() -> None:
    """From now on somebody else deals with it: a KeyboardInterrupt, or the handler that is set.

    It is let through as well: launchers hold it back until there is a handler.
    """
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


# As long as there is nothing to save, and nobody else has a handler (or reason to ignore it).
if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
