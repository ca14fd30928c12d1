"""Regrouping in C++: coalesced index structures in linear time, gathers in float32 arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcformer.ops import csrc
from tcformer.ops.dispatch import operator
from tcformer.ops.regroup.plan import RegroupPlan, plan_pair

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of the features; weights and sums are float32."""


def plan_both_ways(
    a: Tensor, b: Tensor, num_a: int, num_b: int, *, weight: Tensor | None, eps: float
) -> tuple[RegroupPlan, RegroupPlan]:
    """Build the plans a->b and b->a, from one sorting, with weights in float32."""
    b_start, a_start, *lists = torch.ops.tcformer.regroup_plan(
        a.long().contiguous(),
        b.long().contiguous(),
        None if weight is None else weight.detach().float().contiguous(),
        num_a,
        num_b,
        eps,
    )
    if not torch.compiler.is_compiling():
        # As many pairs as there are; a compiled graph wants sizes that do not depend on data.
        used = int(b_start[-1])
        for number, values in enumerate(lists):
            lists[number] = values[:used]
    b_column, a_column, into_b, from_b, into_a, from_a = lists
    by_b, by_a = (b_start, b_column, into_b, from_a), (a_start, a_column, into_a, from_b)
    return plan_pair(num_a, num_b, by_b, by_a, "cpp")


class _Apply(torch.autograd.Function):
    """Gather-sum with its transpose as gradient, as the eager path has it."""

    @staticmethod
    def forward(x: Tensor, forward: tuple[Tensor, ...], backward: tuple[Tensor, ...]) -> Tensor:
        out: Tensor = torch.ops.tcformer.gather_sum(x, *forward)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.rows, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous()
        if torch.is_grad_enabled():  # to be differentiated again
            out: Tensor = _Apply.apply(grad, ctx.transposed, ctx.rows)
        else:
            out = torch.ops.tcformer.gather_sum(grad, *ctx.transposed)
        return out, None, None


def regroup(x: Tensor, plan: RegroupPlan) -> Tensor:
    """Apply a plan to (B, S, C) features; returns (B, D, C) in the dtype of x."""
    batch, _, channels = x.shape
    taken = x.float() if x.dtype == torch.float16 else x
    flat = taken.reshape(batch * plan.num_src, channels).contiguous()
    if flat.requires_grad and torch.is_grad_enabled():
        out: Tensor = _Apply.apply(flat, tuple(plan.forward), tuple(plan.backward))
    else:
        out = torch.ops.tcformer.gather_sum(flat, *plan.forward)
    return out.view(batch, plan.num_dst, channels).to(x.dtype)


def _gather_sum(x: Tensor, row_start: Tensor, column: Tensor, weight: Tensor) -> Tensor:
    rows, channels = row_start.shape[0] - 1, x.shape[1]
    out = x.new_empty(rows, channels)
    name = "tcf_regroup_gather_" + ("bf16" if x.dtype == torch.bfloat16 else "f32")
    csrc.run(name, x, row_start, column, weight, out, rows, channels)
    return out


def _gather_sum_shape(x: Tensor, row_start: Tensor, column: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(row_start.shape[0] - 1, x.shape[1])


def _regroup_plan(
    a: Tensor, b: Tensor, weight: Tensor | None, num_a: int, num_b: int, eps: float
) -> list[Tensor]:
    made = _regroup_plan_shape(a, b, weight, num_a, num_b, eps)
    b_start, a_start, b_column, a_column, into_b, from_b, into_a, from_a = made
    status = a.new_empty(1)
    csrc.run(
        "tcf_regroup_plan",
        *(a, b, weight, b_start, b_column, into_b, a_start, a_column, from_b, into_a, from_a),
        *(status, *a.shape, num_a, num_b, float(eps)),
    )
    if int(status):
        raise ValueError(
            f"regroup: an index is out of range; they must lie in 0..{num_a - 1} on one side "
            f"and in 0..{num_b - 1} on the other."
        )
    return made


def _regroup_plan_shape(
    a: Tensor, b: Tensor, weight: Tensor | None, num_a: int, num_b: int, eps: float
) -> list[Tensor]:
    images, entries = a.shape
    made = [a.new_empty(images * num_b + 1, dtype=torch.int32)]
    made.append(a.new_empty(images * num_a + 1, dtype=torch.int32))
    for dtype in (torch.int32,) * 2 + (torch.float32,) * 4:
        made.append(a.new_empty(images * entries, dtype=dtype))
    return made


operator(
    "gather_sum(Tensor x, Tensor row_start, Tensor column, Tensor weight) -> Tensor",
    _gather_sum,
    _gather_sum_shape,
    key="CPU",
)
operator(
    "regroup_plan(Tensor a, Tensor b, Tensor? weight, SymInt num_a, SymInt num_b, float eps)"
    " -> Tensor[]",
    _regroup_plan,
    _regroup_plan_shape,
    key="CPU",
)
