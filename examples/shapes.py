"""Drawn pictures for the examples: discs, squares and triangles on a noisy ground.

Nothing is downloaded. Picture `number` of a `seed` is always the same one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

KINDS = ("disc", "square", "triangle")
MEAN, STD = 0.45, 0.25


class Shape(NamedTuple):
    """One object of a picture, in pixels."""

    kind: int  # 1 disc, 2 square, 3 triangle
    outline: list[tuple[float, float]]  # its polygon, (x, y)
    points: list[tuple[float, float]]  # top, bottom left, bottom right

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        xs, ys = zip(*self.outline, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def draw(
    number: int, size: int, *, most: int = 3, seed: int = 0
) -> tuple[Image.Image, list[Shape]]:
    """Draw a picture of `size` x `size` pixels with one to `most` shapes, which never overlap."""
    random = np.random.default_rng([seed, number])
    ground = random.uniform(60, 130, 3) + random.normal(0, 12, (size, size, 3))
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    shapes: list[Shape] = []
    for _ in range(random.integers(1, most + 1)):
        for _attempt in range(20):
            shape = _place(random, size)
            if all(_apart(shape.box(), other.box()) for other in shapes):
                break
        else:
            continue
        shapes.append(shape)
        # A kind has its hue: a minute on a CPU is short for learning forms alone.
        colour = random.uniform(20, 120, 3)
        colour[shape.kind - 1] = random.uniform(180, 250)
        pen.polygon(shape.outline, fill=tuple(int(c) for c in colour))
    return picture, shapes


def _place(random: np.random.Generator, size: int) -> Shape:
    radius = random.uniform(0.11, 0.22) * size
    x, y = random.uniform(radius + 1, size - radius - 1, 2)
    kind = int(random.integers(1, len(KINDS) + 1))
    left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
    if kind == 1:
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outline = [(x + radius * np.cos(a), y + radius * np.sin(a)) for a in turns]
        points = [(x, top), (left, y), (right, y)]
    elif kind == 2:
        outline = [(left, top), (right, top), (right, bottom), (left, bottom)]
        points = [(x, top), (left, bottom), (right, bottom)]
    else:
        outline = [(x, top), (right, bottom), (left, bottom)]
        points = [(x, top), (left, bottom), (right, bottom)]
    return Shape(kind, [(float(a), float(b)) for a, b in outline], points)


def _apart(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def to_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) float, normalised to about -2..2."""
    pixels = torch.tensor(np.asarray(picture)).permute(2, 0, 1).float() / 255
    return (pixels - MEAN) / STD


def segmentation_batch(
    first: int, count: int, size: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Pictures (count, 3, size, size) and labels (count, size, size): 0 ground, 1 to 3 kinds."""
    images, labels = [], []
    for number in range(first, first + count):
        picture, shapes = draw(number, size, seed=seed)
        label = Image.new("L", (size, size))
        for shape in shapes:
            ImageDraw.Draw(label).polygon(shape.outline, fill=shape.kind)
        images.append(to_tensor(picture))
        labels.append(torch.tensor(np.asarray(label)).long())
    return torch.stack(images), torch.stack(labels)


def classification_batch(
    first: int, count: int, size: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Pictures (count, 3, size, size) of one shape each, and its kind (count,), 0 to 2."""
    drawn = [draw(number, size, most=1, seed=seed) for number in range(first, first + count)]
    labels = torch.tensor([shapes[0].kind - 1 for _, shapes in drawn])
    return torch.stack([to_tensor(picture) for picture, _ in drawn]), labels


def mean_iou(predicted: Tensor, labels: Tensor) -> float:
    """Mean intersection over union of ground and kinds, in percent."""
    found = []
    for kind in range(len(KINDS) + 1):
        ours, theirs = predicted == kind, labels == kind
        union = (ours | theirs).sum()
        if union:
            found.append(((ours & theirs).sum() / union).item())
    return 100 * sum(found) / len(found)


def write_coco(folder: Path, counts: dict[str, int], size: int, *, seed: int = 0) -> None:
    """Write pictures in the layout of COCO 2017: SPLIT2017/*.png and annotations/*.json.

    Args:
        folder: where; created.
        counts: pictures of each split, such as {"train": 64, "val": 16}.
        size: side of the pictures in pixels.
        seed: another seed draws other pictures.
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    number = 0
    for split, count in counts.items():
        images, annotations = [], []
        (folder / f"{split}2017").mkdir(exist_ok=True)
        for _ in range(count):
            number += 1
            picture, shapes = draw(number, size, seed=seed)
            name = f"{number:012d}.png"
            picture.save(folder / f"{split}2017" / name)
            images.append({"id": number, "file_name": name, "height": size, "width": size})
            for shape in shapes:
                left, top, right, bottom = shape.box()
                points = [coordinate for x, y in shape.points for coordinate in (x, y, 2)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": shape.kind,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                        "segmentation": [[c for point in shape.outline for c in point]],
                        "keypoints": points,
                        "num_keypoints": len(shape.points),
                    }
                )
        categories = [
            {"id": kind, "name": name, "keypoints": ["top", "left", "right"]}
            for kind, name in enumerate(KINDS, 1)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        for kind in ("instances", "person_keypoints"):
            (folder / "annotations" / f"{kind}_{split}2017.json").write_text(json.dumps(content))
