"""Merge: tokens of one cluster become one token, weighted by their importance."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.arguments import as_float, as_int
from tcformer.ops.dispatch import resolve
from tcformer.ops.merge import eager, export
from tcformer.ops.regroup.plan import EPS
from tcformer.shapes import Float, Integer, shaped
from tcformer.tokens import Layout, Tokens

__all__ = ["merge_tokens"]

IMPLEMENTATIONS = ("triton", "eager", "export", "reference")

MAX_EXPONENT = 80.0
"""exp(80) * 1e-6 is still finite in float32; a cluster of scores below -80 merges to zero."""


@shaped
def merge_tokens(
    tokens: Tokens,
    assignment: Integer[Tensor, "b n"],
    num_clusters: int,
    *,
    log_weight: Float[Tensor, "b n"] | None = None,
    eps: float = EPS,
    impl: str = "auto",
) -> Tokens:
    """Merge the tokens of each cluster into one and carry the layout along.

    ``u_n = exp(s_n) / (eps + sum of exp(s) over the cluster of n)``; a merged token is the sum of
    u_n x_n over its cluster, a cell joins the cluster of its token and its weight is multiplied
    by u. Gradients flow to the features and to ``log_weight``; never overflows, whatever s.

    Args:
        tokens: N tokens a image, features (B, N, C).
        assignment: (B, N) int64 in 0..num_clusters-1, as :func:`~tcformer.ops.dpc_knn` gives it.
        num_clusters: M, from 1.
        log_weight: (B, N) float, the importance score s; zeros (a plain mean) when left out.
        eps: from 0, added to every sum of weights.
        impl: "auto", "triton" (on a GPU), "eager", "export" (for exported graphs) or
            "reference".

    Returns:
        M tokens on a map of half the height and width (rounded up), in float32 or better.

    Raises:
        ValueError: shapes that do not belong together, or an unknown ``impl``.
        TypeError: ``num_clusters`` is no integer, or ``eps`` no real number.

    Source: TCFormer (CVPR 2022), section 3.2, eq. 4.
    """
    x, layout = tokens
    num_clusters = as_int("merge_tokens: num_clusters", num_clusters)
    eps = as_float("merge_tokens: eps", eps)
    if assignment.shape != x.shape[:2]:
        raise ValueError(
            f"merge_tokens: assignment must have shape {tuple(x.shape[:2])}, "
            f"not {tuple(assignment.shape)}."
        )
    if log_weight is None:
        log_weight = torch.zeros_like(x[..., 0])
    elif log_weight.shape != x.shape[:2]:
        raise ValueError(
            f"merge_tokens: log_weight must have shape {tuple(x.shape[:2])}, "
            f"not {tuple(log_weight.shape)}."
        )
    features = x if x.dtype == torch.float64 else x.float()
    log_weight = log_weight.to(features.dtype)
    backend = resolve("merge_tokens", impl, IMPLEMENTATIONS, x.device)
    with torch.autocast(x.device.type, enabled=False):
        if backend == "reference":
            from tcformer.ops.merge import reference

            merged, weight = reference.merge(features, assignment, num_clusters, log_weight, eps)
        else:
            weight, floor = relative_weights(log_weight, assignment, num_clusters, eps)
            if backend == "triton":
                from tcformer.ops.merge import triton

                merged, weight = triton.merge(features, assignment, weight, floor)
            elif backend == "export":
                merged, weight = export.merge(features, assignment, weight, floor)
            else:
                merged, weight = eager.merge(features, assignment, weight, floor)
    height, width = layout.map_size
    cells = layout.cell_to_token
    cell_weight = layout.cell_weight * weight.detach().gather(1, cells)
    map_size = ((height + 1) // 2, (width + 1) // 2)
    merged_layout = Layout(
        assignment.gather(1, cells), num_clusters, layout.grid_size, map_size, cell_weight
    )
    return Tokens(merged, merged_layout)


def relative_weights(
    score: Tensor, assignment: Tensor, num_clusters: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Weights relative to the largest of their cluster, exp(s - s*), and eps scaled alike.

    Normalized they are those of exp(s), without its overflow beyond s = 88. Returns weights (B, N),
    differentiable, and what to add to their sums (B, M), a constant.
    """
    peak = torch.full_like(score[:, :1], -torch.inf).expand(-1, num_clusters)
    peak = peak.scatter_reduce(1, assignment, score.detach(), reduce="amax")
    peak = torch.where(torch.isfinite(peak), peak, 0.0)
    weight = torch.exp(score - peak.gather(1, assignment))
    return weight, eps * torch.exp((-peak).clamp(max=MAX_EXPONENT))
