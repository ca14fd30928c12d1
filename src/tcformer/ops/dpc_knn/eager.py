"""DPC-KNN in plain PyTorch: row blocks instead of an N x N matrix, exact where it matters.

A matrix product finds candidates fast but rounds: two features of norm 20 at distance 0.01 lose
most of their digits in |a|^2 + |b|^2 - 2ab. So products only *propose* (on features centred per
image, which shrinks the cancellation), and the few proposed distances are computed again from
differences. What is decided then depends neither on the size of the row blocks nor on the other
images of the batch nor on the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NUM_EXTRA = 3
"""Candidates beyond k that are computed again: room for proposals in a slightly wrong order."""

BLOCK_ELEMENTS = 1 << 23
"""Entries of a distance block (32 MiB in float32), over all images of the batch together."""


def dpc_knn(
    x: Tensor, num_clusters: int, k: int, mask: Tensor | None, density_noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Cluster a (B, N, C) float32 or float64 batch.

    Returns:
        assignment (B, N) int64 and centres (B, M) int64, both -1 where a mask leaves nothing.
    """
    features = _prepare(x, mask)
    neighbour_d2, neighbour = _nearest(features, k + NUM_EXTRA)
    sparsity = _sparsity(neighbour_d2, k, mask, density_noise)
    rank = _rank(sparsity)
    separation2 = _separation(features, rank, neighbour_d2, neighbour)
    # delta * rho in the log domain: exp(-sparsity) underflows for features of large scale.
    score = 0.5 * separation2.log() - sparsity
    score = torch.where(rank == 0, torch.inf, score)
    if mask is not None:
        score = torch.where(mask, score, -torch.inf)
        # Behind every valid token, even one of score -inf (a duplicate of a denser token).
        first = torch.sort((~mask).to(torch.uint8), dim=1, stable=True).indices
        by_score = torch.sort(score.gather(1, first), dim=1, descending=True, stable=True).indices
        by_score = first.gather(1, by_score)
    else:
        by_score = torch.sort(score, dim=1, descending=True, stable=True).indices
    chosen = by_score[:, :num_clusters]
    centres = torch.sort(chosen, dim=1).values
    if mask is None:
        return _assign(features, centres, None), centres
    chosen_valid = mask.gather(1, chosen)
    beyond = x.shape[1]
    centres = torch.sort(torch.where(chosen_valid, chosen, beyond), dim=1).values
    centre_valid = centres < beyond
    assignment = _assign(features, torch.where(centre_valid, centres, 0), centre_valid)
    assignment = torch.where(mask, assignment, -1)
    return assignment, torch.where(centre_valid, centres, -1)


class _Features(NamedTuple):
    """Features (B, N, C) with what the candidate search needs."""

    x: Tensor
    centred: Tensor  # x minus the image's mean: the same distances, less cancellation
    norm2: Tensor  # (B, N) squared norms of the centred features
    mask: Tensor | None  # (B, N) bool

    def image(self, b: int) -> _Features:
        """One image alone, as a batch of one."""
        mask = None if self.mask is None else self.mask[b : b + 1]
        return _Features(self.x[b : b + 1], self.centred[b : b + 1], self.norm2[b : b + 1], mask)

    def proposals(self, rows: Tensor, columns: Tensor, norm2: Tensor) -> Tensor:
        """Squared distances up to rounding and a constant a row: |b|^2 - 2ab, (B, R, S)."""
        return torch.baddbmm(norm2.unsqueeze(1), rows, columns.transpose(1, 2), alpha=-2.0)

    def exact_d2(self, rows: Tensor, others: Tensor) -> Tensor:
        """Squared distances over C from differences: (B, R) x (B, R, S) -> (B, R, S)."""
        batch, num_rows, num_others = others.shape
        a = _take(self.x, rows)
        b = _take(self.x, others.reshape(batch, -1)).view(batch, num_rows, num_others, -1)
        return (b - a.unsqueeze(2)).square().sum(dim=-1) / self.x.shape[-1]


def _prepare(x: Tensor, mask: Tensor | None) -> _Features:
    if mask is None:
        centred = x - x.mean(dim=1, keepdim=True)
    else:
        keep = mask.unsqueeze(-1)
        count = keep.sum(dim=1, keepdim=True).clamp(min=1)
        mean = torch.where(keep, x, 0.0).sum(dim=1, keepdim=True) / count
        centred = torch.where(keep, x - mean, 0.0)
    return _Features(x, centred, centred.square().sum(dim=-1), mask)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Gather rows: (B, N, C) at (B, R) -> (B, R, C)."""
    return torch.gather(x, 1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _blocks(batch: int, num_rows: int, num_columns: int) -> list[tuple[int, int]]:
    # In an exported graph the batch size is a symbol that must not shape the loop.
    images = batch if type(batch) is int else 1
    size = max(1, min(num_rows, BLOCK_ELEMENTS // max(1, images * num_columns)))
    return [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def _lexicographic(d2: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Sort candidates along the last axis by distance, equal distances by index."""
    index, order = torch.sort(index, dim=-1)
    d2, by_distance = torch.sort(d2.gather(-1, order), dim=-1, stable=True)
    return d2, index.gather(-1, by_distance)


def _nearest(features: _Features, count: int) -> tuple[Tensor, Tensor]:
    """The nearest tokens of every token (itself among them), exact distances ascending."""
    batch, num_tokens, _ = features.x.shape
    count = min(count, num_tokens)
    distances, indices = [], []
    for start, stop in _blocks(batch, num_tokens, num_tokens):
        proposals = features.proposals(
            features.centred[:, start:stop], features.centred, features.norm2
        )
        if features.mask is not None:
            proposals = proposals.masked_fill(~features.mask.unsqueeze(1), torch.inf)
        candidates = proposals.topk(count, dim=-1, largest=False, sorted=False).indices
        rows = torch.arange(start, stop, device=features.x.device).expand(batch, -1)
        d2 = features.exact_d2(rows, candidates)
        if features.mask is not None:
            visible = features.mask.gather(1, candidates.flatten(1)).view_as(candidates)
            d2 = torch.where(visible, d2, torch.inf)
        d2, candidates = _lexicographic(d2, candidates)
        distances.append(d2)
        indices.append(candidates)
    return torch.cat(distances, dim=1), torch.cat(indices, dim=1)


def _sparsity(d2: Tensor, k: int, mask: Tensor | None, noise: Tensor | None) -> Tensor:
    """Minus the logarithm of the density: the mean of the k smallest squared distances, (B, N)."""
    nearest = d2[..., :k]
    if mask is None:
        sparsity = nearest.mean(dim=-1)
    else:
        finite = torch.isfinite(nearest)
        sparsity = torch.where(finite, nearest, 0.0).sum(-1) / finite.sum(-1).clamp(min=1)
        sparsity = torch.where(mask, sparsity, torch.inf)
    if noise is not None:
        noisy = -(torch.exp(-sparsity) + noise).log()
        sparsity = noisy if mask is None else torch.where(mask, noisy, torch.inf)
    return sparsity


def _rank(sparsity: Tensor) -> Tensor:
    """Place of every token in the order (denser first, then index), (B, N) int64."""
    order = torch.sort(sparsity, dim=1, stable=True).indices
    places = torch.arange(sparsity.shape[1], device=sparsity.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _separation(features: _Features, rank: Tensor, d2: Tensor, neighbour: Tensor) -> Tensor:
    """Squared distance over C to the nearest token of smaller rank, (B, N); inf for rank 0.

    The neighbour list is sorted by distance, so the first denser token in it is the nearest one;
    only tokens whose whole list is less dense (2 to 12 % on photographs) need another look.
    """
    neighbour_rank = rank.gather(1, neighbour.flatten(1)).view_as(neighbour)
    denser = neighbour_rank < rank.unsqueeze(-1)
    separation = torch.where(denser, d2, torch.inf).amin(dim=-1)
    if features.x.device.type != "cpu" or torch.compiler.is_compiling():
        full = _separation_scan(features, rank, None)
        return torch.where(denser.any(dim=-1), separation, full)
    unresolved = ~denser.any(dim=-1)
    for b in range(features.x.shape[0]):
        rows = unresolved[b].nonzero().squeeze(1)
        if rows.numel():
            scan = _separation_scan(features.image(b), rank[b : b + 1], rows)
            separation[b, rows] = scan[0]
    return separation


def _separation_scan(features: _Features, rank: Tensor, rows: Tensor | None) -> Tensor:
    """Scan all tokens for the nearest of smaller rank; all rows, or the given ones."""
    batch, num_tokens, _ = features.x.shape
    device = features.x.device
    rows = torch.arange(num_tokens, device=device) if rows is None else rows
    count = min(1 + NUM_EXTRA, num_tokens)
    found = []
    for start, stop in _blocks(batch, rows.shape[0], num_tokens):
        block = rows[start:stop].expand(batch, -1)
        proposals = features.proposals(
            _take(features.centred, block), features.centred, features.norm2
        )
        own = rank.gather(1, block)
        hidden = rank.unsqueeze(1) >= own.unsqueeze(-1)
        proposals = proposals.masked_fill(hidden, torch.inf)
        candidates = proposals.topk(count, dim=-1, largest=False, sorted=False).indices
        d2 = features.exact_d2(block, candidates)
        candidate_rank = rank.gather(1, candidates.flatten(1)).view_as(candidates)
        found.append(torch.where(candidate_rank < own.unsqueeze(-1), d2, torch.inf).amin(-1))
    return torch.cat(found, dim=1)


def _assign(features: _Features, centres: Tensor, centre_valid: Tensor | None) -> Tensor:
    """The nearest centre of every token, ties to the first; centres to themselves, (B, N)."""
    batch, num_tokens, _ = features.x.shape
    num_clusters = centres.shape[1]
    centred = _take(features.centred, centres)
    norm2 = features.norm2.gather(1, centres)
    if centre_valid is not None:
        norm2 = torch.where(centre_valid, norm2, torch.inf)
    count = min(1 + NUM_EXTRA, num_clusters)
    found = []
    for start, stop in _blocks(batch, num_tokens, num_clusters):
        proposals = features.proposals(features.centred[:, start:stop], centred, norm2)
        candidates = proposals.topk(count, dim=-1, largest=False, sorted=False).indices
        # Among many equal centres top-k may propose any; argmin is the first of them.
        first = proposals.argmin(dim=-1, keepdim=True)
        candidates = torch.cat((first, candidates), dim=-1)
        rows = torch.arange(start, stop, device=features.x.device).expand(batch, -1)
        others = centres.gather(1, candidates.flatten(1)).view_as(candidates)
        d2 = features.exact_d2(rows, others)
        if centre_valid is not None:
            real = centre_valid.gather(1, candidates.flatten(1)).view_as(candidates)
            d2 = torch.where(real, d2, torch.inf)
        found.append(_lexicographic(d2, candidates)[1][..., 0])
    assignment = torch.cat(found, dim=1)
    labels = torch.arange(num_clusters, device=centres.device).expand(batch, -1)
    if centre_valid is None:
        return assignment.scatter(1, centres, labels)
    kept = assignment.gather(1, centres)
    return assignment.scatter(1, centres, torch.where(centre_valid, labels, kept))
