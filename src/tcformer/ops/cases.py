"""Small inputs for every op, and the check that its backends say on them what its definition says.

The tests run these cases, and so does `tcformer bench` before it prints a speed-up: a backend that
is wrong on this machine (another compiler, another GPU) is not fast.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from tcformer.ops.dispatch import OPS, unsupported_reason
from tcformer.ops.token_map import plan_token_map
from tcformer.tokens import Tokens, grid_layout

__all__ = ["CASES", "Case", "Check", "check", "failures", "implementations", "poisoned"]

TOLERANCE = 2e-5
"""Largest difference allowed, relative to the largest value of the reference in float64."""


class Case(NamedTuple):
    """One comparison.

    Attributes:
        op: name of the op.
        name: what is special about it.
        call: from ("impl", *inputs) to the results; integers must agree exactly.
        inputs: float64 tensors, which the call gets in the dtype and on the device of the check and
            whose gradients are compared as well; and what else it takes, moved to the device.
    """

    op: str
    name: str
    call: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]

    def run(self, impl: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """The results of a backend, and the gradients of a fixed weighting of the first of them."""
        moved = [t.to(device, dtype if t.is_floating_point() else None) for t in self.inputs]
        floats = [t.requires_grad_() for t in moved if t.is_floating_point()]
        out = self.call(impl, *moved)
        if not out[0].is_floating_point():
            return list(out)
        weights = _normal(99, *out[0].shape).to(out[0])
        return [*out, *torch.autograd.grad((out[0] * weights).sum(), floats)]


class Check(NamedTuple):
    """The outcome for one implementation; `problem` is None when it agrees with the reference."""

    op: str
    impl: str
    problem: str | None


def _op(name: str) -> Any:
    # By path: as an attribute of `tcformer.ops` the name is the function.
    return importlib.import_module(f"tcformer.ops.{name}")


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _whole(seed: int, high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def _dpc_knn(name: str, x: Tensor, clusters: int, **options: Any) -> Case:
    def call(impl: str, x: Tensor, *mask: Tensor) -> tuple[Tensor, ...]:
        masked = {"mask": mask[0]} if mask else {}
        found = _op("dpc_knn").dpc_knn(x, clusters, **masked, **options, impl=impl)
        return found.assignment, found.centers

    mask = (_whole(7, 5, *x.shape[:2]) > 0,) if name == "a mask" else ()
    return Case("dpc_knn", name, call, (x, *mask))


def _regroup(name: str, sources: int, num_dst: int, entries: int, *, weighted: bool) -> Case:
    def call(impl: str, x: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, ...]:
        weight = _normal(4, *src.shape).abs().to(x) if weighted else None
        return (_op("regroup").regroup(x, src, dst, num_dst, weight=weight, impl=impl),)

    x = _normal(1, 2, sources, 9)
    return Case(
        "regroup", name, call, (x, _whole(2, sources, 2, entries), _whole(3, num_dst, 2, entries))
    )


def _merge(name: str, scale: float) -> Case:
    def call(impl: str, x: Tensor, score: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        tokens = Tokens(x, grid_layout(2, (4, 6), x.device))
        merged = _op("merge").merge_tokens(tokens, labels, 6, log_weight=score, impl=impl)
        return merged.x, merged.layout.cell_weight

    # Every cluster has a member, as dpc_knn sees to it.
    labels = torch.cat((torch.arange(6).expand(2, -1), _whole(3, 6, 2, 18)), 1)
    return Case("merge", name, call, (_normal(1, 2, 24, 5), scale * _normal(2, 2, 24), labels))


def _attend(name: str, *bias: Tensor) -> Case:
    def call(impl: str, q: Tensor, k: Tensor, v: Tensor, *bias: Tensor) -> tuple[Tensor, ...]:
        return (_op("attend").attend(q, k, v, bias=bias[0] if bias else None, impl=impl),)

    made = (_normal(number, 2, 3, count, 16) for number, count in enumerate((20, 7, 7)))
    return Case("attend", name, call, (*made, *bias))


def _token_conv(name: str, channels: int, *, grid: bool) -> Case:
    def call(impl: str, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        layout = grid_layout(2, (8, 12), x.device)
        if not grid:
            cells = _whole(8, 24, 2, 96).to(x.device)
            layout = layout._replace(cell_to_token=cells, num_tokens=24, map_size=(4, 6))
        plan = plan_token_map(layout, dtype=x.dtype)
        return (_op("token_conv").token_conv(x, plan, *weights, gelu=True, impl=impl),)

    x = _normal(0, 2, 96 if grid else 24, channels)
    weights = _normal(1, channels, 1, 3, 3), _normal(2, channels), _normal(3, channels)
    return Case("token_conv", name, call, (x, *weights[: 2 if grid else 3]))


def _linear(name: str, rows: int, inputs: int, outputs: int) -> Case:
    def call(impl: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return (_op("linear").linear(*tensors, impl=impl),)

    tensors = _normal(0, 2, rows, inputs), _normal(1, outputs, inputs), _normal(2, outputs)
    return Case("linear", name, call, tensors)


CASES = (
    _dpc_knn("random features", _normal(1, 2, 40, 8), 10),
    _dpc_knn("one full tile and a part of one", _normal(2, 1, 70, 33), 18),
    # Forty tokens of five kinds: ties everywhere, which indices must break.
    _dpc_knn("many equal tokens", _normal(5, 5, 8)[_whole(6, 5, 2, 40)], 10),
    _dpc_knn("a mask", _normal(3, 2, 30, 6), 8),
    _dpc_knn("a tolerance", _normal(4, 2, 30, 2), 8, tolerance=0.5),
    _dpc_knn("fewer tokens than neighbors", _normal(5, 2, 3, 4), 2),
    _regroup("means", 7, 5, 40, weighted=False),
    _regroup("weighted means", 7, 5, 40, weighted=True),
    _regroup("destinations without entries", 3, 20, 8, weighted=False),
    _merge("moderate scores", 1.0),
    _merge("strong scores", 5.0),
    _attend("no bias"),
    _attend("a bias on the keys", _normal(3, 2, 7)),
    _token_conv("tokens", 20, grid=False),
    _token_conv("the grid", 7, grid=True),
    _linear("even sizes", 32, 64, 48),
    _linear("odd sizes", 5, 7, 3),
)


def implementations(device: torch.device | str = "cpu") -> Iterator[tuple[str, str]]:
    """(op, implementation) of all that can run on a device, references left out."""
    for op in OPS:
        for impl in _op(op).IMPLEMENTATIONS:
            if impl != "reference" and unsupported_reason(impl, device) is None:
                yield op, impl


def check(op: str, impl: str, device: torch.device | str = "cpu") -> Check:
    """Compare one implementation with the reference on every case of its op.

    A case that the implementation declines with a reason (ValueError) does not count, unless it
    declines all of them.
    """
    device = torch.device(device)
    declined = []
    cases = [case for case in CASES if case.op == op]
    if not cases:
        return Check(op, impl, "there is no case to check it with")
    definition = "reference" if "reference" in _op(op).IMPLEMENTATIONS else "eager"
    now = torch.backends.cudnn  # whose convolutions round to TF32 by default
    flags = {name: getattr(now, name) for name in ("enabled", "benchmark", "deterministic")}
    for case in cases:
        expected = case.run(definition, torch.float64, torch.device("cpu"))
        try:
            with now.flags(**flags, allow_tf32=False):
                actual = case.run(impl, torch.float32, device)
        except ValueError as error:
            declined.append(str(error))
            continue
        except Exception as error:  # a kernel that does not even start is wrong as well
            return Check(op, impl, f"{case.name}: {type(error).__name__}: {_first_line(error)}")
        problem = _difference(actual, expected)
        if problem is not None:
            return Check(op, impl, f"{case.name}: {problem}")
    if len(declined) == len(cases):
        return Check(op, impl, f"declines every case: {declined[0]}")
    return Check(op, impl, None)


def failures(device: torch.device | str = "cpu") -> list[Check]:
    """Every implementation that can run here and disagrees with its reference."""
    checks = (check(op, impl, device) for op, impl in implementations(device))
    return [one for one in checks if one.problem is not None]


def _difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    for number, (a, e) in enumerate(zip(actual, expected, strict=True)):
        a, e = a.detach().cpu(), e.detach()
        if a.shape != e.shape:
            return f"result {number} has shape {tuple(a.shape)} instead of {tuple(e.shape)}"
        if not e.is_floating_point():
            if not torch.equal(a, e):
                wrong = int((a != e).sum())
                return f"{wrong} of {e.numel()} numbers of result {number} differ"
            continue
        scale = max(1.0, float(e.abs().max())) if e.numel() else 1.0
        error = float((a.double() - e).abs().max()) if e.numel() else 0.0
        if not error <= TOLERANCE * scale:
            return f"result {number} is off by {error:.1e} where values reach {scale:.1e}"
    return None


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Within, memory that no kernel wrote shows up as NaN, or as an index far out of range."""
    real = torch.Tensor.new_empty

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        out = real(self, *size, **options)
        if out.is_floating_point():
            return out.fill_(float("nan"))
        return out.fill_(2**30) if out.itemsize >= 4 else out

    with mock.patch.object(torch.Tensor, "new_empty", new_empty):
        yield


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""
