"""Where tokens lie in an image: cells, pixels, regions, outlines.

A *cell* is one position of the initial grid and stands for 4 x 4 pixels of the image that the
network saw (fewer at the right and bottom edge where its sides are no multiples of 4); a *token*
is a set of cells, not necessarily connected. All of it is integer arithmetic on rows and columns,
so 12 megapixels take moments. In all of `tcformer.viz`

* `cell_to_token` is the map of one image: integers of shape (H0*W0,), (1, H0*W0) or (H0, W0) with
  H0 = ceil(h/4) and W0 = ceil(w/4), h x w what the network saw; array or tensor, such as
  ``tokens.layout.cell_to_token[b]`` of any stage;
* `size` is (height, width) in pixels of the image that is drawn on, which may have any resolution;
* `seen` is (height, width) of the image as the network saw it, by default the same. A pixel belongs
  to the cell in which its center lies.

A map that does not belong to an image of that size raises `UserError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcformer.errors import UserError
from tcformer.images import as_array
from tcformer.partition import outlines

CELL = 4
"""Side of a cell in pixels: the stride of the network's stem."""

Size = tuple[int, int]
"""Height and width in pixels."""


def grid_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the initial grid of an image: its sides over 4, rounded up."""
    return -(-height // CELL), -(-width // CELL)


def cell_grid(cell_to_token: Any, size: Size) -> NDArray[np.int64]:
    """Check the map of one image against its `size` as the network saw it: (H0, W0) int64."""
    height, width = size
    cells = as_array(cell_to_token)
    rows, columns = grid_size(height, width)
    if cells.shape not in {(rows * columns,), (1, rows * columns), (rows, columns)}:
        raise UserError(
            f"cell_to_token has shape {cells.shape}, but an image of {height} x {width} pixels has "
            f"{rows} x {columns} = {rows * columns} cells: pass the map of one image of this size, "
            "or say with seen= which size the network saw"
        )
    if not np.issubdtype(cells.dtype, np.integer):
        raise UserError(f"cell_to_token must hold integers, not {cells.dtype}")
    if cells.size and cells.min() < 0:
        raise UserError(f"cell_to_token must hold numbers from 0, not {cells.min()}")
    return cells.reshape(rows, columns).astype(np.int64)


def cell_of_pixels(length: int, seen: int) -> NDArray[np.int64]:
    """The row (or column) of cells of each of `length` rows (or columns) of pixels, rising."""
    return (2 * np.arange(length) + 1) * seen // (2 * length * CELL)


def pixel_tokens(cell_to_token: Any, size: Size, *, seen: Size | None = None) -> NDArray[np.int64]:
    """The token under every pixel: (height, width) int64."""
    seen = size if seen is None else seen
    return on_pixels(cell_grid(cell_to_token, seen), size, seen)


def on_pixels(cells: NDArray[Any], size: Size, seen: Size) -> NDArray[Any]:
    """Values of cells (H0, W0, ...) at the pixels of an image, (height, width, ...)."""
    rows, columns = (cell_of_pixels(*sides) for sides in zip(size, seen, strict=True))
    # Columns first: the many rows of an image are then copies of few.
    return cells.take(columns, axis=1).take(rows, axis=0)


def token_at(
    cell_to_token: Any, point: tuple[float, float], size: Size, *, seen: Size | None = None
) -> int:
    """The token that covers a point (x, y), in pixels from the upper left corner of the image.

    Raises:
        UserError: the point lies outside of the image.
    """
    check_inside(point, size)
    seen = size if seen is None else seen
    row, column = (
        cell_of_pixels(length, side)[int(place)]
        for length, side, place in zip(size, seen, reversed(point), strict=True)
    )
    return int(cell_grid(cell_to_token, seen)[row, column])


def check_inside(point: tuple[float, float], size: Size, what: str = "the point") -> None:
    """Refuse a point (x, y) outside of an image of (height, width) pixels; `what` names it."""
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"{what} {x:g},{y:g} lies outside of the picture, which is {width} pixels wide and "
            f"{height} high: give x from 0 to {width - 1} and y from 0 to {height - 1}"
        )


def region_mask(
    cell_to_token: Any, tokens: int | Iterable[int], size: Size, *, seen: Size | None = None
) -> NDArray[np.bool_]:
    """The pixels that one token (or several) covers: (height, width) bool.

    Raises:
        UserError: a number that no cell bears.
    """
    seen = size if seen is None else seen
    grid = cell_grid(cell_to_token, seen)
    wanted = np.atleast_1d(as_array(tokens if np.ndim(tokens) == 0 else list(tokens)))  # type: ignore[arg-type]
    missing = np.setdiff1d(wanted, grid)
    if missing.size:
        raise UserError(f"there is no token {missing[0]}: the map holds 0 to {grid.max()}")
    return on_pixels(np.isin(grid, wanted), size, seen)


def token_borders(tokens: ArrayLike, *, width: float = 1) -> NDArray[np.bool_]:
    """Whether a pixel's upper, lower, left or right neighbor belongs to another token: (H, W) bool.

    Both sides of a border are marked: it is 2 pixels wide at width 1, and each further unit adds
    one pixel on each side; 0.5 marks only the lower and right side, one pixel in all. The rim of
    the image is no border. `tokens` are (H, W) integers, the token under each pixel.
    """
    if width < 0.5 or width * 2 != int(width * 2):
        raise UserError(
            f"the width of an outline is a multiple of half a pixel, at least 0.5, not {width}"
        )
    under = np.asarray(tokens)
    border = np.zeros(under.shape, bool)
    for lines, tokens in ((border, under), (border.T, under.T)):
        apart = tokens[1:] != tokens[:-1]
        lines[1:] |= apart
        if width == int(width):
            lines[:-1] |= apart
    for _ in range(int(width + 0.5) - 1):
        for lines in (border, border.T):  # corners stay square
            before = lines.copy()
            lines[1:] |= before[:-1]
            lines[:-1] |= before[1:]
    return border


class Outliner:
    """Turns corners of cells into positions in an image of `size`, as SVG path data."""

    def __init__(self, size: Size, seen: Size | None = None) -> None:
        self.seen = size if seen is None else seen
        self._y, self._x = (
            [_short(min(CELL * edge, one) * other / one) for edge in range(-(-one // CELL) + 1)]
            for one, other in zip(self.seen, size, strict=True)
        )

    def _path(self, corners: Sequence[Sequence[int]]) -> str:
        """From corner to corner, upright or level."""
        (x, y), steps = corners[0], pairwise(corners)
        return f"M{self._x[x]} {self._y[y]}" + "".join(
            f"V{self._y[y]}" if x == before else f"H{self._x[x]}" for (before, _), (x, y) in steps
        )

    def polygons(self, loops: Iterable[NDArray[np.int64]]) -> str:
        """The path data of closed polygons of corners (x, y)."""
        return "".join(f"{self._path(loop.tolist())}Z" for loop in loops)

    def lines(self, segments: Iterable[tuple[int, int, int, int]]) -> str:
        """The path data of straight segments (x1, y1, x2, y2)."""
        return "".join(self._path((one[:2], one[2:])) for one in segments)


def _short(value: float) -> str:
    """With two digits at most, and none that say nothing."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def token_paths(cell_to_token: Any, size: Size, *, seen: Size | None = None) -> dict[int, str]:
    """The outline of every token as the path data of SVG, by number in rising order.

    ``<path d="...">`` with it, in a viewBox of ``0 0 width height``, covers the token's region: all
    its parts, without its holes.
    """
    pen = Outliner(size, seen)
    found = outlines(cell_grid(cell_to_token, pen.seen))
    return {token: pen.polygons(loops) for token, loops in found.items()}
