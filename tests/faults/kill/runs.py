"""A small run with everything random switched on; the one that nobody interrupts, and the others.

Runs are forked from a parent that has imported what they need: an import costs seconds of processor
time, a trial without it one or two. `started` is the same through the programs that people call.
"""

from __future__ import annotations

import collections
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from campaign import Trial, differs
from PIL import Image
from processes import ROOT, Ended, Family, Running, clean_env

CONFIG = "configs/digits/tcformer_nano.py"
WHOLE = "whole command"  # in the name of a kind: as people call it, imports included
RUN = "import sys; from tcformer.cli import main; sys.exit(main(sys.argv[1:]))"

# Everything that draws random numbers, averages, accumulates or rounds.
OPTIONS = (
    *("--data-set", "IMNET", "--batch-size", "4", "--epochs", "2", "--threads", "1"),
    *("--ema", "--ema-decay", "0.9", "--amp", "bf16", "--accum", "2", "--clip-grad", "1.0"),
    *("--mixup", "0.8", "--cutmix", "1.0", "--drop-path", "0.3", "--drop", "0.1"),
    *("--aa", "rand-m9-mstd0.5-inc1", "--reprob", "0.25"),
    *("--warmup-epochs", "0", "--lr", "0.02", "--lr-noise", "0.3"),
    *("--save-steps", "2", "--save-every", "1", "--no-pin-mem"),
)


def make_images(
    root: Path,
    train: int = 16,
    val: int = 9,
    *,
    classes: int = 3,
    size: tuple[int, int] = (36, 40),
    color: int | None = None,
) -> Path:
    """Classes of noise of a brightness of their own (or of one `color`), as an ImageFolder."""
    noise = np.random.RandomState(0)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            folder = root / split / f"class{i % classes}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = noise.randint(0, 120, (*size, 3)) + 60 * (i % classes)
            pixels = pixels if color is None else np.full_like(pixels, color)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
    return root


def command(images: Path, output: Path, *more: str) -> list[str]:
    """The command line of the run; `--resume auto` from the start, as a supervisor would."""
    where = ("--data-path", str(images), "--output_dir", str(output))
    return ["train", CONFIG, *OPTIONS, *where, "--resume", "auto", *more]


def started(folder: Path, argv: Sequence[str], size: int) -> Running:
    """The command line through the programs that people call: one pid, that of the caller."""
    folder.mkdir()
    program = [sys.executable, "-m", "tcformer", *argv]
    if size > 1:
        program = ["sh", str(ROOT / "dist_train.sh"), argv[1], str(size), *argv[2:]]
    with open(folder / "all.out", "wb") as out, open(folder / "all.err", "wb") as err:
        process = subprocess.Popen(
            program,
            env=clean_env(PYTHON=sys.executable),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return Running([process.pid], folder, lambda _: process.poll(), ["all"])


def read(folder: Path) -> dict[str, Any]:
    """Everything a run left, file name -> content, without what names its folder or its times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".pth":
            found[name] = torch.load(path, weights_only=True)
            found[name]["args"] = _without_own(found[name]["args"])
        elif name == "config.json":
            found[name] = _without_own(json.loads(path.read_text()))
        elif name == "record.json":
            told = json.loads(path.read_text())
            for epoch in told["epochs"]:
                del epoch["seconds"]
            found[name] = {k: told[k] for k in ("epochs", "status", "best", "data", "model")}
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def _without_own(args: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in args.items() if k not in ("output_dir", "resume", "num_workers")}


def losses(said: str) -> dict[str, str]:
    """What is printed of a step, without its times: 'Epoch: [0] [4/8]' -> the averages."""
    found = {}
    for line in said.splitlines():
        if line.startswith("Epoch: [") and "eta:" in line:
            parts = line.split("  ")
            kept = [p for p in parts[2:] if not p.startswith(("eta:", "time:", "data:", "max mem"))]
            found["".join(parts[0:2]).replace(" ", "")] = " ".join(kept)
    return found


class References:
    """Uninterrupted runs of one and two processes, each made when it is first asked for."""

    def __init__(self, folder: Path, family: Family, images: Path, *, counts_files: bool) -> None:
        self.folder, self.family, self.images = folder, family, images
        self.counts_files = counts_files
        self.whole: dict[int, dict[str, Any]] = {}
        self.losses: dict[int, dict[str, str]] = {}
        self.seconds: dict[int, float] = {}
        self.events: dict[int, dict[str, list[int]]] = {}

    def prepare(self, size: int) -> None:
        """The run of `size` processes, how long it took, and what it did to files."""
        if size in self.whole:
            return
        output, log = self.folder / f"whole-{size}", self.folder / f"events-{size}"
        running = self.start("", size, output, FAULT_ROOT=str(output), FAULT_LOG_0=str(log))
        ended = running.wait()
        assert [one.status for one in ended] == [0] * size, ended[0].err
        self.seconds[size] = time.monotonic() - running.began
        self.whole[size], self.losses[size] = read(output), losses(ended[0].out)
        groups = collections.defaultdict(list)
        for line in log.read_text().splitlines() if log.exists() else ():
            number, kind, path = line.split(" ", 2)
            name = Path(path).name
            if ".tmp" in name:  # '.best.pth.77-1234abcd.tmp' -> 'best.pth'
                name = name.split(".tmp")[0].lstrip(".").rpartition(".")[0]
            # Most events are writes of checkpoints: let the sort of event be chosen first.
            groups[f"{kind} {name}"].append(int(number))
        self.events[size] = dict(groups)

    def start(
        self,
        kind: str,
        size: int,
        output: Path,
        *more: str,
        patches: Mapping[int, str] | None = None,
        **env: str,
    ) -> Running:
        """The same run, into `output`; `patches` is Python that a rank executes before it."""
        argv = command(self.images, output, *more)
        if WHOLE in kind:
            return started(self.folder / f"said-{time.monotonic_ns()}", argv, size)
        programs = [f"{(patches or {}).get(rank, '')}\n{RUN}" for rank in range(size)]
        return self.family.start(programs, *argv, launched=size > 1, **env)

    def struck(
        self, kind: str, size: int, output: Path, draw: random.Random, number: signal.Signals
    ) -> tuple[str, list[Ended], float, int]:
        """Start the run and signal it at a drawn moment: when, how it ended, sent at, to whom.

        What `kind` says decides who gets the signal: the process itself in a drawn file operation,
        "one of" several, "everything" that was started, or the processes.
        """
        workers = ("--num_workers", draw.choice("001"))
        if kind.endswith("in a file"):
            group = draw.choice(sorted(self.events[size]))
            at = draw.choice(self.events[size][group])
            fault = {"FAULT_AT_0": str(at), "FAULT_SIGNAL": str(int(number))}
            running = self.start(kind, size, output, *workers, FAULT_ROOT=str(output), **fault)
            running.wait_for(lambda: running.poll()[0] is not None)
            if number == signal.SIGKILL:
                running.kill()  # the other process, whose machine has failed as well
            return f"at event {at} ({group})", running.wait(), time.monotonic(), 0
        # A command of its own imports first, which takes about as long again.
        moment = draw.random() * self.seconds[size] * (2 if WHOLE in kind else 0.95)
        running = self.start(kind, size, output, *workers)
        victim = draw.randrange(size)
        if kind.startswith("one of") and number == signal.SIGKILL:
            # Whoever waits for a process that never comes gives up after five minutes.
            running.wait_for(lambda: "TrainConfig(" in running.out() or None not in running.poll())
        while time.monotonic() < running.began + moment and None in running.poll():
            time.sleep(0.002)
        sent = time.monotonic()
        if kind.startswith("one of"):
            running.kill(number, victim)
        elif number == signal.SIGKILL or kind.endswith("everything"):
            running.kill_group(number)
        else:
            running.kill(number)
        return f"after {moment:.2f} s", running.wait(), sent, victim

    def trial(
        self, kind: str, size: int, seed: int, faults: Callable[[Path], Iterator[tuple[str, str]]]
    ) -> Trial:
        """What `faults` does to a run, each with what was wrong; then the run must end as usual."""
        self.prepare(size)
        output = self.folder / f"trial-{time.monotonic_ns()}"
        told, problem = [], ""
        try:
            for what, problem in faults(output):
                told.append(what)
                if problem:
                    break
            problem = problem or self.finished(kind, size, output)
        except AssertionError as error:
            problem = str(error)
        shutil.rmtree(output, ignore_errors=True)
        return Trial(kind, f"{kind}, seed {seed}: {', then '.join(told)}", problem)

    def finished(self, kind: str, size: int, output: Path) -> str:
        """Start once more, let it end, compare: what is wrong, if anything."""
        ended = self.start(kind, size, output).wait()
        if any(one.status for one in ended):
            said = "".join(one.err + one.out[-500:] for one in ended)
            return f"the last start ended with {[one.status for one in ended]}: {said[-2000:]}"
        told = losses(ended[0].out)
        if wrong := [step for step, text in told.items() if self.losses[size].get(step) != text]:
            return f"other losses at {wrong}"
        return differs(self.whole[size], read(output))


@contextmanager
def references(folder: Path) -> Iterator[References]:
    """The runs of a campaign; file operations are counted where there is a C compiler."""
    shim, env = folder / "shim.so", {"THP_MEM_ALLOC_ENABLE": "1"}
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler:
        source = str(Path(__file__).with_name("shim.c"))
        build = [compiler, "-O1", "-shared", "-fPIC", "-o", str(shim), source, "-ldl"]
        subprocess.run(build, check=True)
        env["LD_PRELOAD"] = str(shim)
    modules = "tcformer.cli, tcformer.tasks.runner, tcformer.training.progress"
    family = Family(folder, modules, **env)
    try:
        images = make_images(folder / "images")
        yield References(folder, family, images, counts_files=compiler is not None)
    finally:
        family.close()


def in_turn(
    kinds: Mapping[str, int],
    trial: Callable[[References, str, int], Trial],
    trials: int,
    seed: int,
    folder: Path,
) -> Iterator[Trial]:
    """`trials` trials, of each kind its number in turn; trial i of a seed is always the same."""
    order = [kind for kind, count in kinds.items() for _ in range(count)]
    with references(folder) as runs:
        if not runs.counts_files:
            print("no C compiler here: no trials inside file operations", flush=True)
            order = [kind for kind in order if not kind.endswith("in a file")]
        for i in range(trials):
            yield trial(runs, order[i % len(order)], seed * 10_000 + i)
