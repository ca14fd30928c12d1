"""What clustering costs and brings: sweeps of the keep ratio and of k, the number of neighbors.

    python benchmarks/sweep.py train digits
    python benchmarks/sweep.py train cifar10 --data-path DATA
    python benchmarks/sweep.py evaluate --checkpoint FILE --data-path DATA
    python benchmarks/sweep.py time

`train` trains a network for each keep ratio at k = 5 and for each k at keep ratio 0.25: digits by
the whole recipe, CIFAR-10 for one epoch, one record each. Finished runs are left alone and
interrupted ones go on. A network of the published setting with a finished record of
benchmarks/learning.py is not trained again.

`evaluate` takes a trained network and changes how it merges at test time: accuracy and time over
test images. `time` measures forward passes with random weights at several sizes. Both count
processor time of one thread, all settings in turn. Records go below benchmarks/results/clustering.

A merge of fewer tokens than k takes all of them for neighbors; records say how many there were.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from learning import ROOT, finished, train_once
from torch import Tensor, nn

from tcformer.bench import record
from tcformer.data import build_dataset, build_loader, eval_transform
from tcformer.data.fingerprint import fingerprint
from tcformer.errors import UserError
from tcformer.models import TCFormer
from tcformer.models.flops import geometry, published_flops
from tcformer.predict import load
from tcformer.runtime import timing
from tcformer.training.options import build, load_config
from tcformer.weights.metadata import merge_options, merging_of
from tcformer.weights.safe_torch import read_checkpoint
from tcformer.zoo import create_model

RATIOS, NEIGHBORS = (0.1, 0.5), (2, 3, 8, 12)
"""Besides the published setting, to train with."""

MORE_RATIOS = (0.1, 0.15, 0.35, 0.5, 0.75)
"""To evaluate and to time with."""

RESULTS = ROOT / "benchmarks" / "results"
SIZES = ((32, 64), (64, 32), (224, 4))
"""Side of the images and batch of the time measurements: digits, CIFAR-10, ImageNet."""

SETS = {
    "digits": ("configs/digits/{model}.py", []),
    "cifar10": ("configs/cifar10/cpu.py", ["--epochs", "1"]),
}


class Setting(NamedTuple):
    """How a network merges; by default as all published ones do."""

    ratio: float = 0.25
    k: int = 5

    def __str__(self) -> str:
        return f"ratio{self.ratio:g}-k{self.k}"


def settings(ratios: list[float], neighbors: list[int]) -> list[Setting]:
    """The published setting, then both sweeps."""
    swept = [*(Setting(ratio=ratio) for ratio in ratios), *(Setting(k=k) for k in neighbors)]
    return list(dict.fromkeys([Setting(), *swept]))


def main() -> int:
    """Do what the command line says; 1 if a training failed."""
    options = parse()
    try:
        return options.verb(options) or 0
    except (UserError, ValueError) as error:  # values out of range, said by the network
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)

    def verb(name: str, function: Callable[[argparse.Namespace], Any], text: str) -> Any:
        one = verbs.add_parser(name, help=text, description=text)
        one.set_defaults(verb=function)
        ratios = RATIOS if function is train else MORE_RATIOS
        one.add_argument("--ratios", type=float, nargs="*", default=list(ratios))
        one.add_argument("--neighbors", type=int, nargs="*", default=list(NEIGHBORS))
        folder = RESULTS / "clustering" if function is train else None
        one.add_argument("--output", type=Path, default=folder, help="place of the records")
        return one

    one = verb("train", train, "train a network for each setting and seed")
    one.add_argument("set", choices=SETS)
    one.add_argument("--data-path", type=Path, help="folder that holds CIFAR-10")
    one.add_argument("--model", default="tcformer_nano")
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    one.add_argument("--epochs", type=int, help="those of the recipe, if left out")
    one.add_argument("--jobs", type=int, default=1, help="trainings at a time, a thread each")
    one.add_argument("--work", type=Path, default=Path("work_dirs", "clustering"))

    one = verb("evaluate", evaluate, "change how a trained network merges")
    one.add_argument("--checkpoint", required=True, help="weights, with their class names")
    one.add_argument("--config", default="configs/cifar10/cpu.py", help="whose data is read")
    one.add_argument("--data-path", type=Path, help="folder that holds CIFAR-10")
    one.add_argument("--images", type=int, help="the first so many; all, if left out")
    one.add_argument("--name", help="of the weights, in the record; that of their folder")

    one = verb("time", measure, "forward passes of every setting")
    one.add_argument("--model", default="tcformer_nano")
    one.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def train(options: argparse.Namespace) -> int:
    """All seeds of all settings, a seed after the other: stopped early, whole seeds are there."""
    if options.set == "cifar10" and options.data_path is None:
        raise UserError("cifar10 needs --data-path, the folder that holds CIFAR-10")
    chosen = settings(options.ratios, options.neighbors)
    jobs = [(setting, seed) for seed in options.seeds for setting in chosen]
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda job: train_setting(options, *job), jobs))
    return 0 if all(done) else 1


def train_setting(options: argparse.Namespace, setting: Setting, seed: int) -> bool:
    """Train once, unless there is a finished record."""
    config, rest = SETS[options.set]
    if options.epochs is not None:
        rest = ["--epochs", str(options.epochs)]
    published = RESULTS / "learning" / f"{options.set}-{options.model}-seed{seed}.json"
    if setting == Setting() and not rest and finished(published) is not None:
        print(f"{published.stem}: trained by benchmarks/learning.py")
        return True
    name = f"{options.set}-{options.model}-{setting}-seed{seed}"
    words = [config.format(model=options.model), "--model", options.model, *rest]
    words += ["--keep-ratio", f"{setting.ratio:g}", "--k", str(setting.k), "--seed", str(seed)]
    if options.data_path is not None:
        words += ["--data-path", str(options.data_path.resolve())]
    options.output.mkdir(parents=True, exist_ok=True)
    return train_once(name, words, options.work / name, options.output / f"{name}.json")


def evaluate(options: argparse.Namespace) -> None:
    """Every setting sees every batch, one after the other; hits and processor time are added up."""
    torch.set_num_threads(1)
    kept = begin()
    trained = load(options.checkpoint)
    merging = merging_of(trained.backbone)
    values = {**load_config(options.config), "input_size": trained.preprocessing.input_size}
    if options.data_path is not None:
        values["data_path"] = str(options.data_path)
    config = build(values)
    dataset = build_dataset(config.data, "val", eval_transform(config.augmentation))
    count = min(options.images or len(dataset), len(dataset))
    models: dict[Setting, nn.Module] = {}
    for setting in settings(options.ratios, options.neighbors):
        swept = {"keep_ratio": [setting.ratio] * 3, "k": setting.k}
        model = create_model(trained.name, num_classes=trained.num_classes, **{**merging, **swept})
        model.load_state_dict(trained.network.state_dict())
        models[setting] = model.eval()
    hits, same = dict.fromkeys(models, 0), dict.fromkeys(models, 0)
    seconds: dict[Setting, list[float]] = {setting: [] for setting in models}
    loader = build_loader(dataset, list(range(count)), batch_size=64, num_workers=0)
    for number, batch in enumerate(loader):
        answers = {}
        for setting in turned(list(models), number):
            answers[setting], spent = forward(models[setting], batch.images)
            seconds[setting].append(spent / len(batch.images))
        for setting, answer in answers.items():
            best = answer.argmax(1)
            hits[setting] += int((best == batch.targets).sum())
            same[setting] += int((best == answers[Setting()].argmax(1)).sum())
        if number % 20 == 19:
            print(f"{number + 1} of {len(loader)} batches", flush=True)
    side = batch.images.shape[2]
    kept |= {
        **weights_of(Path(options.checkpoint), options.name),
        "model": trained.name,
        "trained_to_merge": {"keep_ratio": Setting().ratio, "k": Setting().k, **merging},
        "data": {"name": config.data.data_set, **fingerprint(dataset, config.data.data_path)},
        "images": count,
        "size": f"{side}x{batch.images.shape[3]}",
        "rows": [
            row | {"top1": 100 * hits[setting] / count, "same_answer": 100 * same[setting] / count}
            for setting, row in rows(models, side, seconds)
        ],
    }
    keep(kept, options.output, f"evaluate-{kept['checkpoint']}.json")


def measure(options: argparse.Namespace) -> None:
    """Forward passes with random weights."""
    torch.set_num_threads(1)
    kept = begin() | {"model": options.model, "rounds": options.rounds, "sizes": []}
    chosen = settings(options.ratios, options.neighbors)
    for side, batch in SIZES:
        images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        models = {setting: network(options.model, setting) for setting in chosen}
        seconds: dict[Setting, list[float]] = {setting: [] for setting in chosen}
        for number in range(-2, options.rounds):
            for setting in turned(chosen, number):
                _, spent = forward(models[setting], images)
                if number >= 0:  # two rounds to warm up
                    seconds[setting].append(spent / batch)
        found = [row for _, row in rows(models, side, seconds)]
        kept["sizes"].append({"size": f"{side}x{side}", "batch": batch, "rows": found})
    keep(kept, options.output, "time.json")


def rows(
    models: dict[Setting, nn.Module], side: int, seconds: dict[Setting, list[float]]
) -> list[tuple[Setting, dict[str, Any]]]:
    """What is known of each setting; times are an image's, batch by batch."""
    found = []
    for setting, model in models.items():
        ratios = [a / b for a, b in zip(seconds[setting], seconds[Setting()], strict=True)]
        kinds = {"milliseconds": [1e3 * s for s in seconds[setting]], "ratio_to_usual": ratios}
        spreads = {
            kind: {name: round(value, 4) for name, value in timing.spread(values).items()}
            for kind, values in kinds.items()
        }
        found.append((setting, {**setting._asdict(), **shapes(model, side), **spreads}))
        milliseconds, ratio = (one["median"] for one in spreads.values())
        print(f"{side} px, {setting}: {milliseconds:.2f} ms, x {ratio:.2f}", flush=True)
    return found


def begin() -> dict[str, Any]:
    """The record's circumstances, with this script's command line."""
    return record.begin(sys.argv[1:], torch.device("cpu"), "python benchmarks/sweep.py")


def keep(kept: dict[str, Any], target: Path | None, name: str) -> None:
    """Write the record; the page is of the newest, so an earlier one gives way."""
    (RESULTS / "clustering").mkdir(parents=True, exist_ok=True)
    print(f"wrote {record.keep(kept, 'clustering', target or RESULTS / 'clustering' / name)}")


def network(name: str, setting: Setting) -> nn.Module:
    """The network with random weights, always the same."""
    torch.manual_seed(0)
    return create_model(name, **merge_options(name, [setting.ratio], setting.k)).eval()


def weights_of(path: Path, name: str | None = None) -> dict[str, Any]:
    """Which weights these are: by name, by checksum, and how long they were trained.

    The epochs are read from what a run keeps beside its best weights: after which one they were
    saved, and how many its schedule has.
    """
    found: dict[str, Any] = {
        "checkpoint": name or path.resolve().parent.name,
        "tensors_sha256": read_checkpoint(path).meta.get("tensors_sha256"),
    }
    log, config = path.with_name("log.txt"), path.with_name("config.json")
    if path.stem == "best" and log.is_file() and config.is_file():
        tops = [json.loads(line).get("test_acc1") for line in log.read_text().splitlines()]
        known = [(top, -number) for number, top in enumerate(tops, 1) if top is not None]
        schedule = json.loads(config.read_text())["epochs"]
        found |= {"epochs": -max(known)[1], "of_epochs": schedule} if known else {}
    return found


def turned(chosen: list[Setting], number: int) -> list[Setting]:
    """The settings, another one first in each round: nobody always follows the same one."""
    first = number % len(chosen)
    return [*chosen[first:], *chosen[:first]]


def forward(model: nn.Module, images: Tensor) -> tuple[Tensor, float]:
    """Scores, and seconds of processor time."""
    with torch.inference_mode():
        start = time.process_time()
        return model(images), time.process_time() - start


def shapes(model: nn.Module, side: int) -> dict[str, Any]:
    """Tokens of the stages, neighbors in the merges, and GFLOPs by the published accounting."""
    assert isinstance(model, TCFormer)
    with torch.inference_mode():
        stages = [t.layout for t in model.forward_tokens(torch.zeros(1, 3, side, side))]
    counts = [layout.num_tokens for layout in stages]
    rules = [getattr(model, f"ctm{number}").rule for number in (1, 2, 3)]
    parts = [rule.plan(layout)[1] for rule, layout in zip(rules, stages, strict=False)]
    flops = published_flops(geometry(model), side, side)
    return {
        "tokens": counts,
        # No window has more tokens than it has; windows differ by few.
        "neighbours": [
            min(rule.k, -(-count // part))
            for rule, count, part in zip(rules, counts, parts, strict=False)
        ],
        "gflops": round(sum(flops.values()) / 1e9, 4),
    }


if __name__ == "__main__":
    raise SystemExit(main())
