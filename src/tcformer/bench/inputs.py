"""What is fed in: photographs of a folder, or drawn pictures with calm and with detailed parts.

The cost of clustering depends on the data: in noise every row is easy and no region is flat. So the
default is drawn like a photograph: a gradient, shapes of one color, shapes with texture of several
scales, and the faint noise of a sensor over everything.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from tcformer.data.folder import images_below
from tcformer.data.spec import IMAGENET_MEAN, IMAGENET_STD
from tcformer.drawn import photograph
from tcformer.errors import UserError
from tcformer.images import IMAGE_EXTENSIONS, LeftOut, UnreadableImageError, decode_rgb

NUM_BATCHES = 4
"""Batches that take turns, so that no cache holds the one input."""

POOL = 24
"""Distinct drawn pictures; further images are their mirror images and rotations."""


def pictures(count: int, side: int, folder: Path | None = None) -> NDArray[np.uint8]:
    """(count, side, side, 3): drawn, or the folder's photographs, cropped square and resized.

    Raises:
        UserError: there is no readable picture in the folder.
    """
    if folder is None:
        pool = [photograph(seed, side) for seed in range(min(count, POOL))]
    else:
        files = image_files(folder)[:count]
        pool = [image for file in files if (image := _read(file, side)) is not None]
        if not pool:
            raise UserError(
                f"none of the {len(files)} images tried in {folder} can be read; "
                "name another folder."
            )
    found = []
    for index in range(count):
        turn, which = divmod(index, len(pool))
        image = np.rot90(pool[which], turn % 4)
        found.append(image[:, ::-1] if turn // 4 % 2 else image)
    return np.stack(found)


def _read(file: Path, side: int) -> NDArray[np.uint8] | None:
    try:
        image = decode_rgb(file.read_bytes())
    except (OSError, UnreadableImageError):
        return None
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, by name.

    Raises:
        UserError: it is no folder, or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one that holds photographs.")
    files = sorted(Path(file) for file in images_below(folder, LeftOut()))
    if not files:
        endings = ", ".join(IMAGE_EXTENSIONS)
        raise UserError(f"there is no image in {folder}; name a folder of files in {endings}.")
    return files


def batches(
    batch: int,
    side: int,
    *,
    folder: Path | None = None,
    device: torch.device,
    count: int = NUM_BATCHES,
) -> list[Tensor]:
    """Several normalized batches (B, 3, side, side) float32 on the device."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = torch.from_numpy(pictures(batch * count, side, folder)).permute(0, 3, 1, 2)
    images = ((pixels.float() / 255 - mean) / std).contiguous().to(device)
    return list(images.split(batch))
