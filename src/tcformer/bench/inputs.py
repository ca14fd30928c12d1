"""What is fed in: photographs of a folder, or drawn pictures with calm and with detailed parts.

The cost of clustering depends on the data: in noise every row is easy and no region is flat. So the
default is drawn like a photograph: a gradient, shapes of one colour, shapes with texture of several
scales, and the faint noise of a sensor over everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tcformer.data.folder import images_below
from tcformer.data.spec import IMAGENET_MEAN, IMAGENET_STD
from tcformer.drawn import photograph
from tcformer.errors import UserError
from tcformer.images import IMAGE_EXTENSIONS, LeftOut, UnreadableImageError, decode_rgb

NUM_BATCHES = 4
"""Batches that take turns, so that no cache holds the one input."""

POOL = 24
"""Distinct pictures; further images are their mirror images and rotations."""


def pictures(count: int, side: int, folder: Path | None = None) -> NDArray[np.uint8]:
    """(count, side, side, 3): drawn, or the folder's photographs, cropped square and resized.

    Raises:
        UserError: there is no readable picture in the folder.
    """
    if folder is None:
        pool = [photograph(seed, side) for seed in range(min(count, POOL))]
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
        normalized = (pixels.float() / 255 - mean) / std
        found.append(normalized.contiguous().to(device))
    return found
