"""Keep ratio against time and accuracy on the embedded digits.

    python benchmarks/keep_ratio.py

Trains the recipe of configs/digits once for every ratio and seed, evaluates the last (averaged)
weights, then measures the time of a forward pass of all ratios in turns, at the size of the digits
and at 224 px. Writes one record into benchmarks/results; `make docs` puts it into docs/v2.md.
A trial: --ratios 0.25 1 --seeds 0 --epochs 1 --rounds 2 --output /tmp
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from tcformer.bench import record, timing
from tcformer.models import create_model
from tcformer.models.flops import geometry, published_flops
from tcformer.models.merging import merge_options
from tcformer.tasks.classification import run
from tcformer.training.options import build, load_config

RATIOS = (0.1, 0.25, 0.5, 0.75)
SEEDS = (0, 1, 2)
SIZES = ((32, 64), (224, 8))
"""Side of the images and batch of the time measurements: the digits', and ImageNet's."""


def main() -> None:
    """Train, measure, keep the record."""
    options = parse()
    device = torch.device("cpu")
    kept = record.begin([], device)
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    kept["command"] = shlex.join(["python", "benchmarks/keep_ratio.py", *words])
    settings = load_config(options.config)
    kept |= {"config": options.config, "model": settings["model"]}
    if options.epochs is not None:
        settings["epochs"] = options.epochs
    settings |= {"eval_every": settings["epochs"], "threads": 1}
    jobs = [(settings, ratio, seed) for ratio in options.ratios for seed in options.seeds]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        trained = []
        for found in pool.map(train, jobs):
            trained.append(found)
            print(f"{len(trained)} of {len(jobs)} trained: {found}", flush=True)
    kept |= {"epochs": settings["epochs"], "seeds": options.seeds, "rounds": options.rounds}
    kept["torch_threads"] = torch.get_num_threads()
    times = {f"{side}x{side}": measure(settings, options, side, batch) for side, batch in SIZES}
    kept["batches"] = {f"{side}x{side}": batch for side, batch in SIZES}
    kept["ratios"] = []
    for ratio in options.ratios:
        runs = [found for found in trained if found["ratio"] == ratio]
        model = network(settings, ratio)
        row = {
            "ratio": ratio,
            "accuracy": [found["accuracy"] for found in runs],
            "training_seconds": [found["seconds"] for found in runs],
            "tokens": {size: tokens(model, size) for size in times},
            "gflops": {size: gflops(model, size) for size in times},
            "milliseconds": {size: found[ratio] for size, found in times.items()},
        }
        kept["ratios"].append(row)
        print(describe(row))
    path = record.keep(kept, "keep-ratio", options.output)
    print(f"wrote {path}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/digits/tcformer_nano.py")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--epochs", type=int, help="those of the recipe, if left out")
    parser.add_argument("--rounds", type=int, default=15, help="turns of the time measurement")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--output", type=Path, help="folder or file of the record")
    return parser.parse_args()


def train(job: tuple[dict, float, int]) -> dict[str, float]:
    """Train once; the top-1 of the last evaluation, in percent."""
    settings, ratio, seed = job
    with tempfile.TemporaryDirectory() as folder:
        values = {**settings, "keep_ratio": (ratio,), "seed": seed, "output_dir": folder}
        begin = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            run(build(values))
        seconds = time.perf_counter() - begin
        last = json.loads((Path(folder) / "log.txt").read_text().splitlines()[-1])
    return {"ratio": ratio, "seed": seed, "accuracy": last["test_acc1"], "seconds": seconds}


def network(settings: dict, ratio: float) -> torch.nn.Module:
    """The recipe's network with this keep ratio and random weights."""
    torch.manual_seed(0)
    options = merge_options(settings["model"], (ratio,), part_grids=settings.get("part_grids"))
    return create_model(settings["model"], num_classes=10, **options).eval()


def measure(settings: dict, options: argparse.Namespace, side: int, batch: int) -> dict:
    """Milliseconds an image of every ratio, all taking turns."""
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    models = {ratio: network(settings, ratio) for ratio in options.ratios}

    def step(model):
        def forward(_: int) -> None:
            with torch.inference_mode():
                model(images)

        return forward

    steps = {str(ratio): step(model) for ratio, model in models.items()}
    seconds = timing.interleaved(steps, device=torch.device("cpu"), rounds=options.rounds)
    return {
        ratio: {
            name: 1e3 * value / batch for name, value in timing.spread(seconds[str(ratio)]).items()
        }
        for ratio in options.ratios
    }


def tokens(model: torch.nn.Module, size: str) -> list[int]:
    """Tokens of the four stages for an image of this size."""
    side = int(size.split("x")[0])
    with torch.inference_mode():
        return [t.layout.num_tokens for t in model.forward_tokens(torch.zeros(1, 3, side, side))]


def gflops(model: torch.nn.Module, size: str) -> float:
    """By the published accounting."""
    side = int(size.split("x")[0])
    return round(sum(published_flops(geometry(model), side, side).values()) / 1e9, 4)


def describe(row: dict) -> str:
    """One line for the terminal."""
    accuracy = " ".join(f"{value:.1f}" for value in row["accuracy"])
    times = ", ".join(
        f"{found['median']:.2f} ms at {size}" for size, found in row["milliseconds"].items()
    )
    return f"keep ratio {row['ratio']}: top-1 {accuracy} %; {times}"


if __name__ == "__main__":
    main()
