"""Token convolution in plain PyTorch: two regroupings around a depthwise convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    picture = F.conv2d(picture, weight.to(x.dtype), bias.to(x.dtype), padding=1, groups=channels)
    out = picture.permute(0, 2, 3, 1).flatten(1, 2)
    if plan.to_tokens is not None:
        out = apply_plan(out, plan.to_tokens)
    if skip is not None:
        # A depthwise 1x1 convolution is one factor a channel; Conv1d would be 20 times slower.
        out = torch.addcmul(out, x.to(out.dtype), skip.to(out.dtype))
    return F.gelu(out) if gelu else out
