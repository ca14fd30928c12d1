"""Regrouping in plain PyTorch: one sorted gather-sum, whose gradient is another one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tcformer.ops.regroup.plan import GatherSum, RegroupPlan, plan_pair


def plan_both_ways(
    a: Tensor,
    b: Tensor,
    num_a: int,
    num_b: int,
    *,
    weight: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    padded: bool,
    backend: str = "eager",
) -> tuple[RegroupPlan, RegroupPlan]:
    """Build the plans a->b and b->a; the arguments are those of `regroup.plan_both_ways`.

    With ``padded``, equal entries are merged without shortening the arrays, so that no size
    depends on the data and no device has to be waited for: where Triton will run.
    """
    to_b = _sorted_entries(b, a, num_b, num_a, weight, dtype, padded)
    to_a = _sorted_entries(a, b, num_a, num_b, weight, dtype, padded)
    total_b, total_a = _row_sums(to_b) + eps, _row_sums(to_a) + eps
    by_b, by_a = _normalized(to_b, total_b, total_a), _normalized(to_a, total_a, total_b)
    return plan_pair(num_a, num_b, by_b, by_a, backend)


class _Entries(NamedTuple):
    row: Tensor  # (E,) int64, ascending
    row_start: Tensor  # (rows+1,) int32
    column: Tensor  # (E,) int32
    value: Tensor  # (E,) raw weight or count
    sums: Tensor | None  # (rows,) of the values, where they are known already


def _sorted_entries(
    row: Tensor,
    column: Tensor,
    num_rows: int,
    num_columns: int,
    weight: Tensor | None,
    dtype: torch.dtype,
    padded: bool,
) -> _Entries:
    batch = row.shape[0]
    image = torch.arange(batch, device=row.device)[:, None]
    # One integer holds (image, row, column), so a single sort orders all three.
    key = ((image * num_rows + row) * num_columns + column).flatten()
    if padded and type(batch) is int and batch * num_rows * num_columns < 2**31:
        key = key.int()  # a radix sort of half as many digits
    if weight is None:
        key = torch.sort(key).values
        value = None
    else:
        key, order = torch.sort(key, stable=True)
        value = weight.detach().flatten()[order].to(dtype)
    bounds = torch.arange(batch * num_rows + 1, device=row.device)
    if value is None and padded:
        return _merged_in_place(key, bounds, num_rows, num_columns, dtype)
    if value is None and row.device.type == "cpu" and not torch.compiler.is_compiling():
        # Merging equal entries to a shorter array needs a data-dependent size: free on a CPU, a
        # host synchronisation on a GPU and a graph break under compilation, so only here.
        key, count = torch.unique_consecutive(key, return_counts=True)
        value = count.to(dtype)
    elif value is None:
        value = torch.ones_like(key, dtype=dtype)
    flat_row, flat_column = _coordinates(key, num_rows, num_columns)
    row_start = torch.searchsorted(flat_row, bounds, out_int32=True)
    return _Entries(flat_row, row_start, flat_column, value, None)


def _coordinates(key: Tensor, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """Row and column of every key, counted through all images: int64 and int32."""
    key = key.long()
    flat_row = torch.div(key, num_columns, rounding_mode="floor")
    flat_image = torch.div(flat_row, num_rows, rounding_mode="floor")
    return flat_row, (flat_image * num_columns + key % num_columns).int()


def _merged_in_place(
    key: Tensor, bounds: Tensor, num_rows: int, num_columns: int, dtype: torch.dtype
) -> _Entries:
    """Merge equal sorted keys at the front of arrays of unchanged length; the rest counts zero."""
    size = key.shape[0]
    flat_row = torch.div(key.long(), num_columns, rounding_mode="floor")
    first_of_row = torch.searchsorted(flat_row, bounds)
    head = torch.nn.functional.pad(key[1:] != key[:-1], (1, 0), value=True)[:size]
    heads = torch.nn.functional.pad(head.cumsum(0), (1, 0))  # heads before each entry
    # Where every run starts; entries that start none write to an extra slot, which is unused.
    slot = torch.where(head, heads[:-1], size + 1)
    entry = torch.arange(size, device=key.device)
    start = torch.full((size + 2,), size, device=key.device).scatter(0, slot, entry)[: size + 1]
    run = start[:-1].clamp(max=max(size - 1, 0))
    row, column = _coordinates(key[run], num_rows, num_columns)
    return _Entries(
        row,
        heads[first_of_row].int(),
        column,
        (start[1:] - start[:-1]).to(dtype),
        (first_of_row[1:] - first_of_row[:-1]).to(dtype),
    )


def _row_sums(entries: _Entries) -> Tensor:
    """Sum of the raw weights of every row, (rows,)."""
    if entries.sums is not None:
        return entries.sums
    ones = entries.value.new_ones(1, 1)
    zeros = torch.zeros_like(entries.column)
    return gather_sum(ones, GatherSum(entries.row_start, zeros, entries.value)).squeeze(1)


def _normalized(entries: _Entries, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, ...]:
    """The sorting with its weights over the totals of rows and of columns, as `plan_pair` reads."""
    _, row_start, column, value, _ = entries
    return row_start, column, value / of_rows[entries.row], value / of_columns[column.long()]


def gather_sum(x: Tensor, rows: GatherSum) -> Tensor:
    """Sum weighted rows of x, (S_flat, C) -> (rows, C); sequential in a row, so deterministic."""
    # `embedding_bag` gives all that is left to the last row: the unused entries of a padded plan,
    # whose columns may be anything, get a row behind it.
    entries = torch.arange(rows.column.shape[0], device=x.device)
    column = torch.where(entries < rows.row_start[-1], rows.column, 0)
    bounds = torch.nn.functional.pad(rows.row_start, (0, 1), value=rows.column.shape[0])
    return torch.embedding_bag(
        x,
        column,
        bounds,
        False,  # scale_grad_by_freq
        0,  # mode: sum
        False,  # sparse gradient
        rows.weight.to(x.dtype),
        True,  # include_last_offset
    )[0][:-1]


class _Apply(torch.autograd.Function):
    """Gather-sum with its transpose as gradient: no scatter, no atomics, same bits every run."""

    @staticmethod
    def forward(x: Tensor, forward: tuple[Tensor, ...], backward: tuple[Tensor, ...]) -> Tensor:
        return gather_sum(x, GatherSum(*forward))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.rows = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return gather_sum(grad.contiguous(), GatherSum(*ctx.rows)), None, None


def regroup(x: Tensor, plan: RegroupPlan) -> Tensor:
    """Apply a plan to (B, S, C) features, in float32 or better; returns (B, D, C) in x's dtype."""
    batch, _, channels = x.shape
    upcast = x if x.dtype == torch.float64 else x.float()
    flat = upcast.reshape(batch * plan.num_src, channels).contiguous()
    out: Tensor = _Apply.apply(flat, tuple(plan.forward), tuple(plan.backward))
    return out.view(batch, plan.num_dst, channels).to(x.dtype)
