"""Train the networks of docs/results.md, one record a run.

    python benchmarks/learning.py digits
    python benchmarks/learning.py cifar10 --data-path DATA

Each set is trained with TCFormer, TCFormerV2 and the baseline, timm's PVTv2 of the same size, by
the same recipe, one thread a run. Finished runs are left alone and interrupted ones go on, so the
command can be given again. `--seeds` and `--models` choose; options that this script does not have
go to `tcformer train`. The full sets want a GPU.

Records go to benchmarks/results/learning/SET-MODEL-seedN.json, weights and logs to --work.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tcformer.errors import UserError
from tcformer.training.record import read_record

ROOT = Path(__file__).parents[1]
NANO = ("tcformer_nano", "tcformerv2_nano", "pvt_v2_b0")
LIGHT = ("tcformer_light", "tcformerv2_light", "pvt_v2_b1")


class Set(NamedTuple):
    """What is trained on one data set, by which recipe and with which changes to it."""

    models: tuple[str, ...]
    seeds: tuple[int, ...]
    config: str
    options: tuple[str, ...] = ()


SETS = {
    "digits": Set(NANO, (0, 1, 2, 3, 4), "configs/digits/{model}.py"),
    "cifar10": Set(NANO, (0,), "configs/cifar10/cpu.py"),
    "cifar10-light": Set(LIGHT, (0,), "configs/cifar10/cpu.py", ("--epochs", "1")),
    "cifar10-full": Set(NANO, (0, 1, 2), "configs/cifar10/{model}.py"),
    "cifar10-full-light": Set(LIGHT, (0, 1, 2), "configs/cifar10/{model}.py"),
}


def main() -> int:
    """Run what is not finished yet; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data-path", type=Path, help="folder that holds CIFAR-10")
    parser.add_argument("--models", nargs="+", choices=sorted({*NANO, *LIGHT}))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--jobs", type=int, default=len(NANO), help="runs at a time")
    parser.add_argument("--work", type=Path, default=Path("work_dirs", "learning"))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "learning")
    options, rest = parser.parse_known_args()
    chosen = SETS[options.set]
    if options.set != "digits" and options.data_path is None:
        parser.error(f"{options.set} needs --data-path, the folder that holds CIFAR-10")
    models = options.models or chosen.models
    if not set(models) <= set(chosen.models):
        parser.error(f"{options.set} is trained with {', '.join(chosen.models)}")

    def run(job: tuple[int, str]) -> bool:
        seed, model = job
        name = f"{options.set}-{model}-seed{seed}"
        words = [chosen.config.format(model=model), "--model", model, *chosen.options]
        if options.data_path is not None:
            words += ["--data-path", str(options.data_path.resolve())]
        words += [*rest, "--seed", str(seed)]
        return train(name, words, (options.work / name).resolve(), options.output / f"{name}.json")

    jobs = [(seed, model) for seed in options.seeds or chosen.seeds for model in models]
    with ThreadPoolExecutor(options.jobs) as pool:
        return 0 if all([*pool.map(run, jobs)]) else 1


def train(name: str, words: list[str], folder: Path, record: Path) -> bool:
    """`tcformer train` with these words, or what is left of it; whether there is a record now."""
    if (accuracy := finished(record)) is not None:
        print(f"{name}: {accuracy:.2f} % (was there already)", flush=True)
        return True
    command = [sys.executable, "-m", "tcformer", "train", *words, "--threads", "1"]
    command += ["--resume", "auto", "--output_dir", str(folder), "--record", str(record.resolve())]
    # Large pages make training on one thread an eighth faster where the system has them.
    environment = {"THP_MEM_ALLOC_ENABLE": "1", **os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said.txt").open("a") as said:
        status = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, check=False
        ).returncode
    accuracy = finished(record)
    if status or accuracy is None:
        told = re.findall(r"^error: .*", (folder / "said.txt").read_text(), re.M)
        print(f"{name}: status {status}. {told[-1] if told else said.name}", flush=True)
        return False
    print(f"{name}: {accuracy:.2f} %", flush=True)
    return True


def finished(record: Path) -> float | None:
    """Top-1 of the last epoch if the run came to its end."""
    with contextlib.suppress(UserError):
        content = read_record(record)
        if content["status"] == "finished":
            return content["epochs"][-1]["test_acc1"]
    return None


if __name__ == "__main__":
    raise SystemExit(main())
