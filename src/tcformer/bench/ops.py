"""Ops side by side: every implementation that runs here, on what the network really hands them.

Features, layouts and scores are taken from a forward pass of `tcformer_light` over the images: how
much clustering and regrouping cost depends on how alike tokens are and how uneven clusters get.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor

from tcformer.bench import inputs, published
from tcformer.bench.models import FREE_SHARE, free_memory, is_out_of_memory, peak
from tcformer.models.tcformer import SAME
from tcformer.ops import attend, dpc_knn, linear, merge_tokens, regroup, token_conv
from tcformer.ops.dispatch import unsupported_reason
from tcformer.ops.regroup import apply_plan
from tcformer.ops.token_map import plan_token_map
from tcformer.runtime import provenance, timing
from tcformer.tokens import Layout, Tokens

NETWORK = "tcformer_light"
NAMES = ("dpc_knn", "regroup", "token_conv", "merge", "attend", "linear")
BASELINE = "eager"
DIRECTIONS = ("forward", "forward+backward")

MOST_FOR_REFERENCE = 5_000
"""Pairs of tokens in a batch up to which the references, loops that they are, take part."""

NEIGHBORS = 5


class Boundary(NamedTuple):
    """What reached one CTM: the un-merged tokens with their scores, and what became of them."""

    number: int
    unmerged: Tokens
    score: Tensor
    merged: Layout
    assignment: Tensor

    @property
    def hidden(self) -> int:
        """Channels of the hidden layer of the stage after this CTM, where regrouping is widest."""
        return self.unmerged.x.shape[2] * (8 if self.number == 1 else 4)


@dataclass
class Case:
    """One op at one place of the network.

    Attributes:
        op: its name.
        place: where, with the sizes.
        calls: implementation -> a function of no arguments that runs it.
        flops: of the matrix products in it (0 for none), a multiply-add counted twice.
        skipped: implementation -> why it does not take part.
    """

    op: str
    place: str
    calls: dict[str, Callable[[], object]]
    flops: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def boundaries(
    batch: int, size: int, *, device: torch.device, folder: Path | None = None
) -> list[Boundary]:
    """Run the network once and keep what its three CTMs get and give."""
    torch.manual_seed(0)
    model = timm.create_model(NETWORK).to(device).eval()
    kept: list[Boundary] = []

    def keep(module: Any, arguments: Any, result: Any) -> None:
        merged, source = result
        cells, tokens = merged.layout.cell_to_token, source.tokens.layout.cell_to_token
        # The label of a token is that of any of its cells.
        label = torch.zeros_like(source.score, dtype=torch.int64).scatter(1, tokens, cells)
        kept.append(Boundary(len(kept) + 1, source.tokens, source.score, merged.layout, label))

    for number in (1, 2, 3):
        model.get_submodule(f"ctm{number}").register_forward_hook(keep)
    (images,) = inputs.batches(batch, size, folder=folder, device=device, count=1)
    model(images)
    return kept


def cases(
    names: Sequence[str], found: Sequence[Boundary], direction: str, *, with_published: bool
) -> Iterator[Case]:
    """The cases of the named ops; `dpc_knn` has no backward pass."""
    for name in NAMES:
        for boundary in found if name in names else ():
            if name == "regroup":
                for to_map in (True, False):
                    yield _regroup(boundary, to_map, direction, with_published)
            elif name != "dpc_knn":
                yield _MAKERS[name](boundary, direction)
            elif direction == "forward":
                yield _dpc_knn(boundary, with_published)


def _case(
    op: str,
    place: str,
    call: Callable[[str], Tensor],
    wanted: Sequence[Tensor],
    direction: str,
    *,
    device: torch.device,
    pairs: float,
    flops: float = 0.0,
) -> Case:
    """A case of all implementations that run here.

    Args:
        op: its name.
        place: where, with the sizes.
        call: from the name of an implementation to its output.
        wanted: what has a gradient.
        direction: one of `DIRECTIONS`.
        device: whose implementations take part.
        pairs: of tokens, which tell how long the reference would take.
        flops: of the forward pass.
    """

    def run(impl: str) -> object:
        if direction == "forward":
            with torch.no_grad():
                return call(impl)
        out = call(impl)
        return torch.autograd.grad(out, wanted, torch.ones_like(out))

    case = Case(op, place, {}, flops * (1 if direction == "forward" else 3))
    for impl in importlib.import_module(f"tcformer.ops.{op}").IMPLEMENTATIONS:
        reason = unsupported_reason(impl, device)
        if impl == "reference" and pairs > MOST_FOR_REFERENCE:
            reason = "loops, too slow at this size"
        if reason is None:
            case.calls[impl] = lambda impl=impl: run(impl)  # type: ignore[misc]
        else:
            case.skipped[impl] = reason
    return case


def _random(device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(*shape, device=device, requires_grad=True) for shape in shapes]


def _dpc_knn(boundary: Boundary, with_published: bool) -> Case:
    x, clusters = boundary.unmerged.x, boundary.merged.num_tokens
    batch, tokens, channels = x.shape
    pairs = batch * tokens**2
    case = _case(
        "dpc_knn",
        f"CTM {boundary.number}: {tokens} tokens, {channels} channels, {clusters} clusters",
        lambda impl: dpc_knn(x, clusters, NEIGHBORS, tolerance=SAME, impl=impl),  # type: ignore
        (),
        "forward",
        device=x.device,
        pairs=pairs,
        # Distances of all pairs, then of every token to every center.
        flops=2.0 * batch * tokens * channels * (tokens + clusters),
    )
    if with_published:
        if 20 * pairs > FREE_SHARE * free_memory(x.device):
            case.skipped["published"] = f"would need about {20 * pairs / 2**30:.1f} GiB"
        else:
            case.calls["published"] = torch.no_grad()(lambda: published.cluster(x, clusters))
    return case


def _merge(boundary: Boundary, direction: str) -> Case:
    clusters = boundary.merged.num_tokens
    x, score = (t.detach().requires_grad_() for t in (boundary.unmerged.x, boundary.score))
    tokens, label = boundary.unmerged._replace(x=x), boundary.assignment
    return _case(
        "merge",
        f"CTM {boundary.number}: {x.shape[1]} to {clusters} tokens, {x.shape[2]} channels",
        lambda impl: merge_tokens(tokens, label, clusters, log_weight=score, impl=impl).x,
        (x, score),
        direction,
        device=x.device,
        pairs=x.shape[0] * x.shape[1] * clusters,
    )


def _regroup(boundary: Boundary, to_map: bool, direction: str, with_published: bool) -> Case:
    layout, width = boundary.merged, boundary.hidden
    batch, cells = layout.cell_to_token.shape
    device, pixels = layout.cell_to_token.device, layout.map_size[0] * layout.map_size[1]
    x, *_ = _random(device, (batch, layout.num_tokens if to_map else pixels, width))
    source, target, count = published.directions(layout, to_map)

    # What is exported has an index structure of its own.
    plans = {impl: plan_token_map(layout, impl=impl) for impl in ("auto", "export")}

    def call(impl: str) -> Tensor:
        if impl == "reference":
            return regroup(x, source, target, count, impl=impl)
        plan = plans["export" if impl == "export" else "auto"]
        ready = plan.to_map if to_map else plan.to_tokens
        assert ready is not None  # after a merge tokens and pixels are never the same thing
        return apply_plan(x, ready, impl=impl)

    case = _case(
        "regroup",
        f"stage {boundary.number + 1}: {'tokens to map' if to_map else 'map to tokens'}, "
        f"{layout.num_tokens} tokens, {pixels} pixels, {width} channels",
        call,
        (x,),
        direction,
        device=device,
        pairs=batch * x.shape[1] * cells,
    )
    if with_published:
        other = _case(
            "regroup",
            "",
            lambda _: published.through_cells(x, source, target, count),
            (x,),
            direction,
            device=device,
            pairs=0,
        )
        case.calls["published"] = other.calls[BASELINE]
    return case


def _token_conv(boundary: Boundary, direction: str) -> Case:
    layout, width = boundary.merged, boundary.hidden
    batch, cells = layout.cell_to_token.shape
    device, tokens = layout.cell_to_token.device, layout.num_tokens
    plan = plan_token_map(layout)
    made = _random(device, (batch, tokens, width), (width, 1, 3, 3), (width,), (width,))
    x, weight, bias, skip = made
    return _case(
        "token_conv",
        f"stage {boundary.number + 1}: {tokens} tokens, {width} channels",
        lambda impl: token_conv(x, plan, weight, bias, skip, gelu=True, impl=impl),
        made,
        direction,
        device=device,
        pairs=batch * cells * (tokens + layout.map_size[0] * layout.map_size[1]),
    )


def _linear(boundary: Boundary, direction: str) -> Case:
    batch, _, channels = boundary.unmerged.x.shape
    device, tokens = boundary.unmerged.x.device, boundary.merged.num_tokens
    width = boundary.hidden
    made = _random(device, (batch, tokens, channels), (width, channels), (width,))
    return _case(
        "linear",
        f"stage {boundary.number + 1}: {tokens} tokens, {channels} to {width} channels",
        lambda impl: linear(*made, impl=impl),
        made,
        direction,
        device=device,
        pairs=batch * tokens * width,
        flops=2.0 * batch * tokens * channels * width,
    )


def _attend(boundary: Boundary, direction: str) -> Case:
    stage = boundary.number + 1
    batch, _, channels = boundary.unmerged.x.shape
    heads, queries = channels // 64, boundary.merged.num_tokens
    keys = math.prod(max(1, side // {2: 4, 3: 2, 4: 1}[stage]) for side in boundary.merged.map_size)
    shapes = [(batch, heads, count, 64) for count in (queries, keys, keys)]
    made = _random(boundary.unmerged.x.device, *shapes, (batch, keys))
    q, k, v, bias = made
    return _case(
        "attend",
        f"stage {stage}: {queries} queries, {keys} keys, {heads} heads",
        lambda impl: attend(q, k, v, bias=bias, impl=impl),
        made,
        direction,
        device=q.device,
        pairs=0,
        flops=4.0 * batch * heads * queries * keys * 64,
    )


_MAKERS = {"merge": _merge, "token_conv": _token_conv, "linear": _linear, "attend": _attend}


def measure(
    case: Case,
    *,
    device: torch.device,
    rounds: int,
    warmup: int,
    turn: float | None = None,
    budget: float = math.inf,
) -> dict[str, Any]:
    """Time the implementations of one case in turns; a row of the record."""
    steps: dict[str, timing.Step] = {}
    extra: dict[str, int | None] = {}
    for impl, call in case.calls.items():
        try:
            call()
            top = peak(device, call)
        except ValueError as error:
            case.skipped[impl] = str(error)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            case.skipped[impl] = "ran out of memory"
            continue
        extra[impl] = None if top is None else top.extra
        steps[impl] = lambda _, call=call: call()  # type: ignore[misc]
    times = timing.interleaved(
        steps, device=device, rounds=rounds, warmup=warmup, turn=turn, budget=budget
    )
    ratios = timing.ratios(times, BASELINE) if BASELINE in times else {}
    rows = {}
    for impl, seconds in times.items():
        found = timing.spread(seconds)
        rows[impl] = {
            "seconds": found,
            "ratio": ratios.get(impl),
            "flops_per_second": case.flops / found["median"] if case.flops else None,
            "peak_extra_bytes": extra[impl],
        }
    return {
        "op": case.op,
        "place": case.place,
        "flops": case.flops,
        "rounds": max(map(len, times.values()), default=0),
        "implementations": rows,
        "skipped": case.skipped,
    }


def ceilings(device: torch.device, *, quick: bool = False) -> dict[str, float]:
    """What this machine reaches at most, the best of several runs, in numbers a second.

    Returns:
        `float32` and `bf16` (operations of torch.mm, a multiplication and an addition are two),
        on a CPU `onednn` (float32 again, by the library that `ops.linear` calls), and `copy` (bytes
        read plus bytes written).
    """
    on_gpu = device.type == "cuda"
    side, size = (256, 2**22) if quick else (8192, 2**31) if on_gpu else (1536, 2**27)
    found: dict[str, float] = {}
    if device.type == "cpu":
        reached = provenance.products(side, 0.3)
        found["float32"] = reached.get("mkl") or reached["blas"]
        found |= {name: reached[name] for name in ("onednn",) if name in reached}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        if name not in found:
            a, b, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
            call = lambda _, a=a, b=b, out=out: torch.mm(a, b, out=out)  # noqa: E731
            found[name] = 2 * side**3 / _best(call, device)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * size / _best(lambda _: target.copy_(source), device)
    return found


def _best(step: timing.Step, device: torch.device) -> float:
    """The shortest of at least three calls, and of those that fit into 0.3 seconds."""
    step(0)
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - begin < 0.3:
        taken.append(timing.elapsed(step, 0, 1, device))
    return min(taken)
