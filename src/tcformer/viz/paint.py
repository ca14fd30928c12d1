"""Paint an image by its tokens.

Words used here: a *cell* is one position of the initial grid and stands for a block of 4 x 4 pixels
(fewer at the right and bottom edge of an image whose sides are not multiples of 4); a *token* is a
set of cells, not necessarily connected.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcformer.errors import UserError
from tcformer.viz.images import as_array, as_rgb

CELL = 4
"""Side of a cell in pixels: the stride of the network's stem."""

FILLS = ("mean", "none", "palette")
"""What a token can be filled with; see `paint_tokens`."""

Fill = Literal["mean", "none", "palette"]
Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)


def grid_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the initial grid of an image: its sides over 4, rounded up."""
    return -(-height // CELL), -(-width // CELL)


def pixel_tokens(cell_to_token: Any, size: tuple[int, int]) -> NDArray[np.int64]:
    """The token under every pixel of an image of ``size`` = (height, width).

    Args:
        cell_to_token: integers of shape (H0*W0,), (1, H0*W0) or (H0, W0), with
            H0 = ceil(height/4) and W0 = ceil(width/4); array or tensor.
        size: height and width of the image in pixels.

    Returns:
        (height, width) int64.

    Raises:
        UserError: when the map does not belong to an image of this size.
    """
    height, width = size
    cells = as_array(cell_to_token)
    rows, columns = grid_size(height, width)
    if cells.shape not in {(rows * columns,), (1, rows * columns), (rows, columns)}:
        raise UserError(
            f"cell_to_token has shape {cells.shape}, but an image of {height} x {width} pixels has "
            f"{rows} x {columns} = {rows * columns} cells: pass the map of one image of this size"
        )
    if not np.issubdtype(cells.dtype, np.integer):
        raise UserError(f"cell_to_token must hold integers, not {cells.dtype}")
    grid = cells.reshape(rows, columns).astype(np.int64)
    return grid.repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width]


def token_colours(image: Any, cell_to_token: Any) -> NDArray[np.uint8]:
    """The image with every pixel replaced by the mean colour of its token.

    The mean is over the token's pixels, so a cell cut off by the image's edge counts by what is
    left of it, and painting keeps the mean colour of the image (up to rounding, half upwards).

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) uint8.
        cell_to_token: as in `pixel_tokens`.

    Returns:
        (H, W, 3) uint8.
    """
    pixels = as_rgb(image)
    tokens = pixel_tokens(cell_to_token, pixels.shape[:2])
    names, numbers = np.unique(tokens, return_inverse=True)
    numbers = numbers.reshape(-1)
    count = np.bincount(numbers, minlength=len(names))
    colours = np.empty((len(names), 3), np.uint8)
    for channel in range(3):
        # Sums of at most 2^53/255 pixels are exact in float64, so rounding happens once, below.
        total = np.bincount(numbers, weights=pixels[..., channel].reshape(-1), minlength=len(names))
        colours[:, channel] = (2 * total.astype(np.int64) + count) // (2 * count)
    return colours[numbers].reshape(pixels.shape)


def palette_colours(cell_to_token: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A clearly different flat colour for every token, (height, width, 3) uint8.

    Colours go by where a token first appears in reading order, never by its number: token numbers
    have no meaning, and two numberings of one partition must give one picture.
    """
    tokens = pixel_tokens(cell_to_token, size)
    _, first, numbers = np.unique(tokens, return_index=True, return_inverse=True)
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
    return colours.astype(np.uint8)[numbers.reshape(-1)].reshape(*size, 3)


def token_borders(tokens: ArrayLike, *, width: int = 1) -> NDArray[np.bool_]:
    """The pixels on a border between two tokens.

    A pixel is on a border when its upper, lower, left or right neighbour belongs to another token.
    Both sides are marked: a border is 2 pixels wide at width 1, and each further unit adds one
    pixel on each side. The rim of the picture is no border.

    Args:
        tokens: (H, W) integers, the token under each pixel.
        width: pixels on each side of a border, at least 1.

    Returns:
        (H, W) bool.
    """
    if width < 1:
        raise UserError(f"the width of an outline is at least 1 pixel, not {width}")
    picture = np.asarray(tokens)
    border = np.zeros(picture.shape, bool)
    across = picture[1:] != picture[:-1]
    along = picture[:, 1:] != picture[:, :-1]
    border[1:] |= across
    border[:-1] |= across
    border[:, 1:] |= along
    border[:, :-1] |= along
    for _ in range(width - 1):
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
    fill: Fill = "mean",
    outline: bool = True,
    edge_colour: Colour = WHITE,
    width: int = 1,
    scale: int = 2,
) -> NDArray[np.uint8]:
    """Paint one image by its tokens and draw their outlines.

    Works for any height, width and aspect; for a batch, call it once for each image.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) uint8; array or tensor.
        cell_to_token: integers, (H0*W0,), (1, H0*W0) or (H0, W0) with H0 = ceil(H/4),
            W0 = ceil(W/4): ``tokens.layout.cell_to_token[b]`` of any stage.
        fill: ``mean`` paints each token with the mean colour of its pixels, ``none`` keeps
            the image, ``palette`` gives each token a colour of its own.
        outline: draw the borders between tokens.
        edge_colour: red, green, blue of the borders, 0 to 255.
        width: pixels of border on each side (of the enlarged picture), at least 1.
        scale: each pixel of the image becomes a block of this many pixels squared.

    Returns:
        (H*scale, W*scale, 3) uint8, the same bits for the same input.

    Raises:
        UserError: when image, map or an option cannot be used; the sentence says why.

    Why the published drawing is not followed to the letter: it floors the grid (and so fails for
    sides that are no multiple of 4), takes one image only, and thickens borders at random.
    """
    pixels = as_rgb(image)
    size = pixels.shape[:2]
    if fill == "mean":
        painted = token_colours(pixels, cell_to_token)
    elif fill == "palette":
        painted = palette_colours(cell_to_token, size)
    elif fill == "none":
        painted = pixels
    else:
        raise UserError(f"fill is one of {', '.join(FILLS)}, not {fill!r}")
    picture = enlarge(painted, scale).astype(np.uint8)
    # Checked even without outlines: a wrong map must not pass because nobody looks at it.
    tokens = pixel_tokens(cell_to_token, size)
    if outline:
        picture[token_borders(enlarge(tokens, scale), width=width)] = edge_colour
    return picture


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
    tokens = pixel_tokens(cell_to_token, (rows * CELL, columns * CELL))[::CELL, ::CELL]
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
