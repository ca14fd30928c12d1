"""Plans both ways on a GPU in a few launches: at batch 1 they cost as much as the work itself.

The same numbers as :mod:`tcformer.ops.regroup.plan` with ``padded``: sort once in each direction,
number the different entries, and let every row and every entry look up what it needs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tcformer.ops.regroup.plan import GatherSum, RegroupPlan
from tcformer.ops.regroup.triton import on_device

SIZE = 1024
"""Entries or rows of a program."""

LAUNCH = {"SIZE": SIZE, "num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def key_kernel(
    a_ptr: tl.tensor,  # (B, E) integer
    b_ptr: tl.tensor,  # (B, E) integer
    key_ptr: tl.tensor,  # out (2, B * E): rows b, columns a; and the other way round
    total: tl.tensor,  # B * E
    entries: tl.tensor,  # E
    num_a: tl.tensor,
    num_b: tl.tensor,
    SIZE: tl.constexpr,
) -> None:
    """One integer for (image, row, column), which sorts all three at once."""
    entry = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = entry < total
    image = (entry // entries).to(tl.int64)
    a = tl.load(a_ptr + entry, mask=there, other=0).to(tl.int64)
    b = tl.load(b_ptr + entry, mask=there, other=0).to(tl.int64)
    tl.store(key_ptr + entry, (image * num_b + b) * num_a + a, mask=there)
    behind = key_ptr + total
    tl.store(behind + entry, (image * num_a + a) * num_b + b, mask=there)


@triton.jit
def head_kernel(
    key_ptr: tl.tensor,  # (2, total), each row sorted
    head_ptr: tl.tensor,  # out (2, total) int32, one where a key differs from the one before
    total: tl.tensor,
    SIZE: tl.constexpr,
) -> None:
    """Mark the first of equal keys."""
    direction = tl.program_id(1).to(tl.int64) * total
    entry = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = entry < total
    key = tl.load(key_ptr + direction + entry, mask=there, other=0)
    before = tl.load(key_ptr + direction + entry - 1, mask=there & (entry > 0), other=-1)
    tl.store(head_ptr + direction + entry, (key != before).to(tl.int32), mask=there)


@triton.jit
def first_kernel(
    key_ptr: tl.tensor,  # (2, total)
    heads_ptr: tl.tensor,  # (2, total) int32, heads up to each entry, that one included
    first_ptr: tl.tensor,  # out (2, total) int32, the first entry of each different key
    total: tl.tensor,
    SIZE: tl.constexpr,
) -> None:
    """Where every run of equal keys begins."""
    direction = tl.program_id(1).to(tl.int64) * total
    entry = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = entry < total
    place = tl.load(heads_ptr + direction + entry, mask=there, other=1) - 1
    before = tl.load(heads_ptr + direction + entry - 1, mask=there & (entry > 0), other=0) - 1
    tl.store(first_ptr + direction + place, entry, mask=there & (place != before))


@triton.jit
def row_kernel(
    key_ptr: tl.tensor,  # (total,), one direction
    heads_ptr: tl.tensor,  # (total,) int32
    row_start_ptr: tl.tensor,  # out (num_rows + 1,) int32, counted in different keys
    entry_ptr: tl.tensor,  # out (num_rows + 1,) int32, counted in all entries
    total: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    STEPS: tl.constexpr,  # enough to halve `total` down to nothing
    SIZE: tl.constexpr,
) -> None:
    """Find where every row begins, by bisection."""
    row = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = row <= num_rows
    wanted = row.to(tl.int64) * num_columns
    low = tl.zeros((SIZE,), tl.int32)
    high = tl.zeros((SIZE,), tl.int32) + total
    for _ in range(STEPS):
        middle = (low + high) // 2
        open_ = low < high
        key = tl.load(key_ptr + middle, mask=there & open_, other=0).to(tl.int64)
        low = tl.where(open_ & (key < wanted), middle + 1, low)
        high = tl.where(open_ & (key >= wanted), middle, high)
    heads = tl.load(heads_ptr + tl.minimum(low, total - 1), mask=there, other=0)
    tl.store(row_start_ptr + row, tl.where(low < total, heads - 1, heads), mask=there)
    tl.store(entry_ptr + row, low, mask=there)


@triton.jit
def entry_kernel(
    key_ptr: tl.tensor,  # (total,), one direction
    heads_ptr: tl.tensor,  # (total,) int32
    first_ptr: tl.tensor,  # (total,) int32
    row_entry_ptr: tl.tensor,  # (rows + 1,) int32 of this direction
    column_entry_ptr: tl.tensor,  # (columns + 1,) int32 of the other one
    column_ptr: tl.tensor,  # out (total,) int32
    by_row_ptr: tl.tensor,  # out (total,) float32
    by_column_ptr: tl.tensor,  # out (total,) float32
    total: tl.tensor,
    num_rows: tl.tensor,  # of an image
    num_columns: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
) -> None:
    """Column and count of every different key, over the entries of its row and of its column."""
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    used = tl.load(heads_ptr + total - 1)
    there = place < used
    first = tl.load(first_ptr + place, mask=there, other=0)
    after = tl.load(first_ptr + place + 1, mask=place + 1 < used, other=total)
    count = (after - first).to(tl.float32)
    key = tl.load(key_ptr + first, mask=there, other=0).to(tl.int64)
    row = key // num_columns
    column = (row // num_rows) * num_columns + key % num_columns
    tl.store(column_ptr + place, column.to(tl.int32), mask=there)
    low = tl.load(row_entry_ptr + row, mask=there, other=0)
    high = tl.load(row_entry_ptr + row + 1, mask=there, other=1)
    by_row = tl.div_rn(count, (high - low).to(tl.float32) + eps)
    tl.store(by_row_ptr + place, by_row, mask=there)
    low = tl.load(column_entry_ptr + column, mask=there, other=0)
    high = tl.load(column_entry_ptr + column + 1, mask=there, other=1)
    by_column = tl.div_rn(count, (high - low).to(tl.float32) + eps)
    tl.store(by_column_ptr + place, by_column, mask=there)


def plan_both_ways(
    a: Tensor, b: Tensor, num_a: int, num_b: int, eps: float
) -> tuple[RegroupPlan, RegroupPlan]:
    """Build the unweighted plans a->b and b->a of (B, E) integers, weights in float32."""
    made = plan_op(a, b, num_a, num_b, eps)
    start_b, column_b, of_b, of_a_by_b, start_a, column_a, of_a, of_b_by_a = made
    return (
        RegroupPlan(
            num_a,
            num_b,
            GatherSum(start_b, column_b, of_b),
            GatherSum(start_a, column_a, of_b_by_a),
        ),
        RegroupPlan(
            num_b,
            num_a,
            GatherSum(start_a, column_a, of_a),
            GatherSum(start_b, column_b, of_a_by_b),
        ),
    )


@torch.library.custom_op(
    "tcformer::plan_both_ways_triton",
    mutates_args=(),
    schema="(Tensor a, Tensor b, SymInt num_a, SymInt num_b, float eps) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def plan_op(a: Tensor, b: Tensor, num_a: int, num_b: int, eps: float) -> tuple[Tensor, ...]:
    """Rows b, then rows a: row_start, column, weight over the row, weight over the column."""
    with on_device(a):
        return _build(a, b, num_a, num_b, eps)


@plan_op.register_fake
def _(a: Tensor, b: Tensor, num_a: int, num_b: int, eps: float) -> tuple[Tensor, ...]:
    return _outputs(a, num_b) + _outputs(a, num_a)


def _outputs(a: Tensor, num_rows: int) -> tuple[Tensor, ...]:
    batch, entries = a.shape
    total = batch * entries
    return (
        a.new_empty(batch * num_rows + 1, dtype=torch.int32),
        a.new_empty(total, dtype=torch.int32),
        a.new_empty(total, dtype=torch.float32),
        a.new_empty(total, dtype=torch.float32),
    )


def _build(a: Tensor, b: Tensor, num_a: int, num_b: int, eps: float) -> tuple[Tensor, ...]:
    batch, entries = a.shape
    total = batch * entries
    outputs = _outputs(a, num_b), _outputs(a, num_a)
    if total == 0:
        return (*(part.zero_() for part in outputs[0]), *(part.zero_() for part in outputs[1]))
    # A radix sort of half as many digits where these suffice.
    small = batch * num_a * num_b < 2**31
    key = a.new_empty(2, total, dtype=torch.int32 if small else torch.int64)
    blocks = triton.cdiv(total, SIZE)
    key_kernel[(blocks,)](
        a.contiguous(), b.contiguous(), key, total, entries, num_a, num_b, **LAUNCH
    )
    key = torch.sort(key, dim=1).values
    heads = torch.empty_like(key, dtype=torch.int32)
    head_kernel[(blocks, 2)](key, heads, total, **LAUNCH)
    heads = heads.cumsum(1, dtype=torch.int32)
    first = torch.empty_like(heads)
    first_kernel[(blocks, 2)](key, heads, first, total, **LAUNCH)
    sizes = (num_b, num_a), (num_a, num_b)
    begins = []
    for direction, (num_rows, num_columns) in enumerate(sizes):
        begin = torch.empty_like(outputs[direction][0])
        row_kernel[(triton.cdiv(batch * num_rows + 1, SIZE),)](
            key[direction],
            heads[direction],
            outputs[direction][0],
            begin,
            total,
            batch * num_rows,
            num_columns,
            STEPS=total.bit_length(),
            **LAUNCH,
        )
        begins.append(begin)
    for direction, (num_rows, num_columns) in enumerate(sizes):
        entry_kernel[(blocks,)](
            key[direction],
            heads[direction],
            first[direction],
            begins[direction],
            begins[1 - direction],
            *outputs[direction][1:],
            total,
            num_rows,
            num_columns,
            eps,
            **LAUNCH,
        )
    return (*outputs[0], *outputs[1])
