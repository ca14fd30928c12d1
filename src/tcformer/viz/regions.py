"""Where tokens lie in a picture: cells, pixels, regions, outlines.

A *cell* is one position of the initial grid and stands for 4 x 4 pixels of the picture that the
network saw (fewer at the right and bottom edge where its sides are no multiples of 4); a *token*
is a set of cells, not necessarily connected. The picture that is drawn on may have any other
resolution: say in ``seen`` which size the network saw, and a pixel belongs to the cell in which its
centre lies. All of it is integer arithmetic on rows and columns, so 12 megapixels take moments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.partition import borders, outlines
from tcformer.viz.images import as_array

CELL = 4
"""Side of a cell in pixels: the stride of the network's stem."""

Size = tuple[int, int]
"""Height and width in pixels."""


def grid_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the initial grid of an image: its sides over 4, rounded up."""
    return -(-height // CELL), -(-width // CELL)


def cell_grid(cell_to_token: Any, size: Size) -> NDArray[np.int64]:
    """The map of one image as a grid, checked against the size of the image.

    Args:
        cell_to_token: integers of shape (H0*W0,), (1, H0*W0) or (H0, W0), with
            H0 = ceil(height/4) and W0 = ceil(width/4); array or tensor.
        size: height and width of the picture that the network saw.

    Returns:
        (H0, W0) int64.

    Raises:
        UserError: when the map does not belong to an image of this size, or is no map.
    """
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
    """The row (or column) of cells for each row (or column) of pixels.

    Args:
        length: height (or width) of the picture.
        seen: the same side of the picture that the network saw.

    Returns:
        (length,) int64, rising, from 0 to at most ceil(seen/4) - 1.
    """
    return (2 * np.arange(length) + 1) * seen // (2 * length * CELL)


def pixel_tokens(cell_to_token: Any, size: Size, *, seen: Size | None = None) -> NDArray[np.int64]:
    """The token under every pixel of a picture of ``size`` = (height, width).

    Args:
        cell_to_token: as in `cell_grid`.
        size: height and width of the picture.
        seen: height and width of it as the network saw it; by default the same.

    Returns:
        (height, width) int64.

    Raises:
        UserError: when the map does not belong to an image of this size.
    """
    seen = size if seen is None else seen
    return on_pixels(cell_grid(cell_to_token, seen), size, seen)


def on_pixels(cells: NDArray[Any], size: Size, seen: Size) -> NDArray[Any]:
    """Values of cells (H0, W0, ...) at the pixels of a picture, (height, width, ...)."""
    rows, columns = (cell_of_pixels(*sides) for sides in zip(size, seen, strict=True))
    # Columns first: the many rows of a picture are then copies of few.
    return cells.take(columns, axis=1).take(rows, axis=0)


def token_at(
    cell_to_token: Any, point: tuple[float, float], size: Size, *, seen: Size | None = None
) -> int:
    """The token that covers a point of the picture.

    Args:
        cell_to_token: as in `cell_grid`.
        point: (x, y) in pixels of the picture, from its upper left corner.
        size: height and width of the picture.
        seen: height and width of it as the network saw it; by default the same.

    Raises:
        UserError: the point lies outside of the picture.
    """
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"the point {x:g},{y:g} lies outside of the picture, which is {width} pixels wide and "
            f"{height} high: give x from 0 to {width - 1} and y from 0 to {height - 1}"
        )
    seen = size if seen is None else seen
    grid = cell_grid(cell_to_token, seen)
    return int(
        grid[cell_of_pixels(height, seen[0])[int(y)], cell_of_pixels(width, seen[1])[int(x)]]
    )


def region_mask(
    cell_to_token: Any, tokens: int | Iterable[int], size: Size, *, seen: Size | None = None
) -> NDArray[np.bool_]:
    """The pixels that one token (or several) covers.

    Args:
        cell_to_token: as in `cell_grid`.
        tokens: number of a token, or numbers.
        size: height and width of the picture.
        seen: height and width of it as the network saw it; by default the same.

    Returns:
        (height, width) bool.

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


class Outliner:
    """Turns corners of cells into positions in the picture, as SVG paths.

    Args:
        size: height and width of the picture.
        seen: height and width of it as the network saw it; by default the same.
    """

    def __init__(self, size: Size, seen: Size | None = None) -> None:
        self.size = size
        self.seen = size if seen is None else seen
        self._y, self._x = (
            [_short(min(CELL * edge, one) * other / one) for edge in range(-(-one // CELL) + 1)]
            for one, other in zip(self.seen, size, strict=True)
        )

    def polygons(self, loops: Iterable[NDArray[np.int64]]) -> str:
        """The path data of closed polygons of corners (x, y)."""
        return "".join(self._polygon(loop.tolist()) for loop in loops)

    def _polygon(self, loop: Sequence[Sequence[int]]) -> str:
        (x, y), parts = loop[0], []
        parts.append(f"M{self._x[x]} {self._y[y]}")
        for next_x, next_y in loop[1:]:
            parts.append(f"V{self._y[next_y]}" if next_x == x else f"H{self._x[next_x]}")
            x, y = next_x, next_y
        return "".join(parts) + "Z"

    def lines(self, segments: Iterable[tuple[int, int, int, int]]) -> str:
        """The path data of straight segments (x1, y1, x2, y2)."""
        return "".join(
            f"M{self._x[x1]} {self._y[y1]}" + (f"V{self._y[y2]}" if x1 == x2 else f"H{self._x[x2]}")
            for x1, y1, x2, y2 in segments
        )


def _short(value: float) -> str:
    """With two digits at most, and none that say nothing."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def token_paths(cell_to_token: Any, size: Size, *, seen: Size | None = None) -> dict[int, str]:
    """The outline of every token as the path data of SVG, in pixels of the picture.

    ``<path d="...">`` with it, in a viewBox of ``0 0 width height``, covers the token's region: all
    its parts, without its holes.

    Args:
        cell_to_token: as in `cell_grid`.
        size: height and width of the picture.
        seen: height and width of it as the network saw it; by default the same.

    Returns:
        path data by number of token, in rising order.
    """
    pen = Outliner(size, seen)
    found = outlines(cell_grid(cell_to_token, pen.seen))
    return {token: pen.polygons(loops) for token, loops in found.items()}


def border_path(cell_to_token: Any, size: Size, *, seen: Size | None = None) -> str:
    """All borders between tokens as the path data of one SVG path, for stroking.

    Each border is drawn once, and the rim of the picture is none. Arguments as in `token_paths`.
    """
    pen = Outliner(size, seen)
    return pen.lines(borders(cell_grid(cell_to_token, pen.seen)))
