"""One process of a run fails: all end within seconds, and one sentence tells why.

The first to fail leaves its rank in the store that all share, tells the cause and closes its
connections; the others find them closed, see that the cause has been told, and end with the same
status in silence. A process that vanishes tells nothing: the launcher knows more and says it; only
if nobody ends the others do they name the one that is missing. One that is alive but does not
answer is given up after TCFORMER_TIMEOUT seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, TypeVar

from tcformer.errors import UserError
from tcformer.files import FULL, is_full
from tcformer.runtime.devices import World
from tcformer.runtime.signals import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REFUSED

T = TypeVar("T")

# A process that is gone is noticed at once, by its closed connection. This is for one that is alive
# and has more to do: its last batch of an evaluation can take minutes on a CPU.
_COLLECTIVE_TIMEOUT = 1800.0  # seconds
TIMEOUT_VARIABLE = "TCFORMER_TIMEOUT"

_FAILURE_KEY = "tcformer/first_failure"
_HERE_KEY = "tcformer/here"
# Longer than it takes a launcher to tell of a process that was killed and to end the others.
_PATIENCE = 3.0
_STORE_PATIENCE = 5.0

_GONE = re.compile(
    r"[Cc]onnection (closed|reset|refused|was likely closed)|Broken pipe|Socket closed"
)
_SILENT = re.compile(r"[Tt]imed out waiting|Application timeout|[Ww]ait timeout")


def collective_timeout(env: Mapping[str, str] = os.environ) -> float:
    """Seconds that a process waits for one that is alive but does not answer.

    Raises:
        UserError: TCFORMER_TIMEOUT is no positive number.
    """
    text = env.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text) if text else _COLLECTIVE_TIMEOUT
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise UserError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0, got {text!r}.")
    return seconds


@contextlib.contextmanager
def guard(world: World) -> Iterator[None]:
    """End all processes within seconds, with one message, when one of them fails.

    The message is the sentence of a `UserError`, the traceback of anything else, or a sentence
    about a process that is gone or silent. Alone, exceptions pass through unchanged.
    """
    try:
        yield
    except BaseException as error:
        if world.size == 1:
            raise
        if isinstance(error, SystemExit) and error.code in (None, 0, EXIT_INTERRUPTED):
            raise  # all processes leave together: the caller shuts down
        _fail(world, error)


def _fail(world: World, error: BaseException) -> NoReturn:
    status, message = _describe(error)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    # Torch would dump the stacks of every broken connection there; only `told` is still shown.
    told = silence(2)
    trouble = trouble_with_others(error)
    first_rank, status = _claim_failure(world, status)
    end_workers()
    _hang_up(world)  # so that the others notice now, while the store still answers them
    if first_rank == world.rank and trouble:
        message = _missing(world, trouble)
    elif first_rank < 0:
        time.sleep(_PATIENCE)
        message = sentence_about([0], world.size, trouble or "gone")
    if first_rank in (world.rank, -1) and message:
        with contextlib.suppress(OSError):
            os.write(told, (message.rstrip("\n") + "\n").encode())
    if world.is_main and not (first_rank == world.rank and trouble):
        _until_all_know(world)  # the store lives here
    # Not sys.exit: leaving the group in good order would wait for processes that never answer.
    os._exit(status)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what C++ writes to the standard error stream off the screen; Python's goes with it."""
    kept = silence(2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def silence(descriptor: int) -> int:
    """Send stdout (1) or stderr (2) nowhere, C++'s included; a descriptor of what it was."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return kept


def end_workers() -> None:
    """End the loader workers of this process, which would notice its end only after seconds."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for each of them
    for worker in multiprocessing.active_children():
        worker.kill()


def _describe(error: BaseException) -> tuple[int, str]:
    """Exit status and message of an exception."""
    if isinstance(error, UserError):
        return EXIT_REFUSED, f"error: {error}"
    if is_full(error):  # files say it as a UserError; this was the standard output
        return EXIT_REFUSED, f"error: the output cannot be written: {FULL}."
    if isinstance(error, KeyboardInterrupt):
        return 130, ""
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code, ""  # whoever raised it has said why
    said = isinstance(error, SystemExit)
    return EXIT_FAILED, str(error) if said else "".join(traceback.format_exception(error))


def trouble_with_others(error: BaseException) -> str:
    """'gone' or 'silent' if an error of torch is about another process, else ''."""
    text = str(error)
    if not isinstance(error, RuntimeError) or "DataLoader" in text:
        return ""
    if _SILENT.search(text):
        return "silent"
    return "gone" if _GONE.search(text) else ""


def sentence_about(missing: Sequence[int], size: int, trouble: str) -> str:
    """What is told of processes that are 'gone' or 'silent'; `missing` may be unknown (empty)."""
    who = " and ".join(map(str, missing[:4])) + (" and others" if len(missing) > 4 else "")
    many = len(missing) > 1
    named = f"process{'es' if many else ''} {who} of {size}" if missing else "another process"
    what = f"{'are' if many else 'is'} gone without a word (killed, or the machine failed)"
    if trouble != "gone":
        what = (
            f"{'have' if many else 'has'} not answered for {collective_timeout():g} s "
            f"(stopped, hanging, or out of reach; {TIMEOUT_VARIABLE} sets the seconds)"
        )
    goes_on = "the others end, and --resume auto goes on from the last checkpoint"
    return f"error: {named} {what}; {goes_on}."


def _missing(world: World, trouble: str) -> str:
    """The sentence about the processes that do not report to the store within seconds."""
    time.sleep(_PATIENCE)

    def ask() -> list[int]:
        ranks = (rank for rank in range(world.size) if rank != world.rank)
        return [rank for rank in ranks if not world.store.check([f"{_HERE_KEY}/{rank}"])]

    return sentence_about(_within(_STORE_PATIENCE, ask, []), world.size, trouble)


def _claim_failure(world: World, status: int) -> tuple[int, int]:
    """Be the first to fail, or learn who was: (rank, exit status). Rank -1 when nobody can say."""

    def claim() -> tuple[int, int]:
        world.store.set(f"{_HERE_KEY}/{world.rank}", "1")
        told = world.store.compare_set(_FAILURE_KEY, "", f"{world.rank} {status}")
        rank, first_status = told.decode().split()
        return int(rank), int(first_status)

    # Without an answer the store is gone, and with it the main process, or that one is stopped.
    return _within(_STORE_PATIENCE, claim, (-1, status))


def _hang_up(world: World) -> None:
    """Shut all connections but that to the store: the other processes may be waiting for this one.

    Leaving would not close them while a loader worker that was forked with them lives on.
    """
    store = world.store
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    port = getattr(store, "port", None)
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # elsewhere than on Linux: when leaving
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as link:
                if link.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                if port not in (link.getsockname()[1], link.getpeername()[1]):
                    link.shutdown(socket.SHUT_RDWR)


def _until_all_know(world: World) -> None:
    """Wait, but not for long, until every process has learnt from the store who failed first."""
    everybody = [f"{_HERE_KEY}/{rank}" for rank in range(world.size)]
    deadline = time.monotonic() + _PATIENCE

    def ask() -> None:
        while time.monotonic() < deadline and not world.store.check(everybody):
            time.sleep(0.02)

    _within(_PATIENCE + 1, ask, None)
    time.sleep(0.1)  # the last of them has told its name, and now asks


def _within(seconds: float, ask: Callable[[], T], otherwise: T) -> T:
    """What `ask` returns; `otherwise` if it raises or takes longer, for it may wait for ever."""
    answer = [otherwise]

    def run() -> None:
        with contextlib.suppress(Exception):
            answer[0] = ask()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]
