"""From a box in a photograph to the network's input and back: one affine map and its inverse.

Coordinates are pixels, (x, y), with whole numbers at the centers of pixels. `Crop` keeps the
center of a box and its size after padding; where the map's zero lies differs between the published
convention and UDP, which `unbiased` chooses:

* published (MMPose 0.x): W input columns cover the width of the box, with no half-pixel term: the
  middle of the box falls on column W / 2;
* UDP (Huang et al., CVPR 2020): columns 0 to W - 1 cover it, the middle falls on (W - 1) / 2,
  which makes mirroring the input and mirroring the output the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 1.25
"""The box is this much larger than the person on every axis."""


@dataclass(frozen=True)
class Crop:
    """An upright rectangle around a person (or a face), turned by `degrees`."""

    center: np.ndarray  # (2,) float64, x and y in the photograph
    size: np.ndarray  # (2,) float64, width and height in the photograph, padding included
    degrees: float = 0.0  # a positive one turns the content counter-clockwise as one sees it
    unbiased: bool = False  # whether UDP's convention holds

    @property
    def area(self) -> float:
        """Of the rectangle, in pixels of the photograph."""
        return float(self.size[0] * self.size[1])

    def matrix(self, width: int, height: int) -> np.ndarray:
        """From the photograph to an input of `width` times `height`: (2, 3) float64.

        In the published convention only the width of the rectangle counts, its height follows from
        the input's shape; in UDP's each axis has its own zoom, as W - 1 to H - 1 is not W to H.
        """
        end = 1 if self.unbiased else 0
        zoom_x = (width - end) / self.size[0]
        zoom_y = (height - end) / self.size[1] if self.unbiased else zoom_x
        turn = np.deg2rad(self.degrees)
        cos, sin = np.cos(turn), np.sin(turn)
        linear = np.array([[zoom_x * cos, zoom_x * sin], [-zoom_y * sin, zoom_y * cos]])
        middle = np.array([(width - end) / 2, (height - end) / 2])
        return np.concatenate([linear, (middle - linear @ self.center)[:, None]], axis=1)

    def to_input(self, points: np.ndarray, width: int, height: int) -> np.ndarray:
        """Points (..., 2) of the photograph in an input of `width` times `height`."""
        return apply(self.matrix(width, height), points)

    def to_photograph(self, points: np.ndarray, width: int, height: int) -> np.ndarray:
        """The inverse of `to_input`; with a heat map's width and height, from its cells."""
        return apply(inverse(self.matrix(width, height)), points)


def crop_of_box(
    box: np.ndarray, width: int, height: int, *, padding: float = PADDING, unbiased: bool = False
) -> Crop:
    """The rectangle of the input's shape around a box (4,) of x, y, width, height, then padded.

    Raises:
        ValueError: the box has no area, or is not finite.
    """
    x, y, w, h = (float(value) for value in box)
    if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
        raise ValueError(f"a box needs a width and a height above zero, not {[x, y, w, h]}")
    size = shaped(np.array([w, h]), width / height) * padding
    return Crop(np.array([x + w / 2, y + h / 2]), size, unbiased=unbiased)


def shaped(size: np.ndarray, aspect: float) -> np.ndarray:
    """The smallest width and height of ratio `aspect` that hold `size` (2,)."""
    w, h = float(size[0]), float(size[1])
    return np.array([w, w / aspect]) if w > aspect * h else np.array([h * aspect, h])


def after_mirroring(matrix: np.ndarray, width: int) -> np.ndarray:
    """The affine map (2, 3) of a photograph, that first mirrors it; `width` in pixels."""
    result = matrix.copy()
    result[:, 0] = -matrix[:, 0]
    result[:, 2] = matrix[:, 2] + matrix[:, 0] * (width - 1)
    return result


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An affine map (2, 3) applied to points (..., 2)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Of an affine map (2, 3)."""
    back = np.linalg.inv(matrix[:, :2])
    return np.concatenate([back, -(back @ matrix[:, 2])[:, None]], axis=1)


def warp(image: Tensor, matrix: np.ndarray, width: int, height: int) -> Tensor:
    """Resample a photograph (H, W, C) by `matrix` (2, 3): bilinear, black outside, not rounded.

    Returns:
        (C, height, width) float32.
    """
    back = inverse(matrix)
    # Only the part of a large photograph that the crop can touch is turned into floats.
    corners = apply(back, np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64))
    low = np.floor(corners.min(0)).astype(int) - 1
    high = np.ceil(corners.max(0)).astype(int) + 2
    full_h, full_w = image.shape[:2]
    x0, y0 = np.clip(low, 0, [full_w - 1, full_h - 1])
    x1, y1 = np.clip(high, [x0 + 1, y0 + 1], [full_w, full_h])
    part = image[y0:y1, x0:x1].permute(2, 0, 1).float().contiguous()
    xs = torch.arange(width, dtype=torch.float64)
    ys = torch.arange(height, dtype=torch.float64)[:, None]
    axes = []
    for row, origin, length in ((back[0], x0, x1 - x0), (back[1], y0, y1 - y0)):
        at = row[0] * xs + row[1] * ys + (row[2] - origin)
        # grid_sample counts from -1 at the first pixel's outer edge to 1 at the last one's.
        axes.append((2 * at + 1) / float(length) - 1)
    grid = torch.stack(axes, dim=-1)[None].float()
    return F.grid_sample(
        part[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[0]
