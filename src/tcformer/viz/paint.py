"""Paint an image by its tokens: colors of tokens, borders, and one drawing as pixels or SVG.

`tcformer.viz.regions` explains `cell_to_token`, `size` and `seen`. An image is (H, W, 3), (H, W, 1)
or (H, W) uint8, array or tensor. Arithmetic on colors is in integers, so the same input gives the
same pixels on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.images import as_array, as_rgb
from tcformer.partition import borders, distinct_colors, outlines
from tcformer.viz.regions import (
    Outliner,
    Size,
    cell_grid,
    cell_of_pixels,
    grid_size,
    on_pixels,
    token_borders,
)
from tcformer.viz.tracking import families

FILLS = ("mean", "none", "palette")
"""What a token can be filled with by name; see `paint_tokens`."""

Fill = Literal["mean", "none", "palette"]
Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)

RAMP = ((16, 12, 58), (78, 24, 112), (160, 42, 108), (224, 84, 74), (250, 166, 62), (255, 246, 196))
"""From dark (little) to bright (much), at equal steps."""


# ---- colors of tokens -----------------------------------------------------------------------


class CellSums(NamedTuple):
    """The pixels of each cell added up: what all mean colors of an image are made from."""

    colors: NDArray[np.int64]  # (H0, W0, 3)
    pixels: NDArray[np.int64]  # (H0, W0), their number; 0 where an image is smaller than the grid


def cell_sums(image: Any, seen: Size | None = None) -> CellSums:
    """Add up the pixels of each cell of an image, once for all stages."""
    pixels = as_rgb(image)
    size = pixels.shape[:2]
    seen = size if seen is None else seen
    sums: NDArray[Any] = pixels
    places = []
    for axis, sides in enumerate(zip(size, seen, strict=True)):
        cells = cell_of_pixels(*sides)
        first = np.flatnonzero(np.diff(cells, prepend=-1))
        sums = np.add.reduceat(sums, first, axis=axis, dtype=np.int64)
        places.append((cells[first], np.diff(first, append=len(cells))))
    (rows, heights), (columns, widths) = places
    total = np.zeros((*grid_size(*seen), 3), np.int64)
    count = np.zeros(total.shape[:2], np.int64)
    total[np.ix_(rows, columns)] = sums
    count[np.ix_(rows, columns)] = heights[:, None] * widths
    return CellSums(total, count)


def mean_colors(
    image: Any, cell_to_token: Any, *, seen: Size | None = None, sums: CellSums | None = None
) -> NDArray[np.uint8]:
    """The mean color of every token's pixels: (N, 3) uint8, N = largest number in the map + 1.

    Rounded half upwards; a token without a pixel is black. ``sums`` are the `cell_sums` of the
    image, if they are at hand.
    """
    pixels = as_rgb(image)
    grid = cell_grid(cell_to_token, pixels.shape[:2] if seen is None else seen)
    total, cells = cell_sums(pixels, seen) if sums is None else sums
    tokens, length = grid.reshape(-1), int(grid.max()) + 1
    # Whole numbers below 2^53 (2^53/255 pixels) are exact in the float64 that bincount adds in.
    count, *colors = (
        np.bincount(tokens, weights=part.reshape(-1), minlength=length).astype(np.int64)
        for part in (cells, *np.moveaxis(total, -1, 0))
    )
    count = np.maximum(count, 1)[:, None]
    return ((2 * np.stack(colors, axis=1) + count) // (2 * count)).astype(np.uint8)


def palette_colors(cell_to_token: Any, size: Size) -> NDArray[np.uint8]:
    """A clearly different flat color for every token: (N, 3) uint8, by number.

    Colors go by where a token first appears in reading order: token numbers have no meaning, and
    two numberings of one partition must give one picture. ``size`` is what the network saw.
    """
    tokens = cell_grid(cell_to_token, size).reshape(-1)
    names, first = np.unique(tokens, return_index=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first, kind="stable")] = np.arange(len(first))
    # Steps of the golden ratio spread any number of hues evenly; 3 brightnesses tell
    # apart tokens whose hues meet again. Integers only: 1536 hues, six ramps of 256.
    hue = (order * 949) % 1536
    ramp, level = hue // 256, hue % 256
    full, none = np.full_like(level, 255), np.zeros_like(level)
    rising, falling = level, 255 - level
    red = np.choose(ramp, [full, falling, none, none, rising, full])
    green = np.choose(ramp, [rising, full, full, falling, none, none])
    blue = np.choose(ramp, [none, none, rising, full, full, falling])
    brightness = np.array([255, 200, 145])[order % 3]
    colors = (np.stack([red, green, blue], axis=1) * 3 // 4 + 64) * brightness[:, None] // 255
    by_number = np.zeros((int(names[-1]) + 1, 3), np.uint8)
    by_number[names] = colors
    return by_number


def family_colors(
    cell_maps: list[Any], size: Size, *, stage: int | None = None
) -> list[NDArray[np.uint8]]:
    """One color for a token and all that merged into it, so that it can be followed by eye.

    Neighboring tokens of the chosen stage, by default the last, differ clearly, and others where
    there are colors enough (`tcformer.partition.distinct_colors`). ``cell_maps`` are those of one
    image, ``size`` what the network saw. For each stage (N_s, 3) uint8, by number of token.
    """
    found = families(cell_maps, stage)
    stage = len(cell_maps) if stage is None else stage
    colors = distinct_colors(cell_grid(cell_maps[stage - 1], size))
    return [colors[family] for family in found]


@cache
def ramp() -> NDArray[np.uint8]:
    """The color of each of the levels 0 to 255: (256, 3) uint8; ever brighter."""
    stops, step = np.array(RAMP), 255 // (len(RAMP) - 1)
    levels = np.arange(256)
    below = np.minimum(levels // step, len(RAMP) - 2)
    part = (levels - step * below)[:, None]
    return (stops[below] + (stops[below + 1] - stops[below]) * part // step).astype(np.uint8)


def heat_colors(
    values: Any, *, low: float | None = None, high: float | None = None
) -> NDArray[np.uint8]:
    """A color of the ramp for each of N numbers, array or tensor: (N, 3) uint8.

    `low` is the dark end, by default the least value, `high` the bright one. Equal ends make all
    bright; where a value is not finite, the color is grey.

    Raises:
        UserError: ``values`` is not one list of numbers.
    """
    numbers = as_array(values).astype(np.float64)
    if numbers.ndim != 1:
        raise UserError(f"heat is one number for each token, not an array {numbers.shape}")
    finite = np.isfinite(numbers)
    if not finite.any():
        return np.full((len(numbers), 3), 128, np.uint8)
    low = float(numbers[finite].min()) if low is None else low
    high = float(numbers[finite].max()) if high is None else high
    part = np.ones_like(numbers)
    if high > low:
        part = np.clip((np.where(finite, numbers, low) - low) / (high - low), 0, 1)
    colors = ramp()[np.floor(part * 255 + 0.5).astype(np.int64)]
    colors[~finite] = 128
    return colors


# ---- pixels ---------------------------------------------------------------------------------


def enlarge(picture: NDArray[Any], scale: int) -> NDArray[Any]:
    """Every pixel as a block of ``scale`` x ``scale`` pixels (nearest neighbor)."""
    if scale < 1:
        raise UserError(f"a picture is enlarged by a whole number of at least 1, not {scale}")
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def blend(image: NDArray[np.uint8], paint: NDArray[np.uint8], opacity: int) -> NDArray[np.uint8]:
    """Paint on an image of the same shape, ``opacity`` percent of it, rounded half upwards."""
    if opacity == 100:
        return paint
    mixed = image.astype(np.uint16) * np.uint16(100 - opacity)
    mixed += paint.astype(np.uint16) * np.uint16(opacity)
    mixed += np.uint16(50)
    mixed //= np.uint16(100)
    return mixed.astype(np.uint8)


# ---- one drawing, as pixels or SVG ----------------------------------------------------------


class Overlay(NamedTuple):
    """A token with an outline of its own color."""

    token: int
    color: Color


class Dot(NamedTuple):
    """A chosen point."""

    x: float
    y: float
    """in pixels of the image, from its upper left corner"""
    color: Color


@dataclass(frozen=True)
class Drawing:
    """An image, painted area by area, with the outlines of tokens over it."""

    image: NDArray[np.uint8]  # (H, W, 3), of any resolution
    seen: Size  # its height and width as the network saw it
    tokens: NDArray[np.int64]  # (H0, W0), the token of each cell; these are outlined
    colors: NDArray[np.uint8] | None = None  # (N, 3), of each area; None leaves the image as it is
    opacity: NDArray[np.int64] | None = None  # (N,), percent of the paint on the image
    areas: NDArray[np.int64] | None = None  # (H0, W0), what paint goes by if it is not the token
    outline: bool = True
    edge_color: Color = WHITE
    width: float = 1  # pixels on each side of a border, a multiple of 0.5
    overlays: tuple[Overlay, ...] = ()
    dots: tuple[Dot, ...] = ()
    names: Callable[[int], str] = field(default=lambda area: f"token {area}")  # told by SVG viewers

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def _spread(self, values: NDArray[Any]) -> NDArray[Any]:
        return on_pixels(values, self.size, self.seen)

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        picture = self._painted()
        tokens = self._spread(self.tokens.astype(np.int32))
        if self.outline:
            picture[token_borders(tokens, width=self.width)] = self.edge_color
        for overlay in self.overlays:
            inside = tokens == overlay.token
            # A dark line around the bright one: seen on any ground.
            dark = token_borders(inside, width=2 * self.width + 1)
            picture[dark] = BLACK
            picture[token_borders(inside, width=2 * self.width) & dark] = overlay.color
        for dot in self.dots:
            self._draw_dot(picture, dot)
        return picture

    def _painted(self) -> NDArray[np.uint8]:
        if self.colors is None:
            return self.image.copy()
        areas = self.tokens if self.areas is None else self.areas
        opacity = np.full(len(self.colors), 100) if self.opacity is None else self.opacity
        paint = self.colors[areas]
        if (opacity == 100).all():
            return self._spread(paint)
        # Premixed for cells, so that one product and one sum are left for pixels.
        share = opacity[areas].astype(np.uint16)
        mixed = self.image * self._spread(np.uint16(100) - share)[..., None]
        mixed += self._spread(paint * share[..., None] + np.uint16(50))
        mixed //= np.uint16(100)
        return mixed.astype(np.uint8)

    def _ring(self) -> tuple[int, int]:
        """Radius of the ring around a point and half its thickness: a small token shows inside."""
        radius = max(4, min(self.size) // 36)
        return radius, max(1, radius // 6)

    def _draw_dot(self, picture: NDArray[np.uint8], dot: Dot) -> None:
        """A ring of the color between two white ones, in a black one; whole pixels."""
        x, y = int(dot.x), int(dot.y)
        radius, half = self._ring()
        reach = radius + 3 * half
        top, left = max(0, y - reach), max(0, x - reach)
        window = picture[top : y + reach + 1, left : x + reach + 1]
        down, right = np.ogrid[: window.shape[0], : window.shape[1]]
        away = (down + top - y) ** 2 + (right + left - x) ** 2
        for outer, inner, color in ((3, 2, BLACK), (2, -2, WHITE), (1, -1, dot.color)):
            far, near = radius + outer * half, radius + inner * half
            window[(away <= far**2 + far) & (away > near**2 + near)] = color

    def svg(self, image_id: str) -> str:
        """The drawing as SVG elements, in pixels of the image, which `image_id` shows."""
        pen = Outliner(self.size, self.seen)
        quiet = 'fill="none" pointer-events="none"'
        colors, opacity = self.colors, self.opacity
        parts = []
        if colors is None or (opacity is not None and (opacity < 100).any()):
            parts.append(f'<use href="#{image_id}"/>')
        # Without smoothing, no seams show between areas that touch.
        parts.append('<g class="areas" shape-rendering="crispEdges">')
        for area, loops in outlines(self.tokens if self.areas is None else self.areas).items():
            paint = 'fill="none"'
            if colors is not None:
                percent = 100 if opacity is None else int(opacity[area])
                see = "" if percent == 100 else f' fill-opacity="{percent / 100:g}"'
                paint = f'fill="{rgb(colors[area])}"{see} pointer-events="all"'
            title = f"<title>{self.names(area)}</title>"
            parts.append(f'<path {paint} d="{pen.polygons(loops)}">{title}</path>')
        parts.append("</g>")
        if self.outline:
            parts.append(
                f'<path class="borders" {quiet} stroke="{rgb(self.edge_color)}" '
                f'stroke-width="{2 * self.width:g}" d="{pen.lines(borders(self.tokens))}"/>'
            )
        for overlay in self.overlays:
            shape = pen.lines(borders((self.tokens == overlay.token).astype(np.int64)))
            parts.extend(
                f'<path class="mark" {quiet} stroke="{rgb(color)}" stroke-width="{thick:g}" '
                f'stroke-linecap="square" d="{shape}"/>'
                for color, thick in ((BLACK, 4 * self.width + 2), (overlay.color, 4 * self.width))
            )
        radius, half = self._ring()
        for dot in self.dots:
            parts.extend(
                f'<circle cx="{dot.x:g}" cy="{dot.y:g}" {quiet} r="{radius + away * half:g}" '
                f'stroke="{rgb(color)}" stroke-width="{thick * half:g}"/>'
                for away, thick, color in ((2.5, 1, BLACK), (0, 4, WHITE), (0, 2, dot.color))
            )
        return "\n".join(parts)


def rgb(color: Any) -> str:
    """#rrggbb from three numbers."""
    return "#" + "".join(f"{int(part):02x}" for part in color)


def paint_tokens(
    image: Any,
    cell_to_token: Any,
    *,
    fill: Fill | NDArray[np.uint8] = "mean",
    opacity: int = 100,
    outline: bool = True,
    edge_color: Color = WHITE,
    width: float = 1,
    scale: int = 2,
    seen: Size | None = None,
) -> NDArray[np.uint8]:
    """Paint one image by its tokens and draw their outlines.

    Works for any height, width and aspect. To paint an image of full resolution, pass it with
    ``seen=`` the size that the network saw, ``scale=1``.

    Args:
        image: the image.
        cell_to_token: its map.
        fill: ``mean`` paints each token with the mean color of its pixels, ``none`` keeps
            the image, ``palette`` gives each token a color of its own; or (N, 3) uint8 colors
            by number of token, such as those of `family_colors` or `heat_colors`.
        opacity: of the paint on the image, from 0 (the image) to 100 percent (paint alone).
        outline: draw the borders between tokens.
        edge_color: red, green, blue of the borders, 0 to 255.
        width: pixels of border on each side (of the enlarged picture), at least 0.5.
        scale: whole factor by which the picture is enlarged.
        seen: size of the image as the network saw it.

    Returns:
        (H*scale, W*scale, 3) uint8, the same bits for the same input.

    Raises:
        UserError: when image, map or an option cannot be used.
    """
    pixels = as_rgb(image)
    seen = pixels.shape[:2] if seen is None else seen
    grid = cell_grid(cell_to_token, seen)
    if not 0 <= opacity <= 100:
        raise UserError(f"opacity is a percentage from 0 to 100, not {opacity}")
    colors = _fill(fill, pixels, grid, seen)
    share = None if colors is None else np.full(len(colors), opacity)
    return Drawing(
        enlarge(pixels, scale), seen, grid, colors, share,
        outline=outline, edge_color=edge_color, width=width,
    ).pixels()  # fmt: skip


def _fill(
    fill: Any, pixels: NDArray[np.uint8], grid: NDArray[np.int64], seen: Size
) -> NDArray[Any] | None:
    """Colors by number of token."""
    if not isinstance(fill, str):
        colors = as_array(fill)
        if colors.shape != (max(len(colors), grid.max() + 1), 3) or colors.dtype != np.uint8:
            raise UserError(
                f"colors of tokens 0 to {grid.max()} have shape (N, 3) and type uint8, not "
                f"{colors.shape} and {colors.dtype}"
            )
        return colors
    if fill == "mean":
        return mean_colors(pixels, grid, seen=seen)
    if fill == "palette":
        return palette_colors(grid, seen)
    if fill != "none":
        raise UserError(f"fill is one of {', '.join(FILLS)}, not {fill!r}")
    return None
