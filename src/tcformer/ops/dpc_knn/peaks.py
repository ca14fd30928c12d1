"""From distances to cluster centers: the part of DPC-KNN that every backend shares.

Densities are compared as their negative logarithm, for rho itself underflows where features are
large.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Settings(NamedTuple):
    """How to cluster (B, N, C) features; the caller has checked it.

    Attributes:
        num_clusters: M, at most N.
        k: neighbors in the density estimate, at most N.
        mask: (B, N) bool, the tokens that take part.
        noise: (B, N) float added to the densities.
        tolerance: distances up to this one count as zero.
    """

    num_clusters: int
    k: int
    mask: Tensor | None
    noise: Tensor | None
    tolerance: float


def flop(
    x: torch.Size, num_clusters: int, *arguments: object, out_shape: object = None, **others: object
) -> int:
    """What torch's FLOP counter says of a clustering: two for each multiply-add of its products.

    The products of all pairs of tokens, and of all tokens and centers, of features (B, N, C). An
    implementation may execute fewer (half of the first are equal) or repeat some.
    """
    batch, num_tokens, channels = x
    return 2 * batch * num_tokens * channels * (num_tokens + num_clusters)


def shapes(x: Tensor, num_clusters: int, *arguments: object) -> tuple[Tensor, Tensor]:
    """Empty results of a clustering of (B, N, C): assignment (B, N) and centers (B, M)."""
    batch, num_tokens, _ = x.shape
    assignment = x.new_empty(batch, num_tokens, dtype=torch.int64)
    return assignment, x.new_empty(batch, num_clusters, dtype=torch.int64)


def stable_order(x: Tensor, *, descending: bool = False) -> Tensor:
    """Indices that sort the last axis of a real or integer tensor, equal values by index.

    Exported graphs do it by top-k, which every program has, on keys that are never equal: a stable
    sort has no counterpart in ONNX, and OpenVINO takes equal values in any order.
    """
    if not torch.compiler.is_exporting() or x.dtype == torch.float64:
        return torch.sort(x, dim=-1, descending=descending, stable=True).indices
    # float64 has 29 bits more than float32: 20 of them tell up to 2**20 equal values apart. All
    # constants are float32's, for torch.onnx.export rounds them to it: 1e39 would be infinite.
    largest = torch.finfo(torch.float32).max
    key = x.double().clamp(-largest, largest)
    place = torch.arange(x.shape[-1], dtype=key.dtype, device=x.device)
    key = key + (key.abs() * 2.0**-44 + 2.0**-120) * (-place if descending else place)
    return key.topk(x.shape[-1], dim=-1, largest=descending).indices


def neg_log_density(d2: Tensor, k: int, mask: Tensor | None, noise: Tensor | None) -> Tensor:
    """The mean of the k smallest squared distances, which is -log rho, (B, N).

    ``d2`` (B, N, L) holds those to the L >= k nearest, ascending; inf where there are fewer.
    """
    nearest = d2[..., :k]
    if mask is None:
        found = nearest.mean(dim=-1)
    else:
        finite = torch.isfinite(nearest)
        found = torch.where(finite, nearest, 0.0).sum(-1) / finite.sum(-1).clamp(min=1)
        found = torch.where(mask, found, torch.inf)
    if noise is not None:
        noisy = -(torch.exp(-found) + noise).clamp(min=0.0).log()
        found = noisy if mask is None else torch.where(mask, noisy, torch.inf)
    return found


def rank_of(neg_log_density: Tensor) -> Tensor:
    """Place of every token in the order (denser first, then index), (B, N) int64."""
    order = stable_order(neg_log_density)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def choose_centers(
    separation2: Tensor, neg_log_density: Tensor, rank: Tensor, settings: Settings
) -> tuple[Tensor, Tensor | None]:
    """The tokens of largest delta * rho, in token order; whoever has rank 0 is a center.

    ``separation2`` (B, N) is the squared distance to the nearest token of smaller rank.

    Returns:
        centers (B, M) int64 ascending; with a mask also which of them exist, (B, M) bool, while
        the others are N.
    """
    num_clusters, mask = settings.num_clusters, settings.mask
    score = 0.5 * separation2.log() - neg_log_density
    score = torch.where(rank == 0, torch.inf, score)
    if mask is None:
        by_score = stable_order(score, descending=True)
        return torch.sort(by_score[:, :num_clusters], dim=1).values, None
    # Masked tokens come last, even behind a score of -inf (a duplicate of a denser token).
    masked_last = stable_order((~mask).to(torch.uint8))
    score = torch.where(mask, score, -torch.inf).gather(1, masked_last)
    by_score = stable_order(score, descending=True)
    chosen = masked_last.gather(1, by_score)[:, :num_clusters]
    beyond = rank.shape[1]
    centers = torch.sort(torch.where(mask.gather(1, chosen), chosen, beyond), dim=1).values
    return centers, centers < beyond
