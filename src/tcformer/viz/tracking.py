"""What maps of tokens tell: who merged into whom, how large tokens are, where detail is.

Everything follows from the maps of one image, ``[tokens.layout.cell_to_token[b] for tokens in
model.forward_tokens(images)]``, each as `tcformer.viz.regions` describes it. Stages are numbered
from 1 as in the paper, tokens as in the maps. A merge never splits a token, so each token of a
stage lies inside one token of every later stage.

Detail is the local gradient of brightness. Sizes and gradients refer to the image as the network
saw it, so that a cell is 4 x 4 pixels; of larger images pass the resized ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.images import as_array, as_rgb
from tcformer.viz.regions import Size, grid_size, pixel_tokens, token_borders

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""

DIGITS = 9
"""Decimals by which means are compared: the same pixels added in another order are equal."""


def layout_maps(stages: Sequence[Any], image: int = 0) -> list[NDArray[np.int64]]:
    """The maps of one image of a batch from what ``model.forward_tokens`` returns.

    `stages` are `Tokens` or their `Layout`; for each (H0*W0,) int64.

    Raises:
        UserError: the batch has no such image.
    """
    maps = []
    for tokens in stages:
        cells = as_array(getattr(tokens, "layout", tokens).cell_to_token)
        if not 0 <= image < len(cells):
            raise UserError(f"there is no image {image} in this batch of {len(cells)}")
        maps.append(cells[image].astype(np.int64))
    return maps


def _flat(cell_map: Any) -> NDArray[np.int64]:
    cells = as_array(cell_map)
    if not np.issubdtype(cells.dtype, np.integer):
        raise UserError(f"cell_to_token must hold integers, not {cells.dtype}")
    return cells.reshape(-1).astype(np.int64)


def parents(earlier: Any, later: Any) -> NDArray[np.int64]:
    """For each token of an earlier stage the token of a later stage that it has become part of.

    From the maps of two stages (or of one) of an image: (N,) int64, N = largest number in
    ``earlier`` + 1; -1 for a number without a cell.

    Raises:
        UserError: maps of different images, or a token of ``earlier`` is split in ``later``.
    """
    earlier, later = _flat(earlier), _flat(later)
    if earlier.shape != later.shape:
        raise UserError(
            f"these maps have {len(earlier)} and {len(later)} cells: pass two of the same image"
        )
    parent = np.full(int(earlier.max(initial=-1)) + 1, -1, np.int64)
    parent[earlier] = later
    split = np.flatnonzero(parent[earlier] != later)
    if split.size:
        raise UserError(
            f"token {earlier[split[0]]} of the earlier map lies in two tokens of the later one: "
            "pass maps of one image, the earlier stage first"
        )
    return parent


def relatives(cell_maps: Sequence[Any], stage: int, token: int) -> list[NDArray[np.int64]]:
    """One token followed through all stages: where it came from and where it went to.

    `cell_maps` are those of one image, `stage` counts from 1. For each stage the numbers of its
    tokens, rising: before ``stage`` those that merged into the token, at ``stage`` the token, after
    it the one token that it is part of.

    Raises:
        UserError: no such stage, no such token, or maps that do not belong together.
    """
    here = _at_stage(cell_maps, stage)
    if token not in here:
        raise UserError(f"there is no token {token}: the map holds 0 to {here.max()}")
    before = [np.flatnonzero(parents(cells, here) == token) for cells in cell_maps[:stage]]
    return [*before, *(parents(here, cells)[[token]] for cells in cell_maps[stage:])]


def families(cell_maps: Sequence[Any], stage: int | None = None) -> list[NDArray[np.int64]]:
    """For each stage the family of each token: the token of one chosen stage that it belongs to.

    Tokens of earlier stages belong to the token that they merge into. A token of a later stage
    holds several families; it is counted to the one with most cells (the lowest number of equals).
    Give tokens of one family one color, and they can be followed by eye.

    `cell_maps` are those of one image, `stage` counts from 1 and is the last by default. For each
    stage s (N_s,) int64, tokens of ``stage``; -1 for numbers without a cell.

    Raises:
        UserError: no such stage, or maps that do not belong together.
    """
    stage = len(cell_maps) if stage is None else stage
    here = _at_stage(cell_maps, stage)
    found = [parents(cell_map, here) for cell_map in cell_maps[:stage]]
    for cell_map in cell_maps[stage:]:
        parent = parents(here, cell_map)
        size = np.bincount(here, minlength=len(parent))
        # Ascending size, then descending number: the last to write is the largest, lowest one.
        order = np.lexsort((-np.arange(len(parent)), size))
        order = order[parent[order] >= 0]
        family = np.full(int(_flat(cell_map).max()) + 1, -1, np.int64)
        family[parent[order]] = order
        found.append(family)
    return found


def contributions(earlier: Any, later: Any, later_weight: Any) -> NDArray[np.float64]:
    """How much each token of an earlier stage contributes to the later token it merged into.

    A merged token is a weighted mean, and ``later_weight``, (H0*W0,) ``layout.cell_weight[b]`` of
    the later stage, is the product of the weights of all merges so far: the share of a token is the
    sum over its cells. (N,) float64, as `parents`; the shares of the tokens that make up one later
    token add up to 1 (0 for numbers without a cell).

    Raises:
        UserError: as `parents`; or weights of another number of cells.
    """
    parents(earlier, later)
    earlier = _flat(earlier)
    weight = as_array(later_weight).reshape(-1).astype(np.float64)
    if weight.shape != earlier.shape:
        raise UserError(f"there are {len(weight)} weights for {len(earlier)} cells")
    return np.bincount(earlier, weights=weight).astype(np.float64)


def _at_stage(cell_maps: Sequence[Any], stage: int) -> NDArray[np.int64]:
    if not 1 <= stage <= len(cell_maps):
        raise UserError(f"there is no stage {stage}: stages are 1 to {len(cell_maps)}")
    return _flat(cell_maps[stage - 1])


# ---- sizes and the detail below them --------------------------------------------------------


def gradient_magnitude(image: Any) -> NDArray[np.float64]:
    """How fast the brightness 0.299 R + 0.587 G + 0.114 B changes at every pixel.

    Its slopes are half of the difference between the two neighbors; at the rim of the image the
    difference between the pixel and its one neighbor.

    The image has two pixels or more each way. (H, W) float64, the root of the sum of the squared
    slopes, in levels (of 0 to 255) a pixel.

    Raises:
        UserError: not such an image.
    """
    pixels = as_rgb(image)
    if min(pixels.shape[:2]) < 2:
        raise UserError(f"an image of {pixels.shape[0]} x {pixels.shape[1]} pixels has no gradient")
    down, right = np.gradient(pixels @ np.array(LUMINANCE))
    return np.hypot(down, right)


def token_areas(cell_to_token: Any, size: Size) -> NDArray[np.int64]:
    """The pixels of every token: (N,) int64, N = largest number in the map + 1.

    16 for a token of one cell; less where the rim of the image cuts cells off. The areas add up to
    height x width of ``size``, which the network saw.
    """
    return np.bincount(pixel_tokens(cell_to_token, size).reshape(-1))


def _means(numbers: NDArray[Any], groups: NDArray[np.int64], least: int = 0) -> NDArray[np.float64]:
    """The mean in each group, compared to `DIGITS`; NaN where a group is empty."""
    groups = groups.reshape(-1)
    with np.errstate(invalid="ignore"):
        total = np.bincount(groups, weights=numbers.reshape(-1), minlength=least)
        return (total / np.bincount(groups, minlength=least)).round(DIGITS)


def _cell_means(numbers: NDArray[Any]) -> NDArray[np.float64]:
    rows, columns = grid_size(numbers.shape[0], numbers.shape[1])
    return _means(numbers, pixel_tokens(np.arange(rows * columns), numbers.shape))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """The place of each of N values from 1, smallest first; equal ones share their mean place."""
    _, where, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[where]


def _rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Spearman's, NaN where either is the same everywhere."""
    if not one.size or (one == one[0]).all() or (other == other[0]).all():
        return float("nan")
    a, b = (_ranks(values) - (len(one) + 1) / 2 for values in (one, other))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def size_against_detail(cell_to_token: Any, gradient: Any, *, weigh: str = "tokens") -> float:
    """Whether detail has the small tokens: their size against the local gradient, as ranks.

    Args:
        cell_to_token: the map.
        gradient: (H, W), `gradient_magnitude` of the image that the network saw.
        weigh: "tokens" compares the tokens, each with its area and the mean gradient inside it.
            "insides" leaves out the pixels with a neighbor (up, down, left, right) in another
            token: borders tend to follow edges, and small tokens have more border. "cells"
            compares the cells, each with the area of its token and its own mean gradient: of
            tokens the large ones average more pixels, which alone makes their means less extreme;
            cells have 16 pixels each (but at the rim).

    Returns:
        Spearman's rank correlation: -1 if the more detail the smaller the token throughout, 0 if
        size does not depend on detail, NaN if all tokens are of one size or the image is flat.

    Raises:
        UserError: when gradient and map do not fit.
    """
    numbers = _plane(gradient)
    tokens = pixel_tokens(cell_to_token, numbers.shape)
    areas = np.bincount(tokens.reshape(-1))
    if weigh == "cells":
        return _rank_correlation(areas[_flat(cell_to_token)], _cell_means(numbers))
    if weigh not in ("tokens", "insides"):
        raise UserError(f"weigh is 'tokens', 'insides' or 'cells', not {weigh!r}")
    counted = np.full(tokens.shape, True) if weigh == "tokens" else ~token_borders(tokens)
    means = _means(numbers[counted], tokens[counted], len(areas))
    there = np.isfinite(means)
    return _rank_correlation(areas[there], means[there])


def sizes_by_detail(cell_to_token: Any, gradient: Any, *, groups: int = 10) -> NDArray[np.float64]:
    """The size of the tokens over cells of little, more, ... most detail.

    The cells of the image are put in order by their mean gradient and cut into equal groups;
    cells of equal gradient stay together, in the group of their mean place.

    `gradient` is (H, W), `gradient_magnitude` of the image that the network saw. (groups,) float64,
    in pixels: the geometric mean of the areas of the tokens that the cells of each group belong to;
    NaN for a group without a cell.
    """
    numbers = _plane(gradient)
    areas = token_areas(cell_to_token, numbers.shape)[_flat(cell_to_token)]
    place = _ranks(_cell_means(numbers))
    group = np.ceil(place * groups / len(place)).astype(np.int64) - 1
    with np.errstate(invalid="ignore"):
        total = np.bincount(group, weights=np.log(areas), minlength=groups)
        return np.exp(total / np.bincount(group, minlength=groups))


def _plane(values: Any) -> NDArray[Any]:
    numbers = as_array(values)
    if numbers.ndim != 2:
        raise UserError(f"one number a pixel is meant, (height, width), not {numbers.shape}")
    return numbers
