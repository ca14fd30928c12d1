"""Many inputs in few processes: what crashes, hangs or eats the memory takes one of them along."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

PATIENCE = 180.0
"""Wall seconds without a word from a worker: it waits for something that never comes."""

ROOM = 3 << 30
"""Bytes of address space that reading an input may take beside what the libraries take."""

_SPAWN = multiprocessing.get_context("spawn")
Plan = list[tuple[str, int]]


class Outcome(NamedTuple):
    """What came of one input."""

    kind: str
    index: int
    problem: str


def work(seed: int, plan: Plan, folder: Path, told: Connection) -> None:
    """Try the planned inputs one after the other, and send the problem of each."""
    import timm.data  # noqa: F401 - before the memory is counted
    import torch

    from hostile import everything
    from hostile.kinds import attempts

    kinds = {kind.name: kind for kind in everything.KINDS}
    os.dup2(2, 1)  # what the code under test prints is not for the campaign
    torch.set_num_threads(1)
    with open("/proc/self/statm") as stream:
        taken = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, resource.RLIM_INFINITY))
    os.chdir(folder)
    for name, index in plan:
        for _, problem in attempts(kinds[name], seed, range(index, index + 1), folder):
            told.send(problem)


def crew(seed: int, plan: Plan, folder: Path, workers: int) -> Iterator[Outcome]:
    """Try the planned inputs in `workers` processes; a new one takes the place of one that died."""

    def share(number: int) -> list[Outcome]:
        place = folder / f"worker-{number}"
        place.mkdir(parents=True)
        return _share(seed, plan[number::workers], place)

    with ThreadPoolExecutor(workers) as threads:
        for outcomes in threads.map(share, range(workers)):
            yield from outcomes


def _share(seed: int, plan: Plan, folder: Path) -> list[Outcome]:
    outcomes: list[Outcome] = []
    dying = 0
    while len(outcomes) < len(plan) and dying < 3:
        left = plan[len(outcomes) :]
        ours, theirs = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(target=work, args=(seed, left, folder, theirs))
        process.start()
        theirs.close()
        try:
            for name, index in left:
                if not ours.poll(PATIENCE):
                    process.kill()
                outcomes.append(Outcome(name, index, ours.recv()))
                dying = 0
        except EOFError:
            process.join()
            problem = f"the process ended with status {process.exitcode}"
            outcomes.append(Outcome(*plan[len(outcomes)], problem))
            dying += 1
    if len(outcomes) < len(plan):
        problem = f"three workers died in a row, {len(plan) - len(outcomes)} inputs left"
        outcomes.append(Outcome(*plan[len(outcomes)], problem))
    return outcomes
