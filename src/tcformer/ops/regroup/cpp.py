"""Regrouping in C++: coalesced index structures in linear time, gathers in float32 arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcformer.ops import csrc
from tcformer.ops.regroup.plan import EPS, GatherSum, RegroupPlan

_OPS = torch.library.Library("tcformer", "FRAGMENT")
_OPS.define("gather_sum(Tensor x, Tensor row_start, Tensor column, Tensor weight) -> Tensor")
_OPS.define(
    "regroup_plan(Tensor a, Tensor b, Tensor? weight, SymInt num_a, SymInt num_b, float eps,"
    " bool both_ways) -> Tensor[]"
)


def unsupported(x: Tensor, plan: RegroupPlan) -> str | None:
    """Why the gather cannot take these features, as a clause; None when it can."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"its arithmetic is float32, and the features are {x.dtype}"
    if plan.forward.weight.dtype != torch.float32:
        return f"its weights are float32, and those of the plan {plan.forward.weight.dtype}"
    return None


def unsupported_plan(dtype: torch.dtype) -> str | None:
    """Why plans with weights of this dtype are not built here, as a clause; None if they are."""
    return None if dtype == torch.float32 else f"its weights are float32, not {dtype}"


def plan_regroup(
    src: Tensor, dst: Tensor, num_src: int, num_dst: int, *, weight: Tensor | None, eps: float
) -> RegroupPlan:
    """The plan from sources to destinations; arguments as in :mod:`tcformer.ops.regroup.plan`."""
    by_dst, by_src, over_dst, _ = _build(src, dst, num_src, num_dst, weight, eps, False)
    return RegroupPlan(
        num_src, num_dst, GatherSum(*by_dst, over_dst[0]), GatherSum(*by_src, over_dst[1])
    )


def plan_both_ways(
    a: Tensor, b: Tensor, num_a: int, num_b: int, *, eps: float = EPS
) -> tuple[RegroupPlan, RegroupPlan]:
    """The unweighted plans a->b and b->a, from one sorting."""
    by_b, by_a, over_b, over_a = _build(a, b, num_a, num_b, None, eps, True)
    return (
        RegroupPlan(num_a, num_b, GatherSum(*by_b, over_b[0]), GatherSum(*by_a, over_b[1])),
        RegroupPlan(num_b, num_a, GatherSum(*by_a, over_a[0]), GatherSum(*by_b, over_a[1])),
    )


_Pair = tuple[Tensor, Tensor]


def _build(
    a: Tensor,
    b: Tensor,
    num_a: int,
    num_b: int,
    weight: Tensor | None,
    eps: float,
    both_ways: bool,
) -> tuple[_Pair, _Pair, _Pair, _Pair]:
    """Row starts and columns by b and by a, then the weights over the totals of b and of a."""
    wide = None if weight is None else weight.detach().float().contiguous()
    parts = torch.ops.tcformer.regroup_plan(
        a.long().contiguous(), b.long().contiguous(), wide, num_a, num_b, eps, both_ways
    )
    b_start, a_start, *lists = parts
    if not torch.compiler.is_compiling():
        # As many pairs as there are; a compiled graph wants sizes that do not depend on data.
        used = int(b_start[-1])
        lists = [values[:used] for values in lists]
    b_column, a_column, into_b, from_b, *other = lists
    over_a = (other[0], other[1]) if both_ways else (into_b, from_b)
    return (b_start, b_column), (a_start, a_column), (into_b, from_b), over_a


def _gather(x: Tensor, rows: GatherSum) -> Tensor:
    out: Tensor = torch.ops.tcformer.gather_sum(x, *rows)
    return out


class _Apply(torch.autograd.Function):
    """Gather-sum with its transpose as gradient, as the eager path has it."""

    @staticmethod
    def forward(x: Tensor, ahead: tuple[Tensor, ...], back: tuple[Tensor, ...]) -> Tensor:
        return _gather(x, GatherSum(*ahead))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.ahead, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous()
        if torch.is_grad_enabled():  # to be differentiated again
            wide: Tensor = _Apply.apply(grad, ctx.back, ctx.ahead)
            return wide, None, None
        return _gather(grad, GatherSum(*ctx.back)), None, None


def regroup(x: Tensor, plan: RegroupPlan) -> Tensor:
    """Apply a plan to (B, S, C) features; returns (B, D, C) in the dtype of x."""
    batch, _, channels = x.shape
    narrow = x.float() if x.dtype == torch.float16 else x
    flat = narrow.reshape(batch * plan.num_src, channels).contiguous()
    if flat.requires_grad and torch.is_grad_enabled():
        out: Tensor = _Apply.apply(flat, tuple(plan.forward), tuple(plan.backward))
    else:
        out = _gather(flat, plan.forward)
    return out.view(batch, plan.num_dst, channels).to(x.dtype)


# ---- the ops that a compiled graph sees -----------------------------------------------------


@torch.library.impl(_OPS, "gather_sum", "CPU")
def _gather_sum(x: Tensor, row_start: Tensor, column: Tensor, weight: Tensor) -> Tensor:
    rows, channels = row_start.shape[0] - 1, x.shape[1]
    out = x.new_empty(rows, channels)
    name = "tcf_regroup_gather_" + ("bf16" if x.dtype == torch.bfloat16 else "f32")
    csrc.run(name, x, row_start, column, weight, out, rows, channels)
    return out


def _gather_sum_shape(x: Tensor, row_start: Tensor, column: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(row_start.shape[0] - 1, x.shape[1])


@torch.library.impl(_OPS, "regroup_plan", "CPU")
def _regroup_plan(
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    num_a: int,
    num_b: int,
    eps: float,
    both_ways: bool,
) -> list[Tensor]:
    parts = _regroup_plan_shape(a, b, weight, num_a, num_b, eps, both_ways)
    b_start, a_start, b_column, a_column, into_b, from_b, *other = parts
    into_a, from_a = other if both_ways else (None, None)
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
    return parts


def _regroup_plan_shape(
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    num_a: int,
    num_b: int,
    eps: float,
    both_ways: bool,
) -> list[Tensor]:
    images, entries = a.shape
    starts = [a.new_empty(images * rows + 1, dtype=torch.int32) for rows in (num_b, num_a)]
    columns = [a.new_empty(images * entries, dtype=torch.int32) for _ in range(2)]
    weights = [
        a.new_empty(images * entries, dtype=torch.float32) for _ in range(4 if both_ways else 2)
    ]
    return [*starts, *columns, *weights]


torch.library.register_fake("tcformer::gather_sum", _gather_sum_shape, lib=_OPS)
torch.library.register_fake("tcformer::regroup_plan", _regroup_plan_shape, lib=_OPS)
