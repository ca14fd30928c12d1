"""What is fed in: photographs of a folder, or drawn pictures with calm and with detailed parts.

The cost of clustering depends on the data: in noise every row is easy and no region is flat. So the
default is drawn like a photograph: a gradient, shapes of one colour, shapes with texture of several
scales, and the faint noise of a sensor over everything.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from tcformer.data.folder import images_below
from tcformer.data.spec import IMAGENET_MEAN, IMAGENET_STD
from tcformer.errors import UserError
from tcformer.images import IMAGE_EXTENSIONS, LeftOut, UnreadableImageError, decode_rgb

NUM_BATCHES = 4
"""Batches that take turns, so that no cache holds the one input."""

POOL = 24
"""Distinct pictures; further images are their mirror images and rotations."""

SENSOR_NOISE = 2.0
"""Standard deviation in units of 1/255: exactly equal pixels are rare in photographs."""

SHAPES = 14
TEXTURES = (0.0, 0.0, 6.0, 20.0, 45.0)


@functools.lru_cache(maxsize=32)
def picture(seed: int, side: int) -> NDArray[np.uint8]:
    """Draw one picture, (side, side, 3)."""
    draw = np.random.default_rng(seed)
    top, bottom = draw.uniform(30, 240, (2, 3))
    height = np.linspace(0, 1, side)[:, None, None]
    canvas = np.broadcast_to(top * (1 - height) + bottom * height, (side, side, 3)).copy()
    grain = _texture(draw, side)
    for _ in range(SHAPES):
        mask = np.asarray(_shape(draw, side), dtype=bool)
        texture = float(draw.choice(TEXTURES))
        canvas[mask] = draw.uniform(10, 245, 3) + texture * np.roll(grain, side // 3, 0)[mask]
    canvas += draw.normal(0, SENSOR_NOISE, canvas.shape)
    pixels: NDArray[np.uint8] = canvas.clip(0, 255).astype(np.uint8)
    pixels.flags.writeable = False  # the next caller gets the same array
    return pixels


def _shape(draw: np.random.Generator, side: int) -> Image.Image:
    """The mask of a disc, a leaning box, or a band over the full width."""
    mask = Image.new("1", (side, side))
    pen = ImageDraw.Draw(mask)
    x, y = draw.uniform(0, side, 2)
    size = side * draw.uniform(0.05, 0.3)
    kind = int(draw.integers(3))
    if kind == 0:
        pen.ellipse([x - size, y - size, x + size, y + size], fill=1)
    elif kind == 1:
        lean = draw.uniform(-0.5, 0.5) * size
        corners = [(x - size, y - size), (x + size, y - size + lean), (x + size, y + size)]
        pen.polygon([*corners, (x - size + lean, y + size)], fill=1)
    else:
        swing = draw.uniform(0.02, 0.1) * side
        across = np.linspace(0, side, 40)
        level = y + swing * np.sin(across / side * draw.uniform(2, 9))
        edge = list(zip(across.tolist(), level.tolist(), strict=True))
        pen.polygon([*edge, (side, min(side, y + size)), (0, min(side, y + size))], fill=1)
    return mask


def _texture(draw: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Detail of all scales, standard deviation one, (side, side, 1)."""
    total = np.zeros((side, side))
    cells = 4
    while cells <= side:
        coarse = Image.fromarray(draw.normal(0, 1, (cells, cells)).astype(np.float32))
        total += np.asarray(coarse.resize((side, side), Image.Resampling.BILINEAR))
        cells *= 3
    texture: NDArray[np.float64] = total / max(total.std(), 1e-6)
    return texture[:, :, None]


def pictures(count: int, side: int, folder: Path | None = None) -> NDArray[np.uint8]:
    """(count, side, side, 3): drawn, or the folder's photographs, cropped square and resized.

    Raises:
        UserError: there is no readable picture in the folder.
    """
    if folder is None:
        pool = [picture(seed, side) for seed in range(min(count, POOL))]
    else:
        pool = [_fit(image, side) for image in read_folder(folder, limit=max(count, 1))]
    return np.stack([_variant(pool, index) for index in range(count)])


def _variant(pool: Sequence[NDArray[np.uint8]], index: int) -> NDArray[np.uint8]:
    turn, which = divmod(index, len(pool))
    image = np.rot90(pool[which], turn % 4)
    return image[:, ::-1] if turn // 4 % 2 else image


def read_folder(folder: Path, limit: int) -> list[Image.Image]:
    """Up to `limit` images anywhere below a folder, in the order of their names.

    Raises:
        UserError: no such folder, or no image in it that can be read.
    """
    files = image_files(folder)[:limit]
    images = []
    for file in files:
        try:
            images.append(decode_rgb(file.read_bytes()))
        except (OSError, UnreadableImageError):
            continue
    if not images:
        raise UserError(
            f"none of the {len(files)} images tried in {folder} can be read; name another folder."
        )
    return images


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, by name.

    Raises:
        UserError: it is no folder, or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one that holds photographs.")
    files = sorted(Path(file) for file in images_below(folder, LeftOut()))
    if not files:
        raise UserError(
            f"there is no image in {folder}; name a folder with files that end in "
            f"{', '.join(IMAGE_EXTENSIONS)}."
        )
    return files


def _fit(image: Image.Image, side: int) -> NDArray[np.uint8]:
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    resized = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)


def batches(
    batch: int,
    side: int,
    *,
    folder: Path | None = None,
    device: torch.device,
    count: int = NUM_BATCHES,
) -> list[Tensor]:
    """Several normalised batches (B, 3, side, side) float32 on the device."""
    images = pictures(batch * count, side, folder)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    found = []
    for start in range(0, batch * count, batch):
        pixels = torch.from_numpy(images[start : start + batch].copy()).permute(0, 3, 1, 2)
        normalised = (pixels.float() / 255 - mean) / std
        found.append(normalised.contiguous().to(device))
    return found
