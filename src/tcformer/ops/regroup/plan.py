"""The index structure of a regrouping, built once and applied many times.

Several cells often connect the same source with the same destination (a token that fills most of
a pixel, say). Such entries are merged into one with a count, which leaves two thirds to nine
tenths fewer entries; the weights are normalized here as well, so that applying a plan is a
single weighted gather-sum, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

EPS = 1e-6
"""What the published model adds to every denominator (numerics ledger, N1)."""


class GatherSum(NamedTuple):
    """Rows of a sparse matrix in compressed form, all images of the batch one after the other.

    Row r sums ``weight[e] * x[column[e]]`` over ``row_start[r] <= e < row_start[r+1]``. A padded
    plan has unused entries from ``row_start[rows]`` on, which may hold anything.

    Attributes:
        row_start: (rows+1,) int32.
        column: (E,) int32, index into the flattened (B*S) sources.
        weight: (E,) float32 or float64.
    """

    row_start: Tensor
    column: Tensor
    weight: Tensor


class RegroupPlan(NamedTuple):
    """Everything that regrouping (B, S, C) into (B, D, C) needs besides the features.

    Attributes:
        num_src: S.
        num_dst: D.
        forward: rows are destinations, columns are sources.
        backward: the transpose with the same weights: rows are sources.
        backend: what built the plan and will apply it.
    """

    num_src: int
    num_dst: int
    forward: GatherSum
    backward: GatherSum
    backend: str = "eager"


def plan_pair(
    num_a: int, num_b: int, by_b: Sequence[Tensor], by_a: Sequence[Tensor], backend: str
) -> tuple[RegroupPlan, RegroupPlan]:
    """The plans a->b and b->a, from entries that are sorted by b and by a.

    Each sorting is row_start, column, the weights over the totals of its rows, and the weights over
    the totals of its columns.
    """
    into_b, into_a = GatherSum(*by_b[:3]), GatherSum(*by_a[:3])
    from_b, from_a = into_b._replace(weight=by_b[3]), into_a._replace(weight=by_a[3])
    return (
        RegroupPlan(num_a, num_b, into_b, from_a, backend),
        RegroupPlan(num_b, num_a, into_a, from_b, backend),
    )
