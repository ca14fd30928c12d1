"""Drawn images to detect things in: discs, squares and triangles on a noisy ground.

Image `number` of a `seed` is always the same one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tcformer.data.keypoints.annotations import CocoFile

KINDS = ("disc", "square", "triangle")


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
        color = random.uniform(20, 120, 3)
        color[shape.kind - 1] = random.uniform(180, 250)
        pen.polygon(shape.outline, fill=tuple(int(c) for c in color))
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


def draw_coco(
    first: int, count: int, size: int, *, seed: int = 0
) -> tuple[CocoFile, dict[int, Image.Image]]:
    """Draw `count` images after the `first` ones: annotations in COCO's form, and images by id."""
    entries: dict[int, Any] = {}
    notes: list[dict[str, Any]] = []
    images = {}
    for number in range(first + 1, first + count + 1):
        images[number], shapes = draw(number, size, seed=seed)
        name = f"{number:012d}.png"
        entries[number] = {"id": number, "file_name": name, "height": size, "width": size}
        for shape in shapes:
            left, top, right, bottom = shape.box()
            notes.append(
                {
                    "id": len(notes) + 1,
                    "image_id": number,
                    "category_id": shape.kind,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "segmentation": [[c for point in shape.outline for c in point]],
                    "keypoints": [c for x, y in shape.points for c in (x, y, 2)],
                    "num_keypoints": len(shape.points),
                }
            )
    categories: dict[int, Any] = {
        kind: {"id": kind, "name": name, "keypoints": ["top", "left", "right"]}
        for kind, name in enumerate(KINDS, 1)
    }
    return CocoFile(entries, notes, categories), images
