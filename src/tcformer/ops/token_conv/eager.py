"""Token convolution in plain PyTorch: two regroupings around a depthwise convolution."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tcformer.ops.dispatch import counted, operator
from tcformer.ops.regroup import apply_plan
from tcformer.ops.token_map import TokenMap


def token_conv(
    x: Tensor, plan: TokenMap, weight: Tensor, bias: Tensor, skip: Tensor | None, gelu: bool
) -> Tensor:
    """Lay out, convolve, read off, add the tokens themselves; the tensors stay channels-last."""
    batch, _, channels = x.shape
    height, width = plan.map_size
    flat = x if plan.to_map is None else apply_plan(x, plan.to_map)
    feature_map = flat.view(batch, height, width, channels).permute(0, 3, 1, 2)
    convolve = _Counted.apply if counted() else _convolve
    feature_map = convolve(feature_map, weight.to(x.dtype), bias.to(x.dtype))
    out = feature_map.permute(0, 2, 3, 1).flatten(1, 2)
    if plan.to_tokens is not None:
        out = apply_plan(out, plan.to_tokens)
    if skip is not None:
        # A depthwise 1x1 convolution is one factor a channel; Conv1d would be 20 times slower.
        out = torch.addcmul(out, x.to(out.dtype), skip.to(out.dtype))
    return F.gelu(out) if gelu else out


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1, groups=x.shape[1])


def _gradients(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    channels, one = x.shape[1], [1, 1]
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        grad, x, weight, [channels], one, one, one, False, [0, 0], channels, [True] * 3
    )


class _Counted(torch.autograd.Function):
    """The convolution with gradients that torch's counter counts right.

    Its own formula for a filter's gradient forgets the groups, and charges C times too much.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return _gradients(x, weight, grad)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.tcformer.depthwise_gradients(
            x, weight, grad
        )
        return found


def _gradient_shapes(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.empty_like(x), torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _flop(x: torch.Size, *arguments: Any, **others: Any) -> int:
    """Two gradients, nine multiply-adds a pixel and channel for each."""
    return 2 * 2 * 9 * x.numel()


operator(
    "depthwise_gradients(Tensor x, Tensor weight, Tensor grad) -> (Tensor, Tensor, Tensor)",
    _gradients,
    _gradient_shapes,
    flops=_flop,
    raw_flops=False,
)
