"""Paint an image by its tokens.

What a cell is, and what ``seen`` means, stands at the top of `tcformer.viz.regions`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcformer.errors import UserError
from tcformer.partition import distinct_colours
from tcformer.viz.images import as_array, as_rgb
from tcformer.viz.regions import (
    CELL,
    Size,
    cell_grid,
    cell_of_pixels,
    grid_size,
    on_pixels,
)
from tcformer.viz.tracking import families

FILLS = ("mean", "none", "palette")
"""What a token can be filled with by name; see `paint_tokens`."""

Fill = Literal["mean", "none", "palette"]
Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)


class CellSums(NamedTuple):
    """The pixels of each cell added up: what all mean colours of an image are made from."""

    colours: NDArray[np.int64]
    """(H0, W0, 3)"""
    pixels: NDArray[np.int64]
    """(H0, W0) number of pixels; 0 where a picture is smaller than the grid"""


def cell_sums(image: Any, seen: Size | None = None) -> CellSums:
    """Add up the pixels of each cell, once for all stages.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) uint8.
        seen: height and width of the image as the network saw it; by default the same.
    """
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


def mean_colours(
    image: Any, cell_to_token: Any, *, seen: Size | None = None, sums: CellSums | None = None
) -> NDArray[np.uint8]:
    """The mean colour of every token.

    The mean is over the token's pixels, so a cell cut off by the image's edge counts by what is
    left of it, and painting keeps the mean colour of the image (up to rounding, half upwards).

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) uint8.
        cell_to_token: as in `regions.cell_grid`.
        seen: height and width of the image as the network saw it; by default the same.
        sums: `cell_sums` of the image, if they are at hand.

    Returns:
        (N, 3) uint8, N = largest number in the map + 1; black for a token without a pixel.
    """
    pixels = as_rgb(image)
    grid = cell_grid(cell_to_token, pixels.shape[:2] if seen is None else seen)
    total, cells = cell_sums(pixels, seen) if sums is None else sums
    tokens, length = grid.reshape(-1), int(grid.max()) + 1
    # Whole numbers below 2^53 (2^53/255 pixels) are exact in the float64 that bincount adds in.
    count, *colours = (
        np.bincount(tokens, weights=part.reshape(-1), minlength=length).astype(np.int64)
        for part in (cells, *np.moveaxis(total, -1, 0))
    )
    count = np.maximum(count, 1)[:, None]
    return ((2 * np.stack(colours, axis=1) + count) // (2 * count)).astype(np.uint8)


def token_colours(image: Any, cell_to_token: Any, *, seen: Size | None = None) -> NDArray[np.uint8]:
    """The image with every pixel replaced by the mean colour of its token (`mean_colours`).

    Returns:
        (H, W, 3) uint8.
    """
    size = as_rgb(image).shape[:2]
    return spread(mean_colours(image, cell_to_token, seen=seen), cell_to_token, size, seen=seen)


def spread(
    values: Any, cell_to_token: Any, size: Size, *, seen: Size | None = None
) -> NDArray[Any]:
    """Values of tokens as a picture: every pixel takes that of its token.

    Args:
        values: (N, ...) array, for tokens 0 to N - 1.
        cell_to_token: as in `regions.cell_grid`.
        size: height and width of the picture.
        seen: height and width of it as the network saw it; by default the same.

    Returns:
        (height, width, ...), dtype of ``values``.

    Raises:
        UserError: fewer values than tokens.
    """
    values = as_array(values)
    seen = size if seen is None else seen
    grid = cell_grid(cell_to_token, seen)
    if values.ndim < 1 or len(values) <= grid.max():
        raise UserError(
            f"values of shape {values.shape} are too few for tokens 0 to {grid.max()}: "
            "give one for each"
        )
    return on_pixels(values[grid], size, seen)


def palette_colours(cell_to_token: Any, size: Size) -> NDArray[np.uint8]:
    """A clearly different flat colour for every token: (N, 3) uint8, by number.

    Colours go by where a token first appears in reading order, never by its number: token numbers
    have no meaning, and two numberings of one partition must give one picture.

    Args:
        cell_to_token: as in `regions.cell_grid`.
        size: height and width of the picture that the network saw.
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
    colours = (np.stack([red, green, blue], axis=1) * 3 // 4 + 64) * brightness[:, None] // 255
    by_number = np.zeros((int(names[-1]) + 1, 3), np.uint8)
    by_number[names] = colours
    return by_number


def family_colours(
    cell_maps: list[Any], size: Size, *, stage: int | None = None
) -> list[NDArray[np.uint8]]:
    """One colour for a token and all that merged into it, so that it can be followed by eye.

    Neighbouring tokens of the chosen stage differ clearly, and others where there are colours
    enough; see `tcformer.partition.distinct_colours`.

    Args:
        cell_maps: the maps of one image, one for each stage.
        size: height and width of the picture that the network saw.
        stage: the stage whose tokens have a colour each, from 1; by default the last.

    Returns:
        for each stage (N_s, 3) uint8, by number of token: what `paint_tokens` takes as ``fill``.
    """
    found = families(cell_maps, stage)
    stage = len(cell_maps) if stage is None else stage
    colours = distinct_colours(cell_grid(cell_maps[stage - 1], size))
    return [colours[family] for family in found]


def token_borders(tokens: ArrayLike, *, width: float = 1) -> NDArray[np.bool_]:
    """The pixels on a border between two tokens.

    A pixel is on a border when its upper, lower, left or right neighbour belongs to another token.
    Both sides are marked: a border is 2 pixels wide at width 1, and each further unit adds one
    pixel on each side. Halves count as well: 0.5 marks only the lower and right side, one pixel
    in all. The rim of the picture is no border.

    Args:
        tokens: (H, W) integers, the token under each pixel.
        width: pixels on each side of a border: 0.5, 1, 1.5, ...

    Returns:
        (H, W) bool.
    """
    if width < 0.5 or width * 2 != int(width * 2):
        raise UserError(
            f"the width of an outline is a multiple of half a pixel, at least 0.5, not {width}"
        )
    picture = np.asarray(tokens)
    border = np.zeros(picture.shape, bool)
    across = picture[1:] != picture[:-1]
    along = picture[:, 1:] != picture[:, :-1]
    border[1:] |= across
    border[:, 1:] |= along
    if width == int(width):
        border[:-1] |= across
        border[:, :-1] |= along
    for _ in range(int(width + 0.5) - 1):
        border = _grow(border)
    return border


def _grow(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Every pixel whose 3 x 3 neighbourhood touches the mask: corners stay square."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def enlarge(picture: NDArray[Any], scale: int) -> NDArray[Any]:
    """Every pixel as a block of ``scale`` x ``scale`` pixels (nearest neighbour)."""
    if scale < 1:
        raise UserError(f"a picture is enlarged by a whole number of at least 1, not {scale}")
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def paint_tokens(
    image: Any,
    cell_to_token: Any,
    *,
    fill: Fill | NDArray[np.uint8] = "mean",
    opacity: int = 100,
    outline: bool = True,
    edge_colour: Colour = WHITE,
    width: float = 1,
    scale: int = 2,
    seen: Size | None = None,
) -> NDArray[np.uint8]:
    """Paint one image by its tokens and draw their outlines.

    Works for any height, width and aspect; for a batch, call it once for each image. To paint a
    picture of full resolution, pass it with ``seen=`` the size that the network saw, ``scale=1``.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) uint8; array or tensor.
        cell_to_token: integers, (H0*W0,), (1, H0*W0) or (H0, W0) with H0 = ceil(h/4),
            W0 = ceil(w/4), h x w what the network saw: ``tokens.layout.cell_to_token[b]``
            of any stage.
        fill: ``mean`` paints each token with the mean colour of its pixels, ``none`` keeps
            the image, ``palette`` gives each token a colour of its own; or (N, 3) uint8 colours
            by number of token, such as those of `family_colours` or `heat_colours`.
        opacity: of the paint on the image, from 0 (the image) to 100 percent (paint alone).
        outline: draw the borders between tokens.
        edge_colour: red, green, blue of the borders, 0 to 255.
        width: pixels of border on each side (of the enlarged picture), at least 0.5.
        scale: whole factor by which the picture is enlarged.
        seen: height and width of the image as the network saw it; by default the same.

    Returns:
        (H*scale, W*scale, 3) uint8, the same bits for the same input.

    Raises:
        UserError: when image, map or an option cannot be used; the sentence says why.

    Why the published drawing is not followed to the letter: it floors the grid (and so fails for
    sides that are no multiple of 4), takes one image only, and thickens borders at random.
    """
    pixels = as_rgb(image)
    size = pixels.shape[:2]
    seen = size if seen is None else seen
    # Checked even without outlines: a wrong map must not pass because nobody looks at it.
    grid = cell_grid(cell_to_token, seen)
    if not 0 <= opacity <= 100:
        raise UserError(f"opacity is a percentage from 0 to 100, not {opacity}")
    painted = pixels
    if not (isinstance(fill, str) and fill == "none"):
        painted = blend(
            pixels, spread(_fill(fill, pixels, grid, seen), grid, size, seen=seen), opacity
        )
    picture = enlarge(painted, scale)
    if outline:
        tokens = on_pixels(grid.astype(np.int32), size, seen)
        picture[token_borders(enlarge(tokens, scale), width=width)] = edge_colour
    return picture


def _fill(
    fill: Any, pixels: NDArray[np.uint8], grid: NDArray[np.int64], seen: Size
) -> NDArray[Any]:
    """Colours by number of token."""
    if not isinstance(fill, str):
        colours = as_array(fill)
        if colours.ndim != 2 or colours.shape[1] != 3 or colours.dtype != np.uint8:
            raise UserError(
                f"colours of tokens have shape (N, 3) and type uint8, not {colours.shape} "
                f"and {colours.dtype}"
            )
        return colours
    if fill == "mean":
        return mean_colours(pixels, grid, seen=seen)
    if fill == "palette":
        return palette_colours(grid, seen)
    raise UserError(f"fill is one of {', '.join(FILLS)}, not {fill!r}")


def blend(image: NDArray[np.uint8], paint: NDArray[np.uint8], opacity: int) -> NDArray[np.uint8]:
    """Paint on an image of the same shape, ``opacity`` percent of it, rounded half upwards."""
    if opacity == 100:
        return paint
    mixed = image.astype(np.uint16) * np.uint16(100 - opacity)
    mixed += paint.astype(np.uint16) * np.uint16(opacity)
    mixed += np.uint16(50)
    mixed //= np.uint16(100)
    return mixed.astype(np.uint8)


def density_map(
    cell_to_token: Any, grid: tuple[int, int], *, map_size: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Where tokens are small: one over the number of cells of the token, as a map.

    Args:
        cell_to_token: (H0*W0,), (1, H0*W0) or (H0, W0) integers.
        grid: (H0, W0), the initial grid: ``tokens.layout.grid_size``.
        map_size: (H, W) of the map, at most the grid; each pixel is the mean over its cells, and
            cell i of H0 lies in pixel floor(i*H/H0). By default the grid itself.

    Returns:
        (H, W) float32 in (0, 1]; bright = small tokens = detail. At the size of the grid
        its sum is the number of tokens.
    """
    rows, columns = grid
    # A grid of cells is an image whose cells are single pixels of 4.
    tokens = cell_grid(cell_to_token, (rows * CELL, columns * CELL))
    _, numbers, count = np.unique(tokens, return_inverse=True, return_counts=True)
    value = (1.0 / count)[numbers.reshape(-1)]
    height, width = grid if map_size is None else map_size
    if not (1 <= height <= rows and 1 <= width <= columns):
        raise UserError(
            f"map_size must be between 1 x 1 and the grid's {rows} x {columns}, "
            f"not {height} x {width}"
        )
    down = np.arange(rows) * height // rows
    right = np.arange(columns) * width // columns
    pixel = (down[:, None] * width + right[None, :]).reshape(-1)
    total = np.bincount(pixel, weights=value, minlength=height * width)
    cells = np.bincount(pixel, minlength=height * width)
    return (total / cells).reshape(height, width).astype(np.float32)
