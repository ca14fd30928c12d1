"""Merging in plain PyTorch: one sorted segment sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcformer.ops.regroup.eager import gather_sum
from tcformer.ops.regroup.plan import GatherSum


class _ClusterSum(torch.autograd.Function):
    """Weighted sums of the rows of every cluster.

    The gradient hands each row the gradient of its cluster, times its weight.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, assignment: Tensor, rows: tuple[Tensor, Tensor]
    ) -> Tensor:
        return _cluster_sum(x, weight, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, assignment = ctx.saved_tensors
        own = _pick(grad, assignment)
        grad_x = weight.unsqueeze(-1) * own if ctx.needs_input_grad[0] else None
        grad_weight = (x * own).sum(dim=-1) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None


def _rows(assignment: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Where the tokens of every cluster start, and the tokens in that order: (B*M+1,), (B*N,)."""
    batch = assignment.shape[0]
    image = torch.arange(batch, device=assignment.device)[:, None]
    row, order = torch.sort((image * num_clusters + assignment).flatten(), stable=True)
    bounds = torch.arange(batch * num_clusters + 1, device=assignment.device)
    return torch.searchsorted(row, bounds, out_int32=True), order


def _cluster_sum(x: Tensor, weight: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
    batch, num_tokens, channels = x.shape
    row_start, order = rows
    flat = x.reshape(batch * num_tokens, channels).contiguous()
    # The gather multiplies as it goes: weighted rows are never written down.
    entries = GatherSum(row_start, order.int(), weight.reshape(-1)[order])
    return gather_sum(flat, entries).view(batch, -1, channels)


def _pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def merge(x: Tensor, assignment: Tensor, weight: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Merge (B, N, C) into (B, M, C); also the normalized weight (B, N) of every token."""
    num_clusters = floor.shape[1]
    rows = _rows(assignment, num_clusters)
    ones = torch.ones_like(weight)
    total = _ClusterSum.apply(weight.unsqueeze(-1), ones, assignment, rows).squeeze(-1) + floor
    normalized = weight / total.gather(1, assignment)
    return _ClusterSum.apply(x, normalized, assignment, rows), normalized
