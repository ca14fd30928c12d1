"""Run the commands of docs/finetuning.md, several seeds each, and keep accuracies and times.

    python benchmarks/finetuning.py [--seeds 0 1] [--start FILE] [--output PLACE]

The network to start from is that of `tcformer demo`, which is run first unless FILE is given.
Times are those of the processor, imports and evaluations included, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tcformer.bench import record

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """The page's commands up to the comparison: drawing the data, then the training runs."""
    page = (ROOT / "docs" / "finetuning.md").read_text().partition("<!-- finetuning -->")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def main() -> None:
    """Measure, print, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run at the same time")
    parser.add_argument("--start", type=Path, help="the demo's best.safetensors")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = record.begin([], torch.device("cpu"))
    seeds = map(str, options.seeds)
    kept["command"] = shlex.join(["python", "benchmarks/finetuning.py", "--seeds", *seeds])
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
    print(f"wrote {record.keep(kept, 'finetuning', options.output)}")


def prepare(folder: Path) -> Path:
    """A folder in which the page's commands work."""
    folder.mkdir()
    for name in ("examples", "configs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def empty_row(command: str) -> dict[str, Any]:
    """An empty row of the record."""
    (name,) = re.findall(r"--output_dir runs/letters-(\w+)", command)
    return {"name": name, "command": command, "accuracy": {}, "seconds": {}}


def by_seed(values: dict[int, float]) -> list[float]:
    """The values in the order of their seeds."""
    return [values[seed] for seed in sorted(values)]


def measure(rows: list[dict[str, Any]], seed: int, folder: Path) -> None:
    """Accuracy of the last epoch and processor seconds of every command, for one seed."""
    for row in rows:
        row["seconds"][seed] = run(f"{row['command']} --threads 1 --seed {seed}", folder)
        log = (folder / "runs" / f"letters-{row['name']}" / "log.txt").read_text().splitlines()
        row["accuracy"][seed] = json.loads(log[-1])["test_acc1"]
        row["epochs"] = len(log)
        print(f"{row['name']}, seed {seed}: {row['accuracy'][seed]:.1f} %", flush=True)


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
