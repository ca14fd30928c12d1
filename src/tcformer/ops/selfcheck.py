"""Does every implementation of every op still say what its reference says? Small cases, seconds.

The tests run these cases, and so does `tcformer bench` before it prints a speed-up: an
implementation that is wrong on this machine (another compiler, another GPU) is not fast.
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
        run: from ("impl", dtype, device) to the tensors that must agree; integers exactly.
    """

    op: str
    name: str
    run: Callable[[str, torch.dtype, torch.device], list[Tensor]]


class Check(NamedTuple):
    """The outcome for one implementation; `problem` is None when it agrees with the reference."""

    op: str
    impl: str
    problem: str | None


def float32_convolutions() -> contextlib.AbstractContextManager[None]:
    """Within, cuDNN's convolutions are float32; by default PyTorch lets them round to TF32."""
    # `flags` switches cuDNN off, and sets all the rest, unless it is told otherwise.
    now = torch.backends.cudnn
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=now.enabled,
        benchmark=now.benchmark,
        deterministic=now.deterministic,
        allow_tf32=False,
    )
    return flags


def _op(name: str) -> Any:
    # By path: as an attribute of `tcformer.ops` the name is the function.
    return importlib.import_module(f"tcformer.ops.{name}")


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _whole(seed: int, high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def _with_gradients(out: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The result, and the gradients of a fixed weighting of it."""
    weights = _normal(99, *out.shape).to(out)
    return [out, *torch.autograd.grad((out * weights).sum(), inputs)]


def _dpc_knn(
    x: Tensor, clusters: int, k: int = 5, *, masked: bool = False, tolerance: float = 0.0
) -> Callable[[str, torch.dtype, torch.device], list[Tensor]]:
    def run(impl: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        mask = None
        if masked:
            mask = (_whole(7, 5, *x.shape[:2]) > 0).to(device)
        found = _op("dpc_knn").dpc_knn(
            x.to(device, dtype), clusters, k, mask=mask, tolerance=tolerance, impl=impl
        )
        return [found.assignment, found.centres]

    return run


def _regroup(
    batch: int, sources: int, destinations: int, entries: int, channels: int, *, weighted: bool
) -> Callable[[str, torch.dtype, torch.device], list[Tensor]]:
    def run(impl: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        x = _normal(1, batch, sources, channels).to(device, dtype).requires_grad_()
        src = _whole(2, sources, batch, entries).to(device)
        dst = _whole(3, destinations, batch, entries).to(device)
        weight = _normal(4, batch, entries).abs().to(device, dtype) if weighted else None
        out = _op("regroup").regroup(x, src, dst, destinations, weight=weight, impl=impl)
        return _with_gradients(out, [x])

    return run


def _merge(scale: float) -> Callable[[str, torch.dtype, torch.device], list[Tensor]]:
    def run(impl: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        x = _normal(1, 2, 24, 5).to(device, dtype).requires_grad_()
        score = (scale * _normal(2, 2, 24)).to(device, dtype).requires_grad_()
        # Every cluster has a member, as dpc_knn sees to it.
        assignment = torch.cat((torch.arange(6).expand(2, -1), _whole(3, 6, 2, 18)), 1).to(device)
        tokens = Tokens(x, grid_layout(2, (4, 6), device))
        merged = _op("merge").merge_tokens(tokens, assignment, 6, log_weight=score, impl=impl)
        return [*_with_gradients(merged.x, [x, score]), merged.layout.cell_weight]

    return run


def _attend(
    queries: int, keys: int, *, biased: bool
) -> Callable[[str, torch.dtype, torch.device], list[Tensor]]:
    def run(impl: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        sizes = ((2, 3, queries, 16), (2, 3, keys, 16), (2, 3, keys, 16), (2, keys))
        made = [_normal(i, *shape).to(device, dtype) for i, shape in enumerate(sizes)]
        q, k, v, bias = (one.requires_grad_() for one in made)
        out = _op("attend").attend(q, k, v, bias=bias if biased else None, impl=impl)
        return _with_gradients(out, [q, k, v, bias] if biased else [q, k, v])

    return run


def _linear(
    rows: int, inputs: int, outputs: int
) -> Callable[[str, torch.dtype, torch.device], list[Tensor]]:
    def run(impl: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        sizes = ((2, rows, inputs), (outputs, inputs), (outputs,))
        made = [_normal(i, *shape).to(device, dtype) for i, shape in enumerate(sizes)]
        x, weight, bias = (one.requires_grad_() for one in made)
        return _with_gradients(_op("linear").linear(x, weight, bias, impl=impl), [x, weight, bias])

    return run


def _token_conv(
    channels: int, *, grid: bool
) -> Callable[[str, torch.dtype, torch.device], list[Tensor]]:
    def run(impl: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        layout = grid_layout(2, (8, 12), device)
        if not grid:
            cells = _whole(8, 24, 2, 96).to(device)
            layout = layout._replace(cell_to_token=cells, num_tokens=24, map_size=(4, 6))
        plan = plan_token_map(layout, dtype=dtype)
        sizes = ((2, layout.num_tokens, channels), (channels, 1, 3, 3), (channels,), (channels,))
        made = [_normal(i, *shape).to(device, dtype) for i, shape in enumerate(sizes)]
        x, weight, bias, skip = (one.requires_grad_() for one in made)
        inputs = [x, weight, bias] if grid else [x, weight, bias, skip]
        out = _op("token_conv").token_conv(
            x, plan, weight, bias, None if grid else skip, gelu=True, impl=impl
        )
        return _with_gradients(out, inputs)

    return run


def _equal_in_groups() -> Tensor:
    """Forty tokens of five kinds: ties everywhere, which indices must break."""
    return _normal(5, 5, 8)[_whole(6, 5, 2, 40)]


CASES = (
    Case("dpc_knn", "random features", _dpc_knn(_normal(1, 2, 40, 8), 10)),
    Case("dpc_knn", "one full tile and a part of one", _dpc_knn(_normal(2, 1, 70, 33), 18)),
    Case("dpc_knn", "many equal tokens", _dpc_knn(_equal_in_groups(), 10)),
    Case("dpc_knn", "a mask", _dpc_knn(_normal(3, 2, 30, 6), 8, masked=True)),
    Case("dpc_knn", "a tolerance", _dpc_knn(_normal(4, 2, 30, 2), 8, tolerance=0.5)),
    Case("dpc_knn", "fewer tokens than neighbours", _dpc_knn(_normal(5, 2, 3, 4), 2)),
    Case("regroup", "means", _regroup(2, 7, 5, 40, 9, weighted=False)),
    Case("regroup", "weighted means", _regroup(2, 7, 5, 40, 9, weighted=True)),
    Case("regroup", "destinations without entries", _regroup(1, 3, 20, 8, 4, weighted=False)),
    Case("merge", "moderate scores", _merge(1.0)),
    Case("merge", "strong scores", _merge(5.0)),
    Case("attend", "no bias", _attend(20, 7, biased=False)),
    Case("attend", "a bias on the keys", _attend(20, 7, biased=True)),
    Case("token_conv", "tokens", _token_conv(20, grid=False)),
    Case("token_conv", "the grid", _token_conv(7, grid=True)),
    Case("linear", "even sizes", _linear(32, 64, 48)),
    Case("linear", "odd sizes", _linear(5, 7, 3)),
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
    names = _op(op).IMPLEMENTATIONS
    for case in cases:
        definition = "reference" if "reference" in names else "eager"
        expected = case.run(definition, torch.float64, torch.device("cpu"))
        try:
            with float32_convolutions():
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
