"""Token convolution: the depthwise 3x3 convolution inside an MLP, run on tokens of any shape."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.ops.dispatch import resolve, stands
from tcformer.ops.regroup import RegroupPlan
from tcformer.ops.token_conv import cpp, eager
from tcformer.ops.token_map import TokenMap
from tcformer.shapes import Float, shaped

__all__ = ["token_conv"]

IMPLEMENTATIONS = ("cpp", "eager", "reference")


@shaped
def token_conv(
    x: Float[Tensor, "b n c"],
    plan: TokenMap,
    weight: Float[Tensor, "c 1 3 3"],
    bias: Float[Tensor, " c"],
    skip: Float[Tensor, " c"] | None = None,
    *,
    gelu: bool = False,
    impl: str = "auto",
) -> Float[Tensor, "b n c"]:
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
        impl: "auto", "cpp" (C++, CPU; float32 arithmetic for float32 and bfloat16), "eager" or
            "reference".

    Returns:
        (B, N, C) in the dtype of x (in that of autocast where it is on).

    Raises:
        ValueError: shapes that do not belong together, an unknown ``impl`` or one that cannot run
            here.

    Source: TCFormer (CVPR 2022), section 3.3.
    """
    _check(x, plan, weight, bias, skip)
    reason = cpp.unsupported_reason(x, plan)
    if impl == "auto" and plan.backend != "auto":
        backend = (
            "cpp" if plan.backend == "cpp" and not reason and stands("token_conv") else "eager"
        )
    else:
        unsupported = {"cpp": reason}
        backend = resolve("token_conv", impl, IMPLEMENTATIONS, x.device, unsupported=unsupported)
    if backend == "cpp":
        return cpp.token_conv(x, plan, weight, bias, skip, gelu)
    if backend == "reference":
        from tcformer.ops.token_conv import reference

        return reference.token_conv(x, plan, weight, bias, skip, gelu)
    return eager.token_conv(x, plan, weight, bias, skip, gelu)


def _check(
    x: Tensor,
    plan: TokenMap,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
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
    if not isinstance(plan.to_map, RegroupPlan) or torch.compiler.is_compiling():
        return
    planned = (plan.to_map.forward.row_start.shape[0] - 1) // (height * width)
    if planned != batch:
        raise ValueError(f"token_conv: the plan is for {planned} images, but x has {batch}.")
