"""DPC-KNN in plain PyTorch: row blocks instead of an N x N matrix, exact where it matters.

A matrix product finds candidates fast but rounds: two features of norm 20 at distance 0.01 lose
most of their digits in |a|^2 + |b|^2 - 2ab. So products only *propose* (on features centered per
image, which shrinks the cancellation), and the few proposed distances are computed again from
differences. What is decided then depends neither on the size of the row blocks nor on the other
images of the batch nor on the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcformer.ops.dispatch import is_exporting
from tcformer.ops.dpc_knn.peaks import (
    Settings,
    choose_centers,
    neg_log_density,
    rank_of,
    stable_order,
)
from tcformer.ops.linear import linear

NUM_EXTRA = 3
"""Candidates beyond k that are computed again: room for proposals in a slightly wrong order."""

BLOCK_ELEMENTS = 1 << 23
"""Entries of a distance block (32 MiB in float32), over all images that are treated together."""

CPU_BLOCK_ELEMENTS = 1 << 20
"""The same on a CPU: 4 MiB stay in its cache while several passes go over a block."""

MIN_ROWS = 128
"""Rows of a block at least: each block reads all columns again, which must pay."""

MAX_EXPORTED_BLOCKS = 16
"""Blocks are loops, which an exported graph writes out."""

ROUNDING = 64
"""Proposals that differ by so many units of rounding of the largest norm may be equal."""

RUN = 16
"""Columns that share a minimum in the two-step selection of the nearest candidates."""


def dpc_knn(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Cluster a (B, N, C) float32 or float64 batch: assignment (B, N) and centers (B, M)."""
    batch, num_tokens, _ = x.shape
    if x.device.type != "cpu" or torch.compiler.is_compiling() or batch == 0:
        return _cluster(x, settings, BLOCK_ELEMENTS)
    # As many images at a time as keep their distances in the cache, at least one.
    images = max(1, CPU_BLOCK_ELEMENTS // num_tokens**2)
    parts = []
    for start in range(0, batch, images):
        part = slice(start, start + images)
        mask, noise = (t if t is None else t[part] for t in (settings.mask, settings.noise))
        own = settings._replace(mask=mask, noise=noise)
        parts.append(_cluster(x[part], own, CPU_BLOCK_ELEMENTS))
    assignment, centers = zip(*parts, strict=True)
    return torch.cat(assignment), torch.cat(centers)


def _cluster(x: Tensor, settings: Settings, block_elements: int) -> tuple[Tensor, Tensor]:
    _, k, mask, noise, tolerance = settings
    features = _prepare(x, mask, tolerance, block_elements)
    neighbor_d2, neighbor = _nearest(features, k + NUM_EXTRA)
    density = neg_log_density(neighbor_d2, k, mask, noise)
    rank = rank_of(density)
    separation2 = _separation(features, rank, neighbor_d2, neighbor)
    centers, center_valid = choose_centers(separation2, density, rank, settings)
    if mask is None or center_valid is None:
        return _assign(features, centers, None), centers
    assignment = _assign(features, torch.where(center_valid, centers, 0), center_valid)
    return torch.where(mask, assignment, -1), torch.where(center_valid, centers, -1)


class _Features(NamedTuple):
    """Features (B, N, C) with what the candidate search needs."""

    x: Tensor
    centered: Tensor  # (B, N', C): x minus the image's mean, the same distances, less cancellation
    norm2: Tensor  # (B, N') squared norms of those; inf for what is nobody's neighbor
    mask: Tensor | None  # (B, N) bool
    same_d2: float  # squared distances over C up to this one are zero
    block_elements: int


def _prepare(x: Tensor, mask: Tensor | None, tolerance: float, block_elements: int) -> _Features:
    if mask is None and torch.compiler.is_exporting():
        # By a product: onnxruntime's mean of one image alone has other last digits than in a batch.
        centered = x - x.new_full((1, 1, x.shape[1]), 1 / x.shape[1]) @ x
    elif mask is None:
        centered = x - x.mean(dim=1, keepdim=True)
    else:
        keep = mask.unsqueeze(-1)
        count = keep.sum(dim=1, keepdim=True).clamp(min=1)
        mean = torch.where(keep, x, 0.0).sum(dim=1, keepdim=True) / count
        centered = torch.where(keep, x - mean, 0.0)
    norm2 = centered.square().sum(dim=-1)
    if mask is not None:
        norm2 = torch.where(mask, norm2, torch.inf)
    # Full runs of columns for the two-step selection; what is added is infinitely far away.
    padding = -x.shape[1] % RUN
    centered = torch.nn.functional.pad(centered, (0, 0, 0, padding))
    norm2 = torch.nn.functional.pad(norm2, (0, padding), value=torch.inf)
    return _Features(x, centered, norm2, mask, tolerance**2, block_elements)


def _proposals(rows: Tensor, columns: Tensor, norm2: Tensor) -> Tensor:
    """Squared distances up to rounding and a constant a row: |b|^2 - 2ab, (B, R, S)."""
    if rows.shape[0] == 1 and rows.device.type == "cpu" and not torch.compiler.is_compiling():
        # The quicker of PyTorch's libraries for products, which takes one image at a time.
        return linear(rows[0] * -2.0, columns[0], norm2[0]).unsqueeze(0)
    return torch.baddbmm(norm2.unsqueeze(1), rows, columns.transpose(1, 2), alpha=-2.0)


def _smallest(d2: Tensor, count: int) -> Tensor:
    """Columns of the smallest entries of every row, in any order: (B, R, S) -> (B, R, count).

    In two steps: the ``count`` smallest entries lie in the ``count`` runs with the smallest
    minima, so only those runs are looked at closely. Three times as fast as top-k on full rows.
    """
    batch, num_rows, num_columns = d2.shape
    num_runs = num_columns // RUN
    if num_columns % RUN or num_runs < 4 * count:
        return d2.topk(count, dim=-1, largest=False, sorted=False).indices
    minimum = d2.view(batch, num_rows, RUN, num_runs).amin(dim=2)
    run = minimum.topk(count, dim=-1, largest=False, sorted=False).indices
    member = torch.arange(RUN, device=d2.device) * num_runs
    column = (run.unsqueeze(-1) + member).flatten(2)
    found = d2.gather(2, column).topk(count, dim=-1, largest=False, sorted=False).indices
    return column.gather(2, found)


def _exact_d2(features: _Features, rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances over C from differences: rows (B, R) x others (B, R, S) -> (B, R, S)."""
    x = features.x
    difference = _take(x, others.flatten(1)).view(*others.shape, -1)
    difference = difference - _take(x, rows).unsqueeze(2)
    d2 = (difference * difference).sum(dim=-1) / x.shape[-1]
    return d2.masked_fill(d2 <= features.same_d2, 0.0)


def _largest(norm2: Tensor) -> Tensor:
    """The largest finite squared norm of every image, (B, 1, 1)."""
    finite = torch.where(torch.isfinite(norm2), norm2, 0.0)
    return finite.amax(dim=1)[:, None, None]


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of every image: (B, N, C) at (B, R) -> (B, R, C)."""
    batch, num_tokens, channels = x.shape
    image = torch.arange(batch, device=x.device).unsqueeze(1) * num_tokens
    flat = torch.index_select(x.reshape(-1, channels), 0, (index + image).flatten())
    return flat.view(batch, index.shape[1], channels)


def _blocks(features: _Features, num_rows: int, num_columns: int) -> list[tuple[int, int]]:
    # In an exported graph the batch size is a symbol that must not shape the loop: suppose eight.
    batch = features.x.shape[0]
    images = batch if type(batch) is int else 8
    rows = max(MIN_ROWS, features.block_elements // max(1, images * num_columns))
    if is_exporting():
        rows = max(rows, num_rows // MAX_EXPORTED_BLOCKS + RUN)
    size = max(1, min(num_rows, rows // RUN * RUN))
    return [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def _lexicographic(d2: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Sort candidates along the last axis by distance, equal distances by index."""
    index, order = torch.sort(index, dim=-1)
    d2 = d2.gather(-1, order)
    by_distance = stable_order(d2)
    return d2.gather(-1, by_distance), index.gather(-1, by_distance)


def _nearest(features: _Features, count: int) -> tuple[Tensor, Tensor]:
    """The nearest tokens of every token (itself among them), exact distances ascending."""
    x, centered, norm2, mask, *_ = features
    batch, num_tokens, _ = x.shape
    count = min(count, num_tokens)
    distances, indices = [], []
    for start, stop in _blocks(features, num_tokens, centered.shape[1]):
        proposals = _proposals(centered[:, start:stop], centered, norm2)
        candidates = _smallest(proposals, count)
        visible = candidates < num_tokens  # where little is visible, the padding may be proposed
        candidates = candidates.clamp(max=num_tokens - 1)
        if mask is not None:
            visible &= mask.gather(1, candidates.flatten(1)).view_as(candidates)
        rows = torch.arange(start, stop, device=x.device).expand(batch, -1)
        d2 = torch.where(visible, _exact_d2(features, rows, candidates), torch.inf)
        d2, candidates = _lexicographic(d2, candidates)
        distances.append(d2)
        indices.append(candidates)
    return torch.cat(distances, dim=1), torch.cat(indices, dim=1)


def _separation(features: _Features, rank: Tensor, d2: Tensor, neighbor: Tensor) -> Tensor:
    """Squared distance over C to the nearest token of smaller rank, (B, N); inf for rank 0.

    The neighbor list is sorted by distance, so the first denser token in it is the nearest one;
    only tokens whose whole list is less dense (2 to 12 % on photographs) need another look.
    """
    neighbor_rank = rank.gather(1, neighbor.flatten(1)).view_as(neighbor)
    denser = neighbor_rank < rank.unsqueeze(-1)
    separation = torch.where(denser, d2, torch.inf).amin(dim=-1)
    resolved = denser.any(dim=-1)
    if rank.shape[0] == 1 and rank.device.type == "cpu" and not torch.compiler.is_compiling():
        # How many rows are left depends on the data: no matter on a CPU.
        rows = (~resolved[0]).nonzero().squeeze(1)
        return separation.index_copy(1, rows, _separation_scan(features, rank, rows))
    return torch.where(resolved, separation, _separation_in_order(features, rank))


def _separation_in_order(features: _Features, rank: Tensor) -> Tensor:
    """The same scan for all tokens, (B, N): in the order of ranks only what stands before counts.

    That is half of the distances, and what is left out is known before any data is.
    """
    num_tokens = rank.shape[1]
    place = torch.arange(num_tokens, device=rank.device).expand_as(rank)
    token = torch.empty_like(rank).scatter(1, rank, place)
    x, centered = _take(features.x, token), _take(features.centered, token)
    norm2 = features.norm2.gather(1, token)
    ordered = features._replace(x=x, centered=centered, norm2=norm2)
    blocks = _blocks(ordered, num_tokens, num_tokens)
    side = torch.arange(blocks[0][1], device=rank.device)
    behind = torch.where(side >= side[:, None], torch.inf, 0.0).to(norm2.dtype)
    found = []
    for start, stop in blocks:
        rows, size = centered[:, start:stop], stop - start
        own = _proposals(rows, rows, norm2[:, start:stop]) + behind[:size, :size]
        candidates = _smallest(own, min(1 + NUM_EXTRA, size)) + start
        if start > 0:
            before = _proposals(rows, centered[:, :start], norm2[:, :start])
            nearest = _smallest(before, min(1 + NUM_EXTRA, start))
            candidates = torch.cat((nearest, candidates), dim=-1)
        row = place[:, start:stop]
        d2 = _exact_d2(ordered, row, candidates)
        found.append(torch.where(candidates < row.unsqueeze(-1), d2, torch.inf).amin(dim=-1))
    return torch.cat(found, dim=1).gather(1, rank)


def _separation_scan(features: _Features, rank: Tensor, rows: Tensor) -> Tensor:
    """Scan all tokens for the nearest of smaller rank than the given rows (R,): (B, R)."""
    x = features.x
    batch, num_tokens, _ = x.shape
    centered, norm2 = features.centered[:, :num_tokens], features.norm2[:, :num_tokens]
    count = min(1 + NUM_EXTRA, num_tokens)
    found = [x.new_empty(batch, 0)]
    for start, stop in _blocks(features, rows.shape[0], num_tokens):
        block = rows[start:stop].expand(batch, -1)
        own = rank.gather(1, block).unsqueeze(-1)
        proposals = _proposals(_take(features.centered, block), centered, norm2)
        proposals = proposals.masked_fill(rank.unsqueeze(1) >= own, torch.inf)
        candidates = _smallest(proposals, count)
        d2 = _exact_d2(features, block, candidates)
        candidate_rank = rank.gather(1, candidates.flatten(1)).view_as(candidates)
        found.append(torch.where(candidate_rank < own, d2, torch.inf).amin(dim=-1))
    return torch.cat(found, dim=1)


def _assign(features: _Features, centers: Tensor, center_valid: Tensor | None) -> Tensor:
    """The nearest center of every token, ties to the first; centers to themselves, (B, N)."""
    x = features.x
    batch, num_tokens, _ = x.shape
    num_clusters = centers.shape[1]
    centered = _take(features.centered, centers)
    norm2 = features.norm2.gather(1, centers)
    if center_valid is not None:
        norm2 = torch.where(center_valid, norm2, torch.inf)
    count = min(1 + NUM_EXTRA, num_clusters)
    slack = ROUNDING * torch.finfo(x.dtype).eps * _largest(norm2)
    found = []
    for start, stop in _blocks(features, num_tokens, num_clusters):
        proposals = _proposals(features.centered[:, start:stop], centered, norm2)
        candidates = _smallest(proposals, count)
        # Among many equal centers any may be proposed; the first of them is wanted.
        near = proposals <= proposals.amin(dim=-1, keepdim=True) + slack
        first = near.to(torch.uint8).argmax(dim=-1, keepdim=True)
        candidates = torch.cat((first, candidates), dim=-1)
        rows = torch.arange(start, stop, device=x.device).expand(batch, -1)
        others = centers.gather(1, candidates.flatten(1)).view_as(candidates)
        d2 = _exact_d2(features, rows, others)
        if center_valid is not None:
            real = center_valid.gather(1, candidates.flatten(1)).view_as(candidates)
            d2 = torch.where(real, d2, torch.inf)
        found.append(_lexicographic(d2, candidates)[1][..., 0])
    assignment = torch.cat(found, dim=1)
    labels = torch.arange(num_clusters, device=centers.device).expand(batch, -1)
    if center_valid is None:
        return assignment.scatter(1, centers, labels)
    kept = assignment.gather(1, centers)
    return assignment.scatter(1, centers, torch.where(center_valid, labels, kept))
