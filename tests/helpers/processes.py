"""Run a Python program in several processes that know of each other, and see how each ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What a launcher of the machine that runs the tests may have left.
FOREIGN = (
    "SLURM",
    "TORCHELASTIC",
    "RANK",
    "LOCAL_",
    "WORLD_SIZE",
    "MASTER_",
    "NNODES",
    "NODE_RANK",
)


@dataclass(frozen=True)
class Ended:
    """How a process ended. `seconds` counts from the start of all."""

    status: int
    out: str
    err: str
    seconds: float


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


class Family:
    """Processes that share one import of torch: forked from a parent that has made it already.

    An import costs seconds of processor time, and these tests need some twenty processes.
    `module` is what the parent imports.
    """

    def __init__(self, folder: Path, module: str = "tcformer.runtime.distributed") -> None:
        self.folder = folder
        self.runs = 0
        self.parent = subprocess.Popen(
            [sys.executable, "-c", f"import {module}" + _PARENT],
            env=clean_env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, program: str, size: int, *arguments: str, timeout: float = 120) -> list[Ended]:
        """Run `program`, with `arguments` in sys.argv[1:], as `size` processes of one run."""
        self.runs += 1
        folder, port = self.folder / str(self.runs), free_port()
        folder.mkdir()
        order = {
            "program": program,
            "arguments": arguments,
            "folder": str(folder),
            "envs": [torchrun_env(rank, size, port) for rank in range(size)],
        }
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(json.dumps(order) + "\n")
        self.parent.stdin.flush()
        if not select.select([self.parent.stdout], [], [], timeout)[0]:
            self.close()
            said = "\n".join(file.read_text() for file in sorted(folder.iterdir()))
            raise AssertionError(f"the processes did not end within {timeout} s; they said: {said}")
        answer = json.loads(self.parent.stdout.readline())
        return [
            Ended(
                *answer[rank][:1],
                (folder / f"{rank}.out").read_text(),
                (folder / f"{rank}.err").read_text(),
                *answer[rank][1:],
            )
            for rank in range(size)
        ]

    def close(self) -> None:
        """End the parent and whatever still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.parent.pid, signal.SIGKILL)
        self.parent.communicate()


_PARENT = """
import json, os, sys, time, traceback

def child(order, rank):
    for descriptor, name in (1, "out"), (2, "err"):
        file = os.open(f"{order['folder']}/{rank}.{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    os.environ.update(order["envs"][rank])
    sys.argv = ["program", *order["arguments"]]
    status = 0
    try:
        exec(order["program"], {"__name__": "__main__"})
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)

for line in sys.stdin:
    order, start = json.loads(line), time.monotonic()
    ranks, ended = {}, {}
    for rank in range(len(order["envs"])):
        pid = os.fork()
        if pid == 0:
            child(order, rank)
        ranks[pid] = rank
    while len(ended) < len(ranks):
        pid, status = os.wait()
        ended[ranks[pid]] = [os.waitstatus_to_exitcode(status), time.monotonic() - start]
    print(json.dumps([ended[rank] for rank in sorted(ended)]), flush=True)
"""
