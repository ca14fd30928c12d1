"""The definition of a linear layer, written out."""

from __future__ import annotations

from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out[..., o] = bias[o] + sum over i of x[..., i] * weight[o, i]."""
    out = (x.unsqueeze(-2) * weight).sum(dim=-1)
    return out if bias is None else out + bias
