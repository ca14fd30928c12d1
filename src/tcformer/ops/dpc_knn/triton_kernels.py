"""The search kernels of DPC-KNN: propose in half precision, decide in float32, prove or repeat.

``prepare`` rounds features to float16 and notes how much that moved each of them. ``closest``
streams products of the rounded features and keeps the few smallest distances of every row; then it
computes those again from float32 differences, and bounds from below what it did not keep. Rows
whose answer that bound does not prove are listed by ``compact`` and done again by ``scan``, which
looks at all float32 distances. Both compute a distance in the same order of operations, so it has
the same bits wherever it is computed and no tile size can show in the result.
"""

from __future__ import annotations

import triton
import triton.language as tl

INFINITY = tl.constexpr(0x7F800000)
"""The bits of +inf; the bits of distances, which are not negative, order as they do."""

EMPTY = tl.constexpr(0x7FFFFFFF)
"""No distance: behind infinity."""

EMPTY_PAIR = tl.constexpr(0x7FFFFFFFFFFFFFFF)
"""No (distance, index): the bits of the distance are the upper half."""


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
    """Scale, center and round; how far the rounded feature may be from the true one."""
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
        centered = tl.where(keep[:, None], (x - mean[None, :]) * scale, 0.0)
        half = centered.to(tl.float16)
        rounded = half.to(tl.float32)
        norm += tl.sum(rounded * rounded, axis=1)
        moved += tl.sum((centered - rounded) * (centered - rounded), axis=1)
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
    """The nearest neighbor of smaller rank, where the list of neighbors can tell."""
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


@triton.jit
def _four(
    x_ptr: tl.tensor, at: tl.tensor, there: tl.tensor, A: tl.constexpr, B: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The last axis of (A, B, 4) loaded values as four (A, B) tensors."""
    values = tl.load(x_ptr + at, mask=there, other=0.0)
    even, odd = tl.split(tl.reshape(values, (A, B, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _distances(
    x_ptr: tl.tensor,
    rows: tl.tensor,  # (A, 1) int64, offset of each row in x
    others: tl.tensor,  # (1, B) or (A, B) int64
    channels: tl.tensor,
    same_d2: tl.tensor,
    A: tl.constexpr,
    B: tl.constexpr,
    SHARED: tl.constexpr,  # whether all rows have the same others
) -> tl.tensor:
    """Squared distances over C from float32 differences: (A, B).

    Channel by channel with one rounding each, so that a pair's distance has the same bits in every
    kernel and for every shape of tile.
    """
    d2 = tl.zeros((A, B), tl.float32)
    for first in range(0, channels, 4):
        channel = first + tl.arange(0, 4)
        inside = (channel < channels)[None, None, :]
        at = rows[:, :, None] + channel[None, None, :]
        a0, a1, a2, a3 = _four(x_ptr, at, inside, A, 1)
        at = others[:, :, None] + channel[None, None, :]
        if SHARED:
            b0, b1, b2, b3 = _four(x_ptr, at, inside, 1, B)
        else:
            b0, b1, b2, b3 = _four(x_ptr, at, inside, A, B)
        d2 = tl.fma(a0 - b0, a0 - b0, d2)
        d2 = tl.fma(a1 - b1, a1 - b1, d2)
        d2 = tl.fma(a2 - b2, a2 - b2, d2)
        d2 = tl.fma(a3 - b3, a3 - b3, d2)
    # Added to zeros because a count of one arrives as a constant, which cannot be converted.
    d2 = tl.div_rn(d2, tl.zeros((A, B), tl.float32) + channels)
    return tl.where(d2 <= same_d2, 0.0, d2)


@triton.jit
def _pairs(d2: tl.tensor, index: tl.tensor, there: tl.tensor) -> tl.tensor:
    """One integer that orders by distance, then by index."""
    bits = d2.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.where(there, (bits << 32) | index.to(tl.int64), EMPTY_PAIR)


@triton.jit
def _store_sorted(
    pairs: tl.tensor,  # (ROWS, LIST), different where not empty
    at: tl.tensor,  # (ROWS,) int64, the row of the output
    exists: tl.tensor,
    d2_ptr: tl.tensor,
    index_ptr: tl.tensor,
    LIST: tl.constexpr,
) -> None:
    for place in range(LIST):
        least = tl.min(pairs, axis=1)
        pairs = tl.where(pairs == least[:, None], EMPTY_PAIR, pairs)
        real = least != EMPTY_PAIR
        d2 = tl.where(real, least >> 32, INFINITY).to(tl.int32).to(tl.float32, bitcast=True)
        index = tl.where(real, least & 0x7FFFFFFF, 0).to(tl.int32)
        tl.store(d2_ptr + at * LIST + place, d2, mask=exists)
        tl.store(index_ptr + at * LIST + place, index, mask=exists)


@triton.jit
def closest_kernel(
    x_ptr: tl.tensor,  # (B, N, C) float32
    half_ptr: tl.tensor,  # (B, N, C) float16
    norm_ptr: tl.tensor,  # (B, N) float32
    moved_ptr: tl.tensor,  # (B, N) float32
    column_half_ptr: tl.tensor,  # (B, M, C) float16, what is searched
    column_norm_ptr: tl.tensor,  # (B, M) float32
    column_token_ptr: tl.tensor,  # (B, M) int64, which token that is, where CHOSEN
    largest_ptr: tl.tensor,  # (B,) float32
    most_moved_ptr: tl.tensor,  # (B,) float32
    rank_ptr: tl.tensor,  # (B, N) int64, where RANKED: only columns of smaller rank are looked at
    rows_ptr: tl.tensor,  # (B, N) int32, where LISTED: the rows to search for, count of them
    count_ptr: tl.tensor,  # (B,) int32
    d2_ptr: tl.tensor,  # out (B, N, LIST) float32, ascending
    index_ptr: tl.tensor,  # out (B, N, LIST) int32, columns
    radius_ptr: tl.tensor,  # out (B, N) float32: no column outside the list is nearer
    num_tokens: tl.tensor,
    num_columns: tl.tensor,
    channels: tl.tensor,
    num_blocks: tl.tensor,
    same_d2: tl.tensor,
    slack: tl.tensor,  # relative error of a squared distance from differences
    CHOSEN: tl.constexpr,
    RANKED: tl.constexpr,
    LISTED: tl.constexpr,
    LIST: tl.constexpr,
    TILE_BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    RESIDENT: tl.constexpr,  # whether CHANNELS holds all channels
) -> None:
    """The LIST nearest columns of every row, and a radius within which no other one lies.

    Every lane (column modulo COLUMNS) keeps its three smallest keys, which takes no exchange
    between threads: distance bits whose last TILE_BITS say which tile the column was in.
    """
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    first_slot = (tl.program_id(0) % num_blocks) * ROWS
    slot = first_slot + tl.arange(0, ROWS)
    limit = num_tokens
    if LISTED:
        limit = tl.load(count_ptr + image)
    if first_slot < limit:
        exists = slot < limit
        row = slot
        if LISTED:
            row = tl.load(rows_ptr + image * num_tokens + slot, mask=exists, other=0)
        flat = image * num_tokens + tl.where(exists, row, 0)
        lane = tl.arange(0, COLUMNS)
        depth = tl.arange(0, CHANNELS)
        norm = tl.load(norm_ptr + flat)
        rank = row
        if RANKED:
            rank = tl.load(rank_ptr + flat)
        if RESIDENT:
            resident = tl.load(
                half_ptr + flat[:, None] * channels + depth[None, :],
                mask=(depth < channels)[None, :],
                other=0.0,
            )

        low = (1 << TILE_BITS) - 1
        first = tl.full((ROWS, COLUMNS), EMPTY, tl.int32)
        second = tl.full((ROWS, COLUMNS), EMPTY, tl.int32)
        third = tl.full((ROWS, COLUMNS), EMPTY, tl.int32)
        for start in range(0, num_columns, COLUMNS):
            column = start + lane
            there = column < num_columns
            at = image * num_columns + tl.where(there, column, 0)
            product = tl.zeros((ROWS, COLUMNS), tl.float32)
            if RESIDENT:
                other = tl.load(
                    column_half_ptr + at[None, :] * channels + depth[:, None],
                    mask=(depth < channels)[:, None],
                    other=0.0,
                )
                product = tl.dot(resident, other)
            else:
                for offset in range(0, channels, CHANNELS):
                    inside = offset + depth < channels
                    mine = tl.load(
                        half_ptr + flat[:, None] * channels + (offset + depth)[None, :],
                        mask=inside[None, :],
                        other=0.0,
                    )
                    theirs = tl.load(
                        column_half_ptr + at[None, :] * channels + (offset + depth)[:, None],
                        mask=inside[:, None],
                        other=0.0,
                    )
                    product = tl.dot(mine, theirs, product)
            column_norm = tl.load(column_norm_ptr + at, mask=there, other=float("inf"))
            d2 = tl.maximum(norm[:, None] + column_norm[None, :] - 2.0 * product, 0.0)
            if RANKED:
                column_rank = tl.load(rank_ptr + at, mask=there, other=EMPTY)
                d2 = tl.where(column_rank[None, :] < rank[:, None], d2, float("inf"))
            key = (d2.to(tl.int32, bitcast=True) & ~low) | (start // COLUMNS)
            third = tl.minimum(third, tl.maximum(second, key))
            second = tl.minimum(second, tl.maximum(first, key))
            first = tl.minimum(first, key)

        # Whatever a lane dropped is no nearer than its third.
        bound = tl.min(third, axis=1)
        place = tl.arange(0, LIST)
        found = tl.full((ROWS, LIST), EMPTY, tl.int32)
        for step in range(LIST):
            least, at_lane = tl.min(first, axis=1, return_indices=True)
            index = tl.where(least < INFINITY, (least & low) * COLUMNS + at_lane, EMPTY)
            found = tl.where(place[None, :] == step, index[:, None], found)
            hit = lane[None, :] == at_lane[:, None]
            first = tl.where(hit, second, first)
            second = tl.where(hit, third, second)
            third = tl.where(hit, EMPTY, third)
        bound = tl.minimum(bound, tl.min(first, axis=1))

        # From a distance of rounded features to one of true features: each may have moved.
        scale = scale_of(tl.load(largest_ptr + image))
        moved = tl.load(moved_ptr + flat) + tl.load(most_moved_ptr + image)
        nearest = (bound & ~low).to(tl.float32, bitcast=True)
        gap = tl.maximum(tl.sqrt(nearest) * (1.0 - 1e-6) - moved, 0.0) / scale
        radius = gap * gap / channels * (1.0 - slack)
        radius = tl.where(radius <= same_d2, 0.0, radius)
        radius = tl.where(bound < INFINITY, radius, float("inf"))
        tl.store(radius_ptr + flat, radius, mask=exists)

        visible = found < num_columns
        found = tl.where(visible, found, 0)
        token = found
        if CHOSEN:
            token = tl.load(column_token_ptr + image * num_columns + found)
            token = tl.maximum(token, 0)  # nobody: an image without a visible token has no center
        others = (image * num_tokens + token) * channels
        exact = _distances(
            x_ptr, (flat * channels)[:, None], others, channels, same_d2, ROWS, LIST, False
        )
        _store_sorted(_pairs(exact, found, visible), flat, exists, d2_ptr, index_ptr, LIST)


@triton.jit
def scan_kernel(
    x_ptr: tl.tensor,  # (B, N, C) float32
    norm_ptr: tl.tensor,  # (B, N) float32, inf for what nobody may find
    column_token_ptr: tl.tensor,  # (B, M) int64, where CHOSEN
    rank_ptr: tl.tensor,  # (B, N) int64, where RANKED
    rows_ptr: tl.tensor,  # (B, N) int32
    count_ptr: tl.tensor,  # (B,) int32
    d2_ptr: tl.tensor,  # out (B, N, LIST) float32, ascending
    index_ptr: tl.tensor,  # out (B, N, LIST) int32
    radius_ptr: tl.tensor,  # out (B, N) float32
    num_tokens: tl.tensor,
    num_columns: tl.tensor,
    channels: tl.tensor,
    num_blocks: tl.tensor,
    same_d2: tl.tensor,
    CHOSEN: tl.constexpr,
    RANKED: tl.constexpr,
    LIST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """What ``closest`` finds, for the listed rows and from float32 distances to every column."""
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    first_slot = (tl.program_id(0) % num_blocks) * ROWS
    count = tl.load(count_ptr + image)
    if first_slot < count:
        slot = first_slot + tl.arange(0, ROWS)
        exists = slot < count
        row = tl.load(rows_ptr + image * num_tokens + slot, mask=exists, other=0)
        flat = image * num_tokens + row
        rank = row
        if RANKED:
            rank = tl.load(rank_ptr + flat)

        # Different from each other and from all pairs, so that each can be replaced alone.
        best = tl.full((ROWS, LIST), EMPTY_PAIR, tl.int64) - tl.arange(0, LIST)[None, :]
        for start in range(0, num_columns, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            there = column < num_columns
            token = tl.where(there, column, 0)
            if CHOSEN:
                token = tl.load(column_token_ptr + image * num_columns + token)
                there = there & (token >= 0)
                token = tl.where(there, token, 0)
            at = image * num_tokens + token
            there = there & (tl.load(norm_ptr + at) != float("inf"))
            wanted = there[None, :] & exists[:, None]
            if RANKED:
                wanted = wanted & (tl.load(rank_ptr + at)[None, :] < rank[:, None])
            d2 = _distances(
                x_ptr,
                (flat * channels)[:, None],
                (at * channels)[None, :],
                channels,
                same_d2,
                ROWS,
                COLUMNS,
                True,
            )
            pairs = _pairs(d2, column[None, :], wanted)
            better = tl.min(pairs, axis=1) < tl.max(best, axis=1)
            if tl.max(better.to(tl.int32), axis=0) > 0:
                for _ in range(LIST):
                    least = tl.min(pairs, axis=1)
                    most = tl.max(best, axis=1)
                    out = (best == most[:, None]) & (least < most)[:, None]
                    best = tl.where(out, least[:, None], best)
                    pairs = tl.where(pairs == least[:, None], EMPTY_PAIR, pairs)

        worst = tl.max(best, axis=1)
        full = worst <= EMPTY_PAIR - LIST
        radius = tl.where(full, worst >> 32, INFINITY).to(tl.int32).to(tl.float32, bitcast=True)
        tl.store(radius_ptr + flat, radius, mask=exists)
        best = tl.where(best > EMPTY_PAIR - LIST, EMPTY_PAIR, best)
        _store_sorted(best, flat, exists, d2_ptr, index_ptr, LIST)
