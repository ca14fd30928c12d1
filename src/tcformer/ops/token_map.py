"""Conversions between tokens and maps: three names for :mod:`tcformer.ops.regroup`."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from tcformer.arguments import as_int, as_size
from tcformer.ops.regroup import Plan, apply_plan, build_plans, export, regroup, resolve_plan
from tcformer.shapes import Float, shaped
from tcformer.tokens import Layout, Tokens, is_grid, pixel_of_cell

__all__ = ["TokenMap", "map_to_tokens", "plan_token_map", "tokens_to_map", "tokens_to_tokens"]


class TokenMap(NamedTuple):
    """How the tokens of a layout and a map of a given size share cells, ready for use.

    Constant within a stage: build it once, use it in every block. Both plans are None where
    tokens and pixels are the same thing, which makes the conversions plain reshapes. The
    transpose of one has the rows and columns of the other; only the weights differ.

    Attributes:
        map_size: (H, W) of the map.
        to_map: tokens -> pixels.
        to_tokens: pixels -> tokens.
        backend: what built the plans and will apply them; "auto" where nobody has decided.
    """

    map_size: tuple[int, int]
    to_map: Plan | None
    to_tokens: Plan | None
    backend: str = "auto"


def plan_token_map(
    layout: Layout,
    map_size: tuple[int, int] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    impl: str = "auto",
) -> TokenMap:
    """Prepare the conversions between a layout's tokens and a map (the stage's own by default).

    Args:
        layout: where the tokens lie.
        map_size: (H, W) of the map.
        dtype: of the features; weights have it, or float32 where that is finer.
        impl: which implementation will convert: "auto", "cpp", "triton", "eager" or
            "export".

    Raises:
        ValueError: a size is less than 1, or an implementation cannot run here.
        TypeError: a size is no pair of integers.
    """
    layout = layout._replace(
        num_tokens=as_int("num_tokens of the layout", layout.num_tokens),
        grid_size=as_size("grid_size of the layout", layout.grid_size),
        map_size=as_size("map_size of the layout", layout.map_size),
    )
    map_size = layout.map_size if map_size is None else as_size("map_size", map_size)
    cells = layout.cell_to_token
    dtype = torch.promote_types(dtype, torch.float32)
    backend = resolve_plan(impl, cells.device, dtype)
    if is_grid(layout) and map_size == layout.grid_size:
        return TokenMap(map_size, None, None, backend)
    if backend == "export":
        return _export_map(layout, map_size, dtype)
    pixels = pixel_of_cell(layout.grid_size, map_size, cells.device).expand_as(cells)
    num_pixels = map_size[0] * map_size[1]
    plans = build_plans(backend, cells, pixels, layout.num_tokens, num_pixels, dtype=dtype)
    return TokenMap(map_size, *plans, backend)


def _export_map(layout: Layout, map_size: tuple[int, int], dtype: torch.dtype) -> TokenMap:
    """For exported graphs: which cells a pixel has is known before any image is seen."""
    cells, num_tokens = layout.cell_to_token, layout.num_tokens
    batch, num_pixels = cells.shape[0], map_size[0] * map_size[1]
    pixels = pixel_of_cell(layout.grid_size, map_size, cells.device).expand_as(cells)
    lists, valid = _cells_of_pixels(layout.grid_size, map_size, cells.device)
    if num_tokens <= export.GATHER_LIMIT * lists.shape[1]:
        plans = build_plans("export", cells, pixels, num_tokens, num_pixels, dtype=dtype)
        return TokenMap(map_size, *plans, "export")
    sources = cells.index_select(1, lists.flatten()).view(batch, *lists.shape)
    to_map = export.plan_lists(sources, valid, num_tokens, dtype=dtype)
    if is_grid(layout):
        one = torch.ones(num_tokens, 1, dtype=torch.bool, device=cells.device)
        to_tokens: Plan = export.plan_lists(pixels.unsqueeze(-1), one, num_pixels, dtype=dtype)
    else:
        to_tokens = build_plans("export", cells, pixels, num_tokens, num_pixels, dtype=dtype)[1]
    return TokenMap(map_size, to_map, to_tokens, "export")


def _cells_of_pixels(
    grid_size: tuple[int, int], map_size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The cells of every pixel, (H*W, L) int64, and whether an entry is one or fills up a list."""
    sides = []
    for length, pixels in zip(grid_size, map_size, strict=True):
        first = [-(-pixel * length // pixels) for pixel in range(pixels + 1)]  # rounded up
        most = max(after - before for before, after in itertools.pairwise(first))
        step = torch.arange(max(most, 1), device=device)
        start = torch.tensor(first[:-1], device=device)[:, None] + step
        stop = torch.tensor(first[1:], device=device)[:, None]
        sides.append((start.clamp(max=length - 1), start < stop))
    (row, row_valid), (column, column_valid) = sides
    cells = row[:, None, :, None] * grid_size[1] + column[None, :, None, :]
    valid = row_valid[:, None, :, None] & column_valid[None, :, None, :]
    shape = (map_size[0] * map_size[1], row.shape[1] * column.shape[1])
    return cells.reshape(shape), valid.reshape(shape)


@shaped
def tokens_to_map(
    tokens: Tokens, map_size: tuple[int, int] | None = None, *, plan: TokenMap | None = None
) -> Float[Tensor, "b c h w"]:
    """Lay tokens out as a map: every pixel is the mean over its cells of their tokens.

    Args:
        tokens: features (B, N, C) with their layout.
        map_size: (H, W); the layout's own map size when left out.
        plan: a :func:`plan_token_map` built before, which then decides the size.

    Returns:
        (B, C, H, W) in the dtype of the features, in channels-last memory order.
    """
    plan = plan_token_map(tokens.layout, map_size, dtype=tokens.x.dtype) if plan is None else plan
    flat = tokens.x if plan.to_map is None else apply_plan(tokens.x, plan.to_map)
    batch, _, channels = flat.shape
    return flat.view(batch, *plan.map_size, channels).permute(0, 3, 1, 2)


@shaped
def map_to_tokens(
    feature_map: Float[Tensor, "b c h w"], layout: Layout, *, plan: TokenMap | None = None
) -> Float[Tensor, "b n c"]:
    """Read tokens off a map: every token is the mean over its cells of their pixels.

    Args:
        feature_map: (B, C, H, W) float, any H and W.
        layout: the layout of the tokens to be read.
        plan: a :func:`plan_token_map` for this layout and map size, built before.

    Returns:
        (B, N, C) in the dtype of the map.
    """
    size = (feature_map.shape[2], feature_map.shape[3])
    plan = plan_token_map(layout, size, dtype=feature_map.dtype) if plan is None else plan
    if size != plan.map_size:
        raise ValueError(f"map_to_tokens: the plan is for a map of {plan.map_size}, not {size}.")
    flat = feature_map.permute(0, 2, 3, 1).flatten(1, 2)
    return flat if plan.to_tokens is None else apply_plan(flat, plan.to_tokens)


@shaped
def tokens_to_tokens(source: Tokens, target: Layout) -> Float[Tensor, "b n c"]:
    """Express features on other tokens: means over shared cells, weighted as the target weighs.

    Args:
        source: features (B, S, C) with their layout.
        target: layout on the same grid, with D tokens; its cell weights are treated as constant.

    Returns:
        (B, D, C) in the dtype of the features.
    """
    if tuple(source.layout.grid_size) != tuple(target.grid_size):
        raise ValueError(
            f"tokens_to_tokens: the grids differ, {source.layout.grid_size} and {target.grid_size}."
        )
    return regroup(
        source.x,
        source.layout.cell_to_token,
        target.cell_to_token,
        target.num_tokens,
        weight=target.cell_weight,
    )
