"""Clustering inside parts of the image, for Local CTM: cells and tokens to parts and back.

A *part grid* (nh, nw) cuts an image into nh x nw rectangles. The grids of successive merges nest:
each divides the one before in both directions. So the cells are put in an order in which the
parts of every grid of the nest are runs of equal length, clusters are numbered part by part, and
from then on no geometry is needed: cutting the sequence of tokens into nh*nw equal runs gives the
parts. In such a sequence the order of tokens has a meaning, which `Layout.part_grids` records.

Where a grid does not divide the cells, padding makes the parts equally long. Padding takes no part
in the clustering: it is nobody's neighbor and no center.
"""

from __future__ import annotations

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

__all__ = ["Nest", "Parts", "cluster_parts", "cut", "nest_of", "usable_nest"]

Grid = tuple[int, int]
Nest = tuple[Grid, ...]
"""Part grids, the finest first, each dividing the one before, down to (1, 1)."""

WHOLE: Grid = (1, 1)


class Parts(NamedTuple):
    """Where the tokens of every part stand.

    Attributes:
        num_parts: P.
        size: S, places of a part, padding included.
        smallest: the fewest tokens that a part has.
        order: (P*S,) int64, the token at every place, part after part; -1 is padding. None where
            the parts are runs of the sequence as it is.
        place: (N,) int64, the place of every token; None like ``order``.
    """

    num_parts: int
    size: int
    smallest: int
    order: Tensor | None = None
    place: Tensor | None = None


def nest_of(part_grids: Sequence[Sequence[int]]) -> Nest:
    """Part grids of successive merges as a nest that ends with (1, 1), repetitions left out.

    Raises:
        NotANumberError: (a TypeError and a ValueError) a grid is no pair of integers.
        ValueError: a grid is not positive, or does not divide the one before.
    """
    nest: list[Grid] = []
    for grid in [*part_grids, WHOLE]:
        try:
            rows, columns = as_size("a part grid", grid)
        except ValueError as error:
            raise type(error)(
                f"a part grid is two positive integers, rows and columns, not {shown(grid)}."
            ) from error
        if nest and (nest[-1][0] % rows or nest[-1][1] % columns):
            before = "x".join(map(str, nest[-1]))
            raise ValueError(
                f"part grid {rows}x{columns} does not divide the one before it, {before}: its "
                "parts would cut through finer ones."
            )
        if not nest or nest[-1] != (rows, columns):
            nest.append((rows, columns))
    return tuple(nest)


def usable_nest(layout: Layout, nest: Nest, num_clusters: int) -> Nest:
    """The nest from its first grid that these tokens can be cut by.

    A grid is passed over if a part would get no cluster of the ``num_clusters`` or more clusters
    than it has tokens (small images), or if the tokens do not stand in its order (because it was
    passed over at the merge before). (1, 1) always remains.
    """
    whole = is_grid(layout)
    for first, (rows, columns) in enumerate(nest):
        of_each = num_clusters // (rows * columns)
        if whole:
            smallest = _fewest_cells(layout.grid_size, (rows, columns))
        elif (rows, columns) in layout.part_grids:
            smallest = layout.num_tokens // (rows * columns)
        else:
            continue
        if 1 <= of_each <= smallest:
            rest = nest[first:]
            return rest if whole else tuple(filter(layout.part_grids.__contains__, rest))
    return (WHOLE,)


def cut(layout: Layout, nest: Nest) -> Parts:
    """The parts of the first grid of a nest that is usable for these tokens."""
    if is_grid(layout):
        return grid_parts(layout.grid_size, nest, layout.cell_to_token.device)
    return run_parts(layout.num_tokens, nest[0][0] * nest[0][1])


def grid_parts(grid_size: Grid, nest: Nest, device: torch.device | str | None = None) -> Parts:
    """Cut a grid of H0 x W0 cells by the first grid of a nest, in the order of all of them.

    Padding goes to both sides, the odd row or column to the lower or right one.
    """
    num_parts = nest[0][0] * nest[0][1]
    num_cells = grid_size[0] * grid_size[1]
    if num_parts == 1:
        return run_parts(num_cells, 1)
    top, bottom = _padding(grid_size[0], nest[0][0])
    left, right = _padding(grid_size[1], nest[0][1])
    padded = (grid_size[0] + top + bottom, grid_size[1] + left + right)
    cells = torch.arange(num_cells, device=device).view(grid_size)
    order = _nested(F.pad(cells, (left, right, top, bottom), value=-1), nest)
    places = torch.arange(padded[0] * padded[1], device=device)
    place = _row_major(places, padded, nest)
    place = place[top : top + grid_size[0], left : left + grid_size[1]].flatten()
    size = padded[0] * padded[1] // num_parts
    return Parts(num_parts, size, _fewest_cells(grid_size, nest[0]), order, place)


def run_parts(num_tokens: int, num_parts: int) -> Parts:
    """Cut a sequence of tokens into runs of equal length."""
    num_tokens = as_int("run_parts: num_tokens", num_tokens, 0)
    num_parts = as_int("run_parts: num_parts", num_parts, 0)
    if num_parts < 1 or num_tokens % num_parts:
        raise ValueError(f"{num_tokens} tokens cannot be cut into {num_parts} equal runs.")
    return Parts(num_parts, num_tokens // num_parts, num_tokens // num_parts)


@shaped
def cluster_parts(
    x: Float[Tensor, "b n c"],
    parts: Parts,
    num_clusters: int,
    k: int = 5,
    *,
    density_noise: Float[Tensor, "b n"] | None = None,
    tolerance: float = 0.0,
    impl: str = "auto",
) -> Clusters:
    """Cluster the tokens of every part on their own: :func:`dpc_knn`, once for all parts.

    Args:
        x: (B, N, C) float, any float dtype.
        parts: where the tokens of every part stand.
        num_clusters: clusters of each part, from 1; the numbers of part p are
            ``p * num_clusters`` and the following ones.
        k: neighbors in the density estimate, from 1 (the token itself); at most those of a part.
        density_noise: (B, N) float, see :func:`dpc_knn`.
        tolerance: see :func:`dpc_knn`.
        impl: implementation of :func:`dpc_knn`.

    Returns:
        :class:`Clusters` with an assignment (B, N) and centers (B, P * num_clusters).

    Raises:
        ValueError: a part has fewer tokens than clusters, or the shapes do not fit.
        TypeError: a count is no integer, or ``tolerance`` no real number.

    Source: Zeng et al., "TCFormer: Visual Recognition via Token Clustering Transformer" (TPAMI
    2024): Local CTM.
    """
    num_clusters = as_int("cluster_parts: num_clusters", num_clusters)
    parts = parts._replace(
        num_parts=as_int("cluster_parts: num_parts of the parts", parts.num_parts, 0),
        size=as_int("cluster_parts: size of the parts", parts.size, 0),
        smallest=as_int("cluster_parts: smallest of the parts", parts.smallest, 0),
    )
    if num_clusters > parts.smallest:
        raise ValueError(
            f"cluster_parts: {num_clusters} clusters of each part are wanted, but the smallest "
            f"part has {parts.smallest} tokens."
        )
    batch, num_tokens = x.shape[:2]
    expected = parts.num_parts * parts.size if parts.place is None else parts.place.shape[0]
    if num_tokens != expected:
        raise ValueError(f"cluster_parts: these are parts of {expected} tokens, not {num_tokens}.")
    if parts.num_parts == 1 and parts.order is None:
        return dpc_knn(
            x, num_clusters, k, density_noise=density_noise, tolerance=tolerance, impl=impl
        )
    mask = None
    if parts.order is not None:
        token = parts.order.clamp(min=0)
        x = x.index_select(1, token)
        density_noise = None if density_noise is None else density_noise.index_select(1, token)
        if parts.order.shape[0] > num_tokens:
            mask = (parts.order >= 0).expand(batch, -1).reshape(-1, parts.size)
    found = dpc_knn(
        x.reshape(batch * parts.num_parts, parts.size, x.shape[-1]),
        num_clusters,
        k,
        mask=mask,
        density_noise=None if density_noise is None else density_noise.reshape(-1, parts.size),
        tolerance=tolerance,
        impl=impl,
    )
    part = torch.arange(parts.num_parts, device=x.device)[:, None]
    labels = found.assignment.view(batch, parts.num_parts, parts.size) + part * num_clusters
    centers = found.centers.view(batch, parts.num_parts, num_clusters) + part * parts.size
    labels, centers = labels.flatten(1), centers.flatten(1)
    if parts.order is None or parts.place is None:
        return Clusters(labels, centers)
    return Clusters(labels.index_select(1, parts.place), parts.order[centers])


def _padding(length: int, parts: int) -> tuple[int, int]:
    """Rows before and after, so that the parts divide the length."""
    total = -length % parts
    return total // 2, total - total // 2


def _fewest_cells(grid_size: Grid, part_grid: Grid) -> int:
    """The fewest cells, padding left out, that a part of the grid has."""
    fewest = 1
    for length, parts in zip(grid_size, part_grid, strict=True):
        before, after = _padding(length, parts)
        size = (before + length + after) // parts
        # The first and the last part have the padding; both may lie outside if parts are many.
        fewest *= max(0, min(size - before, size - after))
    return fewest


def _factors(nest: Nest, axis: int) -> list[int]:
    """How often each grid of the nest, coarse to fine, cuts a part of the one before."""
    sides = [grid[axis] for grid in reversed(nest)]
    return [fine // coarse for coarse, fine in zip([1, *sides[:-1]], sides, strict=True)]


def _nested(picture: Tensor, nest: Nest) -> Tensor:
    """(H, W) in nested order, (H*W,): coarse parts first, row-major inside a part."""
    rows, columns = _factors(nest, 0), _factors(nest, 1)
    height, width = picture.shape[0] // nest[0][0], picture.shape[1] // nest[0][1]
    depth = len(nest) + 1
    cut = picture.reshape(*rows, height, *columns, width)
    return cut.permute([axis for d in range(depth) for axis in (d, depth + d)]).flatten()


def _row_major(sequence: Tensor, size: Grid, nest: Nest) -> Tensor:
    """The inverse of `_nested`: (H*W,) in nested order as (H, W)."""
    rows, columns = _factors(nest, 0), _factors(nest, 1)
    height, width = size[0] // nest[0][0], size[1] // nest[0][1]
    pairs = zip([*rows, height], [*columns, width], strict=True)
    cut = sequence.view([side for pair in pairs for side in pair])
    depth = len(nest) + 1
    axes = [2 * d for d in range(depth)] + [2 * d + 1 for d in range(depth)]
    return cut.permute(axes).reshape(size)
