"""DPC-KNN on a GPU: streaming Triton kernels, nothing of size N x N, no wait for the host.

Three questions are asked with the same two kernels (:mod:`.triton_kernels`): which tokens are
nearest to each, which denser one is nearest, and which center is. Products of float16 features
propose a few answers; float32 differences decide among them; a bound on all others proves the
decision or has it made anew from every float32 distance. So rounding to float16 costs nothing but
repeats (0.6 % of the rows on photographs), and the result is that of float32.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from tcformer.ops.dpc_knn.peaks import Settings, choose_centers, neg_log_density, rank_of, shapes
from tcformer.ops.dpc_knn.triton_kernels import (
    closest_kernel,
    compact_kernel,
    prepare_kernel,
    resolve_kernel,
    scan_kernel,
)

NUM_EXTRA = 3
"""Candidates beyond those asked for: the more, the farther away is what was not kept."""

NUM_EXTRA_NEIGHBORS = 11
"""The same where all tokens ask. Three leave four times as many rows to scan."""

LONGEST = 32
"""The longest list that a row keeps in registers."""


class Tiles(NamedTuple):
    """Sizes of a program's tiles, powers of two; they change speed and never the result."""

    rows: int
    columns: int
    channels: int
    warps: int
    stages: int


def tiles_for(channels: int) -> Tiles:
    """Tiles of the search: features of up to 128 channels stay on the chip, wider ones stream."""
    if channels <= 128:
        return Tiles(64, 64, max(16, triton.next_power_of_2(channels)), 4, 3)
    return Tiles(64, 64, 64, 4, 3)


SCAN = Tiles(16, 64, 4, 4, 2)
"""Tiles of the repeat, which few rows need: small, so that few programs are idle."""


class _Features(NamedTuple):
    x: Tensor  # (B, N, C) float32, zero where masked
    half: Tensor  # (B, N, C) float16, scaled and centered
    norm: Tensor  # (B, N) float32, lower bound of the squared norms of `half`; inf where masked
    moved: Tensor  # (B, N) float32, how far rounding moved each
    largest: Tensor  # (B,) float32
    most_moved: Tensor  # (B,) float32
    same_d2: float


class _Columns(NamedTuple):
    """What is searched."""

    half: Tensor  # (B, M, C) float16
    norm: Tensor  # (B, M) float32
    token: Tensor | None  # (B, M) int64, or None where column m is token m; -1 is nobody


class _Found(NamedTuple):
    d2: Tensor  # (B, N, L) float32, ascending
    column: Tensor  # (B, N, L) int32
    radius: Tensor  # (B, N) float32, no column beside these is nearer than this


class _Rows(NamedTuple):
    """Some tokens of every image: the first ``number`` entries of each row of ``token``."""

    token: Tensor  # (B, N) int32
    number: Tensor  # (B,) int32


def dpc_knn(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Cluster a (B, N, C) float32 batch: assignment (B, N) and centers (B, M)."""
    if x.shape[0] == 0:
        return shapes(x, settings.num_clusters)
    with torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext():
        return _cluster(x, settings)


def _cluster(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    num_clusters, k, mask, noise, tolerance = settings
    mask = None if mask is None else mask.contiguous()
    features = prepare(x, mask, tolerance)
    everyone = _Columns(features.half, features.norm, None)
    near = nearest(features, everyone, k, mask)
    density = neg_log_density(near.d2, k, mask, noise)
    rank = rank_of(density)
    separation2 = separation_of(features, everyone, near, rank, mask)
    centers, valid = choose_centers(separation2, density, rank, settings)
    label = assign(features, centers, valid, mask)
    if mask is None or valid is None:
        labels = torch.arange(num_clusters, device=x.device).expand_as(centers)
        return label.scatter(1, centers, labels), centers
    # Centers that do not exist are sent to a token behind the last.
    label = torch.nn.functional.pad(label, (0, 1))
    labels = torch.arange(num_clusters, device=x.device).expand_as(centers)
    label = label.scatter(1, centers, labels)[:, :-1]
    return torch.where(mask, label, -1), torch.where(valid, centers, -1)


def prepare(x: Tensor, mask: Tensor | None, tolerance: float) -> _Features:
    """Round the features to float16, scaled and centered per image; distances stay the same."""
    if mask is None:
        x = x.contiguous()
        mean = x.mean(dim=1)
    else:
        keep = mask.unsqueeze(-1)
        x = torch.where(keep, x, 0.0).contiguous()
        mean = x.sum(dim=1) / keep.sum(dim=1).clamp(min=1)
    batch, num_tokens, channels = x.shape
    largest = torch.linalg.vector_norm(x, ord=torch.inf, dim=(1, 2))
    half = x.new_empty(batch, num_tokens, channels, dtype=torch.float16)
    norm = x.new_empty(batch, num_tokens)
    moved = x.new_empty(batch, num_tokens)
    blocks = triton.cdiv(num_tokens, 32)
    prepare_kernel[(blocks * batch,)](
        x,
        mean,
        largest,
        x if mask is None else mask,
        half,
        norm,
        moved,
        num_tokens,
        channels,
        blocks,
        # Products of float16 are exact in float32; a unit of rounding for each of their sums.
        (channels + 64) * 2.0**-23,
        MASKED=mask is not None,
        ROWS=32,
        CHANNELS=max(16, min(128, triton.next_power_of_2(channels))),
        num_warps=4,
        enable_fp_fusion=True,
    )
    return _Features(x, half, norm, moved, largest, moved.amax(dim=1), tolerance**2)


def closest(
    features: _Features,
    columns: _Columns,
    size: int,
    *,
    rank: Tensor | None = None,
    rows: _Rows | None = None,
) -> _Found:
    """The ``size`` nearest columns of every row by float32 distance, among those proposed.

    With ``rank`` (B, N) int64 only columns of smaller rank; with ``rows`` only for these rows,
    and what is returned for others is undefined.
    """
    x = features.x
    batch, num_tokens, channels = x.shape
    num_columns = columns.norm.shape[1]
    size = triton.next_power_of_2(size)
    found = _Found(
        x.new_empty(batch, num_tokens, size),
        x.new_empty(batch, num_tokens, size, dtype=torch.int32),
        x.new_empty(batch, num_tokens),
    )
    tiles = tiles_for(channels)
    blocks = triton.cdiv(num_tokens, tiles.rows)
    closest_kernel[(blocks * batch,)](
        x,
        features.half,
        features.norm,
        features.moved,
        columns.half,
        columns.norm,
        x if columns.token is None else columns.token,
        features.largest,
        features.most_moved,
        x if rank is None else rank,
        x if rows is None else rows.token,
        x if rows is None else rows.number,
        *found,
        num_tokens,
        num_columns,
        channels,
        blocks,
        features.same_d2,
        (channels + 16) * 2.0**-22,
        CHOSEN=columns.token is not None,
        RANKED=rank is not None,
        LISTED=rows is not None,
        LIST=size,
        TILE_BITS=(triton.cdiv(num_columns, tiles.columns) - 1).bit_length(),
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
        CHANNELS=tiles.channels,
        RESIDENT=channels <= tiles.channels,
        num_warps=tiles.warps,
        enable_fp_fusion=True,
        num_stages=tiles.stages,
    )
    return found


def scan(
    features: _Features,
    columns: _Columns,
    rows: _Rows,
    found: _Found,
    *,
    rank: Tensor | None = None,
) -> None:
    """Overwrite what was found for these rows by what float32 distances to all columns say."""
    x = features.x
    batch, num_tokens, channels = x.shape
    blocks = triton.cdiv(num_tokens, SCAN.rows)
    scan_kernel[(blocks * batch,)](
        x,
        features.norm,
        x if columns.token is None else columns.token,
        x if rank is None else rank,
        rows.token,
        rows.number,
        *found,
        num_tokens,
        columns.norm.shape[1],
        channels,
        blocks,
        features.same_d2,
        CHOSEN=columns.token is not None,
        RANKED=rank is not None,
        LIST=found.d2.shape[2],
        ROWS=SCAN.rows,
        COLUMNS=SCAN.columns,
        num_warps=SCAN.warps,
        enable_fp_fusion=True,
        num_stages=SCAN.stages,
    )


def compact(
    flag: Tensor | None,
    found: _Found | None = None,
    *,
    place: int = 0,
    strict: bool = False,
    like: Tensor,
) -> _Rows:
    """List tokens of every image of ``like`` (B, N, ...), or only those with a flag (B, N).

    With ``found`` only those whose answer at ``place`` the radius does not prove; ``strict`` asks
    for all others to be farther, not just as far.
    """
    batch, num_tokens = like.shape[:2]
    rows = _Rows(
        like.new_empty(batch, num_tokens, dtype=torch.int32),
        like.new_empty(batch, dtype=torch.int32),
    )
    compact_kernel[(batch,)](
        like if flag is None else flag,
        like if found is None else found.d2,
        like if found is None else found.radius,
        *rows,
        num_tokens,
        FLAGGED=flag is not None,
        DOUBTED=found is not None,
        STRICT=strict,
        LIST=1 if found is None else found.d2.shape[2],
        PLACE=place,
        SIZE=1024,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return rows


def nearest(features: _Features, everyone: _Columns, k: int, mask: Tensor | None) -> _Found:
    """The nearest tokens of every token, itself among them; the first k for certain."""
    near = closest(features, everyone, min(k + NUM_EXTRA_NEIGHBORS, LONGEST))
    scan(features, everyone, compact(mask, near, place=k - 1, like=features.x), near)
    return near


def separation_of(
    features: _Features, everyone: _Columns, near: _Found, rank: Tensor, mask: Tensor | None
) -> Tensor:
    """Squared distance over C to the nearest token of smaller rank, (B, N); inf for rank 0."""
    batch, num_tokens = rank.shape
    separation2 = near.radius.new_empty(batch, num_tokens)
    unresolved = rank.new_empty(batch, num_tokens, dtype=torch.bool)
    blocks = triton.cdiv(num_tokens, 128)
    resolve_kernel[(blocks * batch,)](
        *near,
        rank,
        rank if mask is None else mask,
        separation2,
        unresolved,
        num_tokens,
        blocks,
        MASKED=mask is not None,
        LIST=near.d2.shape[2],
        ROWS=128,
        num_warps=4,
        enable_fp_fusion=True,
    )
    # Most tokens have a denser one among their neighbors. The others look further.
    further = compact(unresolved, like=rank)
    found = closest(features, everyone, 1 + NUM_EXTRA, rank=rank, rows=further)
    scan(features, everyone, compact(unresolved, found, like=rank), found, rank=rank)
    return torch.where(unresolved, found.d2[..., 0], separation2)


def assign(
    features: _Features, centers: Tensor, valid: Tensor | None, mask: Tensor | None
) -> Tensor:
    """The nearest center of every token, ties to the first, (B, N) int64."""
    channels = features.x.shape[2]
    token = centers if valid is None else torch.where(valid, centers, 0)
    half = features.half.gather(1, token.unsqueeze(-1).expand(-1, -1, channels))
    norm = features.norm.gather(1, token)
    if valid is not None:
        norm = torch.where(valid, norm, torch.inf)
        token = torch.where(valid, token, -1)
    columns = _Columns(half, norm, token)
    found = closest(features, columns, 1 + NUM_EXTRA)
    # A tie beyond the list could have a lower number.
    scan(features, columns, compact(mask, found, strict=True, like=features.x), found)
    return found.column[..., 0].long()
