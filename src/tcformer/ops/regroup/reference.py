"""The definition of regrouping, in loops. Slow on purpose; any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def regroup(
    x: Tensor, src: Tensor, dst: Tensor, num_dst: int, weight: Tensor | None, eps: float
) -> Tensor:
    """out[b,d] = sum over entries e with dst[b,e] = d of w[b,e] x[b,src[b,e]] / (eps + sum w)."""
    batch, entries = src.shape
    weight = x.new_ones(batch, entries) if weight is None else weight.to(x.dtype)
    images = []
    for b in range(batch):
        rows = []
        for d in range(num_dst):
            total, summed = x.new_full((), eps), x.new_zeros(x.shape[2])
            for e in range(entries):
                if int(dst[b, e]) == d:
                    total = total + weight[b, e]
                    summed = summed + weight[b, e] * x[b, int(src[b, e])]
            rows.append(summed / total)
        images.append(torch.stack(rows) if rows else x.new_zeros(0, x.shape[2]))
    return torch.stack(images) if images else x.new_zeros(0, num_dst, x.shape[2])
