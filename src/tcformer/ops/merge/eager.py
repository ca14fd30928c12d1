"""Merging in plain PyTorch: one sorted segment sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcformer.ops.merge.weights import relative_weights
from tcformer.ops.regroup.plan import GatherSum, gather_sum


class _ClusterSum(torch.autograd.Function):
    """Sum the rows of every cluster; the gradient hands each row the gradient of its cluster."""

    @staticmethod
    def forward(x: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
        return _cluster_sum(x, assignment, num_clusters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (assignment,) = ctx.saved_tensors
        return _pick(grad, assignment), None, None


def _cluster_sum(x: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
    batch, num_tokens, channels = x.shape
    image = torch.arange(batch, device=x.device)[:, None]
    row, order = torch.sort((image * num_clusters + assignment).flatten(), stable=True)
    bounds = torch.arange(batch * num_clusters + 1, device=x.device)
    row_start = torch.searchsorted(row, bounds, out_int32=True)
    ones = torch.ones_like(order, dtype=x.dtype)
    flat = x.reshape(batch * num_tokens, channels).contiguous()
    summed = gather_sum(flat, GatherSum(row_start, order.int(), ones))
    return summed.view(batch, num_clusters, channels)


def _pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def merge(
    x: Tensor, assignment: Tensor, num_clusters: int, log_weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Merge (B, N, C) into (B, M, C); also the share (B, N) of every token in its cluster."""
    weight, floor = relative_weights(log_weight.to(x.dtype), assignment, num_clusters, eps)
    wide = torch.cat((weight.unsqueeze(-1) * x, weight.unsqueeze(-1)), dim=-1)
    if torch.compiler.is_exporting():  # an exported graph is for inference: no gradient to define
        summed = _cluster_sum(wide, assignment, num_clusters)
    else:
        summed = _ClusterSum.apply(wide, assignment, num_clusters)
    total = summed[..., -1] + floor
    share = weight / total.gather(1, assignment)
    return summed[..., :-1] / total.unsqueeze(-1), share
