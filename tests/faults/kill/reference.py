"""The run that nobody interrupts, and what another one must equal in the end."""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from campaign import Trial
from killed_runs import build_shim, command, difference, losses, make_images, read
from zygote import Ended, Running, Zygote, started

WHOLE = "whole command"  # in the name of a kind: as people call it, imports included


class References:
    """Uninterrupted runs of one and two processes, each made when it is first asked for."""

    def __init__(self, folder: Path, zygote: Zygote, images: Path) -> None:
        self.folder, self.zygote, self.images = folder, zygote, images
        self.whole: dict[int, dict[str, Any]] = {}
        self.losses: dict[int, dict[str, str]] = {}
        self.seconds: dict[int, float] = {}
        self.events: dict[int, dict[str, list[int]]] = {}

    def prepare(self, size: int) -> None:
        """The run of `size` processes, how long it took, and what it did to files."""
        if size in self.whole:
            return
        output, log = self.folder / f"whole-{size}", self.folder / f"events-{size}"
        running = self.zygote.start(
            command(self.images, output), size, FAULT_ROOT=str(output), FAULT_LOG_0=str(log)
        )
        ended = running.wait()
        assert [one.status for one in ended] == [0] * size, ended[0].err
        self.seconds[size] = time.monotonic() - running.began
        self.whole[size], self.losses[size] = read(output), losses(ended[0].out)
        groups = collections.defaultdict(list)
        for line in log.read_text().splitlines() if log.exists() else ():
            number, kind, path = line.split(" ", 2)
            # Most events are writes of checkpoints: let the sort of event be chosen first.
            groups[f"{kind} {_plain(Path(path).name)}"].append(int(number))
        self.events[size] = dict(groups)

    def start(self, kind: str, size: int, output: Path, *more: str, **env: str) -> Running:
        """The same run, into `output`."""
        argv = command(self.images, output, *more)
        if WHOLE in kind:
            return started(self.folder / f"said-{time.monotonic_ns()}", argv, size)
        return self.zygote.start(argv, size, **env)

    def an_event(self, size: int, draw: random.Random) -> tuple[int, str]:
        """Number and name of something that the run does to a file."""
        group = draw.choice(sorted(self.events[size]))
        return draw.choice(self.events[size][group]), group

    def finished(self, kind: str, size: int, output: Path) -> str:
        """Start once more, let it end, compare: what is wrong, if anything."""
        ended = self.start(kind, size, output).wait()
        if any(one.status for one in ended):
            return f"the last start ended with {_said(ended)}"
        return self.compared(size, ended, output)

    def compared(self, size: int, ended: list[Ended], output: Path) -> str:
        """What a run that has ended well left, against the reference."""
        told = losses(ended[0].out)
        wrong = [step for step, text in told.items() if self.losses[size].get(step) != text]
        if wrong:
            return f"other losses at {wrong}"
        return difference(self.whole[size], read(output))


def in_turn(
    kinds: Mapping[str, int],
    trial: Callable[[References, str, int], Trial],
    trials: int,
    seed: int,
    folder: Path,
) -> Iterator[Trial]:
    """`trials` trials, of each kind its number in turn."""
    shim = build_shim(folder)
    order = [kind for kind, count in kinds.items() for _ in range(count)]
    if shim is None:
        print("no C compiler here: no trials inside file operations", flush=True)
        order = [kind for kind in order if not kind.endswith("in a file")]
    with Zygote(folder, shim) as zygote:
        references = References(folder, zygote, make_images(folder / "images"))
        for i in range(trials):
            yield trial(references, order[i % len(order)], seed * 10_000 + i)


def _said(ended: list[Ended]) -> str:
    said = "".join(one.err + one.out[-500:] for one in ended)
    return f"{[one.status for one in ended]}: {said[-2000:]}"


def _plain(name: str) -> str:
    """'.best.pth.77-1234abcd.tmp' -> 'best.pth'."""
    return name.split(".tmp")[0].lstrip(".").rpartition(".")[0] if ".tmp" in name else name
