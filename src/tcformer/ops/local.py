"""Clustering inside windows of the image, for Local CTM: cells and tokens to windows and back.

A *part grid* (nh, nw) cuts an image into nh x nw windows. The grids of successive merges nest: each
divides the one before in both directions. So the cells are put in an order in which the windows of
every grid are runs of equal length, and clusters are numbered window by window. From then on no
geometry is needed: cutting the sequence of tokens into nh*nw equal runs gives the windows. In such
a sequence the order of tokens has a meaning, which `Layout.part_grids` records.

Where a grid does not divide the cells, padding makes the windows equally long. Padding takes no
part in the clustering: it is nobody's neighbor and no center.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tcformer.arguments import as_int, as_size
from tcformer.errors import shown
from tcformer.ops.dpc_knn import Clusters, dpc_knn
from tcformer.shapes import Float, shaped
from tcformer.tokens import Layout, is_grid

__all__ = ["Grids", "Windows", "cluster_windows", "cut", "nested_grids", "usable_grids"]

Grid = tuple[int, int]
Grids = tuple[Grid, ...]
"""Part grids, the finest first, each dividing the one before, down to (1, 1)."""

WHOLE: Grid = (1, 1)


class Windows(NamedTuple):
    """Where the tokens of every window stand.

    Attributes:
        num_windows: P.
        size: S, places of a window, padding included.
        smallest: the fewest tokens that a window has.
        order: (P*S,) int64, the token at every place, window after window; -1 is padding. None
            where the windows are runs of the sequence as it is.
        place: (N,) int64, the place of every token; None like ``order``.
    """

    num_windows: int
    size: int
    smallest: int
    order: Tensor | None = None
    place: Tensor | None = None


def nested_grids(part_grids: Sequence[Sequence[int]]) -> Grids:
    """Part grids of successive merges, ending with (1, 1), repetitions left out.

    Raises:
        NotANumberError: (a TypeError and a ValueError) a grid is no pair of integers.
        ValueError: a grid is not positive, or does not divide the one before.
    """
    grids: list[Grid] = []
    for grid in [*part_grids, WHOLE]:
        try:
            rows, columns = as_size("a part grid", grid)
        except ValueError as error:
            raise type(error)(
                f"a part grid is two positive integers, rows and columns, not {shown(grid)}."
            ) from error
        if grids and (grids[-1][0] % rows or grids[-1][1] % columns):
            raise ValueError(
                f"part grid {rows}x{columns} does not divide the one before it, "
                f"{grids[-1][0]}x{grids[-1][1]}: its windows would cut through finer ones."
            )
        if not grids or grids[-1] != (rows, columns):
            grids.append((rows, columns))
    return tuple(grids)


def usable_grids(layout: Layout, grids: Grids, num_clusters: int) -> Grids:
    """The grids from the first one that these tokens can be cut by.

    A grid is passed over if a window would get no cluster of the ``num_clusters`` or more clusters
    than it has tokens (small images), or if the tokens do not stand in its order (because it was
    passed over at the merge before). (1, 1) always remains.
    """
    whole = is_grid(layout)
    for first, (rows, columns) in enumerate(grids):
        if whole:
            smallest = _fewest_cells(layout.grid_size, (rows, columns))
        elif (rows, columns) in layout.part_grids:
            smallest = layout.num_tokens // (rows * columns)
        else:
            continue
        if 1 <= num_clusters // (rows * columns) <= smallest:
            rest = grids[first:]
            return rest if whole else tuple(filter(layout.part_grids.__contains__, rest))
    return (WHOLE,)


def cut(layout: Layout, grids: Grids) -> Windows:
    """The windows of the first of these grids, which is usable for these tokens."""
    if is_grid(layout):
        return grid_windows(layout.grid_size, grids, layout.cell_to_token.device)
    return run_windows(layout.num_tokens, grids[0][0] * grids[0][1])


def grid_windows(
    grid_size: Grid, grids: Grids, device: torch.device | str | None = None
) -> Windows:
    """Cut H0 x W0 cells by the first of these grids, in the order of all of them.

    Padding goes to both sides, the odd row or column to the lower or right one.
    """
    num_windows = grids[0][0] * grids[0][1]
    num_cells = grid_size[0] * grid_size[1]
    if num_windows == 1:
        return run_windows(num_cells, 1)
    top, bottom = _padding(grid_size[0], grids[0][0])
    left, right = _padding(grid_size[1], grids[0][1])
    padded = (grid_size[0] + top + bottom, grid_size[1] + left + right)
    cells = torch.arange(num_cells, device=device).view(grid_size)
    order = _nested(F.pad(cells, (left, right, top, bottom), value=-1), grids)
    places = torch.arange(padded[0] * padded[1], device=device)
    place = _row_major(places, padded, grids)
    place = place[top : top + grid_size[0], left : left + grid_size[1]].flatten()
    size = padded[0] * padded[1] // num_windows
    return Windows(num_windows, size, _fewest_cells(grid_size, grids[0]), order, place)


def run_windows(num_tokens: int, num_windows: int) -> Windows:
    """Cut a sequence of tokens into runs of equal length."""
    num_tokens = as_int("run_windows: num_tokens", num_tokens, 0)
    num_windows = as_int("run_windows: num_windows", num_windows, 0)
    if num_windows < 1 or num_tokens % num_windows:
        raise ValueError(f"{num_tokens} tokens cannot be cut into {num_windows} equal runs.")
    return Windows(num_windows, num_tokens // num_windows, num_tokens // num_windows)


@shaped
def cluster_windows(
    x: Float[Tensor, "b n c"],
    windows: Windows,
    num_clusters: int,
    k: int = 5,
    *,
    density_noise: Float[Tensor, "b n"] | None = None,
    tolerance: float = 0.0,
    impl: str = "auto",
) -> Clusters:
    """Cluster the tokens of every window on their own: :func:`dpc_knn`, once for all windows.

    Args:
        x: (B, N, C) float, any float dtype.
        windows: where the tokens of every window stand.
        num_clusters: clusters of each window, from 1; the numbers of window p are
            ``p * num_clusters`` and the following ones.
        k: neighbors in the density estimate, from 1 (the token itself); at most those of a window.
        density_noise: (B, N) float, see :func:`dpc_knn`.
        tolerance: see :func:`dpc_knn`.
        impl: see :func:`dpc_knn`.

    Returns:
        :class:`Clusters` with an assignment (B, N) and centers (B, P * num_clusters).

    Raises:
        ValueError: a window has fewer tokens than clusters, or the shapes do not fit.
        TypeError: a count is no integer, or ``tolerance`` no real number.

    Source: Zeng et al., "TCFormer: Visual Recognition via Token Clustering Transformer" (TPAMI
    2024): Local CTM.
    """
    num_clusters = as_int("cluster_windows: num_clusters", num_clusters)
    count, size, smallest, order, place = windows
    count = as_int("cluster_windows: num_windows of the windows", count, 0)
    size = as_int("cluster_windows: size of the windows", size, 0)
    smallest = as_int("cluster_windows: smallest of the windows", smallest, 0)
    if num_clusters > smallest:
        raise ValueError(
            f"cluster_windows: {num_clusters} clusters of each window are wanted, but the smallest "
            f"window has {smallest} tokens."
        )
    batch, num_tokens = x.shape[:2]
    expected = count * size if place is None else place.shape[0]
    if num_tokens != expected:
        raise ValueError(
            f"cluster_windows: these are windows of {expected} tokens, not {num_tokens}."
        )
    mask = None
    if order is not None:
        token = order.clamp(min=0)
        x = x.index_select(1, token)
        density_noise = None if density_noise is None else density_noise.index_select(1, token)
        if order.shape[0] > num_tokens:
            mask = (order >= 0).expand(batch, -1).reshape(-1, size)
    found = dpc_knn(
        x.reshape(batch * count, size, x.shape[-1]),
        num_clusters,
        k,
        mask=mask,
        density_noise=None if density_noise is None else density_noise.reshape(-1, size),
        tolerance=tolerance,
        impl=impl,
    )
    if count == 1 and order is None:
        return found
    window = torch.arange(count, device=x.device)[:, None]
    labels = found.assignment.view(batch, count, size) + window * num_clusters
    centers = found.centers.view(batch, count, num_clusters) + window * size
    labels, centers = labels.flatten(1), centers.flatten(1)
    if order is None or place is None:
        return Clusters(labels, centers)
    return Clusters(labels.index_select(1, place), order[centers])


def _padding(length: int, windows: int) -> tuple[int, int]:
    """Rows before and after, so that the windows divide the length."""
    total = -length % windows
    return total // 2, total - total // 2


def _fewest_cells(grid_size: Grid, part_grid: Grid) -> int:
    """The fewest cells, padding left out, that a window of the grid has."""
    fewest = 1
    for length, windows in zip(grid_size, part_grid, strict=True):
        before, after = _padding(length, windows)
        size = (before + length + after) // windows
        # Padding lies in the first and the last window; where they are many, those may be empty.
        fewest *= max(0, min(size - before, size - after))
    return fewest


def _sides(size: Grid, grids: Grids, axis: int) -> list[int]:
    """How often each grid, coarse to fine, cuts a window of the one before; and what is left."""
    sides = [1, *(grid[axis] for grid in reversed(grids)), size[axis]]
    return [fine // coarse for coarse, fine in itertools.pairwise(sides)]


def _nested(cells: Tensor, grids: Grids) -> Tensor:
    """(H, W) in nested order, (H*W,): coarse windows first, row-major inside a window."""
    size = (cells.shape[0], cells.shape[1])
    depth = len(grids) + 1
    split = cells.reshape(*_sides(size, grids, 0), *_sides(size, grids, 1))
    return split.permute([axis for d in range(depth) for axis in (d, depth + d)]).flatten()


def _row_major(sequence: Tensor, size: Grid, grids: Grids) -> Tensor:
    """The inverse of `_nested`: (H*W,) in nested order as (H, W)."""
    pairs = zip(_sides(size, grids, 0), _sides(size, grids, 1), strict=True)
    split = sequence.view([side for pair in pairs for side in pair])
    depth = len(grids) + 1
    return split.permute([*range(0, 2 * depth, 2), *range(1, 2 * depth, 2)]).reshape(size)
