"""Token convolution in C++: one pass for the whole chain, in slabs of channels that fit the cache.

The map, the convolved map and the sum before GELU never reach main memory; the backward pass
computes them again from x, so that nothing but x is kept. Sums of weight gradients have a fixed
order: the same bits whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcformer.ops import csrc
from tcformer.ops.dispatch import is_transformed, operator
from tcformer.ops.regroup import RegroupPlan
from tcformer.ops.token_map import TokenMap


def unsupported_reason(x: Tensor, plan: TokenMap) -> str | None:
    """Why the kernel cannot take these tokens, as a clause; None when it can."""
    if x.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes tokens in float32 or bfloat16, not {x.dtype}"
    if not torch.compiler.is_compiling() and is_transformed():
        return "it has no rule for the transforms of torch.func"
    for part in (plan.to_map, plan.to_tokens):
        if part is not None and not isinstance(part, RegroupPlan):
            return "this plan is for exported graphs"
        if part is not None and part.forward.weight.dtype != torch.float32:
            return f"its weights are float32, and those of the plan {part.forward.weight.dtype}"
    return None


def token_conv(
    x: Tensor,
    plan: TokenMap,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    gelu: bool,
    overwrite_from: int | None = None,
) -> Tensor:
    """Arguments as those of :func:`tcformer.ops.token_conv`; weights are used in float32.

    With ``overwrite_from``, x holds images of the plan's batch from that one on and is overwritten.
    """
    lists = plan_tensors(plan)
    x, weight, bias = x.contiguous(), weight.float().contiguous(), bias.float().contiguous()
    skip = None if skip is None else skip.float().contiguous()
    if overwrite_from is not None:
        torch.ops.tcformer.token_conv_(
            x, weight, bias, skip, lists, *plan.map_size, gelu, overwrite_from
        )
        return x
    if torch.is_grad_enabled():
        out: Tensor = _TokenConv.apply(x, weight, bias, skip, plan.map_size, gelu, *lists)
    else:
        out = torch.ops.tcformer.token_conv(x, weight, bias, skip, lists, *plan.map_size, gelu)
    return out


def plan_tensors(plan: TokenMap) -> list[Tensor]:
    """What the kernel reads of a plan: both directions share their index structure."""
    to_map, to_tokens = plan.to_map, plan.to_tokens
    if to_map is None or to_tokens is None:
        return []
    assert isinstance(to_map, RegroupPlan)
    assert isinstance(to_tokens, RegroupPlan)
    pixels, tokens = to_map.forward, to_tokens.forward
    return [
        *(pixels.row_start, pixels.column, tokens.row_start, tokens.column),
        *(pixels.weight, to_map.backward.weight, to_tokens.backward.weight, tokens.weight),
    ]


class _TokenConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, *arguments: Any) -> Tensor:
        weight, bias, skip, map_size, gelu, *plan = arguments
        out: Tensor = torch.ops.tcformer.token_conv(x, weight, bias, skip, plan, *map_size, gelu)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, skip, ctx.map_size, ctx.gelu, *plan = inputs
        ctx.save_for_backward(x, weight, bias, skip, *plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "token_conv: the C++ kernel has no second derivative; choose impl='eager', or "
                "set TCFORMER_NATIVE=0 for a whole model."
            )
        x, weight, bias, skip, *plan = ctx.saved_tensors
        grads = torch.ops.tcformer.token_conv_backward(
            x, weight, bias, skip, plan, grad.contiguous(), *ctx.map_size, ctx.gelu
        )
        grad_skip = None if skip is None else grads[3]
        return *grads[:3], grad_skip, None, None, *(None for _ in plan)


_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def _token_conv(x: Tensor, *arguments: Any) -> Tensor:
    out = torch.empty_like(x)
    _token_conv_in_place(x, *arguments, 0, out=out)
    return out


def _token_conv_in_place(x: Tensor, *arguments: Any, out: Tensor | None = None) -> None:
    weight, bias, skip, plan, height, width, gelu, first = arguments
    csrc.run(
        f"tcf_token_conv_{_SUFFIX[x.dtype]}",
        *(x, weight, bias, skip, plan or None, x if out is None else out),
        *(*x.shape, height, width, int(gelu), first),
    )


def _token_conv_backward(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    weight, bias, skip, plan, grad, height, width, gelu = arguments
    grads = _backward_shapes(x, weight, bias, skip)
    csrc.run(
        f"tcf_token_conv_back_{_SUFFIX[x.dtype]}",
        *(x, weight, bias, skip, plan or None, grad),
        *(*grads[:3], None if skip is None else grads[3]),
        *(*x.shape, height, width, int(gelu)),
    )
    return grads


def _backward_shapes(
    x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None, *others: object
) -> tuple[Tensor, ...]:
    empty = bias.new_empty(0) if skip is None else torch.empty_like(skip)
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias), empty


def _flop(x: Tensor, *arguments: Any, **others: Any) -> int:
    """What torch's counter says of the convolution: two for each of nine multiply-adds a pixel."""
    height, width = arguments[4:6]
    return int(2 * 9 * x.shape[0] * x.shape[2] * height * width)


def _flop_backward(x: Tensor, *arguments: Any, **others: Any) -> int:
    """The same for each of two gradients, of the tokens and of the filters."""
    height, width = arguments[5:7]
    return int(2 * 2 * 9 * x.shape[0] * x.shape[2] * height * width)


_ARGUMENTS = "x, Tensor weight, Tensor bias, Tensor? skip, Tensor[] plan"
_SIZES = "SymInt height, SymInt width, bool gelu"
operator(
    f"token_conv(Tensor {_ARGUMENTS}, {_SIZES}) -> Tensor",
    _token_conv,
    lambda x, *others: torch.empty_like(x),
    key="CPU",
    flops=_flop,
)
operator(
    f"token_conv_(Tensor(a!) {_ARGUMENTS}, {_SIZES}, SymInt first) -> ()",
    _token_conv_in_place,
    lambda *arguments: None,
    key="CPU",
    flops=_flop,
)
operator(
    f"token_conv_backward(Tensor {_ARGUMENTS}, Tensor grad, {_SIZES})"
    " -> (Tensor x, Tensor weight, Tensor bias, Tensor skip)",
    _token_conv_backward,
    _backward_shapes,
    key="CPU",
    flops=_flop_backward,
)
