"""Train the networks of docs/results.md, one record a run.

    python benchmarks/learning.py digits
    python benchmarks/learning.py cifar10 --data-path DATA
    python benchmarks/learning.py cifar10-light --data-path DATA
    python benchmarks/learning.py cifar10-full --data-path DATA
    python benchmarks/learning.py cifar10-full-light --data-path DATA

Each set is trained with TCFormer, TCFormerV2 and the grid twin, timm's PVTv2 of the same size, by
the same recipe, one thread a run. What is finished already is left alone and what was interrupted
goes on, so the command can be given again. `--seeds` and `--models` choose. Of the first two sets
of CIFAR-10 one seed of all three networks takes about half an hour on two cores. The full sets
are the whole schedule and want a GPU.

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
from dataclasses import dataclass
from pathlib import Path

from tcformer.errors import UserError
from tcformer.training.record import read_record

ROOT = Path(__file__).parents[1]
NANO = ("tcformer_nano", "tcformerv2_nano", "pvt_v2_b0")
LIGHT = ("tcformer_light", "tcformerv2_light", "pvt_v2_b1")


@dataclass(frozen=True)
class Set:
    """What is trained on one data set.

    Attributes:
        models: networks of one size.
        seeds: by default.
        config: recipe, with {model} where each network has its own.
        options: what differs from the recipe.
        needs_data: whether --data-path must be given.
    """

    models: tuple[str, ...]
    seeds: tuple[int, ...]
    config: str
    options: tuple[str, ...] = ()
    needs_data: bool = False


SETS = {
    "digits": Set(NANO, (0, 1, 2, 3, 4), "configs/digits/{model}.py"),
    "cifar10": Set(NANO, (0,), "configs/cifar10/cpu.py", needs_data=True),
    "cifar10-light": Set(LIGHT, (0,), "configs/cifar10/cpu.py", ("--epochs", "1"), True),
    "cifar10-full": Set(NANO, (0, 1, 2), "configs/cifar10/{model}.py", needs_data=True),
    "cifar10-full-light": Set(LIGHT, (0, 1, 2), "configs/cifar10/{model}.py", needs_data=True),
}


def main() -> int:
    """Run what is not finished yet; 1 if a run failed."""
    options = parse()
    chosen = SETS[options.set]
    models, seeds = options.models or chosen.models, options.seeds or chosen.seeds
    jobs = [(model, seed) for seed in seeds for model in models]
    with ThreadPoolExecutor(options.jobs or len(models)) as pool:
        done = list(pool.map(lambda job: run(options, chosen, *job), jobs))
    return 0 if all(done) else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data-path", type=Path, help="folder that holds CIFAR-10")
    parser.add_argument("--models", nargs="+", choices=sorted({*NANO, *LIGHT}))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--jobs", type=int, help="runs at a time; all models of a seed if left out")
    parser.add_argument("--work", type=Path, default=Path("work_dirs", "learning"))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "learning")
    options, rest = parser.parse_known_args()
    # What is left goes to `tcformer train`: a trial has --epochs 1.
    options.rest = rest
    chosen = SETS[options.set]
    if chosen.needs_data and options.data_path is None:
        parser.error(f"{options.set} needs --data-path, the folder that holds CIFAR-10")
    if options.models and not set(options.models) <= set(chosen.models):
        parser.error(f"{options.set} is trained with {', '.join(chosen.models)}")
    if options.jobs is not None and options.jobs < 1:
        parser.error("--jobs must be 1 or more")
    return options


def run(options: argparse.Namespace, chosen: Set, model: str, seed: int) -> bool:
    """Train once unless it is done; whether there is a finished record now."""
    name = f"{options.set}-{model}-seed{seed}"
    words = [chosen.config.format(model=model), "--model", model, *chosen.options]
    if options.data_path is not None:
        words += ["--data-path", str(options.data_path.resolve())]
    words += [*options.rest, "--seed", str(seed)]
    return train_once(name, words, options.work / name, options.output / f"{name}.json")


def train_once(name: str, words: list[str], folder: Path, record: Path) -> bool:
    """`tcformer train` with these words on one thread, or what is left of it.

    Args:
        name: by which the terminal tells of it.
        words: recipe and options.
        folder: for weights, logs and checkpoints.
        record: file of the record; a finished one is left alone.

    Returns:
        Whether there is a finished record now.
    """
    if (accuracy := finished(record)) is not None:
        print(f"{name}: {accuracy:.2f} % (was there already)", flush=True)
        return True
    folder = folder.resolve()
    command = [sys.executable, "-m", "tcformer", "train", *words]
    command += ["--threads", "1", "--resume", "auto"]
    command += ["--output_dir", str(folder), "--record", str(record.resolve())]
    # Large pages make training on one thread an eighth faster where the system has them.
    environment = {"THP_MEM_ALLOC_ENABLE": "1", **os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said.txt").open("a") as said:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, check=False
        )
    accuracy = finished(record)
    if done.returncode or accuracy is None:
        told = re.findall(r"^error: .*", (folder / "said.txt").read_text(), re.M)
        print(f"{name}: status {done.returncode}. {told[-1] if told else said.name}", flush=True)
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
