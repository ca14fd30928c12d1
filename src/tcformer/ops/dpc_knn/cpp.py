"""DPC-KNN by the C++ kernel in ``kernels.cpp``: half the products, nothing of size N x N."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.ops import csrc
from tcformer.ops.dispatch import is_transformed, operator
from tcformer.ops.dpc_knn.peaks import flop, shapes


def dpc_knn(
    x: Tensor,
    num_clusters: int,
    k: int,
    mask: Tensor | None,
    density_noise: Tensor | None,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """Cluster a (B, N, C) float32 batch on the CPU; the caller has checked the arguments.

    Returns:
        assignment (B, N) int64 and centers (B, M) int64, both -1 where a mask leaves nothing.
    """
    # Traced, a stand-in for a tensor, or one inside a transform: only operators see the values.
    if torch.compiler.is_compiling() or type(x) is not Tensor or is_transformed():
        found: tuple[Tensor, Tensor] = torch.ops.tcformer.dpc_knn_cpp(
            x, num_clusters, k, mask, density_noise, tolerance
        )
        return found
    return _run(x, num_clusters, k, mask, density_noise, tolerance)


def _run(
    x: Tensor,
    num_clusters: int,
    k: int,
    mask: Tensor | None,
    density_noise: Tensor | None,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    batch, num_tokens, channels = x.shape
    assignment = torch.empty(batch, num_tokens, dtype=torch.int64)
    centers = torch.empty(batch, num_clusters, dtype=torch.int64)
    failed = torch.zeros(1, dtype=torch.int64)
    csrc.run(
        "tcf_dpc_knn",
        x.contiguous(),
        batch,
        num_tokens,
        channels,
        num_clusters,
        k,
        None if mask is None else mask.contiguous(),
        None if density_noise is None else density_noise.float().contiguous(),
        float(tolerance),
        assignment,
        centers,
        failed,
    )
    if failed.item():
        raise MemoryError(
            f"dpc_knn: not enough memory to cluster {num_tokens} tokens of {channels} channels."
        )
    return assignment, centers


operator(
    "dpc_knn_cpp(Tensor x, SymInt num_clusters, SymInt k, Tensor? mask, Tensor? density_noise,"
    " float tolerance) -> (Tensor, Tensor)",
    _run,
    shapes,
    flops=flop,
    raw_flops=False,
)
