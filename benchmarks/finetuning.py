"""Run the commands of docs/results.md, several seeds each, and keep accuracies and times.

    python benchmarks/finetuning.py [--seeds 0 1] [--start FILE] [--output PLACE] [--images FOLDER]

The network to start from is that of `tcformer demo`, which is run first unless FILE is given.
Times are those of the processor, imports and evaluations included, on one thread. Where the network
of the first seed is wrong is kept as well: the counts in the record, its pictures in --images,
as letters-right.png and letters-wrong.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tcformer.bench import record

ROOT = Path(__file__).parents[1]


def commands(beginning: str = "## Fine-tuning", end: str = "<!-- letters -->") -> list[str]:
    """The page's commands between two texts; up to the comparison drawing and training."""
    page = (ROOT / "docs" / "results.md").read_text()
    part = page[page.index(beginning) : page.index(end)]
    blocks = re.findall(r"^```sh\n(.*?)^```$", part, re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def examination(folder: str) -> str:
    """The page's command that says where the network of this data is wrong."""
    page = (ROOT / "docs" / "results.md").read_text()
    return re.findall(rf"^tcformer confusion {folder} .*$", page, re.M)[0]


def main() -> None:
    """Measure, print, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run at the same time")
    parser.add_argument("--start", type=Path, help="the demo's best.safetensors")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--images", type=Path, help="folder for the pictures of the answers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = ["--seeds", *map(str, options.seeds)]
    kept = record.begin(words, torch.device("cpu"), "python benchmarks/finetuning.py")
    draw, *trainings = commands()
    with tempfile.TemporaryDirectory() as place:
        folders = [prepare(Path(place) / str(seed)) for seed in options.seeds]
        if options.start is None:
            run("tcformer demo --output_dir runs/demo", folders[0])
        start = options.start or folders[0] / "runs/demo/best.safetensors"
        for folder in folders:
            run(draw, folder)
            (folder / "runs/demo").mkdir(parents=True, exist_ok=True)
            if not (folder / "runs/demo/best.safetensors").exists():
                shutil.copy(start, folder / "runs/demo/best.safetensors")
        kept["images"] = {
            split: len(list((folders[0] / "letters" / split).rglob("*.png")))
            for split in ("train", "val")
        }
        rows = [empty_row(command) for command in trainings]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(partial(measure, rows), options.seeds, folders))
        kept["runs"] = [
            {**row, "accuracy": by_seed(row["accuracy"]), "seconds": by_seed(row["seconds"])}
            for row in rows
        ]
        kept["confusion"] = examine(folders[0], "letters", options.images)
    print(f"wrote {record.keep(kept, 'finetuning', options.output)}")


def prepare(folder: Path) -> Path:
    """A folder in which the page's commands work."""
    folder.mkdir()
    for name in ("examples", "configs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def empty_row(command: str) -> dict[str, Any]:
    """An empty row of the record."""
    (name,) = re.findall(r"--output_dir runs/\w+-(\w+)", command)
    return {"name": name, "command": command, "accuracy": {}, "seconds": {}}


def by_seed(values: dict[int, float]) -> list[float]:
    """The values in the order of their seeds."""
    return [values[seed] for seed in sorted(values)]


def measure(rows: list[dict[str, Any]], seed: int, folder: Path) -> None:
    """Accuracy of the last epoch and processor seconds of every command, for one seed."""
    for row in rows:
        measured(row, seed, folder)


def measured(row: dict[str, Any], seed: int, folder: Path, more: Sequence[str] = ()) -> None:
    """Run the command of a row with one seed (and more options) and put its figures there."""
    words = shlex.split(row["command"])
    output = words[-1]
    words += ["--threads", "1", "--seed", str(seed), *more]
    row["seconds"][seed] = run(shlex.join(words), folder)
    log = (folder / output / "log.txt").read_text().splitlines()
    row["accuracy"][seed] = json.loads(log[-1])["test_acc1"]
    row["epochs"] = len(log)
    print(f"{row['name']}, seed {seed}: {row['accuracy'][seed]:.1f} %", flush=True)


def examine(folder: Path, data: str, images: Path | None) -> dict[str, Any]:
    """Classes and counts of the page's examination, and the digests of its pictures."""
    command = examination(data)
    run(f"{command} --threads 1", folder)
    out = folder / shlex.split(command)[-1]
    found = json.loads((out / "confusion.json").read_text())
    counts = [[0] * len(found["classes"]) for _ in found["classes"]]
    for truth, answer, count in found["counts"]:
        counts[truth][answer] = count
    kept = {"command": command, "classes": found["classes"], "counts": counts, "pictures": {}}
    for name in ("right.png", "wrong.png"):
        if images is not None and (out / name).exists():
            content = (out / name).read_bytes()
            (images / f"{data}-{name}").write_bytes(content)
            kept["pictures"][f"{data}-{name}"] = hashlib.sha256(content).hexdigest()[:16]
    return kept


def run(command: str, folder: Path) -> float:
    """Run it and return the seconds of processor time it took."""
    command = command.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    command = re.sub("^tcformer ", f"{shlex.quote(sys.executable)} -m tcformer ", command)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    process = subprocess.Popen(
        shlex.split(command), cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: status {process.returncode} of: {command}")
    return round(usage.ru_utime + usage.ru_stime, 1)


if __name__ == "__main__":
    main()
