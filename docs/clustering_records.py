"""The records of benchmarks/sweep.py and benchmarks/tokens.py, for docs/make_clustering_buys.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from learning_records import OWN

PLACE = "benchmarks/results"
RESULTS = Path(__file__).parents[1] / PLACE
USUAL = (0.25, 5)
"""Keep ratio and k of all published models."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        set: the data.
        model: the network.
        epochs: the length of its schedule.
        ratio: its keep ratio.
        k: its number of neighbours.
        seed: of the run.
        accuracy: top-1 after the last epoch, percent.
        minutes: processor time.
        file: of the record.
    """

    set: str
    model: str
    epochs: int
    ratio: float
    k: int
    seed: int
    accuracy: float
    minutes: float
    file: str


def trainings(results: Path = RESULTS) -> list[Training]:
    """Those of the sweep, and those of benchmarks/learning.py that were trained by its recipe.

    Only runs that came to the end of their schedule count.
    """
    swept = list(_runs(results, "clustering"))
    recipes = [_recipe(record) for record in swept]
    joined = [record for record in _runs(results, "learning") if _recipe(record) in recipes]
    runs = [run for run in map(_training, [*swept, *joined]) if run]
    return sorted(runs, key=lambda run: (run.set, run.ratio, run.k, run.seed))


def _recipe(record: Record) -> Record:
    """What a run shares with those it is compared with."""
    config = record["config"]
    return {
        "model": record["model"],
        "data": record["data"],
        **{name: value for name, value in config.items() if name not in {*OWN, "keep_ratio", "k"}},
    }


def _runs(results: Path, folder: str) -> Iterator[Record]:
    for path in sorted((results / folder).glob("*.json")):
        record = json.loads(path.read_text())
        if record.get("form") == "tcformer run 1" and record["kind"] == "training":
            yield {"file": f"{PLACE}/{folder}/{path.name}", **record}


def _training(record: Record) -> Training | None:
    config, epochs = record["config"], record["epochs"]
    if record["status"] != "finished" or len(epochs) != config["epochs"]:
        return None
    ratios = config["keep_ratio"] or [USUAL[0]]
    if len(set(ratios)) > 1 or config["num_clusters"]:
        return None  # another way of merging than the sweep's
    return Training(
        record["data"]["name"],
        record["model"],
        config["epochs"],
        ratios[0],
        USUAL[1] if config["k"] is None else config["k"],
        record["seed"],
        epochs[-1]["test_acc1"],
        record["processor_seconds"] / 60,
        record["file"],
    )


def evaluations(results: Path = RESULTS) -> dict[tuple[str, str], list[Record]]:
    """(data, model) -> the evaluations of trained networks that merge otherwise."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in read(results, "evaluate-*"):
        found.setdefault((record["data"]["name"], record["model"]), []).append(record)
    return found


def times(results: Path = RESULTS) -> Record | None:
    """The forward passes."""
    return next(iter(read(results, "time")), None)


def looks(results: Path = RESULTS) -> list[Record]:
    """The sizes of tokens and what lies below them, one record for each set of images."""
    return read(results, "tokens-*")


def read(results: Path, name: str) -> list[Record]:
    """Records by the name of their file."""
    paths = sorted((results / "clustering").glob(f"{name}.json"))
    return [
        {"file": f"{PLACE}/clustering/{path.name}", **json.loads(path.read_text())}
        for path in paths
    ]


def kinds(record: Record) -> dict[tuple[str, str], list[Record]]:
    """(model, "trained" or "random weights") -> networks of a record of tokens."""
    found: dict[tuple[str, str], list[Record]] = {}
    for row in record["networks"]:
        weights = "random weights" if "random" in row["weights"] else "trained"
        found.setdefault((row["model"], weights), []).append(row)
    return found


def learned(weights: Record) -> str:
    """How far weights were trained, in words; empty where nobody knows."""
    return f"{weights['epochs']} of {weights['of_epochs']}" if "epochs" in weights else ""


def spread(values: list[float]) -> float | None:
    """The sample standard deviation; None of one value."""
    return stdev(values) if len(values) > 1 else None


def average(rows: list[Record], stage: int, *path: str) -> float | None:
    """The mean over networks of a figure of one stage; None where none has it."""
    found = []
    for row in rows:
        value: Any = row["stages"][stage - 2]
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found.append(float(value))
    return mean(found) if found else None
