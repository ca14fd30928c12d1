"""Stop a run in good order: signals, exit statuses, Slurm's requeue.

This module imports nothing heavy on purpose. Importing torch takes seconds, and a signal that
arrives in those seconds would kill a job that was about to start (seen twice on a real Slurm), so
the command line calls `install_early` before anything else.

SIGTERM (`kill`, `scancel`, preemption), SIGUSR1 (Slurm before the time limit) and SIGINT (Ctrl-C)
ask for an end. A handler only notes the request. The loop asks `interrupt.requested` between two
steps (all processes agree first: `tcformer.runtime.distributed.interrupt_reason`), saves, and
leaves with `EXIT_INTERRUPTED`; docs/training.md lists the exit statuses.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from types import FrameType

from tcformer.runtime.logger import logger

EXIT_OK = 0
EXIT_FAILED = 1  # the loss is not finite, another process is gone, or a defect of the program
EXIT_REFUSED = 2  # an option, a path, a file or the memory does not do, and one sentence says which
# EX_TEMPFAIL, "try again". Not 0, so that `train && evaluate` and a restarting supervisor see that
# the training is unfinished.
EXIT_INTERRUPTED = 75

# In order of precedence when several arrive on several processes: a requeue (SIGUSR1) must not be
# lost because another process also got a SIGTERM that Slurm sends a little later.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")

_SCONTROL_TIMEOUT = 30.0
# A terminal sends one Ctrl-C to every process, and a launcher passes its own copy on.
_SAME_KEY_PRESS = 0.5


class Interrupt:
    """Whether somebody asked this process to stop; `reason` is '' or the name of the signal."""

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
        self.reason = max(self.reason or reason, reason, key=STOP_SIGNALS.index)

    def clear(self) -> None:
        """Forget the request (a test, or a second run in the same process)."""
        self.reason = ""


interrupt = Interrupt()
_first_sigint = 0.0  # time.monotonic() of the first Ctrl-C


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _first_sigint
    name = signal.Signals(number).name
    if name == "SIGINT":
        if _first_sigint and time.monotonic() - _first_sigint < _SAME_KEY_PRESS:
            return
        if _first_sigint:
            # Die of the signal itself, so that a shell loop around the run stops as well.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
            return
        _first_sigint = time.monotonic()
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


def ignore_from_now_on() -> None:
    """Let no signal change an exit status that is settled.

    Python gives back the default, which is to die, to every signal with a handler while it shuts
    down: a finished run that took a moment longer to leave would count as failed.
    """
    if threading.current_thread() is threading.main_thread():
        for name in STOP_SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def requeue_if_slurm() -> bool:
    """Queue this Slurm job again if it was stopped by its time limit or for a more urgent job.

    To be called by the main process alone, once the checkpoint has been written and before the
    processes leave. Returns whether the job is queued again.

    * SIGUSR1 announces the time limit: the job is queued again.
    * SIGTERM with a preemption on record: likewise. Slurm queues a preempted job again only if it
      has to kill it; one that leaves by itself within the partition's GraceTime counts as failed
      (seen on Slurm 22.05).
    * Any other SIGTERM is somebody's wish (scancel, `scontrol requeue`): nothing to add.

    A job without a batch script (srun or salloc from a terminal) cannot be queued again: a line
    says how to continue it.
    """
    job = _slurm_job()
    if not job or interrupt.reason not in ("SIGUSR1", "SIGTERM"):
        return False
    by_hand = "the checkpoint is saved, the same command with --resume auto continues"
    if shutil.which("scontrol") is None:
        logger.info(
            f"Slurm job {job} is not requeued, for scontrol is not installed here; {by_hand}."
        )
        return False
    shown = _scontrol("show", "job", "-o", job).stdout
    preempted = "JobState=RUNNING " in shown and re.search(r"\bPreemptTime=\d", shown)
    if interrupt.reason == "SIGTERM" and not preempted:
        return False
    if re.search(r"\bBatchFlag=0\b", shown):
        logger.info(f"Slurm job {job} has no batch script and cannot be requeued; {by_hand}.")
        return False
    # Slurm ends the job while scontrol is still at it: what is told afterwards may be lost.
    logger.info(f"Slurm is asked to queue job {job} again, which will resume by itself.")
    done = _scontrol("requeue", job)
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"status {done.returncode}"
        logger.info(f"Slurm did not requeue job {job} ({why}); {by_hand}.")
    return not done.returncode


def _slurm_job() -> str:
    """Slurm's name of this job alone, or ''.

    The last task of an array has the number of the whole array, which would be queued again with
    it. (In a job that was submitted from inside an array that one's variables are left over.)
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if job and job == os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{job}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return job


def was_queued_again() -> bool:
    """Whether Slurm has started this job before.

    A job that was submitted from inside a restarted one inherits its count: where Slurm can be
    asked, it decides.
    """
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    if not (count.isdigit() and int(count) > 0):
        return False
    if not (job := _slurm_job()) or shutil.which("scontrol") is None:
        return True
    told = re.search(r"\bRestarts=(\d+)", _scontrol("show", "job", "-o", job).stdout)
    return told is None or int(told[1]) > 0


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_SCONTROL_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
