"""The definition of DPC-KNN for one image, in loops. Slow on purpose; any float dtype."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcformer.ops.dpc_knn.peaks import Settings


def dpc_knn(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Cluster every image of a (B, N, C) batch; returns assignment (B, N) and centers (B, M)."""
    results = []
    for b in range(x.shape[0]):
        mask, noise = (t if t is None else t[b] for t in (settings.mask, settings.noise))
        results.append(_one_image(x[b], settings._replace(mask=mask, noise=noise)))
    return torch.stack([r[0] for r in results]), torch.stack([r[1] for r in results])


def _one_image(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    num_clusters, k, mask, noise, tolerance = settings
    num_tokens, channels = x.shape
    valid = [i for i in range(num_tokens) if mask is None or bool(mask[i])]
    d2 = {(i, j): float(((x[i] - x[j]) ** 2).sum()) / channels for i in valid for j in valid}
    d2 = {pair: 0.0 if value <= tolerance**2 else value for pair, value in d2.items()}

    neg_log_density = {}
    for i in valid:
        nearest = sorted(d2[i, j] for j in valid)[:k]
        neg_log_density[i] = sum(nearest) / len(nearest)
        if noise is not None:
            density = math.exp(-neg_log_density[i]) + float(noise[i])
            neg_log_density[i] = -math.log(density) if density > 0 else math.inf

    # Denser first; equal densities in index order, so that exactly one token has nobody before it.
    order = sorted(valid, key=lambda i: (neg_log_density[i], i))
    score = {}
    for position, i in enumerate(order):
        if position == 0:
            score[i] = math.inf
            continue
        separation2 = min(d2[i, j] for j in order[:position])
        log_separation = 0.5 * math.log(separation2) if separation2 > 0 else -math.inf
        score[i] = log_separation - neg_log_density[i]

    chosen = sorted(sorted(valid, key=lambda i: (-score[i], i))[:num_clusters])
    assignment = torch.full((num_tokens,), -1, dtype=torch.int64)
    for i in valid:
        assignment[i] = min(range(len(chosen)), key=lambda m: (d2[i, chosen[m]], m))
    for m, center in enumerate(chosen):
        assignment[center] = m
    centers = torch.full((num_clusters,), -1, dtype=torch.int64)
    centers[: len(chosen)] = torch.tensor(chosen, dtype=torch.int64)
    return assignment, centers
