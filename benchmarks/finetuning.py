"""Run the commands of docs/finetuning.md, several seeds each, and keep accuracies and times.

    python benchmarks/finetuning.py [--seeds 0 1 2] [--start FILE] [--output PLACE]

The network to start from is that of `tcformer demo`, which is run first unless FILE is given.
Times are those of the processor, imports and evaluations included, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--start", type=Path, help="the demo's best.safetensors")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = record.begin([], torch.device("cpu"))
    kept["command"] = shlex.join(
        ["python", "benchmarks/finetuning.py", "--seeds", *map(str, options.seeds)]
    )
    draw, *trainings = commands()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("examples", "configs"):
            (folder / name).symlink_to(ROOT / name)
        if options.start:
            (folder / "runs/demo").mkdir(parents=True)
            shutil.copy(options.start, folder / "runs/demo/best.safetensors")
        else:
            run("tcformer demo --output_dir runs/demo", folder)
        run(draw, folder)
        kept["images"] = {
            split: len(list((folder / "letters" / split).rglob("*.png")))
            for split in ("train", "val")
        }
        kept["runs"] = [measure(command, options.seeds, folder) for command in trainings]
    print(f"wrote {record.keep(kept, 'finetuning', options.output)}")


def measure(command: str, seeds: list[int], folder: Path) -> dict[str, Any]:
    """Accuracy of the last epoch and processor seconds of a command, seed by seed."""
    (name,) = re.findall(r"--output_dir runs/letters-(\w+)", command)
    row: dict[str, Any] = {"name": name, "command": command, "accuracy": [], "seconds": []}
    for seed in seeds:
        shutil.rmtree(folder / "runs" / f"letters-{name}", ignore_errors=True)
        row["seconds"].append(run(f"{command} --threads 1 --seed {seed}", folder))
        log = (folder / "runs" / f"letters-{name}" / "log.txt").read_text().splitlines()
        row["accuracy"].append(json.loads(log[-1])["test_acc1"])
        row["epochs"] = len(log)
        print(f"{name}, seed {seed}: {row['accuracy'][-1]:.1f} %, {row['seconds'][-1]:.0f} s")
    return row


def run(command: str, folder: Path) -> float:
    """Run it and return the seconds of processor time it took."""
    command = command.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    command = re.sub("^tcformer ", f"{shlex.quote(sys.executable)} -m tcformer ", command)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        command, shell=True, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"  {used:.0f} s of processor time, {time.monotonic() - began:.0f} s in all: {command}")
    return round(used, 1)


if __name__ == "__main__":
    main()
