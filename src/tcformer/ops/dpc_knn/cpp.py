"""DPC-KNN by the C++ kernel in ``kernels.cpp``: half the products, nothing of size N x N."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.ops import csrc
from tcformer.ops.dpc_knn.peaks import Settings


def dpc_knn(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Cluster a (B, N, C) float32 batch on the CPU: assignment (B, N) and centers (B, M)."""
    batch, num_tokens, channels = x.shape
    num_clusters, k, mask, noise, tolerance = settings
    assignment = torch.empty(batch, num_tokens, dtype=torch.int64)
    centers = torch.empty(batch, num_clusters, dtype=torch.int64)
    failed = torch.zeros(1, dtype=torch.int64)
    csrc.run(
        "tcf_dpc_knn",
        *(x.contiguous(), batch, num_tokens, channels, num_clusters, k),
        None if mask is None else mask.contiguous(),
        None if noise is None else noise.float().contiguous(),
        *(float(tolerance), assignment, centers, failed),
    )
    if failed.item():
        raise MemoryError(
            f"dpc_knn: not enough memory to cluster {num_tokens} tokens of {channels} channels."
        )
    return assignment, centers
