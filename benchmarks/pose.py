"""Pose without a network: what each codec can reach at best, and how fast people are cut out.

    python benchmarks/pose.py COCO

COCO is a folder of COCO-WholeBody as docs/pose.md shows it; the val split is used (the example of
14 people that the data set comes with will do). Perfect heat maps of its people are decoded and
evaluated: the ceiling of a codec. Then people are cut out for training, with all augmentation, in
this process. Writes one record into benchmarks/results, which docs/pose.md quotes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from tcformer.bench import record
from tcformer.data.keypoints.augment import PoseAugmentation
from tcformer.data.keypoints.codec import METHODS, HeatmapCodec
from tcformer.data.keypoints.dataset import KeypointDataset
from tcformer.data.keypoints.people import WholeBodySource
from tcformer.data.seeding import SeededDataset
from tcformer.tasks.pose.average_precision import evaluate_keypoints
from tcformer.tasks.pose.results import results_of_image

SIZES = ((192, 256), (288, 384))


def main() -> None:
    """Measure, print, keep the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", help="folder of COCO-WholeBody")
    parser.add_argument("--seconds", type=float, default=10.0, help="of cutting people out")
    parser.add_argument("--output", type=Path, default=None, help="folder or file of the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = record.begin(["COCO"], torch.device("cpu"), "python benchmarks/pose.py")
    source = WholeBodySource(options.data, "val", "truth")
    kept["people"] = len(source)
    kept["ceilings"] = {
        f"{method} {height}x{width}": ceiling(
            source, HeatmapCodec((width, height), (width // 4, height // 4), method=method)
        )
        for method in METHODS
        for width, height in SIZES
    }
    for name, values in kept["ceilings"].items():
        print(name, {part: round(value, 3) for part, value in values.items()})
    kept["crops_per_second"] = {
        f"{height}x{width}": speed(source, (width, height), options.seconds / 2)
        for width, height in SIZES
    }
    print(kept["crops_per_second"])
    print(record.keep(kept, "pose", options.output))


def ceiling(source: WholeBodySource, codec: HeatmapCodec) -> dict[str, float]:
    """AP of each part for heat maps that are the targets themselves."""
    by_image: dict[int, list[tuple[np.ndarray, np.ndarray, float]]] = {}
    for i in range(len(source)):
        subject = source.subject(i)
        crop = codec.crop(subject.box)
        points = crop.to_input(subject.points, *codec.input_size)
        target, _ = codec.encode(points, subject.visible)
        found, scores = codec.decode(torch.from_numpy(target)[None], [crop])
        by_image.setdefault(subject.image_id, []).append((found[0], scores[0], crop.area))
    entries = []
    for image, people in by_image.items():
        points, scores, areas = (np.stack([p[k] for p in people]) for k in range(3))
        entries += results_of_image(
            image, points, scores, areas, [1.0] * len(people), source.layout
        )
    assert source.truth is not None
    table = evaluate_keypoints(source.truth, entries)
    return {part: values["AP"] for part, values in table.items()}


def speed(source: WholeBodySource, size: tuple[int, int], seconds: float) -> float:
    """Training samples a second: read, decoded, varied, cut, normalised, with their targets."""
    width, height = size
    codec = HeatmapCodec(size, (width // 4, height // 4))
    people = SeededDataset(KeypointDataset(source, codec, PoseAugmentation()))
    for i in range(len(people)):
        people[0, i]
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        people[1 + count // len(people), count % len(people)]
        count += 1
    return round(count / (time.perf_counter() - began), 1)


if __name__ == "__main__":
    main()
