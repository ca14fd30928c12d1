"""Who merged into whom: tokens followed through the stages.

Everything follows from the maps of one image, ``[tokens.layout.cell_to_token[b] for tokens in
model.forward_tokens(images)]``: stages are numbered from 1 as in the paper, tokens as in the maps.
A merge never splits a token, so each token of a stage lies inside one token of every later stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.viz.images import as_array


def layout_maps(stages: Sequence[Any], image: int = 0) -> list[NDArray[np.int64]]:
    """The maps of one image of a batch from what ``model.forward_tokens`` returns.

    Args:
        stages: for each stage its `Tokens`, or their `Layout`.
        image: which image of the batch, from 0.

    Returns:
        for each stage (H0*W0,) int64.

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

    Args:
        earlier: (H0*W0,) or (H0, W0) integers, the map of an earlier stage; array or tensor.
        later: the map of a later stage (or of the same) of the same image.

    Returns:
        (N,) int64, N = largest number in ``earlier`` + 1; -1 for a number without a cell.

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


def children(earlier: Any, later: Any, token: int) -> NDArray[np.int64]:
    """The tokens of an earlier stage that merged into one token of a later stage.

    Args:
        earlier: as in `parents`.
        later: as in `parents`.
        token: number of a token of ``later``.

    Returns:
        (K,) int64, rising.

    Raises:
        UserError: as `parents`; or no cell bears that number.
    """
    parent = parents(earlier, later)
    found = np.flatnonzero(parent == token)
    if not found.size:
        raise UserError(f"there is no token {token}: the map holds 0 to {parent.max()}")
    return found


def relatives(cell_maps: Sequence[Any], stage: int, token: int) -> list[NDArray[np.int64]]:
    """One token followed through all stages: where it came from and where it went to.

    Args:
        cell_maps: the maps of one image, one for each stage.
        stage: the stage of the token, from 1.
        token: its number there.

    Returns:
        for each stage the numbers of its tokens, rising: before ``stage`` those that merged into
        the token, at ``stage`` the token, after it the one token that it is part of.

    Raises:
        UserError: no such stage, no such token, or maps that do not belong together.
    """
    _check_stage(cell_maps, stage)
    here = cell_maps[stage - 1]
    own = children(here, here, token)
    return [
        children(cell_map, here, token)
        if number < stage
        else own
        if number == stage
        else parents(here, cell_map)[own]
        for number, cell_map in enumerate(cell_maps, start=1)
    ]


def families(cell_maps: Sequence[Any], stage: int | None = None) -> list[NDArray[np.int64]]:
    """For each stage the family of each token: the token of one chosen stage that it belongs to.

    Tokens of earlier stages belong to the token that they merge into. A token of a later stage
    holds several families; it is counted to the one with most cells (the lowest number of equals).
    Give tokens of one family one colour, and they can be followed by eye.

    Args:
        cell_maps: the maps of one image, one for each stage.
        stage: the stage whose tokens name the families, from 1; by default the last.

    Returns:
        for each stage s (N_s,) int64, tokens of ``stage``; -1 for numbers without a cell.

    Raises:
        UserError: no such stage, or maps that do not belong together.
    """
    stage = len(cell_maps) if stage is None else stage
    _check_stage(cell_maps, stage)
    here = _flat(cell_maps[stage - 1])
    found = []
    for number, cell_map in enumerate(cell_maps, start=1):
        if number <= stage:
            found.append(parents(cell_map, here))
            continue
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

    A merged token is a weighted mean, and ``cell_weight`` keeps the product of the weights of all
    merges so far: the share of a token is the sum over its cells.

    Args:
        earlier: as in `parents`.
        later: as in `parents`.
        later_weight: (H0*W0,) float, ``layout.cell_weight[b]`` of the later stage.

    Returns:
        (N,) float64, one value for each token of ``earlier``; the shares of the tokens that make
        up one later token add up to 1 (0 for numbers without a cell).

    Raises:
        UserError: as `parents`; or weights of another number of cells.
    """
    parents(earlier, later)
    earlier = _flat(earlier)
    weight = as_array(later_weight).reshape(-1).astype(np.float64)
    if weight.shape != earlier.shape:
        raise UserError(f"there are {len(weight)} weights for {len(earlier)} cells")
    return np.bincount(earlier, weights=weight).astype(np.float64)


def _check_stage(cell_maps: Sequence[Any], stage: int) -> None:
    if not 1 <= stage <= len(cell_maps):
        raise UserError(f"there is no stage {stage}: stages are 1 to {len(cell_maps)}")
