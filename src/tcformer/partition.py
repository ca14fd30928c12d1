"""A grid cut into regions of any shape: their outlines and colours that tell them apart.

Plain NumPy on an (H, W) array of region numbers; nothing here knows what a region stands for. It
lies below `tcformer.tokens` so that tokens can draw themselves where no imaging library is.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Regions = NDArray[np.int64]
Loop = NDArray[np.int64]

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""(down, right) of the directions right, down, left, up; each is a right turn from the last."""


def outlines(regions: Regions) -> dict[int, list[Loop]]:
    """The outlines of every region, as closed polygons between grid lines.

    Walking along an outline the region is on the right hand: outer outlines run clockwise, holes
    the other way. Cells that touch at a corner only belong to separate outlines. Filled by either
    SVG fill rule the polygons of a region cover its cells and nothing else.

    Args:
        regions: (H, W) integers of at least 0.

    Returns:
        for every number that occurs, in rising order, its polygons: (K, 2) int64 corners (x, y),
        0 <= x <= W, 0 <= y <= H, without repetition of the first and with no straight corners.
    """
    height, width = regions.shape
    framed = np.full((height + 2, width + 2), -1, np.int64)
    framed[1:-1, 1:-1] = regions
    inner = framed[1:-1, 1:-1]
    # Edge (d, y, x) leaves corner (y, x) in direction d; the cell on its right is its owner, the
    # one on its left belongs to another region (else there is no edge).
    owner = np.full((4, height + 1, width + 1), -1, np.int64)
    beside = ((-1, 0), (0, 1), (1, 0), (0, -1))
    for way, (down, right) in enumerate(((0, 0), (0, 1), (1, 1), (1, 0))):
        beyond = beside[way]
        rows = slice(1 + beyond[0], 1 + beyond[0] + height)
        columns = slice(1 + beyond[1], 1 + beyond[1] + width)
        place = owner[way, down : down + height, right : right + width]
        np.copyto(place, inner, where=framed[rows, columns] != inner)
    there = owner >= 0
    d, y, x = np.nonzero(there)
    number = np.full(owner.shape, -1, np.int64)
    number[d, y, x] = np.arange(len(d))
    step = np.array(STEPS)[d]
    y2, x2 = y + step[:, 0], x + step[:, 1]
    right_turn, left_turn = (d + 1) % 4, (d + 3) % 4
    # A right turn first keeps cells that touch at a corner apart.
    turn = np.where(there[right_turn, y2, x2], right_turn, np.where(there[d, y2, x2], d, left_turn))
    following = number[turn, y2, x2]
    return _walk(owner[d, y, x], d, x, y, following)


def _walk(
    owner: Regions, d: Regions, x: Regions, y: Regions, following: Regions
) -> dict[int, list[Loop]]:
    """Follow the edges round; keep the corners where the direction changes."""
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    corner = (d[before] != d).tolist()
    corners = np.stack([x, y], axis=1)
    ahead = following.tolist()
    seen = bytearray(len(ahead))
    # Regions in rising order; in each, outlines by their first edge in (direction, reading) order.
    found: dict[int, list[Loop]] = {}
    for start in np.argsort(owner, kind="stable").tolist():
        if seen[start]:
            continue
        edge, loop = start, []
        while not seen[edge]:
            seen[edge] = 1
            if corner[edge]:
                loop.append(edge)
            edge = ahead[edge]
        found.setdefault(int(owner[start]), []).append(corners[loop])
    return found


def borders(regions: Regions) -> list[tuple[int, int, int, int]]:
    """The lines between different regions, without the rim of the grid and each once.

    Args:
        regions: (H, W) integers.

    Returns:
        straight segments (x1, y1, x2, y2) between grid lines, as long as they run straight:
        the vertical ones first.
    """
    lines = []
    for flipped in (False, True):
        grid = regions.T if flipped else regions
        cut = np.zeros((grid.shape[1] + 1, grid.shape[0] + 2), np.int8)
        cut[1:-1, 1:-1] = (grid[:, 1:] != grid[:, :-1]).T
        change = np.diff(cut, axis=1)
        across, first = np.nonzero(change == 1)
        last = np.nonzero(change == -1)[1]
        for a, b, c in zip(across.tolist(), first.tolist(), last.tolist(), strict=True):
            lines.append((b, a, c, a) if flipped else (a, b, a, c))
    return lines


def neighbors(regions: Regions) -> NDArray[np.int64]:
    """Pairs of regions that share a side of a cell: (P, 2), smaller number first, sorted."""
    pairs = np.concatenate(
        [
            np.stack([regions[:, :-1].ravel(), regions[:, 1:].ravel()], axis=1),
            np.stack([regions[:-1].ravel(), regions[1:].ravel()], axis=1),
        ]
    )
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)


HUES = 20
LEVELS = ((0.80, 0.125), (0.66, 0.150), (0.52, 0.130), (0.90, 0.070), (0.40, 0.090))
"""Lightness and chroma (of OKLCh) of the colours to choose from."""

APART = 60_000
"""Neighbours of this squared distance or more look different enough; more is no better."""


@cache
def candidates() -> NDArray[np.int64]:
    """The colours to choose from: (HUES * levels, 3), 0 to 255; even steps to the eye (OKLCh)."""
    colors = []
    for level, (lightness, chroma) in enumerate(LEVELS):
        angle = 2 * np.pi * (np.arange(HUES) + 0.5 * (level % 2)) / HUES
        a, b = chroma * np.cos(angle), chroma * np.sin(angle)
        # Ottosson's OKLab to linear sRGB, then the sRGB curve.
        l_, m_, s_ = (
            (lightness + p * a + q * b) ** 3
            for p, q in (
                (0.3963377774, 0.2158037573),
                (-0.1055613458, -0.0638541728),
                (-0.0894841775, -1.2914855480),
            )
        )
        linear = np.stack(
            [
                4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
                -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
                -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
            ],
            axis=1,
        ).clip(0, 1)
        curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        colors.append(np.floor(curved * 255 + 0.5).astype(np.int64))
    return np.concatenate(colors)


@cache
def _distances() -> NDArray[np.int64]:
    """Between all candidates, squared: weighted by how the eye sees red, green and blue."""
    colors = candidates()
    red = (colors[:, None, 0] + colors[None, :, 0]) // 2
    r, g, b = np.moveaxis((colors[:, None] - colors[None]) ** 2, -1, 0)
    return ((512 + red) * r >> 8) + 4 * g + ((767 - red) * b >> 8)


def distinct_colors(regions: Regions) -> NDArray[np.uint8]:
    """A colour for every region, so that neighbours differ clearly and all others where possible.

    Colours are dealt out one region after the other, the largest first: each gets a colour far
    from those of its neighbours, among these the one used least, among these the one farthest
    from all that are in use. Numbers play no part: two numberings of one partition get one
    picture. Integer arithmetic, hence the same everywhere.

    Args:
        regions: (H, W) integers of at least 0.

    Returns:
        (largest number + 1, 3) uint8; numbers that do not occur are grey.
    """
    _, first, numbers, count = np.unique(
        regions, return_index=True, return_inverse=True, return_counts=True
    )
    names = np.unique(regions)
    compact = numbers.reshape(regions.shape)
    around: list[list[int]] = [[] for _ in names]
    for one, other in neighbors(compact).tolist():
        around[one].append(other)
        around[other].append(one)
    distance = _distances()
    chosen = np.full(len(names), -1, np.int64)
    uses = np.zeros(len(distance), np.int64)
    to_all = np.full(len(distance), APART, np.int64)
    for region in np.lexsort((first, -count)).tolist():
        taken = chosen[around[region]]
        near = distance[taken[taken >= 0]].min(axis=0, initial=APART)
        best = int(np.argmax((near << 42) - (uses << 21) + to_all))
        chosen[region] = best
        uses[best] += 1
        np.minimum(to_all, distance[best], out=to_all)
    colors = np.full((int(names.max(initial=0)) + 1, 3), 128, np.uint8)
    colors[names] = candidates()[chosen]
    return colors
