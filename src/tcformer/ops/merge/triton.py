"""Merging on a GPU: a regrouping of tokens into clusters by the Triton kernel of `regroup`."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.ops.regroup.triton import gather_sum


def merge(x: Tensor, assignment: Tensor, weight: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Merge (B, N, C) into (B, M, C); also the normalized weight (B, N) of every token."""
    num_clusters = floor.shape[1]
    batch, num_tokens, channels = x.shape
    image = torch.arange(batch, device=x.device)[:, None]
    cluster = (image * num_clusters + assignment).flatten()
    row, order = torch.sort(cluster, stable=True)
    bounds = torch.arange(batch * num_clusters + 1, device=x.device)
    ones = torch.ones_like(row, dtype=x.dtype)
    members = [torch.searchsorted(row, bounds, out_int32=True), order.int(), ones]
    # The other way round every token has one entry, its cluster.
    each = torch.arange(batch * num_tokens + 1, device=x.device, dtype=torch.int32)
    clusters = [each, cluster.int(), ones]
    weighted = (weight.unsqueeze(-1) * x).flatten(0, 1)
    summed = gather_sum(weighted, members, clusters).view(batch, num_clusters, channels)
    total = gather_sum(weight.reshape(-1, 1), members, clusters).view(batch, num_clusters)
    total = total + floor
    return summed / total.unsqueeze(-1), weight / total.gather(1, assignment)
