"""Keypoints to heat maps and back, as one object, so that both sides always agree.

* ``classic``: the published crop; the target's peak is at the nearest cell and cut to 13 x 13
  cells; a heat map is read at its highest cell, moved a quarter of a cell to the higher neighbour
  on each axis.
* ``dark``: the published crop; the peak is where the keypoint is; the highest cell is refined by a
  Newton step on the logarithm of the smoothed map (Zhang et al., CVPR 2020).
* ``udp``: columns 0 to W - 1 cover the box (Huang et al., CVPR 2020); the rest as ``dark``.

The published TCFormer numbers are "classic".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcformer.data.keypoints.crop import PADDING, Crop, crop_of_box
from tcformer.errors import nearest

METHODS = ("classic", "dark", "udp")
_BLUR_RADIUS = 5  # an 11 x 11 kernel, whose usual sigma is 2, that of the target


@dataclass(frozen=True)
class HeatmapCodec:
    """Encode keypoints as heat maps, decode heat maps as keypoints.

    Args:
        input_size: width and height of the network's input, in pixels.
        heatmap_size: width and height of a heat map; a quarter of the input's for TCFormer.
        sigma: spread of the target's peak, in cells.
        method: one of `METHODS`; see the module.

    Raises:
        ValueError: an unknown method, or a size or sigma that is not above zero.
    """

    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    sigma: float = 2.0
    method: str = "classic"
    exact: bool = field(init=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            near = nearest(self.method, METHODS)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(METHODS)}."
            raise ValueError(f"there is no codec called {self.method!r}; {hint}")
        sizes = (*self.input_size, *self.heatmap_size)
        if min(sizes) < 2 or not 0 < self.sigma < math.inf:
            raise ValueError(
                f"a codec needs sides of two or more and a sigma above zero, not {sizes} and "
                f"{self.sigma}"
            )
        object.__setattr__(self, "exact", self.method != "classic")

    @property
    def unbiased(self) -> bool:
        """Whether crops follow UDP's convention."""
        return self.method == "udp"

    def crop(self, box: np.ndarray, padding: float = PADDING) -> Crop:
        """The rectangle that the network sees for a box (4,) of x, y, width, height."""
        return crop_of_box(box, *self.input_size, padding=padding, unbiased=self.unbiased)

    def to_cells(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the input, in cells of the heat map."""
        end = 1 if self.unbiased else 0
        inner = np.array(self.input_size, np.float64) - end
        return points * ((np.array(self.heatmap_size, np.float64) - end) / inner)

    def encode(self, points: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets of one person; section A.6 of the recipe, Gaussians of height one.

        Args:
            points: (K, 2) in pixels of the input; those of invisible keypoints do not matter.
            visible: (K,) above zero where a keypoint is labeled.

        Returns:
            Heat maps (K, height, width) float32, and weights (K,) float32: 1 for a labeled keypoint
            whose peak touches the map or just misses it, as published, else 0 and an empty map.
        """
        width, height = self.heatmap_size
        reach = 3 * self.sigma
        center = self.to_cells(np.where(visible[:, None] > 0, points, 0.0))
        cell = np.trunc(center + 0.5)
        if not self.exact:
            center = cell
        touches = ((cell - reach < [width, height]) & (cell + reach + 1 >= 0)).all(axis=1)
        weight = ((visible > 0) & touches).astype(np.float32)
        axes = []
        for axis, length in enumerate((width, height)):
            far = np.arange(length) - center[:, axis, None]
            bell = np.exp(-(far**2) / (2 * self.sigma**2))
            axes.append(bell if self.exact else np.where(np.abs(far) <= reach, bell, 0.0))
        target = np.zeros((len(points), height, width), np.float32)
        # The product of both axes, in float64, only where it is not zero.
        for k in np.flatnonzero(weight):
            rows, columns = np.flatnonzero(axes[1][k]), np.flatnonzero(axes[0][k])
            if len(rows) and len(columns):
                place = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                target[k][place] = np.outer(axes[1][k][place[0]], axes[0][k][place[1]])
        return target, weight

    def decode(self, heatmaps: Tensor, crops: Sequence[Crop]) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints in the photograph.

        Args:
            heatmaps: (B, K, height, width), any float dtype, on any device.
            crops: B of them, those the inputs were cut with.

        Returns:
            Points (B, K, 2) float64 in pixels of the photographs, and scores (B, K) float64: the
            height of each peak. Where a map has no value above zero the point is that of cell
            (-1, -1), and the score says so by being zero or less.
        """
        cells, scores = self.peaks(heatmaps)
        width, height = self.heatmap_size
        points = [
            crop.to_photograph(found, width, height)
            for crop, found in zip(crops, cells.numpy(), strict=True)
        ]
        shape = (0, heatmaps.shape[1], 2)
        return np.stack(points) if points else np.zeros(shape), scores.numpy()

    def peaks(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Where each heat map is highest: cells (B, K, 2) as x, y, and heights (B, K), float64.

        The first of equal cells counts, in reading order.
        """
        height, width = heatmaps.shape[2:]
        if (width, height) != tuple(self.heatmap_size):
            raise ValueError(
                f"the heat maps measure {width} x {height}, but the codec is for "
                f"{self.heatmap_size[0]} x {self.heatmap_size[1]}"
            )
        maps = heatmaps.detach().float().cpu()
        scores, where = maps.flatten(2).max(dim=2)
        # `max` need not return the first of several maxima, argmax of a mask's first one does.
        where = (maps.flatten(2) == scores[..., None]).float().argmax(dim=2)
        x, y = where % width, where // width
        cells = torch.stack([x, y], dim=-1).double()
        move = self._newton(maps, x, y) if self.exact else _quarter(maps, x, y)
        some = (scores > 0)[..., None]
        return torch.where(some, cells + move, -torch.ones_like(cells)), scores.double()

    def average_with_mirrored(
        self, heatmaps: Tensor, of_mirrored: Tensor, mirror: Tensor
    ) -> Tensor:
        """The flip test: the mean of two passes' heat maps, the second over mirrored inputs.

        Without UDP a keypoint at cell x of the input is found at x - 3/4 in the map that is
        mirrored back; moving that map by one column leaves a quarter.
        """
        back = of_mirrored[:, mirror.to(of_mirrored.device)].flip(-1)
        if not self.unbiased:
            back = torch.cat([back[..., :1], back[..., :-1]], dim=-1)
        return (heatmaps + back) * 0.5

    def _newton(self, maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """From the highest cell to the top of the Gaussian through its neighbours, in cells."""
        height, width = maps.shape[-2:]
        if min(height, width) < 3:
            return torch.zeros((*x.shape, 2), dtype=torch.float64)
        # The nearest cell with neighbours on all sides: a Gaussian's logarithm is the same parabola
        # everywhere, so the step from there leads to the same top.
        cx, cy = x.clamp(1, width - 2), y.clamp(1, height - 2)
        log = _smoothed_around(maps, cx, cy).clamp(min=1e-10).log()
        gx, gy = (log[..., 1, 2] - log[..., 1, 0]) / 2, (log[..., 2, 1] - log[..., 0, 1]) / 2
        hxx = log[..., 1, 2] - 2 * log[..., 1, 1] + log[..., 1, 0]
        hyy = log[..., 2, 1] - 2 * log[..., 1, 1] + log[..., 0, 1]
        hxy = (log[..., 2, 2] - log[..., 0, 2] - log[..., 2, 0] + log[..., 0, 0]) / 4
        det = hxx * hyy - hxy**2
        hill = (det > 0) & (hxx < 0)  # elsewhere a step would lead downhill or away
        det = torch.where(hill, det, torch.ones_like(det))
        step = torch.stack([(hxy * gy - hyy * gx) / det, (hxy * gx - hxx * gy) / det], dim=-1)
        move = step + torch.stack([cx - x, cy - y], dim=-1)
        # The smoothed map may be highest in a neighbouring cell; further away it says nothing.
        near = hill[..., None] & (move.abs() <= 1.5).all(dim=-1, keepdim=True)
        return torch.where(near, move, torch.zeros_like(move))


def _quarter(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A quarter of a cell towards the higher neighbour; nothing near the border, as published."""
    height, width = maps.shape[-2:]
    if min(height, width) < 3:
        return torch.zeros((*x.shape, 2), dtype=torch.float64)
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    cx, cy = x.clamp(1, width - 2), y.clamp(1, height - 2)
    flat = maps.flatten(2)

    def at(dx: int, dy: int) -> Tensor:
        return flat.gather(2, ((cy + dy) * width + cx + dx)[..., None])[..., 0]

    move = torch.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], dim=-1).sign().double() / 4
    return torch.where(inside[..., None], move, torch.zeros_like(move))


def _smoothed_around(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The 3 x 3 cells around inner cells (x, y), smoothed with sigma 2: (B, K, 3, 3) float64.

    Near a border the Gaussian is cut, on both sides alike, to the cells that there are: zeros from
    beyond the border would push the top inwards.
    """
    height, width = maps.shape[-2:]
    reach = _BLUR_RADIUS + 1
    near = torch.arange(-reach, reach + 1)
    padded = F.pad(maps, (reach, reach, reach, reach))
    rows, columns = y[..., None] + reach + near, x[..., None] + reach + near
    index = rows[..., :, None] * padded.shape[-1] + columns[..., None, :]
    patch = padded.flatten(2).gather(2, index.flatten(2)).view(index.shape).double()

    def kernel(at: Tensor, length: int) -> Tensor:
        room = torch.minimum(at - 1, length - 2 - at).clamp(max=_BLUR_RADIUS)
        far = near - torch.arange(-1, 2)[:, None]  # (3, 13)
        bell = torch.exp(-(far.double() ** 2) / 8) * (far.abs() <= room[..., None, None])
        return bell / bell.sum(dim=-1, keepdim=True)

    return kernel(y, height) @ patch @ kernel(x, width).transpose(-1, -2)
