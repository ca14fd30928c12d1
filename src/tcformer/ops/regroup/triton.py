"""Regrouping on a GPU: one Triton kernel for every weighted gather-sum, forward and backward.

A program owns a few rows and a slab of channels, sums in float32 (float64 for float64) and writes
once: no atomics, and each row's order of summation is fixed by its own entries alone, so neither
its neighbours nor the batch move a bit. Most rows have one to four entries, which all rows of a
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

from tcformer.ops.regroup.plan import GatherSum, RegroupPlan

SHORT = 16
"""Entries that all rows of a program take in step, four at a time; most rows have fewer."""

CHUNK = 32
"""Entries of a long row that are gathered at a time."""

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


# A custom_op rather than a triton_op: opaque to the compiler, so that what runs compiled is what
# runs eagerly, and the same registration holds under the interpreter, which a wrapped kernel
# cannot enter. Neither breaks the graph. The backward direction comes along as an argument.
@torch.library.custom_op(
    "tcformer::gather_sum_triton",
    mutates_args=(),
    schema="(Tensor x, Tensor[] rows, Tensor[] back) -> Tensor",
)
def gather_sum(x: Tensor, rows: list[Tensor], back: list[Tensor]) -> Tensor:
    """Gather-sum of (S_flat, C) with ``rows`` (a GatherSum); ``back`` is its transpose.

    Returns:
        (len(row_start) - 1, C) in the dtype of x; the gradient is the gather-sum over ``back``.
    """
    return launch_gather_sum(x, GatherSum(*rows))


@gather_sum.register_fake
def _(x: Tensor, rows: list[Tensor], back: list[Tensor]) -> Tensor:
    return x.new_empty(rows[0].shape[0] - 1, x.shape[1])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rows, back = inputs
    ctx.save_for_backward(*rows, *back)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, list[None], list[None]]:
    rows, back = list(ctx.saved_tensors[:3]), list(ctx.saved_tensors[3:])
    return gather_sum(grad, back, rows), [None] * 3, [None] * 3


gather_sum.register_autograd(_backward, setup_context=_remember)


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
