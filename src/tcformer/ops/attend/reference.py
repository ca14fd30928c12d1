"""The definition of attention with a bias on every key, written out."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, with the bias the same for all heads and queries."""
    score = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if bias is not None:
        score = score + bias[:, None, None, :]
    weight = torch.exp(score - score.amax(dim=-1, keepdim=True))
    weight = weight / weight.sum(dim=-1, keepdim=True)
    return torch.nn.functional.dropout(weight, dropout) @ v
