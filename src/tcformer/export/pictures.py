"""Pictures to compare an exported model with its network on: the user's, or drawn scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from tcformer.errors import UserError
from tcformer.files import check_readable
from tcformer.images import UnreadableImageError, decode_rgb

NUM_SCENES = 4
NUM_EVEN = 3


def read_pictures(paths: Sequence[str | Path], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Image files, scaled to cover (height, width) and cut to it in the middle: (n, H, W, 3).

    Raises:
        UserError: a file is missing or not an image that can be read.
    """
    found = []
    for path in paths:
        try:
            image = decode_rgb(check_readable(path).read_bytes())
        except UnreadableImageError as problem:
            raise UserError(f"{path} cannot be read as an image: {problem}") from problem
        fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
        found.append(np.asarray(fitted))
    return np.stack(found)


def even(size: tuple[int, int]) -> NDArray[np.uint8]:
    """One color; two halves; squares of 8 px: (NUM_EVEN, H, W, 3).

    Most of their tokens are equal, so what a program does with equal values decides the clusters.
    """
    made = np.full((NUM_EVEN, *size, 3), (130, 120, 140), np.uint8)
    made[1, :, size[1] // 2 :] = (90, 60, 30)
    rows, columns = (np.arange(side) // 8 for side in size)
    made[2][(rows[:, None] + columns) % 2 == 1] = (240, 200, 20)
    return made


def scenes(size: tuple[int, int], count: int = NUM_SCENES) -> NDArray[np.uint8]:
    """Landscapes with things in them, (count, H, W, 3): the same for ever.

    They have what photographs have and noise has not: sharp edges, calm areas, one thing before
    another, texture at all scales, grain.
    """
    height, width = size
    made = []
    for number in range(count):
        draw = np.random.RandomState([0x5CE4E, number])
        sky, ground, hill = draw.uniform(90, 240, 3), draw.uniform(30, 150, 3), draw.uniform(0, 1)
        down = np.linspace(0, 1, height)[:, None, None]
        picture = sky * (1 - 0.5 * down) + 40 * _texture(draw, size)[..., None]
        edge = 0.45 + 0.1 * np.sin(np.linspace(0, 5, width) + 6 * hill)
        below = np.arange(height)[:, None] >= edge[None] * height
        picture[below] = (ground + 90 * _texture(draw, size)[..., None] - 30)[below]
        for _ in range(6):
            _put_thing(picture, draw)
        picture += draw.normal(0, 3, picture.shape)
        made.append(picture.clip(0, 255).astype(np.uint8))
    return np.stack(made)


def _texture(draw: np.random.RandomState, size: tuple[int, int]) -> NDArray[np.floating]:
    """Smooth noise at all scales, (H, W), about 0 to 1; weaker where finer, as in nature."""
    total, share = np.zeros(size), 0.5
    for cells in (2, 4, 8, 16, 32):
        noise = Image.fromarray(draw.uniform(0, 1, (cells, cells)).astype(np.float32))
        total += share * np.asarray(noise.resize(size[::-1], Image.Resampling.BICUBIC))
        share /= 2
    return total


def _put_thing(picture: NDArray[np.floating], draw: np.random.RandomState) -> None:
    """A ball, a box or a gable with light from above and a texture of its own."""
    height, width = picture.shape[:2]
    radius = draw.uniform(0.06, 0.2) * min(height, width)
    x, y = draw.uniform(0, width), draw.uniform(0.3, 0.95) * height
    corners = [(x - radius, y - radius), (x + radius, y + radius)]
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    kind = draw.randint(3)
    if kind == 0:
        pen.ellipse(corners, fill=255)
    elif kind == 1:
        pen.rectangle(corners, fill=255)
    else:
        pen.polygon([(x, y - radius), corners[1], (x - radius, y + radius)], fill=255)
    inside = np.asarray(mask) > 0
    light = (np.arange(height)[:, None] - y) / max(radius, 1) * -25
    colour = draw.uniform(10, 245, 3) + 50 * (_texture(draw, (height, width)) - 0.5)[..., None]
    picture[inside] = (colour + light[..., None])[inside]
