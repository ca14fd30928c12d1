"""Merging for exported graphs, which know neither segment sums nor gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.ops.regroup import export


def merge(x: Tensor, assignment: Tensor, weight: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Merge (B, N, C) into (B, M, C); also the normalized weight (B, N) of every token."""
    num_clusters = floor.shape[1]
    total = torch.zeros_like(floor).scatter_add(1, assignment, weight) + floor
    normalized = weight / total.gather(1, assignment)
    num_tokens = x.shape[1]
    if export.is_dense(num_tokens, num_clusters, num_tokens):
        token = torch.arange(num_tokens, device=x.device).expand_as(assignment)
        return export.matrix_of(
            token, assignment, num_tokens, num_clusters, normalized
        ) @ x, normalized
    rows = x * normalized.unsqueeze(-1)
    merged = x.new_zeros(x.shape[0], num_clusters, x.shape[2])
    return merged.scatter_add(1, assignment.unsqueeze(-1).expand_as(rows), rows), normalized
