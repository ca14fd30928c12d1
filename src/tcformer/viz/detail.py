"""How large tokens are, and whether detail gets the small ones.

Detail is the local gradient of brightness. Everything refers to the picture as the network saw it,
so that a cell is 4 x 4 pixels; of larger pictures pass the resized ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.viz.images import as_array, as_rgb
from tcformer.viz.regions import Size, grid_size, pixel_tokens

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""

DIGITS = 9
"""Decimals by which means are compared: the same pixels added in another order are equal."""


def gradient_magnitude(image: Any) -> NDArray[np.float64]:
    """How fast the brightness changes at every pixel.

    The brightness is 0.299 R + 0.587 G + 0.114 B. Its slopes are central differences, half of the
    difference between the two neighbours; at the rim of the picture the difference between the
    pixel and its one neighbour. The magnitude is the root of the sum of their squares.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) uint8, array or tensor, two pixels or more each way.

    Returns:
        (H, W) float64, in levels (of 0 to 255) a pixel.

    Raises:
        UserError: not such an image.
    """
    pixels = as_rgb(image)
    if min(pixels.shape[:2]) < 2:
        raise UserError(f"an image of {pixels.shape[0]} x {pixels.shape[1]} pixels has no gradient")
    down, right = np.gradient(pixels @ np.array(LUMINANCE))
    return np.hypot(down, right)


def token_areas(cell_to_token: Any, size: Size) -> NDArray[np.int64]:
    """The size of every token.

    Args:
        cell_to_token: as in `cell_grid`.
        size: height and width of the picture that the network saw.

    Returns:
        (N,) int64, in pixels, N = largest number in the map + 1. 16 for a token of one cell; less
        where the rim of the picture cuts cells off. The areas add up to height x width.

    Raises:
        UserError: when the map does not belong to an image of this size.
    """
    return np.bincount(pixel_tokens(cell_to_token, size).reshape(-1))


def token_means(values: Any, cell_to_token: Any) -> NDArray[np.float64]:
    """The mean of a quantity over the pixels of every token.

    Args:
        values: (H, W) numbers, one for each pixel that the network saw.
        cell_to_token: as in `cell_grid`.

    Returns:
        (N,) float64; NaN for a number that no pixel bears.

    Raises:
        UserError: when values and map do not fit.
    """
    numbers = _plane(values)
    tokens = pixel_tokens(cell_to_token, numbers.shape).reshape(-1)
    count = np.bincount(tokens)
    with np.errstate(invalid="ignore"):
        return np.bincount(tokens, weights=numbers.reshape(-1)) / count


def cell_means(values: Any) -> NDArray[np.float64]:
    """The mean of a quantity over the pixels of every cell.

    Args:
        values: (H, W) numbers, one for each pixel that the network saw.

    Returns:
        (ceil(H/4) * ceil(W/4),) float64, cells in row-major order.
    """
    numbers = _plane(values)
    rows, columns = grid_size(*numbers.shape)
    return token_means(numbers, np.arange(rows * columns))


def ranks(values: Any) -> NDArray[np.float64]:
    """The place of each value from 1, smallest first; equal values share the mean of their places.

    Args:
        values: (N,) finite numbers.

    Returns:
        (N,) float64, adding up to N (N + 1) / 2.
    """
    _, where, count = np.unique(as_array(values), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[where]


def rank_correlation(first: Any, second: Any) -> float:
    """Spearman's rank correlation: Pearson's, of the `ranks`.

    Args:
        first: (N,) finite numbers.
        second: (N,) finite numbers.

    Returns:
        from -1 (one falls where the other rises) to 1; NaN where either is the same everywhere,
        as it is for fewer than two values: nothing can be said then.

    Raises:
        UserError: they are not two lists of the same length.
    """
    one, other = as_array(first), as_array(second)
    if one.ndim != 1 or one.shape != other.shape:
        raise UserError(
            f"a correlation needs two lists of one length, not {one.shape} and {other.shape}"
        )
    if not one.size or (one == one[0]).all() or (other == other[0]).all():
        return float("nan")
    a, b = (ranks(values) - (len(one) + 1) / 2 for values in (one, other))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def size_against_detail(cell_to_token: Any, gradient: Any, *, weigh: str = "tokens") -> float:
    """Whether detail has the small tokens: their size against the local gradient, as ranks.

    Args:
        cell_to_token: as in `cell_grid`.
        gradient: (H, W), `gradient_magnitude` of the picture that the network saw.
        weigh: "tokens" compares the tokens, each with its area and the mean gradient inside it.
            "insides" leaves out the pixels with a neighbour (up, down, left, right) in another
            token: borders tend to follow edges, and small tokens have more border. "cells"
            compares the cells, each with the area of its token and its own mean gradient: of
            tokens the large ones average more pixels, which alone makes their means less extreme;
            cells have 16 pixels each (but at the rim).

    Returns:
        `rank_correlation`: -1 if the more detail the smaller the token throughout, 0 if size does
        not depend on detail, NaN if all tokens are of one size or the picture is flat.

    Raises:
        UserError: when gradient and map do not fit.
    """
    numbers = _plane(gradient)
    areas = token_areas(cell_to_token, numbers.shape)
    if weigh == "cells":
        cells = as_array(cell_to_token).reshape(-1)
        return rank_correlation(areas[cells], cell_means(numbers).round(DIGITS))
    if weigh == "tokens":
        means = token_means(numbers, cell_to_token)
    elif weigh == "insides":
        tokens = pixel_tokens(cell_to_token, numbers.shape)
        inside = _inside(tokens)
        sums = np.bincount(tokens[inside], weights=numbers[inside], minlength=len(areas))
        with np.errstate(invalid="ignore"):
            means = sums / np.bincount(tokens[inside], minlength=len(areas))
    else:
        raise UserError(f"weigh is 'tokens', 'insides' or 'cells', not {weigh!r}")
    there = np.isfinite(means)
    return rank_correlation(areas[there], means[there].round(DIGITS))


def sizes_by_detail(cell_to_token: Any, gradient: Any, *, groups: int = 10) -> NDArray[np.float64]:
    """The size of the tokens over cells of little, more, ... most detail.

    The cells of the picture are put in order by their mean gradient and cut into equal groups;
    cells of equal gradient stay together, in the group of their mean place.

    Args:
        cell_to_token: as in `cell_grid`.
        gradient: (H, W), `gradient_magnitude` of the picture that the network saw.
        groups: how many; ten are deciles.

    Returns:
        (groups,) float64, in pixels: the geometric mean of the areas of the tokens that the cells
        of each group belong to; NaN for a group without a cell.

    Raises:
        UserError: when gradient and map do not fit.
    """
    numbers = _plane(gradient)
    areas = token_areas(cell_to_token, numbers.shape)[as_array(cell_to_token).reshape(-1)]
    place = ranks(cell_means(numbers).round(DIGITS))
    group = np.ceil(place * groups / len(place)).astype(np.int64) - 1
    count = np.bincount(group, minlength=groups)
    with np.errstate(invalid="ignore"):
        return np.exp(np.bincount(group, weights=np.log(areas), minlength=groups) / count)


def _inside(tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the pixels beside a pixel belong to its token, those there are: (H, W)."""
    inside = np.ones(tokens.shape, np.bool_)
    down, right = tokens[1:] == tokens[:-1], tokens[:, 1:] == tokens[:, :-1]
    inside[1:] &= down
    inside[:-1] &= down
    inside[:, 1:] &= right
    inside[:, :-1] &= right
    return inside


def _plane(values: Any) -> NDArray[Any]:
    numbers = as_array(values)
    if numbers.ndim != 2:
        raise UserError(f"one number a pixel is meant, (height, width), not {numbers.shape}")
    return numbers
