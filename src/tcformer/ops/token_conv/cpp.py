"""Token convolution in C++: one pass for the whole chain, in slabs of channels that fit the cache.

The map, the convolved map and the sum before GELU never reach main memory; the backward pass
computes them again from x, so that nothing but x is kept. Sums of weight gradients have a fixed
order: the same bits whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from tcformer.ops import csrc
from tcformer.ops.dispatch import is_transformed
from tcformer.ops.regroup import ExportPlan, RegroupPlan
from tcformer.ops.token_map import TokenMap

_OPS = torch.library.Library("tcformer", "FRAGMENT")
_ARGUMENTS = "Tensor x, Tensor weight, Tensor bias, Tensor? skip, Tensor[] plan"
_SIZES = "SymInt height, SymInt width, bool gelu"
_OPS.define(f"token_conv({_ARGUMENTS}, {_SIZES}) -> Tensor")
_OPS.define(f"token_conv_(Tensor(a!) {_ARGUMENTS[7:]}, {_SIZES}, SymInt first) -> ()")
_OPS.define(
    f"token_conv_backward({_ARGUMENTS}, Tensor grad, {_SIZES})"
    " -> (Tensor x, Tensor weight, Tensor bias, Tensor skip)"
)


def unsupported(x: Tensor, plan: TokenMap) -> str | None:
    """Why the kernel cannot take these tokens, as a clause; None when it can."""
    if x.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes tokens in float32 or bfloat16, not {x.dtype}"
    if not torch.compiler.is_compiling() and is_transformed():
        return "it has no rule for the transforms of torch.func"
    for part in (plan.to_map, plan.to_tokens):
        if isinstance(part, ExportPlan):
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
    first: int | None,
) -> Tensor:
    """Arguments as those of :func:`tcformer.ops.token_conv`; weights are used in float32.

    With ``first``, x holds images from that one on and is overwritten.
    """
    lists = plan_tensors(plan)
    tensors = (
        x.contiguous(),
        weight.float().contiguous(),
        bias.float().contiguous(),
        None if skip is None else skip.float().contiguous(),
    )
    if first is not None:
        torch.ops.tcformer.token_conv_(*tensors, lists, *plan.map_size, gelu, first)
        return tensors[0]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        out: Tensor = _TokenConv.apply(*tensors, plan.map_size, gelu, *lists)
    else:
        out = torch.ops.tcformer.token_conv(*tensors, lists, *plan.map_size, gelu)
    return out


def plan_tensors(plan: TokenMap) -> list[Tensor]:
    """What the kernel reads of a plan: both directions share their index structure."""
    to_map, to_tokens = plan.to_map, plan.to_tokens
    if to_map is None or to_tokens is None:
        return []
    assert isinstance(to_map, RegroupPlan)
    assert isinstance(to_tokens, RegroupPlan)
    pixels, tokens = to_map.forward, to_tokens.forward
    weights = (pixels, to_map.backward, to_tokens.backward, tokens)
    return [*pixels[:2], *tokens[:2], *(rows.weight for rows in weights)]


class _TokenConv(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        skip: Tensor | None,
        map_size: tuple[int, int],
        gelu: bool,
        *plan: Tensor,
    ) -> Tensor:
        out: Tensor = torch.ops.tcformer.token_conv(
            x, weight, bias, skip, list(plan), *map_size, gelu
        )
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


# ---- the ops that a compiled graph sees -----------------------------------------------------


def _name(function: str, x: Tensor) -> str:
    return f"tcf_{function}_" + ("bf16" if x.dtype == torch.bfloat16 else "f32")


@torch.library.impl(_OPS, "token_conv", "CPU")
def _token_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    plan: list[Tensor],
    height: int,
    width: int,
    gelu: bool,
) -> Tensor:
    out = torch.empty_like(x)
    sizes = (*x.shape, height, width, int(gelu), 0)
    csrc.run(_name("token_conv", x), x, weight, bias, skip, plan or None, out, *sizes)
    return out


@torch.library.impl(_OPS, "token_conv_", "CPU")
def _token_conv_in_place(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    plan: list[Tensor],
    height: int,
    width: int,
    gelu: bool,
    first: int,
) -> None:
    sizes = (*x.shape, height, width, int(gelu), first)
    csrc.run(_name("token_conv", x), x, weight, bias, skip, plan or None, x, *sizes)


@torch.library.impl(_OPS, "token_conv_backward", "CPU")
def _token_conv_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    plan: list[Tensor],
    grad: Tensor,
    height: int,
    width: int,
    gelu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = _shapes_backward(x, weight, bias, skip, plan, grad, height, width, gelu)
    *others, grad_skip = grads
    sizes = (*x.shape, height, width, int(gelu))
    csrc.run(
        _name("token_conv_back", x),
        *(x, weight, bias, skip, plan or None, grad),
        *(*others, None if skip is None else grad_skip),
        *sizes,
    )
    return grads


def _shape(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    plan: list[Tensor],
    height: int,
    width: int,
    gelu: bool,
) -> Tensor:
    return torch.empty_like(x)


def _shapes_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor | None,
    plan: list[Tensor],
    grad: Tensor,
    height: int,
    width: int,
    gelu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


torch.library.register_fake("tcformer::token_conv", _shape, lib=_OPS)
torch.library.register_fake("tcformer::token_conv_backward", _shapes_backward, lib=_OPS)
torch.library.register_fake("tcformer::token_conv_", lambda *arguments: None, lib=_OPS)
register_flop_formula(
    [torch.ops.tcformer.token_conv, torch.ops.tcformer.token_conv_], get_raw=True
)(_flop)
register_flop_formula(torch.ops.tcformer.token_conv_backward, get_raw=True)(_flop_backward)
