"""Skeletons on an image, and a sheet with what the network saw of each person and its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tcformer.data.keypoints import Layout
from tcformer.data.keypoints.codec import HeatmapCodec
from tcformer.data.keypoints.crop import Crop, warp
from tcformer.errors import UserError
from tcformer.images import as_rgb, resize_image
from tcformer.tokens import Tokens
from tcformer.viz.paint import Color, paint_tokens
from tcformer.viz.regions import Size, cell_grid
from tcformer.viz.sheet import Panel, Row, contact_sheet

Links = Mapping[str, Sequence[tuple[int, int]]]

PART_COLORS: dict[str, Color] = {
    "body": (64, 200, 96),
    "foot": (255, 208, 64),
    "face": (96, 200, 255),
    "lefthand": (255, 136, 48),
    "righthand": (208, 96, 255),
}
OTHER: Color = (64, 200, 96)
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
        color = PART_COLORS.get(part, OTHER)
        thick = max(1.0, line * _FINE.get(part, 1.0)) * _SMOOTH
        for pen, colored in pens:
            ink: Any = color if colored else 255
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


# ---- people and their tokens ----------------------------------------------------------------

Seen = tuple[Crop, NDArray[np.float64], NDArray[np.float64], Sequence[Tokens]]
"""Of one person: the crop, points (K, 2) in the picture, scores (K,), and the crop's tokens."""

DETAILS = ("face", "lefthand", "righthand")
"""Parts that are small and matter: what fine tokens are for."""

_FRAME_MARGIN, _FRAME_LINE = 6, 3  # pixels of an enlarged crop
_TALLEST = 768
_FINER = 3  # crops are drawn so many times larger than the network saw them


def people_sheet(
    picture: Any,
    drawn: Any,
    people: Sequence[Seen],
    layout: Layout,
    codec: HeatmapCodec,
    *,
    threshold: float = 0.2,
) -> NDArray[np.uint8]:
    """The picture with skeletons; below it a row for each person.

    A row shows what the network saw of the person with the skeleton, then the tokens of stages 2 to
    4, with frames around the face and hands in their colors. Each caption tells how many cells a
    token has there and on the whole: that detail gets the small tokens is what the network is built
    for. Where a layout has no hands, the caption tells it of all its keypoints.

    `drawn` is the picture, (H, W, 3) uint8, with skeletons; `people` stand with the best first.
    Keypoints above the threshold are drawn, and count as found.
    """
    pixels = torch.tensor(as_rgb(picture))
    width, height = codec.input_size
    size = width * _FINER, height * _FINER
    small = [part for part in DETAILS if part in layout.parts and len(layout.parts) > 1]
    fine = np.zeros(len(layout), bool)
    for part in small or layout.parts:
        fine[layout.slice(part)] = True
    what = "the face and hands" if small else "details"
    rows = [Row((Panel(_shrunk(as_rgb(drawn)), "people"),))]
    for number, (crop, points, scores, stages) in enumerate(people, start=1):
        sure = scores > threshold
        warped = warp(pixels, crop.matrix(*size), *size).add(0.5).floor().clamp(0, 255)
        view = warped.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        inside = crop.to_input(points, *size)
        skeleton = draw_skeleton(
            view, inside[None], scores[None], layout.links, parts=layout.parts, threshold=threshold
        )
        panels = [Panel(skeleton, f"person {number}")]
        found = crop.to_input(points, width, height)[fine & sure]
        for stage, tokens in enumerate(stages[1:], start=2):
            cells = tokens.layout.cell_to_token[0]
            painted = paint_tokens(view, cells, scale=1, seen=(height, width))
            for part in small:
                at = layout.slice(part)
                _frame(painted, inside[at][sure[at]], PART_COLORS[part])
            words = f"stage {stage}: {tokens.layout.num_tokens} tokens"
            panels.append(Panel(painted, words + _sizes(cells, found, (height, width), what)))
        rows.append(Row(tuple(panels)))
    return contact_sheet(rows, font_size=14)


def _frame(picture: NDArray[np.uint8], points: NDArray[np.float64], color: Color) -> None:
    """Draw a frame into a picture, around some points and a little away from them."""
    if not len(points):
        return
    last = np.array(picture.shape[1::-1]) - 1
    low = np.clip(points.min(0) - _FRAME_MARGIN, 0, last).astype(int)
    high = np.clip(points.max(0) + _FRAME_MARGIN, 0, last).astype(int)
    (left, top), (right, bottom) = low, high + 1
    window, inner = picture[top:bottom, left:right], np.s_[_FRAME_LINE:-_FRAME_LINE]
    kept = window[inner, inner].copy()
    window[:] = color
    window[inner, inner] = kept


def _sizes(cell_map: torch.Tensor, found: NDArray[np.float64], seen: Size, what: str) -> str:
    """How large the tokens under some points (x, y) are beside the mean token, in words."""
    if not len(found):
        return ""
    cells = cell_grid(cell_map, seen)
    sizes = np.bincount(cells.ravel())
    last = np.array(cells.shape) - 1
    y, x = np.clip(found[:, ::-1] / seen * cells.shape, 0, last).astype(int).T
    under = sizes[cells[y, x]].mean()
    return f", {under:.1f} cells on {what}, {sizes.mean():.1f} on average"


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most `_TALLEST` pixels high and twice as wide."""
    height, width = picture.shape[:2]
    factor = min(1.0, _TALLEST / height, 2 * _TALLEST / width)
    return resize_image(picture, (max(1, round(height * factor)), max(1, round(width * factor))))
