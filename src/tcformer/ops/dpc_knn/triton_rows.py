"""The kernels of DPC-KNN that go over tokens one by one, before and between its searches."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scale_of(largest: tl.tensor) -> tl.tensor:
    """The power of two that takes the largest magnitude of an image to 2^11..2^12."""
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 255
    exponent = tl.minimum(tl.maximum(265 - exponent, 1), 254)
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def prepare_kernel(
    x_ptr: tl.tensor,  # (B, N, C) float32
    mean_ptr: tl.tensor,  # (B, C) float32
    largest_ptr: tl.tensor,  # (B,) float32, the largest magnitude in x
    mask_ptr: tl.tensor,  # (B, N) bool, or anything where not MASKED
    half_ptr: tl.tensor,  # out (B, N, C) float16
    norm_ptr: tl.tensor,  # out (B, N) float32, inf where masked
    moved_ptr: tl.tensor,  # out (B, N) float32
    num_tokens: tl.tensor,
    channels: tl.tensor,
    num_blocks: tl.tensor,
    rounding: tl.tensor,  # relative error of a squared distance from products
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Scale, centre and round; how far the rounded feature may be from the true one."""
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    row = (tl.program_id(0) % num_blocks) * ROWS + tl.arange(0, ROWS)
    exists = row < num_tokens
    flat = image * num_tokens + row
    scale = scale_of(tl.load(largest_ptr + image))
    keep = exists
    if MASKED:
        keep = exists & (tl.load(mask_ptr + flat, mask=exists, other=0) != 0)

    norm = tl.zeros((ROWS,), tl.float32)
    moved = tl.zeros((ROWS,), tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        inside = channel < channels
        at = flat[:, None] * channels + channel[None, :]
        mean = tl.load(mean_ptr + image * channels + channel, mask=inside, other=0.0)
        x = tl.load(x_ptr + at, mask=keep[:, None] & inside[None, :], other=0.0)
        centred = tl.where(keep[:, None], (x - mean[None, :]) * scale, 0.0)
        half = centred.to(tl.float16)
        rounded = half.to(tl.float32)
        norm += tl.sum(rounded * rounded, axis=1)
        moved += tl.sum((centred - rounded) * (centred - rounded), axis=1)
        tl.store(half_ptr + at, half, mask=exists[:, None] & inside[None, :])

    # Rounding to half precision, centring, and the rounding of this very sum.
    moved = tl.sqrt(moved) * 1.001 + tl.sqrt(norm) * 4.8e-7
    norm = tl.where(keep, norm * (1.0 - rounding), float("inf"))
    tl.store(norm_ptr + flat, norm, mask=exists)
    tl.store(moved_ptr + flat, tl.where(keep, moved, 0.0), mask=exists)


@triton.jit
def resolve_kernel(
    d2_ptr: tl.tensor,  # (B, N, LIST) float32
    column_ptr: tl.tensor,  # (B, N, LIST) int32, tokens
    radius_ptr: tl.tensor,  # (B, N) float32
    rank_ptr: tl.tensor,  # (B, N) int64
    mask_ptr: tl.tensor,  # (B, N) bool, or anything where not MASKED
    separation2_ptr: tl.tensor,  # out (B, N) float32
    unresolved_ptr: tl.tensor,  # out (B, N) uint8
    num_tokens: tl.tensor,
    num_blocks: tl.tensor,
    MASKED: tl.constexpr,
    LIST: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """The nearest neighbour of smaller rank, where the list of neighbours can tell."""
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    row = (tl.program_id(0) % num_blocks) * ROWS + tl.arange(0, ROWS)
    exists = row < num_tokens
    flat = image * num_tokens + row
    at = flat[:, None] * LIST + tl.arange(0, LIST)[None, :]
    rank = tl.load(rank_ptr + flat, mask=exists, other=0)
    d2 = tl.load(d2_ptr + at, mask=exists[:, None], other=float("inf"))
    seen = exists[:, None] & (d2 < float("inf"))
    token = tl.load(column_ptr + at, mask=seen, other=0)
    other = tl.load(rank_ptr + image * num_tokens + token, mask=seen, other=num_tokens)
    separation2 = tl.min(tl.where(other < rank[:, None], d2, float("inf")), axis=1)
    # Nobody outside the list is nearer than its radius.
    resolved = (separation2 <= tl.load(radius_ptr + flat, mask=exists, other=0.0)) | (rank == 0)
    if MASKED:
        resolved = resolved | (tl.load(mask_ptr + flat, mask=exists, other=0) == 0)
    tl.store(separation2_ptr + flat, separation2, mask=exists)
    tl.store(unresolved_ptr + flat, tl.where(resolved, 0, 1).to(tl.uint8), mask=exists)


@triton.jit
def compact_kernel(
    flag_ptr: tl.tensor,  # (B, N) bool or uint8, the tokens in question, where FLAGGED
    d2_ptr: tl.tensor,  # (B, N, LIST) float32, where DOUBTED
    radius_ptr: tl.tensor,  # (B, N) float32
    rows_ptr: tl.tensor,  # out (B, N) int32, the tokens in order; the rest is left alone
    count_ptr: tl.tensor,  # out (B,) int32
    num_tokens: tl.tensor,
    FLAGGED: tl.constexpr,
    DOUBTED: tl.constexpr,  # only those whose distance at PLACE the radius does not prove
    STRICT: tl.constexpr,  # whether an equal distance outside the list would matter
    LIST: tl.constexpr,
    PLACE: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    """List tokens of every image: one program an image."""
    image = tl.program_id(0).to(tl.int64)
    count = tl.zeros((1,), tl.int32)
    for start in range(0, num_tokens, SIZE):
        token = start + tl.arange(0, SIZE)
        wanted = token < num_tokens
        flat = image * num_tokens + token
        if FLAGGED:
            wanted = wanted & (tl.load(flag_ptr + flat, mask=wanted, other=0) != 0)
        if DOUBTED:
            d2 = tl.load(d2_ptr + flat * LIST + PLACE, mask=wanted, other=0.0)
            radius = tl.load(radius_ptr + flat, mask=wanted, other=0.0)
            # Not "greater": what is not a number is not proved either.
            if STRICT:
                wanted = wanted & ~(d2 < radius)
            else:
                wanted = wanted & ~(d2 <= radius)
        one = wanted.to(tl.int32)
        place = count + tl.cumsum(one, axis=0) - one
        tl.store(rows_ptr + image * num_tokens + place, token, mask=wanted)
        count += tl.sum(one, axis=0)
    tl.store(count_ptr + image + tl.arange(0, 1), count)
