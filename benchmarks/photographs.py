"""Fine-tune on a few hundred photographs: the commands of docs/results.md, timed.

    python benchmarks/photographs.py IMAGENET/val --start WEIGHTS --about "..." [--seeds 0 1]

IMAGENET/val is a validation set of ImageNet: a folder for each of the 1000 synsets, of which the
first photograph is taken. They are sorted into the few broad classes of `GROUPS` and split into
train/ and val/ by a fixed seed; no synset is in both, so what is measured is whether a bird is
recognised of a species never seen. WEIGHTS is the network to start from, and --about says in words
where it comes from. The record has figures only, no photographs.

Times are those of one thread, imports and evaluations included: of the processor, and of the wall.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from finetuning import by_seed, commands, empty_row, examine, measured, prepare

from tcformer.bench import record
from tcformer.data.fingerprint import fingerprint
from tcformer.data.folder import images_below
from tcformer.errors import UserError
from tcformer.images import LeftOut
from tcformer.predict import labeled_folder, load

GROUPS = {
    "bird": "7-24 80-100 127-146",
    "dog": "151-268",
    "invertebrate": "69-79 107-126 300-329",
    "mammal": "101-106 269-299 330-388",
    "plant or food": "924-957 959-967 969 984-998",
    "vehicle": "403-405 407 408 436 444 450 466 468 472 484 510 511 547 554 555 561 565 569 573 "
    "575 576 586 595 603 609 612 625 627 628 654 656 661 665 670 671 675 690 705 717 734 751 757 "
    "779 780 802 803 812 814 817 820 829 833 847 856 864 866 867 870 871 874 880 895 914",
}
"""Class -> numbers of ImageNet's classes. Mammals are those that are no dogs and live on land."""

TRAIN, VAL = 40, 19
"""Photographs of each class: the smallest has 59 synsets."""

SPLIT_SEED = 0


def numbers(text: str) -> list[int]:
    """The numbers of "7-9 12": 7, 8, 9, 12."""
    found: list[int] = []
    for word in text.split():
        first, _, last = word.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def chosen() -> dict[tuple[str, str], list[int]]:
    """(split, class) -> numbers of ImageNet's classes, drawn without regard to the photographs."""
    found = {}
    for name, text in GROUPS.items():
        drawn = random.Random(f"{SPLIT_SEED} {name}").sample(numbers(text), TRAIN + VAL)
        found["train", name], found["val", name] = sorted(drawn[:TRAIN]), sorted(drawn[TRAIN:])
    return found


def make_folder(source: Path, target: Path) -> None:
    """Copy the chosen photographs into target/train and target/val.

    Raises:
        UserError: a synset is missing or empty.
    """
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo("imagenet-1k").label_names()
    for (split, name), classes in chosen().items():
        folder = target / split / name
        folder.mkdir(parents=True)
        for number in classes:
            place = source / synsets[number]
            files = images_below(place, LeftOut()) if place.is_dir() else []
            photographs = [Path(file) for file in files]
            if not photographs:
                raise UserError(f"{place} has no photograph: name a validation set of ImageNet")
            shutil.copy(photographs[0], folder / f"{synsets[number]}{photographs[0].suffix}")


def main() -> None:
    """Measure, print, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="validation set of ImageNet")
    parser.add_argument("--start", type=Path, required=True, help="weights to start from")
    parser.add_argument("--about", required=True, help="what those were trained on, in words")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run at the same time")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--images", type=Path, help="folder for the pictures of the answers")
    options, more = parser.parse_known_args()  # what is left goes to `tcformer train`
    torch.set_num_threads(1)
    words = ["IMAGENET/val", "--start", options.start.name, "--about", options.about, "--seeds"]
    words += [*map(str, options.seeds), *more]
    kept = record.begin(words, torch.device("cpu"), "python benchmarks/photographs.py")
    start = load(checkpoint=options.start)
    kept["start"] = {
        "about": options.about,
        "model": start.name,
        "input_size": start.preprocessing.input_size,
        "epoch": start.epoch,
        "sha256": hashlib.sha256(options.start.read_bytes()).hexdigest()[:16],
    }
    lines = commands("## With photographs", "<!-- photographs -->")
    rows = [empty_row(line) for line in lines if line.startswith("tcformer train")]
    with tempfile.TemporaryDirectory() as place:
        pictures = Path(place) / "pictures"
        make_folder(options.source, pictures)
        describe(kept, pictures)

        def train(seed: int) -> Path:
            desk = prepare(Path(place) / str(seed))
            (desk / "pictures").symlink_to(pictures)
            (desk / "runs/cifar10").mkdir(parents=True)
            shutil.copy(options.start, desk / "runs/cifar10/best.safetensors")
            for row in rows:
                begun = time.monotonic()
                measured(row, seed, desk, more)
                row.setdefault("wall_seconds", {})[seed] = round(time.monotonic() - begun, 1)
            return desk

        with ThreadPoolExecutor(options.jobs) as pool:
            desk, *_ = pool.map(train, options.seeds)
        kept["confusion"] = examine(desk, "pictures", options.images)
    for row in rows:
        row |= {name: by_seed(row[name]) for name in ("accuracy", "seconds", "wall_seconds")}
    kept["runs"], kept["jobs"] = rows, options.jobs
    print(f"wrote {record.keep(kept, 'photographs', options.output)}")


def describe(kept: dict[str, Any], pictures: Path) -> None:
    """What the data is, and what who always gives the same answer would reach."""
    kept["images"], kept["data"] = {}, {}
    for split in ("train", "val"):
        source = labeled_folder(pictures / split)
        kept["images"][split] = len(source)
        holder = type("Holder", (), {"source": source})
        kept["data"][split] = fingerprint(holder, pictures)
    largest = max(source.files.labels.tolist().count(label) for label in range(len(GROUPS)))
    kept["constant"] = round(100 * largest / len(source), 2)
    kept["groups"] = GROUPS


if __name__ == "__main__":
    main()
