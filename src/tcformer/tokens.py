"""The vocabulary that everything else speaks: tokens and where they lie in the picture.

An image is cut once into a regular *grid* of cells (4x4 pixels each). From then on a token is a
set of cells, not necessarily connected. :class:`Layout` says which cells a token owns,
:class:`Tokens` adds the features. Both are immutable values: nothing is written in place, so they
pass untouched through ``torch.compile``, ``torch.export`` and activation checkpointing.

Shape letters used everywhere: B images, N tokens, M merged tokens, C channels,
H0 x W0 the grid, H x W the map of a stage, n0 = H0 * W0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcformer.arguments import as_int, as_size

__all__ = ["Layout", "Tokens", "grid_layout", "is_grid", "pixel_of_cell"]


class Layout(NamedTuple):
    """Which token covers which cell of the grid.

    Attributes:
        cell_to_token: (B, H0*W0) int64, values in 0..num_tokens-1, cells in row-major order.
        num_tokens: N, the same for every image of the batch.
        grid_size: (H0, W0), the grid of the first stage: ceil(image size / 4).
        map_size: (H, W), the size at which these tokens are laid out as a picture.
        cell_weight: (B, H0*W0) float32, the share of a cell in its token (sums to one in a token);
            all ones before the first merge.
        part_grids: the grids (nh, nw) of parts of the image for which cutting the sequence of
            tokens into nh*nw equal runs gives the parts; finest first. More than the whole image
            only after a merge inside parts (Local CTM), and then the order of tokens has a meaning.
    """

    cell_to_token: Tensor
    num_tokens: int
    grid_size: tuple[int, int]
    map_size: tuple[int, int]
    cell_weight: Tensor
    part_grids: tuple[tuple[int, int], ...] = ((1, 1),)

    @property
    def is_grid(self) -> bool:
        """Whether token n is simply cell n, which makes tokens and map the same memory."""
        return is_grid(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the tokens of each image in flat colours."""
        return _html(f"Layout of {_words(self)}", self)


class Tokens(NamedTuple):
    """Token features together with their layout.

    Attributes:
        x: (B, N, C) float.
        layout: where the N tokens lie.
    """

    x: Tensor
    layout: Layout

    def _repr_html_(self) -> str:
        """What a notebook shows: a sentence, and the tokens of each image in flat colours."""
        kind = f"{self.x.shape[-1]} channels, {str(self.x.dtype).removeprefix('torch.')}"
        return _html(f"{_words(self.layout)}; {kind} on {self.x.device}", self.layout)


def _words(layout: Layout) -> str:
    (rows, columns), (height, width) = layout.grid_size, layout.map_size
    batch, count = layout.cell_to_token.shape[0], layout.num_tokens
    images, tokens = "s" * (batch != 1), "s" * (count != 1)
    return (
        f"{count} token{tokens} in each of {batch} image{images}, "
        f"on a grid of {rows} x {columns} cells, as a map {height} x {width}"
    )


def _html(title: str, layout: Layout) -> str:
    # Only now: whoever computes with tokens does not need NumPy.
    from tcformer.sketch import sketch_html

    cells = layout.cell_to_token
    # Tensors without values (torch.export, meta) have nothing to draw.
    maps = None if cells.is_meta else cells.detach().cpu().numpy()
    return sketch_html(title, maps, layout.grid_size)


def is_grid(layout: Layout) -> bool:
    """``layout.is_grid``; torch.compile cannot trace a named tuple's property before torch 2.11."""
    cells = layout.grid_size[0] * layout.grid_size[1]
    return layout.num_tokens == cells and layout.map_size == layout.grid_size


def grid_layout(batch: int, grid_size: tuple[int, int], device: torch.device) -> Layout:
    """Lay out the tokens of the first stage: one token a cell, all weights one."""
    batch, grid_size = as_int("batch", batch, 0), as_size("grid_size", grid_size)
    cells = grid_size[0] * grid_size[1]
    cell_to_token = torch.arange(cells, device=device).expand(batch, cells)
    weight = torch.ones((), device=device).expand(batch, cells)
    return Layout(cell_to_token, cells, grid_size, grid_size, weight)


def pixel_of_cell(
    grid_size: tuple[int, int], map_size: tuple[int, int], device: torch.device
) -> Tensor:
    """Map every grid cell to a pixel of a map by nearest-neighbour upsampling geometry.

    Cell (i, j) lies in pixel (floor(i*H/H0), floor(j*W/W0)); integers throughout, so no size
    suffers from rounding.

    Returns:
        (H0*W0,) int64, flat pixel index ``row * W + column``.
    """
    (h0, w0), (h, w) = as_size("grid_size", grid_size), as_size("map_size", map_size)
    rows = torch.arange(h0, device=device) * h // h0
    columns = torch.arange(w0, device=device) * w // w0
    return (rows[:, None] * w + columns[None, :]).flatten()
