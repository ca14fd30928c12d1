"""The definition of merging tokens by cluster, in loops. Slow on purpose; any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def merge(
    x: Tensor, assignment: Tensor, num_clusters: int, log_weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x'[m] = sum of u_n x_n, u_n = exp(s_n) / (eps + sum of exp(s) over the cluster of n)."""
    weight = torch.exp(log_weight)
    merged, normalized = [], []
    for b in range(x.shape[0]):
        total = [
            eps + sum((w for w, a in zip(weight[b], assignment[b], strict=True) if a == m))
            for m in range(num_clusters)
        ]
        own = torch.stack(
            [w / total[int(a)] for w, a in zip(weight[b], assignment[b], strict=True)]
        )
        rows = []
        for m in range(num_clusters):
            members = (assignment[b] == m).nonzero().squeeze(1)
            rows.append((own[members, None] * x[b, members]).sum(0))
        merged.append(torch.stack(rows))
        normalized.append(own)
    return torch.stack(merged), torch.stack(normalized)
