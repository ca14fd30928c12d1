"""The weights of merging, safe for importance scores of any size."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_EXPONENT = 80.0
"""exp(80) * 1e-6 is still finite in float32; a cluster of scores below -80 merges to zero."""


def relative_weights(
    score: Tensor, assignment: Tensor, num_clusters: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Weights relative to the largest of their cluster, exp(s - s*), and eps scaled alike.

    The same shares as those of exp(s), without its overflow beyond s = 88.

    Args:
        score: (B, N) float, the logarithms s of the weights.
        assignment: (B, N) int64 in 0..num_clusters-1.
        num_clusters: M.
        eps: added to every sum of weights.

    Returns:
        weights (B, N), differentiable, and what to add to their sums (B, M), a constant.
    """
    peak = torch.full_like(score[:, :1], -torch.inf).expand(-1, num_clusters)
    peak = peak.scatter_reduce(1, assignment, score.detach(), reduce="amax")
    peak = torch.where(torch.isfinite(peak), peak, 0.0)
    weight = torch.exp(score - peak.gather(1, assignment))
    return weight, eps * torch.exp((-peak).clamp(max=MAX_EXPONENT))
