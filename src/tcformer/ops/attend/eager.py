"""Attention through PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Let SDPA choose its kernel; the bias becomes an additive mask, the same for every query."""
    mask = None
    if bias is not None:
        if bias.dtype != q.dtype:
            # Only differences count in a softmax; the values may be beyond half precision.
            bias = bias - bias.detach().amax(dim=-1, keepdim=True)
            bias = bias.clamp(min=torch.finfo(q.dtype).min)
        mask = bias.to(q.dtype)[:, None, None, :].expand(-1, -1, q.shape[2], -1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
