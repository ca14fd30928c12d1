"""All kinds of hostile input, tried in few processes: one that crashes takes none of us along."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from hostile import images, keypoints, labels, weights, words
from hostile.kinds import Kind, attempt

# A reader that is new puts its kinds here.
KINDS: list[Kind] = [*images.KINDS, *weights.KINDS, *labels.KINDS, *keypoints.KINDS, *words.KINDS]
BY_NAME = {kind.name: kind for kind in KINDS}

PATIENCE = 180.0
"""Wall seconds after which a process is ended that waits, in C, for something that never comes."""

ROOM = 3 << 30
"""Bytes of address space that reading an input may take beside what the libraries take."""

Plan = list[tuple[str, int]]


def planned(count: int, kinds: list[Kind] = KINDS) -> Plan:
    """`count` inputs, each kind with its share, taking turns so that any part holds all kinds."""
    whole = sum(kind.share for kind in kinds)
    turns = [
        ((number + 0.5) / kind.share, kind.name, number)
        for kind in kinds
        for number in range(-(-count * kind.share // whole))
    ]
    return [(name, number) for _, name, number in sorted(turns)][:count]


def crew(seed: int, plan: Plan, folder: Path, workers: int) -> Iterator[tuple[str, int, str]]:
    """Try the planned inputs in `workers` processes: kind, number and problem of each."""
    shares = [plan[number::workers] for number in range(workers)]
    with ThreadPoolExecutor(workers) as threads:
        for outcomes in threads.map(partial(_share, seed, folder), shares):
            yield from outcomes


def _share(seed: int, folder: Path, plan: Plan) -> list[tuple[str, int, str]]:
    start = partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"), _prepare)
    process = start()
    outcomes = []
    for name, index in plan:
        try:
            problem = process.submit(_attempt, seed, name, index, folder).result()
        except BrokenProcessPool:
            problem, process = "the process died, or did not answer", start()
        outcomes.append((name, index, problem))
    process.shutdown()
    return outcomes


def _prepare() -> None:
    import timm.data  # noqa: F401 - before the memory is counted
    import torch

    os.dup2(2, 1)  # what the code under test prints is not for the campaign
    torch.set_num_threads(1)
    with open("/proc/self/statm") as stream:
        taken = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, resource.RLIM_INFINITY))


def _attempt(seed: int, name: str, index: int, folder: Path) -> str:
    os.chdir(folder)
    faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
    try:
        return attempt(BY_NAME[name], seed, index, folder / f"{os.getpid()}-{index}")
    finally:
        faulthandler.cancel_dump_traceback_later()
