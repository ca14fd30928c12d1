"""Token convolution: the depthwise 3x3 convolution inside an MLP, run on tokens of any shape."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.arguments import as_int
from tcformer.ops.dispatch import resolve
from tcformer.ops.regroup import RegroupPlan
from tcformer.ops.token_conv import cpp, eager
from tcformer.ops.token_map import TokenMap, part_of_token_map

__all__ = ["token_conv"]

IMPLEMENTATIONS = ("cpp", "eager", "reference")


def token_conv(
    x: Tensor,
    plan: TokenMap,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None = None,
    *,
    gelu: bool = False,
    overwrite_from: int | None = None,
    impl: str = "auto",
) -> Tensor:
    """Convolve tokens on their map, channel by channel, and optionally apply GELU.

    ``skip * x + map_to_tokens(conv3x3(tokens_to_map(x)))``; the convolution is depthwise, of
    stride 1 and zero padding 1. Where token n is pixel n (a plan without index structure) the ways
    to the map and back are the identity. Gradients flow to x, weight, bias and skip.

    Args:
        x: (B, N, C) float, the tokens.
        plan: between these tokens and the map of (H, W) that is convolved.
        weight: (C, 1, 3, 3) float, one filter a channel.
        bias: (C,) float.
        skip: (C,) float, the share of every token's own value; none when left out.
        gelu: apply the exact GELU to the result.
        overwrite_from: x holds b images of the plan's batch, from this one on, and its memory may
            be taken for the result: to go through a batch in pieces that fit a cache, without a
            gradient.
        impl: "auto", "cpp" (C++, CPU; float32 arithmetic for float32 and bfloat16), "eager" or
            "reference".

    Returns:
        (B, N, C) in the dtype of x (in that of autocast where it is on).

    Raises:
        ValueError: shapes that do not belong together, an unknown ``impl`` or one that cannot run
            here.
        TypeError: ``overwrite_from`` is no integer.

    Source: TCFormer (CVPR 2022), section 3.3.
    """
    if overwrite_from is not None:
        overwrite_from = as_int("token_conv: overwrite_from", overwrite_from, None)
    _check(x, plan, weight, bias, skip, overwrite_from)
    unsupported = {"cpp": cpp.unsupported(x, plan)}
    impl = resolve("token_conv", impl, IMPLEMENTATIONS, x.device, unsupported=unsupported)
    if impl == "cpp":
        return cpp.token_conv(x, plan, weight, bias, skip, gelu, overwrite_from)
    if overwrite_from is not None:
        plan = part_of_token_map(plan, overwrite_from, x.shape[0])
    if impl == "reference":
        from tcformer.ops.token_conv import reference

        return reference.token_conv(x, plan, weight, bias, skip, gelu)
    return eager.token_conv(x, plan, weight, bias, skip, gelu)


def _check(
    x: Tensor,
    plan: TokenMap,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    overwrite_from: int | None,
) -> None:
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(
            f"token_conv: x must be float of shape (B, N, C), not {x.dtype} {tuple(x.shape)}."
        )
    batch, tokens, channels = x.shape
    if weight.shape != (channels, 1, 3, 3):
        raise ValueError(
            f"token_conv: weight must have shape {(channels, 1, 3, 3)}, not {tuple(weight.shape)}."
        )
    for name, values in (("bias", bias), ("skip", skip)):
        if values is not None and values.shape != (channels,):
            raise ValueError(
                f"token_conv: {name} must have shape {(channels,)}, not {tuple(values.shape)}."
            )
    height, width = plan.map_size
    expected = height * width if plan.to_map is None else plan.to_map.num_src
    if tokens != expected:
        raise ValueError(f"token_conv: the plan is for {expected} tokens, but x has {tokens}.")
    if overwrite_from is not None and torch.is_grad_enabled():
        raise ValueError("token_conv: x cannot be overwritten where gradients are recorded.")
    if not isinstance(plan.to_map, RegroupPlan) or torch.compiler.is_compiling():
        return
    planned = (plan.to_map.forward.row_start.shape[0] - 1) // (height * width)
    if overwrite_from is None and planned != batch:
        raise ValueError(f"token_conv: the plan is for {planned} images, but x has {batch}.")
    if overwrite_from is not None and not 0 <= overwrite_from <= planned - batch:
        raise ValueError(
            f"token_conv: the plan is for {planned} images, which do not include {batch} from "
            f"number {overwrite_from} on."
        )
