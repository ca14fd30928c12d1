"""Start several processes of one run on this machine: what `dist_train.sh` calls.

    python -m tcformer.runtime.launch NUM VERB [arguments of the verb...]

The processes find torchrun's variables (RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE,
MASTER_ADDR, MASTER_PORT), so the same run can be started by torchrun as well:
`torchrun --nproc-per-node 8 -m tcformer train CONFIG`.

torchrun itself answers a SIGTERM with a traceback, kills the processes after 30 seconds, turns
every exit status into 1, dies of SIGUSR1, and buries the one sentence under forty lines.
This one forwards signals, waits, and returns the status of the process that failed first.

Environment: PORT (6666, or a free one if that is taken or wanted), and for several machines NNODES,
NODE_RANK and MASTER_ADDR, one call on each machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType

from tcformer._early import obey_ctrl_c
from tcformer.errors import UserError
from tcformer.processor import usable_cores
from tcformer.runtime.signals import EXIT_INTERRUPTED, EXIT_REFUSED, ignore_from_now_on

PUBLISHED_PORT = 6666

# After a failure the others find their connection closed and leave by themselves; a process that
# waits for something else is killed. No file is lost by that: all are written atomically.
_GRACE_AFTER_FAILURE = 2.0
# After an agreed stop all leave together, once the main process has saved.
_GRACE_AFTER_INTERRUPTION = 120.0
_CLAIMS: list[socket.socket] = []  # kept open for as long as this launcher lives
_FORWARDED = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP")


@dataclass(frozen=True)
class Plan:
    """Which processes this machine starts, and where all of them meet."""

    num_processes: int
    num_machines: int = 1
    machine: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = PUBLISHED_PORT

    @property
    def size(self) -> int:
        """Number of processes over all machines."""
        return self.num_processes * self.num_machines

    def variables(self, local_rank: int, env: Mapping[str, str]) -> dict[str, str]:
        """The environment of one process, made from the environment `env` of the launcher."""
        merged = {name: value for name, value in env.items() if not name.startswith("TORCHELASTIC")}
        merged |= {
            "RANK": str(self.machine * self.num_processes + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.num_processes),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }
        if self.num_processes > 1:
            # Otherwise each process starts a thread on every core, and they stand in each other's
            # way: two processes on two cores become several times slower than one.
            threads = max(1, usable_cores() // self.num_processes)
            merged.setdefault("OMP_NUM_THREADS", str(threads))
        return merged


def plan_from(num_processes: str, env: Mapping[str, str] = os.environ) -> Plan:
    """Read the number of processes and the environment; a UserError where it makes no sense."""
    count = _positive("the number of GPUs or processes", num_processes)
    machines = _positive("NNODES", env.get("NNODES") or "1")
    machine = _positive("NODE_RANK", env.get("NODE_RANK") or "0", least=0)
    if machine >= machines:
        raise UserError(f"NODE_RANK must be below NNODES={machines}, got {machine}.")
    address = env.get("MASTER_ADDR") or ""
    if machines > 1 and not address:
        raise UserError(
            "MASTER_ADDR is not set: with NNODES > 1 it names the machine with NODE_RANK=0."
        )
    port = _positive("PORT", env.get("PORT") or str(PUBLISHED_PORT))
    if port > 65535:
        raise UserError(f"PORT must be at most 65535, got {port}.")
    if machine == 0 and count * machines > 1 and not _is_free(port):
        if env.get("PORT") or machines > 1:
            raise UserError(f"port {port} is taken on this machine: choose another with PORT=N.")
        port = _any_free_port()
    return Plan(count, machines, machine, address or "127.0.0.1", port)


def run(plan: Plan, command: Sequence[str]) -> int:
    """Run `command` in every process of the plan and return the status of the run.

    That is 0, or the status of the first that failed (128 + n for a death by signal n). Signals
    that mean "stop" are passed on to the processes, which save and leave.
    """
    received: list[int] = []
    processes: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for name in _FORWARDED:
        number = getattr(signal, name)
        # nohup and the like have a reason for ignoring a signal
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    obey_ctrl_c()
    before = _before_tcformer if "tcformer" in command else _end_with_launcher
    for local_rank in range(plan.num_processes):
        if not received:
            environment = plan.variables(local_rank, os.environ)
            processes.append(subprocess.Popen(command, env=environment, preexec_fn=before))
    try:
        status = _wait(plan, processes)
        ignore_from_now_on()
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    if not processes:
        print("interrupted", file=sys.stderr)
    if not processes or (status > 128 and status - 128 in received):
        return 128 + received[0]  # stopped before there was anything to save
    return status


def _wait(plan: Plan, processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, or long enough after the first failure; the status of that."""
    code, local_rank, deadline = 0, 0, math.inf
    while True:
        codes = [process.poll() for process in processes]
        if not code and any(codes):
            local_rank, code = next((i, c) for i, c in enumerate(codes) if c)
            stopped = code == EXIT_INTERRUPTED
            grace = _GRACE_AFTER_INTERRUPTION if stopped else _GRACE_AFTER_FAILURE
            deadline = time.monotonic() + grace
        if None not in codes or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    if name not in _FORWARDED:
        how = f"died of {name}"
        if name == "SIGKILL":
            how = "was killed (SIGKILL), most often because the machine ran out of memory"
        rank = plan.machine * plan.num_processes + local_rank
        told = f"error: process {rank} of {plan.size} {how}; the others were stopped."
        print(told, file=sys.stderr)
    return 128 - code


def main(argv: Sequence[str]) -> int:
    """Start `tcformer argv[1:]` in `argv[0]` processes; returns the exit status."""
    if len(argv) < 2:
        print("usage: python -m tcformer.runtime.launch NUM VERB [arguments]", file=sys.stderr)
        return EXIT_REFUSED
    try:
        plan = plan_from(argv[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    by_default = plan.size > plan.num_machines == 1 and not os.environ.get("PORT")
    if by_default and not _claim(plan.master_port):
        plan = replace(plan, master_port=_any_free_port())
    command = [sys.executable, "-u", "-m", "tcformer", *argv[1:]]
    if plan.size == 1:
        # Become the process, so that signals and status are its own.
        _hold_ctrl_c()
        os.execve(sys.executable, command, plan.variables(0, os.environ))
    return run(plan, command)


def _end_with_launcher() -> None:
    """In a new process: ask Linux for a SIGTERM when the launcher dies, however it dies."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _hold_ctrl_c() -> None:
    """Hold Ctrl-C back until `tcformer`, which starts next in this process, deals with it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _before_tcformer() -> None:
    _hold_ctrl_c()
    _end_with_launcher()


def _positive(what: str, text: str, least: int = 1) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise UserError(f"{what} must be a whole number of {least} or more, got {text!r}.")
    return int(text)


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        # As torch's store does: a port whose last connections are only fading counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        return True
    return False


def _claim(port: int) -> bool:
    """Whether no other launcher is about to use the port.

    The processes listen there only seconds later, once they have imported torch. A name in Linux's
    own space of sockets belongs to one holder and is gone with it, however that ends.
    """
    if sys.platform != "linux":
        return True
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0tcformer.runtime.launch:{port}")
    except OSError:
        claim.close()
        return False
    _CLAIMS.append(claim)
    return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
