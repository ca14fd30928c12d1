"""Regrouping on a GPU: one Triton kernel for every weighted gather-sum, forward and backward.

A program owns a few rows and a slab of channels, sums in float32 (float64 for float64) and writes
once: no atomics, and each row's order of summation is fixed by its own entries alone, so neither
its neighbors nor the batch move a bit. Most rows have one to four entries, which all rows of a
program take together; what is left of the rare long ones (a token that covers half the picture)
is summed in chunks, one row after the other. With ``TRITON_INTERPRET=1`` the same code runs on CPU
tensors.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tcformer.ops.dispatch import operator
from tcformer.ops.regroup.plan import GatherSum, RegroupPlan, plan_pair

SHORT = 16
"""Entries that all rows of a program take in step, four at a time; most rows have fewer."""

CHUNK = 32
"""Entries of a long row that are gathered at a time."""

SIZE = 1024
"""Entries or rows of a program that builds a plan."""

LAUNCH = {"SIZE": SIZE, "num_warps": 4, "enable_fp_fusion": True}

ELEMENTS = 2048
"""Size of a program's accumulator: 16 a thread with four warps."""


@triton.jit
def _weighted(
    x_ptr: tl.tensor,
    column_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    entry: tl.tensor,
    here: tl.tensor,
    channel: tl.tensor,
    inside: tl.tensor,
    channels: tl.tensor,
    WIDE: tl.constexpr,
) -> tl.tensor:
    """weight[e] * x[column[e]] for a vector of entries and one of channels."""
    dtype = tl.float64 if WIDE else tl.float32
    # 64 bits: sources times channels may pass 2^31.
    source = tl.load(column_ptr + entry, mask=here, other=0).to(tl.int64) * channels
    weight = tl.load(weight_ptr + entry, mask=here, other=0.0).to(dtype)
    there = here[:, None] & inside[None, :]
    value = tl.load(x_ptr + source[:, None] + channel[None, :], mask=there, other=0.0)
    return weight[:, None] * value.to(dtype)


@triton.jit
def gather_sum_kernel(
    x_ptr: tl.tensor,  # (sources, channels)
    row_start_ptr: tl.tensor,  # (num_rows + 1,) int32
    column_ptr: tl.tensor,  # (entries,) int32
    weight_ptr: tl.tensor,  # (entries,) float
    out_ptr: tl.tensor,  # (num_rows, channels)
    num_rows: tl.tensor,
    channels: tl.tensor,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SHORT: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """out[r] = sum over e in row r of weight[e] * x[column[e]], for one block of rows."""
    dtype = tl.float64 if WIDE else tl.float32
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    exists = row < num_rows
    inside = channel < channels
    start = tl.load(row_start_ptr + row, mask=exists, other=0)
    stop = tl.load(row_start_ptr + row + 1, mask=exists, other=0)

    length = stop - start
    total = tl.zeros((ROWS, CHANNELS), dtype)
    for first in range(0, tl.minimum(tl.max(length, axis=0), SHORT), 4):
        for step in tl.static_range(4):
            entry = start + first + step
            total += _weighted(
                x_ptr,
                column_ptr,
                weight_ptr,
                entry,
                entry < stop,
                channel,
                inside,
                channels,
                WIDE,
            )

    long = (length > SHORT).to(tl.int32)
    for _ in range(tl.sum(long, axis=0)):
        mine = tl.arange(0, ROWS) == tl.argmax(long, axis=0)
        long = tl.where(mine, 0, long)
        begin = tl.sum(tl.where(mine, start, 0), axis=0) + SHORT
        end = tl.sum(tl.where(mine, stop, 0), axis=0)
        rest = tl.zeros((CHANNELS,), dtype)
        for chunk in range(begin, end, CHUNK):
            part = chunk + tl.arange(0, CHUNK)
            values = _weighted(
                x_ptr,
                column_ptr,
                weight_ptr,
                part,
                part < end,
                channel,
                inside,
                channels,
                WIDE,
            )
            rest += tl.sum(values, axis=0)
        total += tl.where(mine[:, None], rest[None, :], 0.0)

    target = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(out_ptr + target, total, mask=exists[:, None] & inside[None, :])


def tile(channels: int) -> tuple[int, int]:
    """Rows and channels of a program: wide rows for full memory lines, little of them wasted.

    Depends on the number of channels alone, never on the batch, which must not change the result.
    """
    width = 16
    while width < 256 and width < channels:
        width *= 2
    while width > 64 and -(-channels // width) * width > 1.25 * channels:
        width //= 2
    return max(1, ELEMENTS // width), width


def on_device(x: Tensor) -> Any:
    """Triton launches on the current device: make that the tensor's."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def launch_gather_sum(x: Tensor, rows: GatherSum) -> Tensor:
    """Sum weighted rows of x, (S_flat, C) -> (rows, C) in the dtype of x."""
    num_rows, channels = rows.row_start.shape[0] - 1, x.shape[1]
    out = x.new_empty(num_rows, channels)
    if out.numel() == 0:
        return out
    block_rows, block_channels = tile(channels)
    grid = (triton.cdiv(num_rows, block_rows), triton.cdiv(channels, block_channels))
    with on_device(x):
        gather_sum_kernel[grid](
            x.contiguous(),
            rows.row_start,
            rows.column,
            rows.weight,
            out,
            num_rows,
            channels,
            ROWS=block_rows,
            CHANNELS=block_channels,
            SHORT=SHORT,
            CHUNK=CHUNK,
            WIDE=x.dtype == torch.float64,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rows, transposed = inputs
    ctx.save_for_backward(*rows, *transposed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, list[None], list[None]]:
    rows, transposed = list(ctx.saved_tensors[:3]), list(ctx.saved_tensors[3:])
    return gather_sum(grad, transposed, rows), [None] * 3, [None] * 3


# Opaque to the compiler rather than a triton_op, so that what runs compiled is what runs eagerly;
# and under the interpreter, which a wrapped kernel cannot enter, the same registration holds. The
# transpose comes along for the gradient, which is the gather-sum over it.
gather_sum = operator(
    "gather_sum_triton(Tensor x, Tensor[] rows, Tensor[] transposed) -> Tensor",
    lambda x, rows, transposed: launch_gather_sum(x, GatherSum(*rows)),
    lambda x, rows, transposed: x.new_empty(rows[0].shape[0] - 1, x.shape[1]),
    backward=_backward,
    setup_context=_remember,
)


def try_out(device: torch.device) -> str | None:
    """Launch one kernel on a GPU and wait for it: None, or a clause if its result is wrong.

    Raises:
        Exception: whatever Triton, its compiler or the driver raises where it cannot be launched.
    """
    rows = GatherSum(
        torch.tensor([0, 2], dtype=torch.int32, device=device),
        torch.tensor([0, 1], dtype=torch.int32, device=device),
        torch.tensor([0.5, 2.0], device=device),
    )
    out = launch_gather_sum(torch.tensor([[2.0], [3.0]], device=device), rows)
    return None if float(out) == 7.0 else "a trial of Triton's code gave a wrong sum"


def regroup(x: Tensor, plan: RegroupPlan) -> Tensor:
    """Apply a plan to (B, S, C) features; returns (B, D, C) in x's dtype, summed in float32."""
    batch, _, channels = x.shape
    flat = x.reshape(batch * plan.num_src, channels)
    out: Tensor = gather_sum(flat, list(plan.forward), list(plan.backward))
    return out.view(batch, plan.num_dst, channels)


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
    """Build the unweighted plans a->b and b->a of (B, E) integers, weights in float32.

    At batch 1 launches cost as much as the work itself, so there are few: sort once in each
    direction, number the different entries, and let every row and entry look up what it needs.
    The numbers are those of the eager builder, padded.
    """
    made = plan_op(a, b, num_a, num_b, eps)
    return plan_pair(num_a, num_b, made[:4], made[4:], "triton")


def _outputs(a: Tensor, num_rows: int) -> tuple[Tensor, ...]:
    batch, entries = a.shape
    total = batch * entries
    return (
        a.new_empty(batch * num_rows + 1, dtype=torch.int32),
        a.new_empty(total, dtype=torch.int32),
        a.new_empty(total, dtype=torch.float32),
        a.new_empty(total, dtype=torch.float32),
    )


def _plan(a: Tensor, b: Tensor, num_a: int, num_b: int, eps: float) -> tuple[Tensor, ...]:
    with on_device(a):
        return _build(a, b, num_a, num_b, eps)


# Rows b, then rows a: row_start, column, weight over the row, weight over the column.
plan_op = operator(
    "plan_both_ways_triton(Tensor a, Tensor b, SymInt num_a, SymInt num_b, float eps) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _plan,
    lambda a, b, num_a, num_b, eps: _outputs(a, num_b) + _outputs(a, num_a),
)


def _build(a: Tensor, b: Tensor, num_a: int, num_b: int, eps: float) -> tuple[Tensor, ...]:
    batch, entries = a.shape
    total = batch * entries
    outputs = _outputs(a, num_b), _outputs(a, num_a)
    if total == 0:
        return tuple(part.zero_() for part in outputs[0] + outputs[1])
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
