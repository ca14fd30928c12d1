"""Attention through PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import flop_registry, register_flop_formula

WITHOUT_CUDNN = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

ALIGNMENT = 8
"""Of the mask's strides, counted in elements."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Let SDPA choose its kernel; the bias becomes an additive mask, the same for every query."""
    if bias is None:
        return scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    if bias.dtype != q.dtype:
        # Only differences count in a softmax; the values may be beyond half precision.
        bias = bias - bias.detach().amax(dim=-1, keepdim=True)
        bias = bias.clamp(min=torch.finfo(q.dtype).min)
    bias = bias.to(q.dtype)
    if not q.is_cuda:
        mask = bias[:, None, None].expand(-1, -1, q.shape[2], -1)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    # cuDNN, PyTorch's first choice on Hopper, refuses masks that need a gradient and has failed on
    # masks with strides of zero: without it training and inference take the same kernel.
    with sdpa_kernel(_backends()):
        return scaled_dot_product_attention(q, k, v, attn_mask=_aligned(bias, q), dropout_p=dropout)


def _backends() -> list[SDPBackend]:
    """PyTorch's kernels but cuDNN, less those that the caller has switched off.

    While a graph is traced nobody can ask what is switched off.
    """
    if torch.compiler.is_compiling():
        return WITHOUT_CUDNN
    cuda = torch.backends.cuda
    on = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    return [backend for backend, yes in zip(WITHOUT_CUDNN, on, strict=True) if yes] or [
        SDPBackend.CUDNN_ATTENTION  # nothing else is allowed
    ]


def _aligned(bias: Tensor, q: Tensor) -> Tensor:
    """The mask (B, heads, Nq, Nk) as the memory-efficient kernel takes it, without a copy of it.

    That kernel wants every stride but the last to be a multiple of 8 and else SDPA pads the mask
    itself, which writes it out for all queries. So the few values are padded, not the mask.
    """
    num_keys = bias.shape[1]
    padded = torch.nn.functional.pad(bias, (0, -num_keys % ALIGNMENT))[:, :num_keys]
    return padded[:, None, None].expand(-1, q.shape[1], q.shape[2], -1)


def _flop(q: torch.Size, k: torch.Size, *arguments: Any, **others: Any) -> int:
    """Two products of queries and keys, two for each multiply-add."""
    return 4 * q[0] * q[1] * q[2] * k[2] * q[3]


def _flop_backward(
    grad: torch.Size, q: torch.Size, k: torch.Size, *arguments: Any, **_: Any
) -> int:
    """Five such products: the scores are computed again."""
    return 5 * _flop(q, k) // 2


# Before 2.15 PyTorch's counter knew attention on every device but the CPU.
_CPU = "_scaled_dot_product_flash_attention_for_cpu"
for _name, _formula in ((_CPU, _flop), (f"{_CPU}_backward", _flop_backward)):
    if getattr(torch.ops.aten, _name) not in flop_registry:
        register_flop_formula(getattr(torch.ops.aten, _name))(_formula)
