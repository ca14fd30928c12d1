"""Run a Python program in several processes that know of each other, and see how each ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# What a launcher of the machine that runs the tests may have left.
FOREIGN = (
    "SLURM", "TORCHELASTIC", "RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "NNODES", "NODE_RANK",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status (negative: of that signal), what it wrote, and when."""

    status: int
    out: str
    err: str
    seconds: float  # time.monotonic() when it was seen to have ended


def clean_env(**more: str) -> dict[str, str]:
    """This process's environment without any launcher's variables, one thread a process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "src"), *filter(None, [env.get("PYTHONPATH", "")])]
    )
    return env | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | more


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun_env(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives to a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


class Running:
    """Processes of one run. `pids[r]` is that of rank r, or of the command that started all."""

    def __init__(
        self, pids: list[int], folder: Path, poll: Callable[[int], int | None], names: Sequence[str]
    ) -> None:
        self.pids = pids
        self.began = time.monotonic()
        self._files = [folder / name for name in names]
        self._poll = poll
        self._ended: dict[int, tuple[int, float]] = {}

    def out(self, index: int = 0) -> str:
        """What a process has written to its standard output until now."""
        return self._files[index].with_suffix(".out").read_text()

    def err(self, index: int = 0) -> str:
        """The same of its standard error."""
        return self._files[index].with_suffix(".err").read_text()

    def kill(self, number: int = signal.SIGKILL, index: int | None = None) -> None:
        """Send a signal to one of them, or to all."""
        for pid in self.pids if index is None else [self.pids[index]]:
            if pid not in self._ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def kill_group(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the processes and to all that they have started."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)

    def poll(self) -> list[int | None]:
        """The exit statuses until now; None for a process that still runs."""
        for pid in self.pids:
            if pid not in self._ended and (status := self._poll(pid)) is not None:
                self._ended[pid] = status, time.monotonic()
        return [self._ended.get(pid, (None,))[0] for pid in self.pids]

    def wait_for(self, condition: Callable[[], object], timeout: float = 300) -> None:
        """Wait until `condition()`; end them and fail if all end before or it takes too long."""
        deadline = time.monotonic() + timeout
        while not condition():
            alive = None in self.poll()
            if (not alive and not condition()) or time.monotonic() > deadline:
                self.kill_group()
                said = "\n".join(self.out(i) + self.err(i) for i in range(len(self.pids)))
                raise AssertionError(f"waited in vain: {self.poll()}; they said: {said[-3000:]}")
            time.sleep(0.005)

    def wait(self, timeout: float = 300) -> list[Ended]:
        """Wait until all have ended."""
        self.wait_for(lambda: None not in self.poll(), timeout)
        ends = [self._ended[pid] for pid in self.pids]
        return [Ended(end[0], self.out(i), self.err(i), end[1]) for i, end in enumerate(ends)]


class Family:
    """Processes that share one import of torch: forked from a parent that has made it already.

    An import costs seconds of processor time, and these tests need some twenty processes.
    `module` is what the parent imports, `env` its environment.
    """

    def __init__(
        self, folder: Path, module: str = "tcformer.runtime.distributed", **env: str
    ) -> None:
        self.folder = folder
        self.runs = 0
        self._parent = subprocess.Popen(
            [sys.executable, "-c", f"import {module}" + _PARENT],
            env=clean_env(**env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **order: object) -> Any:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        return json.loads(self._parent.stdout.readline())

    def start(
        self, programs: Sequence[str], *arguments: str, launched: bool = True, **env: str
    ) -> Running:
        """Run one program in each process of a run, with `arguments` in sys.argv[1:].

        `env` may end in a rank: FAULT_AT_1 is FAULT_AT for process 1 alone. `launched` adds what
        torchrun sets.
        """
        self.runs += 1
        folder, port, size = self.folder / str(self.runs), free_port(), len(programs)
        folder.mkdir()
        envs = []
        for rank in range(size):
            mine = torchrun_env(rank, size, port) if launched else {}
            for name, value in env.items():
                stem, _, of = name.rpartition("_")
                if not of.isdigit():
                    mine[name] = value
                elif int(of) == rank:
                    mine[stem] = value
            envs.append(mine)
        names = [str(rank) for rank in range(size)]
        order = {"programs": programs, "arguments": arguments, "folder": str(folder), "envs": envs}
        return Running(self._ask(**order), folder, lambda pid: self._ask(poll=pid), names)

    def run(self, program: str, size: int, *arguments: str, timeout: float = 120) -> list[Ended]:
        """Run `program` as `size` processes of one run, to their ends."""
        return self.start([program] * size, *arguments).wait(timeout)

    def close(self) -> None:
        """End the parent."""
        self._parent.kill()
        self._parent.communicate()


_PARENT = """
import json, os, sys, traceback

def child(order, rank):
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in (1, "out"), (2, "err"):
        file = os.open(f"{order['folder']}/{rank}.{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    os.environ.update(order["envs"][rank])
    sys.argv = ["tcformer", *order["arguments"]]
    status = 0
    try:
        exec(order["programs"][rank], {"__name__": "__main__"})
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)

for line in sys.stdin:
    order = json.loads(line)
    if "poll" in order:
        pid, status = os.waitpid(order["poll"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = []
        for rank in range(len(order["programs"])):
            pid = os.fork()
            if pid == 0:
                child(order, rank)
            answer.append(pid)
    print(json.dumps(answer), flush=True)
"""
