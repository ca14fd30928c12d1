"""The definition of a token convolution: dense matrices, a loop over taps; any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.ops.regroup import Plan, RegroupPlan
from tcformer.ops.token_map import TokenMap


def token_conv(
    x: Tensor, plan: TokenMap, weight: Tensor, bias: Tensor, skip: Tensor | None, gelu: bool
) -> Tensor:
    """GELU of skip * x + to_tokens @ (bias + sum over taps of w[tap] * shifted(to_map @ x))."""
    batch, _, channels = x.shape
    height, width = plan.map_size
    feature_map = _apply(x, plan.to_map).view(batch, height, width, channels)
    padded = torch.nn.functional.pad(feature_map, (0, 0, 1, 1, 1, 1))
    mixed = bias.to(x.dtype).expand_as(feature_map)
    for i in range(3):
        for j in range(3):
            tap = weight[:, 0, i, j].to(x.dtype)
            mixed = mixed + tap * padded[:, i : i + height, j : j + width]
    out = _apply(mixed.reshape(batch, height * width, channels), plan.to_tokens)
    if skip is not None:
        out = out + skip.to(x.dtype) * x
    return out * (1 + torch.erf(out / 2**0.5)) / 2 if gelu else out


def _apply(x: Tensor, plan: Plan | None) -> Tensor:
    if plan is None:
        return x
    if not isinstance(plan, RegroupPlan):
        raise ValueError("token_conv: the reference reads no plan for exported graphs.")
    batch, _, channels = x.shape
    start, column, weight = plan.forward
    dense = x.new_zeros(batch * plan.num_dst, batch * plan.num_src)
    for row in range(batch * plan.num_dst):
        for entry in range(int(start[row]), int(start[row + 1])):
            dense[row, column[entry]] += weight[entry]
    return (dense @ x.reshape(-1, channels)).view(batch, plan.num_dst, channels)
