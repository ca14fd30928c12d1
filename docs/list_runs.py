"""The list of runs at the end of docs/results.md: a row a record, where it ran, its command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from learning_records import FOLDER, Run

from tcformer.processor import label

HEAD = """
## The runs

All records in `{folder}` ([what they hold](training.md#the-record-of-a-run)). "Changed" tells
whether the sources were other ones than those of the commit. Times are wall time and processor
time, memory is the highest of the process.

| {names} |
|{rules}
"""

NAMES = (
    "record", "ended as", "top-1, %", "commit", "changed", "begun", "times", "memory", "ran on",
)  # fmt: skip

CHANGED = {True: "yes", False: "no", None: "not known"}


def clock(minutes: float | None) -> str:
    """Minutes as words."""
    if minutes is None:
        return "not recorded"
    return f"{minutes * 60:.0f} s" if minutes < 3 else f"{minutes:.0f} min"


def listing(runs: Sequence[Run]) -> str:
    """The section: a row for each run, then the places they ran on, then their commands."""
    head = HEAD.format(folder=FOLDER, names=" | ".join(NAMES), rules="---|" * len(NAMES))
    if not runs:
        return head + f"| none {'| ' * len(NAMES)}\n"
    places: list[str] = []
    lines = [head]
    for run in runs:
        record, sessions = run.record, run.record["sessions"]
        for session in sessions:
            if place(session) not in places:
                places.append(place(session))
        cells = (
            f"`{run.file}`",
            record["status"] if run.finished or record["status"] != "finished" else "cut short",
            f"{run.accuracy:.2f}" if run.finished else "-",
            ", ".join(distinct(f"`{s['commit']}`" for s in sessions)),
            ", ".join(distinct(CHANGED[s["changed"]] for s in sessions)),
            f"{sessions[0]['date']} {sessions[0]['time']}" + times(len(sessions)),
            f"{clock(record['wall_seconds'] / 60)}, {clock(run.minutes)}",
            f"{record['peak_memory']['host_bytes'] / 2**20:,.0f} MiB",
            ", ".join(distinct(letter(places.index(place(s))) for s in sessions)),
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    lines.append("\n| | ran on |\n|---|---|\n")
    lines += [f"| {letter(number)} | {text} |\n" for number, text in enumerate(places)]
    lines.append("\n| | hash of the training data | hash of the test data |\n|---|---|---|\n")
    for data in distinct(data_of(run) for run in runs):
        lines.append(f"| {data} |\n")
    lines.append("\nTheir commands, with the last part of absolute paths only:\n\n")
    for run in runs:
        said = distinct(s["command"] or "(from Python)" for s in run.record["sessions"])
        lines += [f"* `{command}`\n" for command in said]
    return "".join(lines)


def data_of(run: Run) -> str:
    """Three cells: the set, and what tells its data from others."""
    data = run.record["data"]
    return " | ".join([f"`{run.set}`", *(f"`{data[s]['sha256']}`" for s in ("train", "val"))])


def times(count: int) -> str:
    """How often a run was begun, if more than once."""
    return f", {count} sessions" if count > 1 else ""


def distinct(values: Iterable[str]) -> list[str]:
    """Each once, in their order."""
    return list(dict.fromkeys(values))


def letter(number: int) -> str:
    """A, B, C for the places."""
    return chr(ord("A") + number)


def place(session: dict[str, Any]) -> str:
    """Machine, versions and settings of a session, in one line."""
    machine, versions = session["machine"], session["versions"]
    there = [f"{label(machine)} ({machine['capability']})", f"{machine['cores']} cores"]
    there += [f"{machine['memory_gib']} GiB", machine["system"]]
    if "gpu" in machine:
        there.append(machine["gpu"])
    names = ("python", "torch", "torchvision", "timm", "numpy", "pillow")
    there += [f"{name} {versions[name]}" for name in names]
    threads = session["settings"]["torch threads"]
    return ", ".join([*there, f"{threads} thread{'s' * (threads > 1)} a process"])
