"""Token convolution in plain PyTorch: two regroupings around a depthwise convolution."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from tcformer.ops.dispatch import counted
from tcformer.ops.regroup import apply_plan
from tcformer.ops.token_map import TokenMap


def token_conv(
    x: Tensor, plan: TokenMap, weight: Tensor, bias: Tensor, skip: Tensor | None, gelu: bool
) -> Tensor:
    """Lay out, convolve, read off, add the tokens themselves; the tensors stay channels-last."""
    batch, _, channels = x.shape
    height, width = plan.map_size
    flat = x if plan.to_map is None else apply_plan(x, plan.to_map)
    picture = flat.view(batch, height, width, channels).permute(0, 3, 1, 2)
    convolve = _Counted.apply if counted() else _convolve
    picture = convolve(picture, weight.to(x.dtype), bias.to(x.dtype))
    out = picture.permute(0, 2, 3, 1).flatten(1, 2)
    if plan.to_tokens is not None:
        out = apply_plan(out, plan.to_tokens)
    if skip is not None:
        # A depthwise 1x1 convolution is one factor a channel; Conv1d would be 20 times slower.
        out = torch.addcmul(out, x.to(out.dtype), skip.to(out.dtype))
    return F.gelu(out) if gelu else out


def _convolve(picture: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(picture, weight, bias, padding=1, groups=picture.shape[1])


def _gradients(picture: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    channels, one = picture.shape[1], [1, 1]
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        grad, picture, weight, [channels], one, one, one, False, [0, 0], channels, [True] * 3
    )


class _Counted(torch.autograd.Function):
    """The convolution with gradients that torch's counter counts right.

    Its own formula for a filter's gradient forgets the groups, and charges C times too much.
    """

    @staticmethod
    def forward(ctx: Any, picture: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(picture, weight)
        return _convolve(picture, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        picture, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return _gradients(picture, weight, grad)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.tcformer.depthwise_gradients(
            picture, weight, grad
        )
        return found


_OPS = torch.library.Library("tcformer", "FRAGMENT")
_OPS.define(
    "depthwise_gradients(Tensor picture, Tensor weight, Tensor grad) -> (Tensor, Tensor, Tensor)"
)
_OPS.impl("depthwise_gradients", _gradients, "CompositeExplicitAutograd")


@register_flop_formula(torch.ops.tcformer.depthwise_gradients)
def _flop(picture: torch.Size, *arguments: Any, **others: Any) -> int:
    """Two gradients, nine multiply-adds a pixel and channel for each."""
    return 2 * 2 * 9 * picture.numel()
