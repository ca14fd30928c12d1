"""Regrouping in plain PyTorch: one weighted gather-sum, whose gradient is another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcformer.ops.regroup.plan import GatherSum, RegroupPlan, gather_sum


class _Apply(torch.autograd.Function):
    """Gather-sum with its transpose as gradient: no scatter, no atomics, same bits every run."""

    @staticmethod
    def forward(x: Tensor, ahead: tuple[Tensor, ...], back: tuple[Tensor, ...]) -> Tensor:
        return gather_sum(x, GatherSum(*ahead))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.back = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return gather_sum(grad.contiguous(), GatherSum(*ctx.back)), None, None


def regroup(x: Tensor, plan: RegroupPlan) -> Tensor:
    """Apply a plan to (B, S, C) features, in float32 or better; returns (B, D, C) in x's dtype."""
    batch, _, channels = x.shape
    wide = x if x.dtype == torch.float64 else x.float()
    flat = wide.reshape(batch * plan.num_src, channels).contiguous()
    out: Tensor = _Apply.apply(flat, tuple(plan.forward), tuple(plan.backward))
    return out.view(batch, plan.num_dst, channels).to(x.dtype)
