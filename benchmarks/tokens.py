"""How large tokens are, and whether detail really gets the small ones.

    python benchmarks/tokens.py --checkpoint FILE [FILE ...] --data-path DATA
    python benchmarks/tokens.py --config configs/digits/tcformer_nano.py --checkpoint FILE
    python benchmarks/tokens.py --config configs/tcformer/tcformer_light.py --data-path IMAGENET

Of each network, after each merge, over test images: the sizes of the tokens; for each image the
rank correlation between the size of tokens and the gradient of brightness below them, with its
spread over images; the size by tenths of the cells, from the flattest to the most detailed. What
the measures are stands in tcformer.viz.tracking.

Three controls tell what the figures are due to: the same network with random weights (is it the
training?), tokens of another image laid over this one (is it the sizes, or where tokens lie?), and
squares of a grid, whose size cannot depend on anything. One record goes into
benchmarks/results/clustering.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sweep import keep, weights_of
from torch import Tensor

from tcformer.bench import record
from tcformer.data import build_dataset, build_loader, eval_transform
from tcformer.data.fingerprint import fingerprint
from tcformer.data.spec import IMAGENET_MEAN, IMAGENET_STD
from tcformer.errors import UserError
from tcformer.models import TCFormer
from tcformer.predict import load
from tcformer.training.options import build, load_config
from tcformer.viz import (
    gradient_magnitude,
    size_against_detail,
    sizes_by_detail,
    token_areas,
    unnormalize,
)
from tcformer.weights.metadata import merging_of
from tcformer.zoo import create_model

BATCH = 50
CELL = 16
"""Pixels of the smallest token."""


class Network(NamedTuple):
    """What is looked at."""

    name: str
    weights: dict[str, Any]
    model: TCFormer


def main() -> int:
    """Measure, keep the record."""
    options = parse()
    torch.set_num_threads(1)
    try:
        measure(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", nargs="*", default=[], help="trained weights")
    parser.add_argument("--config", default="configs/cifar10/cpu.py", help="whose data is read")
    parser.add_argument("--data-path", help="folder of the data")
    parser.add_argument("--images", type=int, default=1000, help="so many, evenly spread")
    parser.add_argument("--random", type=int, default=3, help="networks with random weights")
    parser.add_argument("--output", type=Path, help="file of the record")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> None:
    """All networks over the same images."""
    kept = record.begin(sys.argv[1:], torch.device("cpu"), "python benchmarks/tokens.py")
    values = load_config(options.config)
    if options.data_path is not None:
        values["data_path"] = options.data_path
    config = build(values)
    dataset = build_dataset(config.data, "val", eval_transform(config.augmentation))
    count = min(options.images, len(dataset))
    chosen = [number * len(dataset) // count for number in range(count)]
    loader = build_loader(dataset, chosen, batch_size=BATCH, num_workers=0)
    inputs = [batch.images for batch in loader]
    seen = (unnormalize(batch, mean=IMAGENET_MEAN, std=IMAGENET_STD) for batch in inputs)
    gradients = [gradient_magnitude(image) for batch in seen for image in batch]
    size = gradients[0].shape
    kept |= {
        "config": options.config,
        "data": {"name": config.data.data_set, **fingerprint(dataset, config.data.data_path)},
        "images": count,
        "size": f"{size[0]}x{size[1]}",
        "mean_gradient": summary([float(gradient.mean()) for gradient in gradients]),
        "networks": [],
    }
    for network in networks(options, config.network.model):
        row = look(network, inputs, gradients)
        kept["networks"].append(row)
        label = next(iter(network.weights.items()))
        for stage in row["stages"]:
            print(f"{network.name}, {' '.join(map(str, label))}: {told(stage)}", flush=True)
    keep(kept, options.output, f"tokens-{config.data.data_set.lower()}.json")


def networks(options: argparse.Namespace, model: str) -> Iterator[Network]:
    """The trained ones, then of each of their kinds those with random weights."""
    kinds: list[tuple[str, dict[str, Any]]] = []
    for path in options.checkpoint:
        trained = load(path)
        kinds.append((trained.name, merging_of(trained.backbone)))
        yield Network(trained.name, weights_of(Path(path)), trained.backbone)
    distinct = [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]
    for name, merging in distinct or [(model, {})]:
        for seed in range(options.random):
            torch.manual_seed(seed)
            yield Network(name, {"random": seed}, create_model(name, **merging).eval())


def look(
    network: Network, inputs: list[Tensor], gradients: list[NDArray[np.float64]]
) -> dict[str, Any]:
    """What a network does to the images, after each merge."""
    stages: list[list[NDArray[np.int64]]] = [[], [], []]
    with torch.inference_mode():
        for batch in inputs:
            for maps, tokens in zip(stages, network.model.forward_tokens(batch)[1:], strict=True):
                maps += list(tokens.layout.cell_to_token.numpy())
    return {
        "model": network.name,
        "weights": network.weights,
        "merging": merging_of(network.model),
        "stages": [
            {"stage": number, **measured(maps, gradients)} for number, maps in enumerate(stages, 2)
        ],
    }


def measured(
    maps: Sequence[NDArray[np.int64]], gradients: Sequence[NDArray[np.float64]]
) -> dict[str, Any]:
    """Of one stage: sizes, correlations, controls."""
    areas = [token_areas(one, gradients[0].shape) for one in maps]
    every = np.concatenate(areas)
    # A token at the rim can be less than a cell.
    steps = np.floor(np.log2(np.maximum(every / CELL, 1))).astype(np.int64)
    squares = grid(maps[0], len(areas[0]), gradients[0].shape)
    laid = {"own": maps, "another_image": [*maps[1:], maps[0]], "grid": [squares] * len(maps)}
    tenths = np.log2([sizes_by_detail(*pair) for pair in zip(maps, gradients, strict=True)])
    return {
        "count": len(areas[0]),
        "area": {
            "quantiles": [float(q) for q in np.quantile(every, np.linspace(0, 1, 11))],
            "mean": float(every.mean()),
            "one_cell": 100 * float((every <= CELL).mean()),
            "largest": summary([float(one.max()) for one in areas]),
            # Tokens of 16 to 31 pixels, of 32 to 63, ...
            "doublings": (np.bincount(steps) / len(every)).round(6).tolist(),
        },
        "correlation": {
            weigh: {name: correlations(one, gradients, weigh) for name, one in laid.items()}
            for weigh in ("tokens", "insides", "cells")
        },
        "log2_area_by_tenth": [summary(column.tolist()) for column in tenths.T],
    }


def correlations(
    maps: Sequence[NDArray[np.int64]], gradients: Sequence[NDArray[np.float64]], weigh: str
) -> dict[str, Any]:
    """Size against detail of every image, summed up."""
    pairs = zip(maps, gradients, strict=True)
    return summary([size_against_detail(*pair, weigh=weigh) for pair in pairs])


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation, quartiles, share below zero, of those that are numbers."""
    there = np.array([value for value in values if np.isfinite(value)])
    if not there.size:
        return {"defined": 0}
    low, median, high = np.quantile(there, [0.25, 0.5, 0.75])
    numbers = {
        "mean": there.mean(),
        "sd": there.std(ddof=1) if there.size > 1 else 0.0,
        "low": low,
        "median": median,
        "high": high,
        "negative": 100 * (there < 0).mean(),
    }
    return {"defined": there.size, **{name: round(float(v), 4) for name, v in numbers.items()}}


def grid(one: NDArray[np.int64], tokens: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """A regular cut of the picture into about as many squares as there are tokens."""
    rows, columns = -(-size[0] // 4), -(-size[1] // 4)
    side = max(1, round((len(one) / tokens) ** 0.5))
    down, right = np.arange(rows) // side, np.arange(columns) // side
    return (down[:, None] * (right[-1] + 1) + right).reshape(-1)


def told(stage: dict[str, Any]) -> str:
    """One line for the terminal."""
    found = stage["correlation"]
    ways = (("tokens", "own"), ("tokens", "another_image"), ("cells", "own"))
    parts = [
        f"{weigh} ({name}) {one['mean']:+.2f} +- {one['sd']:.2f}"
        for weigh, name in ways
        if (one := found[weigh][name])["defined"]
    ]
    return f"stage {stage['stage']}: {', '.join(parts) or 'one token'}"


if __name__ == "__main__":
    raise SystemExit(main())
