"""The command `tcformer` in processes that share one import of torch, or in processes of its own.

An import costs seconds of processor time, a trial without it one or two. The zygote imports what a
run imports, starts no thread, and forks; the fork then executes the real command line from its
first line on. `started(...)` is the same through a real `python -m tcformer` or dist_train.sh.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import ROOT, clean_env, free_port, torchrun_env

_NONE: Mapping[int, str] = {}


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status (negative: of that signal) and what it wrote."""

    status: int
    out: str
    err: str
    at: float  # time.monotonic() when it was seen to have ended


class Running:
    """Processes of one run. `pids[r]` is that of rank r, or of the command that started all."""

    def __init__(self, pids: list[int], folder: Path, poll: object, names: Sequence[str]) -> None:
        self.pids = pids
        self.folder = folder
        self.began = time.monotonic()
        self._poll = poll
        self._names = names
        self._statuses: dict[int, int] = {}
        self._ends: dict[int, float] = {}

    def out(self, index: int = 0) -> str:
        """What a process has written to its standard output until now."""
        return (self.folder / f"{self._names[index]}.out").read_text()

    def err(self, index: int = 0) -> str:
        """The same of its standard error."""
        return (self.folder / f"{self._names[index]}.err").read_text()

    def kill(self, number: int = signal.SIGKILL, index: int | None = None) -> None:
        """Send a signal to one of them, or to all."""
        for pid in self.pids if index is None else [self.pids[index]]:
            if pid not in self._statuses:
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
            if pid not in self._statuses:
                status = self._poll(pid)
                if status is not None:
                    self._statuses[pid] = status
                    self._ends[pid] = time.monotonic()
        return [self._statuses.get(pid) for pid in self.pids]

    def wait(self, timeout: float = 300) -> list[Ended]:
        """Wait until all have ended; ends them, and fails, after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while None in (statuses := self.poll()):
            if time.monotonic() > deadline:
                self.kill_group()
                said = "\n".join(self.out(i) + self.err(i) for i in range(len(self.pids)))
                raise AssertionError(f"still running after {timeout} s: {statuses}\n{said[-3000:]}")
            time.sleep(0.005)
        return [
            Ended(self._statuses[pid], self.out(i), self.err(i), self._ends[pid])
            for i, pid in enumerate(self.pids)
        ]

    def wait_for(self, condition: object, timeout: float = 300) -> None:
        """Wait until `condition()`; fails when all have ended or time is over."""
        deadline = time.monotonic() + timeout
        while not condition():
            alive = None in self.poll()
            if (not alive and not condition()) or time.monotonic() > deadline:
                self.kill_group()
                raise AssertionError(f"waited in vain: {self.poll()} {self.out()} {self.err()}")
            time.sleep(0.005)


class Zygote:
    """`with Zygote(folder) as zygote: zygote.start(["train", ...], size=2)`."""

    def __init__(self, folder: Path, preload: Path | None = None) -> None:
        self.folder = folder
        self.runs = 0
        self.counts_files = preload is not None
        env = clean_env(THP_MEM_ALLOC_ENABLE="1")
        if preload is not None:
            env["LD_PRELOAD"] = str(preload)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, **order: object) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self, argv: Sequence[str], size: int = 1, *, patches: Mapping[int, str] = _NONE, **env: str
    ) -> Running:
        """The command line in `size` processes, each with torchrun's variables; returns at once.

        `env` may end in a rank: FAULT_AT_1 is FAULT_AT for process 1 alone. `patches` is Python
        that a rank executes before its command: a fault that has to come from inside.
        """
        self.runs += 1
        folder = self.folder / f"said-{self.runs}"
        folder.mkdir()
        port = free_port()
        envs = []
        for rank in range(size):
            mine = torchrun_env(rank, size, port) if size > 1 else {}
            for name, value in env.items():
                stem, _, of = name.rpartition("_")
                if not of.isdigit():
                    mine[name] = value
                elif int(of) == rank:
                    mine[stem] = value
            envs.append(mine)
        code = [patches.get(rank, "") for rank in range(size)]
        pids = self._ask(do="start", argv=list(argv), folder=str(folder), envs=envs, patches=code)
        names = [str(rank) for rank in range(size)]
        return Running(pids, folder, lambda pid: self._ask(do="poll", pid=pid), names)


def started(folder: Path, argv: Sequence[str], size: int = 1, **env: str) -> Running:
    """The command line through the programs that people call: one pid, that of the caller."""
    folder.mkdir()
    command = [sys.executable, "-m", "tcformer", *argv]
    if size > 1:
        assert argv[0] == "train"
        command = ["sh", str(ROOT / "dist_train.sh"), argv[1], str(size), *argv[2:]]
    with open(folder / "all.out", "wb") as out, open(folder / "all.err", "wb") as err:
        process = subprocess.Popen(
            command,
            env=clean_env(PYTHON=sys.executable, **env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return Running([process.pid], folder, lambda _: process.poll(), ["all"])


_PROGRAM = """
import json, os, signal, sys, traceback
import tcformer.tasks.runner, tcformer.training.progress
from tcformer import cli

def child(order, rank):
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for descriptor, name in (1, "out"), (2, "err"):
        os.dup2(os.open(f"{order['folder']}/{rank}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(order["envs"][rank])
    sys.argv = ["tcformer", *order["argv"]]
    status = 1
    try:
        exec(order["patches"][rank], {})
        status = cli.main(order["argv"])
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)

for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "start":
        answer = []
        for rank in range(len(order["envs"])):
            pid = os.fork()
            if pid == 0:
                child(order, rank)
            answer.append(pid)
    else:
        pid, status = os.waitpid(order["pid"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    print(json.dumps(answer), flush=True)
"""
