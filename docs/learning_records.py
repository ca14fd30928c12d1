"""The records under benchmarks/results/learning: which count, what they come to, whether it shows.

docs/make_results.py and docs/make_readme.py write their pages from what is here. What would make a
comparison unfair (another recipe, other data, a name that tells of another run) is an error and no
page is written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from tcformer.processor import label

ROOT = Path(__file__).parents[1]
FOLDER = Path("benchmarks", "results", "learning")

OWN = {
    "model", "part_grids", "seed", "output_dir", "record", "resume", "data_path", "num_workers",
    "threads", "pin_mem", "dist_url", "world_size",
}  # fmt: skip
"""Options in which the runs of one set may differ; by all others they are trained alike."""


SAID = {"2026-11-22-suite-cpu-cpu.json": "Zen 5"}
"""Record -> its processor where the record holds the name alone: said by those who made it."""


def kind(record: dict[str, Any]) -> str:
    """The kind of processor of a record in a word or two, for beside a figure."""
    machine = record["machine"]
    said = SAID.get(record.get("file", ""))
    return said or machine.get("microarchitecture") or machine["processor"]


def processor(record: dict[str, Any]) -> str:
    """The processor of a record in words."""
    known = SAID.get(record.get("file", ""))
    return label(record["machine"]) + (f" ({known}, said by those who ran it)" if known else "")


@dataclass(frozen=True)
class Run:
    """One record.

    Attributes:
        file: its name.
        set: what was trained on, the first part of the name.
        model: the network.
        seed: of the run.
        record: everything it tells; see docs/training.md.
    """

    file: str
    set: str
    model: str
    seed: int
    record: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the run came to the end of its schedule: only then does it count."""
        config, epochs = self.record["config"], self.record["epochs"]
        whole = len(epochs) == config["epochs"] + config["cooldown_epochs"]
        return self.record["status"] == "finished" and whole

    @property
    def accuracy(self) -> float:
        """Top-1 after the last epoch, percent."""
        return float(self.record["epochs"][-1]["test_acc1"])

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(epochs trained, top-1), where it was measured."""
        epochs = self.record["epochs"]
        measured = [entry for entry in epochs if entry.get("test_acc1") is not None]
        return [(entry["epoch"] + 1, entry["test_acc1"]) for entry in measured]

    @property
    def minutes(self) -> float | None:
        """Of processor time, in all sessions; None in records of before it was measured."""
        seconds = self.record.get("processor_seconds")
        return seconds / 60 if seconds else None

    @property
    def changed(self) -> bool:
        """Whether any session ran sources that are not those of its commit, as far as is known."""
        return any(session["changed"] is not False for session in self.record["sessions"])


@dataclass(frozen=True)
class Group:
    """The runs of one network on one set.

    Attributes:
        model: the network.
        runs: the finished ones, by seed; no others count.
        unfinished: seeds of runs that have not come to their end.
        missing: seeds that are expected and have no record.
    """

    model: str
    runs: tuple[Run, ...]
    unfinished: tuple[int, ...]
    missing: tuple[int, ...]

    @property
    def values(self) -> list[float]:
        """Top-1 of every seed, percent."""
        return [run.accuracy for run in self.runs]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for one seed."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def minutes(self) -> float | None:
        """Median processor time of a run."""
        known = [run.minutes for run in self.runs if run.minutes is not None]
        return median(known) if known else None

    @property
    def files(self) -> str:
        """The names of the records, shortened: set-model-seed{0,1,2}.json."""
        stem = f"{self.runs[0].set}-{self.model}-seed"
        seeds = [str(run.seed) for run in self.runs]
        inside = seeds[0] if len(seeds) == 1 else f"{{{','.join(seeds)}}}"
        return f"{stem}{inside}.json"


def read_runs(folder: Path = ROOT / FOLDER) -> list[Run]:
    """All records of a folder, looked over.

    Raises:
        ValueError: a name that tells of another run than its record, or runs of one set that were
            not trained alike.
    """
    runs = [_read(path) for path in sorted(folder.glob("*.json"))]
    for run in runs:
        first = next(other for other in runs if other.set == run.set)
        _compare(first, run)
    return runs


def group(
    runs: Sequence[Run], name: str, models: Sequence[str], seeds: Sequence[int]
) -> list[Group]:
    """The runs of a set, network by network, in the order of `models`.

    Seeds beyond `seeds` count as well: whoever repeats more of them shows more.
    """
    groups = []
    for model in models:
        found = [run for run in runs if run.set == name and run.model == model]
        found.sort(key=lambda run: run.seed)
        there = {run.seed for run in found}
        groups.append(
            Group(
                model,
                tuple(run for run in found if run.finished),
                tuple(run.seed for run in found if not run.finished),
                tuple(seed for seed in seeds if seed not in there),
            )
        )
    return groups


def verdict(ours: Group, twin: Group) -> str:
    """One sentence: whether a network is above its grid twin by more than the spread."""
    if not ours.runs or not twin.runs:
        gone = " and ".join(f"no run of `{g.model}`" for g in (ours, twin) if not g.runs)
        return f"`{ours.model}` beside `{twin.model}`: nothing to compare, {gone} is finished."
    apart = ours.mean - twin.mean
    where = "above" if apart > 0 else "below"
    if f"{abs(apart):.2f}" == "0.00":
        start = f"`{ours.model}` and its grid twin `{twin.model}` come to the same"
    else:
        start = f"`{ours.model}` is {where} its grid twin `{twin.model}` by {abs(apart):.2f} points"
    if ours.spread is None or twin.spread is None:
        return (
            f"{start}. Without several seeds of both there is no spread to hold against it; the "
            f"test images alone leave it uncertain by {chance(ours, twin):.2f} (standard error)."
        )
    spread = max(ours.spread, twin.spread)
    if apart > spread:
        end = f"more than the spread of {spread:.2f}"
    elif -apart > spread:
        end = f"more than the spread of {spread:.2f}: here merging tokens costs accuracy"
    else:
        end = f"not more than the spread of {spread:.2f}: no difference is shown"
    return f"{start}, {end}."


def chance(ours: Group, twin: Group) -> float:
    """Standard error of a difference of top-1, points, by the number of test images."""
    shares = [(g.mean / 100, g.runs[0].record["data"]["val"]["images"]) for g in (ours, twin)]
    return 100 * math.sqrt(sum(right * (1 - right) / count for right, count in shares))


def is_above(ours: Group, twin: Group) -> bool:
    """Whether the mean is above the twin's by more than the larger of the two spreads."""
    if ours.spread is None or twin.spread is None:
        return False
    return ours.mean - twin.mean > max(ours.spread, twin.spread)


def _read(path: Path) -> Run:
    name = re.fullmatch(r"(.+)-([a-z0-9_]+)-seed(\d+)", path.stem)
    if name is None:
        raise ValueError(f"{path.name}: records are called SET-MODEL-seedN.json")
    record = json.loads(path.read_text())
    told = (record["model"], record["config"]["model"], record["seed"])
    if told != (name[2], name[2], int(name[3])):
        raise ValueError(f"{path.name} holds a run of {told[0]} with seed {told[2]}")
    if record["kind"] != "training":
        raise ValueError(f"{path.name} is the record of an {record['kind']}, not of a training run")
    return Run(path.name, name[1], name[2], int(name[3]), record)


def _compare(one: Run, other: Run) -> None:
    """Refuse to set runs beside each other that were not trained alike."""
    first, second = (run.record["config"] for run in (one, other))
    # An option that is newer than a record had no effect on it.
    for option in sorted(first.keys() & second.keys() - OWN):
        if first[option] != second[option]:
            raise ValueError(
                f"{one.file} and {other.file} are of one set but differ in {option}: "
                f"{first[option]} and {second[option]}"
            )
    if one.record["data"] != other.record["data"]:
        raise ValueError(f"{one.file} and {other.file} are of one set but of different data")
