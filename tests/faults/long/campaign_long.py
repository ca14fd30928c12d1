"""A run of 2,000 steps, watched from outside: nothing that it holds may grow."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from campaign import Trial
from processes import clean_env
from runs import make_images

TRIALS = 1
STEPS, STEPS_PER_EPOCH = 2000, 125
SETTLED = 4 * STEPS_PER_EPOCH  # from here on nothing is new
MIB = 2**20
_LINE = re.compile(r"Epoch: \[(\d+)\]  \[ *(\d+)/")


@dataclass(frozen=True)
class Sample:
    """What a run holds after a step."""

    step: int  # of the whole run
    memory: int  # resident, bytes: the run alone
    workers: int  # resident, bytes: its processes together
    files: int
    threads: int
    processes: int


def watch(folder: Path, steps: int, steps_per_epoch: int) -> list[Sample]:
    """Train for `steps` steps, with evaluations and checkpoints; a sample every ten steps.

    Raises:
        RuntimeError: the run failed.
    """
    data = make_images(folder / "data", 2 * steps_per_epoch, 6, classes=2)
    command = [
        *(sys.executable, "-m", "tcformer", "train", "--model", "tcformer_nano"),
        *("--data-path", str(data), "--input-size", "32", "--batch-size", "2", "--device", "cpu"),
        *("--threads", "1", "--num_workers", "1", "--epochs", str(-(-steps // steps_per_epoch))),
        *("--output_dir", str(folder / "out"), "--save-every", "1", "--keep-last", "2"),
        *("--warmup-epochs", "0", "--ema"),
    ]
    samples: list[Sample] = []
    with (
        open(folder / "errors", "w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=clean_env()
        ) as process,
    ):
        watched = psutil.Process(process.pid)
        assert process.stdout is not None
        for line in process.stdout:
            if found := _LINE.match(line):
                step = int(found[1]) * steps_per_epoch + int(found[2])
                children = watched.children(recursive=True)
                memory = sum(child.memory_info().rss for child in children)
                own = watched.memory_info().rss, memory, watched.num_fds(), watched.num_threads()
                samples.append(Sample(step, *own, len(children)))
        process.wait()
        errors.seek(0)
        said = errors.read()
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {said}")
    return samples


def grown(samples: list[Sample], since: int) -> tuple[str, str]:
    """What a run holds at its end more than from step `since` on: in words, and what is wrong.

    Compared are the largest values of the first and the last quarter of those steps. Files and
    memory differ from sample to sample by what is under way; a leak of one in ten steps shows.
    """
    settled = [sample for sample in samples if sample.step >= since]
    part = max(1, len(settled) // 4)
    first, last = settled[:part], settled[-part:]

    def more(name: str) -> int:
        return max(getattr(s, name) for s in last) - max(getattr(s, name) for s in first)

    told = (
        f"{more('memory') / MIB:+.1f} MiB (of {max(s.memory for s in first) / MIB:.0f}), workers "
        f"{more('workers') / MIB:+.1f} MiB, {more('files'):+d} open files, {more('threads'):+d} "
        f"threads, {more('processes'):+d} processes from step {since} to {settled[-1].step}"
    )
    limits = {"memory": 4 * MIB, "workers": 4 * MIB, "files": 2, "threads": 0, "processes": 0}
    wrong = [name for name, limit in limits.items() if more(name) > limit]
    return told, f"{', '.join(wrong)} grew: {told}" if wrong else ""


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Each trial is one whole run."""
    for number in range(trials):
        samples = watch(folder / str(number), STEPS, STEPS_PER_EPOCH)
        told, problem = grown(samples, SETTLED)
        yield Trial(f"{STEPS} steps", f"run {number}: {told}", problem, told=told)
