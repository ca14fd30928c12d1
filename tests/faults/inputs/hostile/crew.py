"""Many inputs in few processes: what crashes, hangs or eats the memory takes one of them along.

    python -m hostile.crew KIND SEED FIRST STEP COUNT FOLDER

is a worker. It says `INDEX` before each input and `INDEX problem` (in JSON) after it, so that
whoever started it knows which one it died of.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
HELPERS = HERE.parents[2] / "helpers"
SOURCE = HERE.parents[3] / "src"

PATIENCE = 180.0
"""Wall seconds without a word from a worker: it waits for something that never comes."""

ROOM = 3 << 30
"""Bytes of address space that reading an input may take beside what the libraries take."""


class Outcome(NamedTuple):
    """What came of one input."""

    kind: str
    index: int
    problem: str


def all_kinds() -> dict[str, object]:
    """Every kind by its name."""
    from hostile import everything

    return {kind.name: kind for kind in everything.KINDS}


def work(seed: int, plan: list[tuple[str, int]], folder: Path) -> None:
    """Try the planned inputs one after the other, and tell on stdout."""
    from hostile.kinds import attempts

    kinds = all_kinds()
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the code under test prints is not for the crew
    import timm.data  # noqa: F401 - before the memory is counted
    import torch

    torch.set_num_threads(1)
    with open("/proc/self/statm") as stream:
        taken = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, resource.RLIM_INFINITY))
    os.chdir(folder)
    for name, index in plan:
        print(json.dumps([name, index]), file=told, flush=True)
        for _, problem in attempts(kinds[name], seed, range(index, index + 1), folder):
            print(json.dumps([name, index, problem]), file=told, flush=True)


def crew(seed: int, plan: list[tuple[str, int]], folder: Path, workers: int) -> Iterator[Outcome]:
    """Try the planned inputs in `workers` processes; a new one takes the place of one that died."""
    outcomes: queue.Queue[Outcome | None] = queue.Queue()
    threads = [
        threading.Thread(
            target=_share,
            args=(seed, plan[number::workers], folder / f"worker-{number}", outcomes),
            daemon=True,
        )
        for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    for _ in range(workers):
        while (outcome := outcomes.get()) is not None:
            yield outcome
    for thread in threads:
        thread.join()


def _share(
    seed: int, plan: list[tuple[str, int]], folder: Path, outcomes: queue.Queue[Outcome | None]
) -> None:
    try:
        dying = 0
        while plan and dying < 3:
            folder.mkdir(parents=True, exist_ok=True)
            done = 0
            for outcome in _one_worker(seed, plan, folder):
                outcomes.put(outcome)
                done += 1
            if not done:
                outcomes.put(Outcome(*plan[0], "the worker did not start"))
            dying = dying + 1 if done < 2 else 0
            plan = plan[max(done, 1) :]
        if plan:
            outcomes.put(Outcome(*plan[0], f"three workers died in a row, {len(plan)} inputs left"))
    finally:
        outcomes.put(None)


def _one_worker(seed: int, plan: list[tuple[str, int]], folder: Path) -> Iterator[Outcome]:
    """One process's outcomes; the last is that of the input it died of, if it did."""
    env = {**os.environ, "PYTHONPATH": f"{SOURCE}:{HERE.parent}:{HELPERS}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hostile.crew", str(seed), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    stderr: list[str] = []
    reader = threading.Thread(target=lambda: stderr.extend(process.stderr or ()), daemon=True)
    reader.start()
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    begun: tuple[str, int] | None = None
    watch = threading.Timer(PATIENCE, process.kill)
    watch.start()
    try:
        for line in process.stdout or ():
            watch.cancel()
            watch = threading.Timer(PATIENCE, process.kill)
            watch.start()
            said = json.loads(line)
            if len(said) == 3:
                yield Outcome(*said)
                begun = None
            else:
                begun = (said[0], said[1])
    finally:
        watch.cancel()
    status = process.wait()
    reader.join(timeout=10)
    if begun is not None:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        yield Outcome(*begun, f"the process ended {how}: {''.join(stderr)[-300:]!r}")


if __name__ == "__main__":
    work(int(sys.argv[1]), [tuple(p) for p in json.load(sys.stdin)], Path(sys.argv[2]))
