"""Regrouping for exported graphs: operators that every runtime has and runs fast.

Sorting and segment sums, on which the other forms rest, have no counterpart in ONNX. Here the
index structure is a small dense matrix, or lists of equal length where each destination has few
entries that are known before any data is. On 2 cores onnxruntime 1.32 multiplied a 784 x 784 matrix
with 1024 channels in 3 ms and added the same up by ScatterElements in 18 ms. ScatterND, whose
threads do not wait for each other, was wrong in 36 of 50 runs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcformer.ops.regroup.plan import EPS

DENSE_LIMIT = 1000
"""Elements of a matrix, for each entry in it, up to which multiplying beats scattering."""

GATHER_LIMIT = 20
"""The same up to which multiplying costs less than lists of equal length."""


class ExportPlan(NamedTuple):
    """How to regroup (B, S, C) into (B, D, C), as one of three sets of tensors.

    Attributes:
        num_src: S.
        num_dst: D.
        total: (B, D) or (1, D), sum of the weights of every destination, and eps.
        matrix: (B, D, S) weights, or None.
        entries: source and destination (B, E) int64 and weight (B, E) of every entry, or None.
        lists: sources (B, D, L) int64 of every destination and their weights (D, L), or None.
    """

    num_src: int
    num_dst: int
    total: Tensor
    matrix: Tensor | None = None
    entries: tuple[Tensor, Tensor, Tensor] | None = None
    lists: tuple[Tensor, Tensor] | None = None


def plan_both_ways(
    a: Tensor,
    b: Tensor,
    num_a: int,
    num_b: int,
    *,
    weight: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> tuple[ExportPlan, ExportPlan]:
    """Build the plans a->b and b->a, from one matrix where it is small enough."""
    if weight is None:
        weight = torch.ones((), dtype=dtype, device=a.device).expand(a.shape)
    weight = weight.detach().to(dtype)
    if is_dense(num_a, num_b, a.shape[1]):
        matrix = matrix_of(b, a, num_b, num_a, weight)
        return (
            ExportPlan(num_a, num_b, matrix.sum(dim=1) + eps, matrix=matrix.transpose(1, 2)),
            ExportPlan(num_b, num_a, matrix.sum(dim=2) + eps, matrix=matrix),
        )
    total_b = weight.new_zeros(a.shape[0], num_b).scatter_add(1, b, weight) + eps
    total_a = weight.new_zeros(a.shape[0], num_a).scatter_add(1, a, weight) + eps
    return (
        ExportPlan(num_a, num_b, total_b, entries=(a, b, weight)),
        ExportPlan(num_b, num_a, total_a, entries=(b, a, weight)),
    )


def plan_lists(
    sources: Tensor, valid: Tensor, num_src: int, *, eps: float = EPS, dtype: torch.dtype
) -> ExportPlan:
    """The unweighted plan of lists that are as long for every destination.

    ``sources`` (B, D, L) int64 may hold anything where ``valid`` (D, L), the same for every image,
    is False.
    """
    weight = valid.to(dtype)
    total = weight.sum(dim=1)[None] + eps
    return ExportPlan(num_src, valid.shape[0], total, lists=(sources, weight))


def is_dense(num_src: int, num_dst: int, entries: int) -> bool:
    """Whether these entries should be a matrix."""
    return num_src * num_dst <= DENSE_LIMIT * entries


def matrix_of(src: Tensor, dst: Tensor, num_src: int, num_dst: int, weight: Tensor) -> Tensor:
    """Sums of the weights (B, E) that source and destination share, (B, D, S)."""
    zeros = weight.new_zeros(src.shape[0], num_dst * num_src)
    return zeros.scatter_add(1, dst * num_src + src, weight).view(-1, num_dst, num_src)


def regroup(x: Tensor, plan: ExportPlan) -> Tensor:
    """Apply a plan to (B, S, C) features, in float32 or better; returns (B, D, C) in x's dtype."""
    with torch.autocast(x.device.type, enabled=False):
        return _regroup(x, plan)


def _regroup(x: Tensor, plan: ExportPlan) -> Tensor:
    upcast = x if x.dtype == torch.float64 else x.float()
    if plan.lists is not None:
        sources, weight = plan.lists
        items = take(upcast, sources.flatten(1)).view(-1, *sources.shape[1:], x.shape[2])
        out = (items * weight.to(upcast.dtype).unsqueeze(-1)).sum(dim=2)
    elif plan.entries is not None:
        src, dst, weight = plan.entries
        items = take(upcast, src) * weight.to(upcast.dtype).unsqueeze(-1)
        out = upcast.new_zeros(x.shape[0], plan.num_dst, x.shape[2])
        out = out.scatter_add(1, dst.unsqueeze(-1).expand_as(items), items)
    else:
        assert plan.matrix is not None
        out = plan.matrix.to(upcast.dtype) @ upcast
    return (out / plan.total.to(upcast.dtype).unsqueeze(-1)).to(x.dtype)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Items of every image, (B, S, C) at (B, E) -> (B, E, C): whole rows, not single numbers."""
    batch, num_src, channels = x.shape
    image = torch.arange(batch, device=x.device).unsqueeze(1) * num_src
    flat = torch.index_select(x.reshape(-1, channels), 0, (index + image).flatten())
    return flat.view(batch, index.shape[1], channels)
