"""Images in: reading for display, back from network input."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tcformer.errors import UserError
from tcformer.files import read_whole
from tcformer.images import (
    TooManyPixelsError,
    UnknownImageError,
    UnreadableImageError,
    decode_rgb,
)


def as_array(values: Any) -> NDArray[Any]:
    """A NumPy array from an array, a nested list or a torch tensor of any device and dtype."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16; float32 holds every value of it and of float16.
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def as_rgb(image: Any) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 from (H, W, 3), (H, W, 1) or (H, W) uint8, array or tensor.

    Raises:
        UserError: for any other shape or type; floats are not guessed at, see `unnormalise`.
    """
    pixels = as_array(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(
            f"an image has shape (height, width, 3), not {pixels.shape}: "
            "turn a batch of the network's inputs into images with viz.unnormalise"
        )
    if pixels.dtype != np.uint8:
        raise UserError(
            f"an image holds uint8 values from 0 to 255, not {pixels.dtype}: "
            "turn a batch of the network's inputs into images with viz.unnormalise"
        )
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def unnormalise(
    images: Any, *, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> NDArray[np.uint8]:
    """Undo a network's input normalisation: x * std + mean, clipped to [0, 1], as 8-bit images.

    Args:
        images: (C, H, W) or (B, C, H, W) float, C = 1 or 3; array or tensor.
        mean: mean of each channel (or one for all), on the scale of 0 to 1.
        std: standard deviation, likewise.

    Returns:
        (H, W, 3) or (B, H, W, 3) uint8; one channel is repeated three times.
    """
    values = as_array(images).astype(np.float64)
    if values.ndim not in (3, 4) or values.shape[-3] not in (1, 3):
        raise UserError(
            f"network inputs have shape (3, height, width) or (batch, 3, height, width), "
            f"not {values.shape}"
        )
    channels = values.shape[-3]
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (1, channels):
            raise UserError(f"{name} has {len(numbers)} values for {channels} channels")
    shape = (-1, 1, 1)
    values = values * np.reshape(std, shape) + np.reshape(mean, shape)
    pixels = np.floor(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = np.moveaxis(pixels, -3, -1)
    return np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels


def read_image(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """Read an image file by the rule of `tcformer.images.to_rgb`: (H, W, 3) uint8.

    Raises:
        UserError: missing, unreadable, not an image, damaged, or absurdly large.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the image files, for example {path}/*.jpg")
    try:
        return np.asarray(decode_rgb(read_whole(path)))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read: you lack the permission") from None
    except UnknownImageError as error:
        raise UserError(f"{path} is not an image that can be shown: {error}") from None
    except TooManyPixelsError as error:
        raise UserError(
            f"{path} has too many pixels to be opened safely ({error}): shrink it first"
        ) from None
    except UnreadableImageError as error:
        raise UserError(f"{path} is a damaged image: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def resize_image(image: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to (height, width) with Pillow's antialiased bicubic filter."""
    pixels = as_rgb(image)
    if pixels.shape[:2] == tuple(size):
        return np.ascontiguousarray(pixels)
    height, width = size
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.asarray(resized)
