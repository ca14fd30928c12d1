"""Stopping a run in good order: signals, exit statuses, Slurm's requeue.

This module imports nothing heavy on purpose. Importing torch takes seconds, and a signal that
arrives in those seconds would kill a job that was about to start (seen twice on a real Slurm), so
the command line calls `install_early` before anything else.

=========  =======================================================  ==============================
signal     who sends it                                             what the run does
=========  =======================================================  ==============================
SIGTERM    `kill`, `scancel`, preemption, a machine going down      saves, exits with status 75
SIGUSR1    Slurm, shortly before the time limit (`--signal=USR1@N`)  saves, asks to be queued again,
                                                                    exits with status 75
SIGINT     Ctrl-C                                                   the first saves and exits with
                                                                    status 75, the second aborts
SIGCONT    Slurm, together with the others                          nothing
=========  =======================================================  ==============================

A handler only notes the request. The loop asks `interrupt.requested` between two steps (all
processes agree first: `tcformer.training.distributed.interrupt_reason`), saves, and leaves.

Exit statuses of every run:

======  ==========================================================================================
status  meaning
======  ==========================================================================================
0       done
1       failed: the loss is not finite, or a defect of the program (with a traceback)
2       refused: an option, a path or a file is wrong, and the message says which
75      interrupted and saved (EX_TEMPFAIL, "try again"): the same command with `--resume auto`
        continues. Not 0, so that `train && evaluate` and a restarting supervisor see that the
        training is unfinished.
======  ==========================================================================================
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Protocol

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 75

#: The signals that ask for an end, in order of precedence when several arrive on several
#: processes: a requeue (SIGUSR1) must not be lost because another process also got a SIGTERM that
#: Slurm sends a little later.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")

_SCONTROL_TIMEOUT = 30.0


class Interrupt:
    """Whether somebody asked this process to stop, and how.

    `reason` is '' or the name of the signal ('SIGTERM', 'SIGUSR1', 'SIGINT').
    """

    def __init__(self) -> None:
        self.reason = ""

    @property
    def requested(self) -> bool:
        """True as soon as a stop signal has arrived here."""
        return bool(self.reason)

    def request(self, reason: str) -> None:
        """Note a request; of several, the one later in `STOP_SIGNALS` wins."""
        if reason not in STOP_SIGNALS:
            raise ValueError(f"reason must be one of {', '.join(STOP_SIGNALS)}, got {reason!r}")
        if STOP_SIGNALS.index(reason) >= (STOP_SIGNALS.index(self.reason) if self.reason else 0):
            self.reason = reason

    def clear(self) -> None:
        """Forget the request (a test, or a second run in the same process)."""
        self.reason = ""


interrupt = Interrupt()
_sigint_seen = False


class _HasIsMain(Protocol):
    @property
    def is_main(self) -> bool: ...


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _sigint_seen
    name = signal.Signals(number).name
    if name == "SIGINT":
        if _sigint_seen:
            # Die of the signal itself, so that a shell loop around the run stops as well.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
            return
        _sigint_seen = True
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            # os.write: print() is not safe inside a handler that interrupted another print().
            os.write(2, b"\nstopping after this step and saving; Ctrl-C again stops at once\n")
    interrupt.request(name)


def install_early() -> None:
    """Turn SIGTERM, SIGUSR1 and SIGINT into a request that the loop honours.

    To be called first thing by a verb that can save and resume, before torch is imported. Calling
    it again is harmless; off the main thread, where Python allows no handlers, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in STOP_SIGNALS:
        signal.signal(getattr(signal, name), _on_signal)
    if hasattr(signal, "SIGCONT"):
        # Its default, "continue if stopped", is what we want even if a parent left a handler.
        signal.signal(signal.SIGCONT, signal.SIG_DFL)


def ignore_in_worker() -> None:
    """Make a data-loading worker deaf to stop signals: its parent decides when it ends.

    Slurm and Ctrl-C signal every process of a job. A worker that died of it would look to the
    training process like a crash, in the very step that should have been saved. To be called from
    the loader's `worker_init_fn` (torch installs its own SIGTERM handler before that).
    """
    if threading.current_thread() is threading.main_thread():
        for name in STOP_SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def requeue_if_slurm(world: _HasIsMain) -> bool:
    """Queue this Slurm job again after a SIGUSR1 (time limit); True if that was done.

    To be called by every process after the checkpoint has been written; only the main one acts.
    A preempted job (SIGTERM) is queued again by Slurm itself. A job without a batch script
    (`srun` or `salloc` from a terminal) cannot be: a line says how to continue.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not world.is_main or interrupt.reason != "SIGUSR1" or not job:
        return False
    by_hand = "the checkpoint is saved: run the same command with --resume auto to continue"
    if shutil.which("scontrol") is None:
        print(f"Slurm job {job} not requeued, scontrol is not installed here; {by_hand}.")
        return False
    shown = _scontrol("show", "job", "-o", job)
    # A finished query without BatchFlag (other Slurm versions) is no reason not to try.
    if re.search(r"\bBatchFlag=0\b", shown.stdout):
        print(f"Slurm job {job} has no batch script and cannot be requeued; {by_hand}.")
        return False
    done = _scontrol("requeue", job)
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"status {done.returncode}"
        print(f"Slurm did not requeue job {job} ({why}); {by_hand}.")
        return False
    print(f"Slurm job {job} requeued; it resumes by itself.")
    sys.stdout.flush()
    return True


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_SCONTROL_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
