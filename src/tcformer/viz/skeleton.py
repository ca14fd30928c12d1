"""Skeletons on a picture: limbs, hands and faces, each part in colours of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tcformer.errors import UserError
from tcformer.viz.images import as_rgb
from tcformer.viz.paint import Colour

Links = Mapping[str, Sequence[tuple[int, int]]]

PART_COLOURS: dict[str, Colour] = {
    "body": (64, 200, 96),
    "foot": (255, 208, 64),
    "face": (96, 200, 255),
    "lefthand": (255, 136, 48),
    "righthand": (208, 96, 255),
}
OTHER: Colour = (64, 200, 96)
_FINE = {"foot": 0.7, "face": 0.35, "lefthand": 0.5, "righthand": 0.5}  # widths beside the body's
_FARTHEST = 1e6  # pixels; Pillow draws with 32-bit numbers
_SMOOTH = 3  # drawn so many times larger, then made smaller


def draw_skeleton(
    image: Any,
    points: Any,
    scores: Any,
    links: Links,
    *,
    parts: Mapping[str, tuple[int, int]],
    threshold: float = 0.3,
    width: float | None = None,
) -> NDArray[np.uint8]:
    """Draw people on a picture.

    Args:
        image: (H, W, 3) uint8.
        points: (N, K, 2) x and y in pixels, whole numbers at the centres of pixels.
        scores: (N, K); keypoints at `threshold` or below, and lines to them, are left out.
        links: name of a part to the pairs of keypoints that are joined, `Layout.links`.
        parts: name of a part to its first keypoint and the one after its last, `Layout.parts`.
        threshold: see `scores`.
        width: of the body's lines, pixels; by default an eightieth of each person's extent. Hands
            and faces are drawn finer.

    Returns:
        (H, W, 3) uint8, the same bits for the same input.

    Raises:
        UserError: the shapes do not belong together.
    """
    pixels = as_rgb(image)
    where, sure = np.asarray(points, np.float64), np.asarray(scores, np.float64)
    if where.ndim != 3 or where.shape[2] != 2 or sure.shape != where.shape[:2]:
        raise UserError(
            f"skeletons need points (people, keypoints, 2) and scores (people, keypoints), not "
            f"{where.shape} and {sure.shape}"
        )
    picture = pixels.copy()
    for person, confidence in zip(where, sure, strict=True):
        seen = (confidence > threshold) & np.isfinite(person).all(axis=1)
        if seen.any():
            _draw_person(picture, person, seen, links, parts, width)
    return picture


def _draw_person(
    picture: NDArray[np.uint8],
    points: NDArray[np.float64],
    seen: NDArray[np.bool_],
    links: Links,
    parts: Mapping[str, tuple[int, int]],
    width: float | None,
) -> None:
    """Draw one person into `picture`, in the window around them that changes."""
    points = np.clip(points, -_FARTHEST, _FARTHEST)
    low, high = points[seen].min(0), points[seen].max(0)
    # Of people who reach far beyond the picture no line may cover it.
    usual = min(float((high - low).max()) / 80, max(picture.shape[:2]) / 40)
    line = width if width is not None else max(2.0, usual)
    margin = 4 * line + 2
    left, top = np.maximum(np.floor(low - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(high + margin), picture.shape[1::-1]).astype(int)
    if right <= left or bottom <= top:
        return  # all of them lie outside of the picture
    window = picture[top:bottom, left:right]
    size = (window.shape[1] * _SMOOTH, window.shape[0] * _SMOOTH)
    canvas = Image.new("RGB", size)
    mask = Image.new("L", size)
    pens = [(ImageDraw.Draw(canvas), True), (ImageDraw.Draw(mask), False)]

    def fine(point: NDArray[np.float64]) -> tuple[float, float]:
        x, y = (point - (left, top) + 0.5) * _SMOOTH
        return float(x), float(y)

    for part, pairs in links.items():
        colour = PART_COLOURS.get(part, OTHER)
        thick = max(1.0, line * _FINE.get(part, 1.0)) * _SMOOTH
        for pen, coloured in pens:
            ink: Any = colour if coloured else 255
            for a, b in pairs:
                if seen[a] and seen[b]:
                    pen.line([fine(points[a]), fine(points[b])], fill=ink, width=round(thick))
            first, end = parts[part]
            for k in range(first, end):
                if seen[k]:
                    x, y = fine(points[k])
                    radius = 0.9 * thick
                    pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)
    small = (window.shape[1], window.shape[0])
    paint = np.asarray(canvas.resize(small, Image.Resampling.BOX), np.int64)
    share = np.asarray(mask.resize(small, Image.Resampling.BOX), np.int64)[..., None]
    # The canvas is black where nothing is drawn, so its mean is already weighted by the share.
    window[:] = ((window.astype(np.int64) * (255 - share) + 255 * paint + 127) // 255).clip(0, 255)
