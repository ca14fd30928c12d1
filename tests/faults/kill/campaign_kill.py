"""SIGKILL anywhere: the run that is started again ends like the one that nobody killed.

Each trial starts the run of `killed_runs.py`, kills it once to three times at seeded moments, each
time starts the same command again, lets the last one finish, and compares every file (each tensor
by its bytes) and every loss printed after the last kill with the run that nobody killed. Kinds:

* "1 process" and "2 processes": forked from a zygote (`zygote.py`), killed at a moment in time;
* "... in a file": killed by `shim.c` with half of a write done, before or after a rename, ...;
* "one of 2 processes": only one is killed, and the other must end by itself within seconds;
* "whole command": `python -m tcformer` and `dist_train.sh` as people call them, imports included.
"""

from __future__ import annotations

import collections
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

from campaign import Trial
from killed_runs import build_shim, command, difference, losses, make_images, read
from zygote import Running, Zygote, started

TRIALS = 60
END_OF_THE_OTHERS = 10.0  # seconds; a launcher would end them after two

# Of twelve trials so many are of each kind, in this order.
KINDS = {
    "1 process": 3,
    "1 process, in a file": 3,
    "2 processes": 2,
    "2 processes, in a file": 2,
    "one of 2 processes": 1,
    "whole command": 1,
}


class Bench:
    """The reference runs, and a trial against them."""

    def __init__(self, folder: Path, zygote: Zygote, images: Path) -> None:
        self.folder, self.zygote, self.images = folder, zygote, images
        self.whole: dict[int, dict[str, Any]] = {}
        self.losses: dict[int, dict[str, str]] = {}
        self.seconds: dict[int, float] = {}
        self.events: dict[int, dict[str, list[int]]] = {}
        self.number = 0

    def prepare(self, size: int) -> None:
        """The run that nobody kills, and what it does to files."""
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
            # Most events are writes of checkpoints: choose the sort of event first.
            groups[f"{kind} {_plain(Path(path).name)}"].append(int(number))
        self.events[size] = dict(groups)

    def trial(self, kind: str, seed: int) -> Trial:
        """One trial of a kind; the seed decides the moments."""
        draw = random.Random(f"{kind} {seed}")
        size = 1 if kind.startswith("1") or (kind == "whole command" and seed % 2) else 2
        self.prepare(size)
        self.number += 1
        output = self.folder / f"killed-{self.number}"
        moments: list[str] = []
        problem = ""
        try:
            for _ in range(draw.choice((1, 1, 2, 3))):
                moment, problem = self._killed(kind, size, output, draw)
                moments.append(moment)
                if problem:
                    break
            problem = problem or self._finished(kind, size, output)
        except AssertionError as error:
            problem = str(error)
        shutil.rmtree(output, ignore_errors=True)
        return Trial(kind, f"{kind}, seed {seed}: killed {', then '.join(moments)}", problem)

    def _start(self, kind: str, size: int, output: Path, **env: str) -> Running:
        argv = command(self.images, output)
        if kind == "whole command":
            return started(self.folder / f"said-{time.monotonic_ns()}", argv, size)
        return self.zygote.start(argv, size, **env)

    def _killed(self, kind: str, size: int, output: Path, draw: random.Random) -> tuple[str, str]:
        """Start the run and kill it: (when, what was wrong with that)."""
        if kind.endswith("in a file"):
            group = draw.choice(sorted(self.events[size]))
            at = draw.choice(self.events[size][group])
            running = self._start(kind, size, output, FAULT_ROOT=str(output), FAULT_AT_0=str(at))
            # A resumed run does less, and may end before the event: nothing is killed then.
            running.wait_for(lambda: running.poll()[0] is not None)
            running.kill()
            running.wait()
            return f"at event {at} ({group})", ""
        # A command of its own imports first, which takes about as long again.
        moment = draw.random() * self.seconds[size] * (2 if kind == "whole command" else 0.95)
        running = self._start(kind, size, output)
        while time.monotonic() < running.began + moment and None in running.poll():
            time.sleep(0.002)
        if kind == "one of 2 processes":
            victim = draw.randrange(2)
            running.kill(index=victim)
            killed = time.monotonic()
            ended = running.wait(timeout=60)
            when = f"process {victim} after {moment:.2f} s"
            return when, self._end_of_the_other(ended, victim, killed)
        running.kill_group()
        running.wait()
        return f"after {moment:.2f} s", ""

    def _end_of_the_other(self, ended: list[Any], victim: int, killed: float) -> str:
        other = ended[1 - victim]
        if ended[victim].status != -signal.SIGKILL:
            return "" if [one.status for one in ended] == [0, 0] else f"ended {ended[victim]}"
        if other.status in (0, 75):
            return f"the other process ended with {other.status}"
        if other.at - killed > END_OF_THE_OTHERS:
            return f"the other process ended after {other.at - killed:.1f} s"
        if "Traceback" in other.err or not other.err.strip():
            return f"the other process said: {other.err[-300:]!r}"
        return ""

    def _finished(self, kind: str, size: int, output: Path) -> str:
        """Start once more, let it end, compare."""
        ended = self._start(kind, size, output).wait()
        if any(one.status for one in ended):
            said = "".join(one.err + one.out[-500:] for one in ended)
            return f"the last start ended with {[one.status for one in ended]}: {said[-2000:]}"
        told = losses(ended[0].out)
        wrong = [step for step, text in told.items() if self.losses[size].get(step) != text]
        if wrong:
            return f"other losses at {wrong}"
        return difference(self.whole[size], read(output))


def _plain(name: str) -> str:
    """'.best.pth.77-1234abcd.tmp' -> 'best.pth'."""
    return name.split(".tmp")[0].lstrip(".").rpartition(".")[0] if ".tmp" in name else name


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """`trials` trials; trial i of a seed is the same every time."""
    shim = build_shim(folder)
    images = make_images(folder / "images")
    order = [kind for kind, count in KINDS.items() for _ in range(count)]
    if shim is None:
        print("no C compiler here: no trials inside file operations", flush=True)
        order = [kind for kind in order if not kind.endswith("in a file")]
    with Zygote(folder, shim) as zygote:
        bench = Bench(folder, zygote, images)
        for i in range(trials):
            yield bench.trial(order[i % len(order)], seed * 10_000 + i)
