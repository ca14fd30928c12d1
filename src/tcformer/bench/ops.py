"""Ops side by side: every implementation that runs here, on what the network really hands them.

Features, layouts and scores are taken from a forward pass of `tcformer_light` over the pictures:
how much clustering and regrouping cost depends on how alike tokens are and how uneven clusters get.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor

from tcformer.bench import inputs, memory, published, timing
from tcformer.models.tcformer import SAME
from tcformer.ops.dispatch import unsupported_reason
from tcformer.ops.token_map import TokenMap, plan_token_map
from tcformer.tokens import Layout, Tokens

NETWORK = "tcformer_light"
NAMES = ("dpc_knn", "regroup", "token_conv", "merge", "attend", "linear")
BASELINE = "eager"
DIRECTIONS = ("forward", "forward+backward")

MOST_FOR_REFERENCE = 5_000
"""Pairs of tokens in a batch up to which the references, loops that they are, take part."""

NEIGHBOURS = 5


class Boundary(NamedTuple):
    """What reached one CTM: the un-merged tokens with their scores, and what became of them."""

    number: int
    unmerged: Tokens
    score: Tensor
    merged: Layout
    assignment: Tensor


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
    for boundary in found:
        if "dpc_knn" in names and direction == "forward":
            yield _dpc_knn(boundary, with_published)
        if "merge" in names:
            yield _merge(boundary, direction)
    for boundary in found:
        if "regroup" in names:
            yield from _regroup(boundary, direction, with_published)
        if "token_conv" in names:
            yield _token_conv(boundary, direction)
        if "attend" in names:
            yield _attend(boundary, direction)
        if "linear" in names:
            yield _linear(boundary, direction)


def available(op: str, device: torch.device, pairs: float) -> tuple[list[str], dict[str, str]]:
    """Implementations that take part, and the others with the reason."""
    chosen, skipped = [], {}
    for impl in importlib.import_module(f"tcformer.ops.{op}").IMPLEMENTATIONS:
        why = unsupported_reason(impl, device)
        if impl == "reference" and pairs > MOST_FOR_REFERENCE:
            why = "loops, too slow at this size"
        if why is None:
            chosen.append(impl)
        else:
            skipped[impl] = why
    return chosen, skipped


def _case(
    op: str,
    place: str,
    make: Callable[[str], Callable[[], object]],
    *,
    device: torch.device,
    pairs: float,
    flops: float = 0.0,
) -> Case:
    chosen, skipped = available(op, device, pairs)
    return Case(op, place, {impl: make(impl) for impl in chosen}, flops, skipped)


def _forward(call: Callable[[], Tensor], wanted: Sequence[Tensor], direction: str) -> object:
    if direction == "forward":
        with torch.no_grad():
            return call()
    out = call()
    return torch.autograd.grad(out, wanted, torch.ones_like(out))


def _dpc_knn(boundary: Boundary, with_published: bool) -> Case:
    from tcformer.ops import dpc_knn

    x, clusters = boundary.unmerged.x, boundary.merged.num_tokens
    batch, tokens, channels = x.shape
    # Distances of all pairs, then of every token to every centre.
    flops = 2.0 * batch * tokens * channels * (tokens + clusters)
    place = f"CTM {boundary.number}: {tokens} tokens, {channels} channels, {clusters} clusters"

    def make(impl: str) -> Callable[[], object]:
        return lambda: dpc_knn(x, clusters, NEIGHBOURS, tolerance=SAME, impl=impl)

    pairs = batch * tokens**2
    case = _case("dpc_knn", place, make, device=x.device, pairs=pairs, flops=flops)
    if with_published:
        need, there = 20 * pairs, memory.free(x.device)
        if need > memory.SHARE * there:
            case.skipped["published"] = f"would need about {need / 2**30:.1f} GiB"
        else:
            case.calls["published"] = torch.no_grad()(lambda: published.cluster(x, clusters))
    return case


def _merge(boundary: Boundary, direction: str) -> Case:
    from tcformer.ops import merge_tokens

    clusters = boundary.merged.num_tokens
    x, score = (t.detach().requires_grad_() for t in (boundary.unmerged.x, boundary.score))
    tokens = boundary.unmerged._replace(x=x)
    place = f"CTM {boundary.number}: {x.shape[1]} to {clusters} tokens, {x.shape[2]} channels"

    def make(impl: str) -> Callable[[], object]:
        def call() -> Tensor:
            merged = merge_tokens(
                tokens, boundary.assignment, clusters, log_weight=score, impl=impl
            )
            return merged.x

        return lambda: _forward(call, (x, score), direction)

    return _case("merge", place, make, device=x.device, pairs=x.shape[0] * x.shape[1] * clusters)


def _hidden_width(boundary: Boundary) -> int:
    """Channels of the hidden layer of the stage after this CTM, where regrouping is widest."""
    channels = boundary.unmerged.x.shape[2]
    return channels * (8 if boundary.number == 1 else 4)


def _regroup(boundary: Boundary, direction: str, with_published: bool) -> Iterator[Case]:
    layout, channels = boundary.merged, _hidden_width(boundary)
    device, batch = layout.cell_to_token.device, layout.cell_to_token.shape[0]
    plan = plan_token_map(layout)
    pixels = layout.map_size[0] * layout.map_size[1]
    for towards, count in (("tokens to map", layout.num_tokens), ("map to tokens", pixels)):
        x = torch.randn(batch, count, channels, device=device, requires_grad=True)
        place = f"stage {boundary.number + 1}: {towards}, {layout.num_tokens} tokens, "
        place += f"{pixels} pixels, {channels} channels"
        cells = layout.cell_to_token.shape[1]
        case = _case(
            "regroup",
            place,
            lambda impl, x=x, towards=towards: _regroup_call(  # type: ignore[misc]
                impl, x, plan, layout, towards, direction
            ),
            device=device,
            pairs=batch * count * cells,
        )
        if with_published:
            case.calls["published"] = _published_regroup(x, layout, towards, direction)
        yield case


def _regroup_call(
    impl: str, x: Tensor, plan: TokenMap, layout: Layout, towards: str, direction: str
) -> Callable[[], object]:
    from tcformer.ops.regroup import apply_plan, regroup

    ready = plan.to_map if towards == "tokens to map" else plan.to_tokens
    assert ready is not None  # after a merge tokens and pixels are never the same thing

    if impl == "export":  # has an index structure of its own
        other = plan_token_map(layout, impl=impl)
        ready = other.to_map if towards == "tokens to map" else other.to_tokens
        assert ready is not None

    def call() -> Tensor:
        if impl != "reference":
            return apply_plan(x, ready, impl=impl)
        source, target, count = published.directions(layout, towards == "tokens to map")
        return regroup(x, source, target, count, impl=impl)

    return lambda: _forward(call, (x,), direction)


def _published_regroup(
    x: Tensor, layout: Layout, towards: str, direction: str
) -> Callable[[], object]:
    source, target, count = published.directions(layout, towards == "tokens to map")
    call = published.through_cells
    return lambda: _forward(lambda: call(x, source, target, count), (x,), direction)


def _token_conv(boundary: Boundary, direction: str) -> Case:
    from tcformer.ops import token_conv

    layout, channels = boundary.merged, _hidden_width(boundary)
    device, batch = layout.cell_to_token.device, layout.cell_to_token.shape[0]
    plan = plan_token_map(layout)
    shapes = ((batch, layout.num_tokens, channels), (channels, 1, 3, 3), (channels,), (channels,))
    made = [torch.randn(*shape, device=device, requires_grad=True) for shape in shapes]
    x, weight, bias, skip = made

    def make(impl: str) -> Callable[[], object]:
        def call() -> Tensor:
            return token_conv(x, plan, weight, bias, skip, gelu=True, impl=impl)

        return lambda: _forward(call, made, direction)

    place = f"stage {boundary.number + 1}: {layout.num_tokens} tokens, {channels} channels"
    cells = layout.cell_to_token.shape[1]
    pairs = batch * cells * (layout.num_tokens + layout.map_size[0] * layout.map_size[1])
    return _case("token_conv", place, make, device=device, pairs=pairs)


def _linear(boundary: Boundary, direction: str) -> Case:
    from tcformer.ops import linear

    batch, _, channels = boundary.unmerged.x.shape
    device, tokens = boundary.unmerged.x.device, boundary.merged.num_tokens
    hidden = _hidden_width(boundary)
    shapes = ((batch, tokens, channels), (hidden, channels), (hidden,))
    made = [torch.randn(*shape, device=device, requires_grad=True) for shape in shapes]

    def make(impl: str) -> Callable[[], object]:
        return lambda: _forward(lambda: linear(*made, impl=impl), made, direction)

    place = f"stage {boundary.number + 1}: {tokens} tokens, {channels} to {hidden} channels"
    flops = 2.0 * batch * tokens * channels * hidden * (1 if direction == "forward" else 3)
    return _case("linear", place, make, device=device, pairs=batch * tokens * hidden, flops=flops)


def _attend(boundary: Boundary, direction: str) -> Case:
    from tcformer.ops import attend

    stage = boundary.number + 1
    batch, _, channels = boundary.unmerged.x.shape
    heads, queries = channels // 64, boundary.merged.num_tokens
    reduction = {2: 4, 3: 2, 4: 1}[stage]
    rows, columns = boundary.merged.map_size
    keys = max(1, rows // reduction) * max(1, columns // reduction)
    device = boundary.unmerged.x.device
    shapes = [(batch, heads, count, 64) for count in (queries, keys, keys)]
    q, k, v = (torch.randn(*shape, device=device, requires_grad=True) for shape in shapes)
    bias = torch.randn(batch, keys, device=device, requires_grad=True)

    def make(impl: str) -> Callable[[], object]:
        def call() -> Tensor:
            return attend(q, k, v, bias=bias, impl=impl)

        return lambda: _forward(call, (q, k, v, bias), direction)

    place = f"stage {stage}: {queries} queries, {keys} keys, {heads} heads"
    flops = 4.0 * batch * heads * queries * keys * 64 * (1 if direction == "forward" else 3)
    return _case("attend", place, make, device=device, pairs=0, flops=flops)


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
    peaks: dict[str, memory.Peak | None] = {}
    for impl, call in case.calls.items():
        try:
            call()
            peaks[impl] = memory.peak(device, call)
        except ValueError as error:
            case.skipped[impl] = str(error)
            continue
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            case.skipped[impl] = "ran out of memory"
            continue
        steps[impl] = lambda _, call=call: call()  # type: ignore[misc]
    times = timing.interleaved(
        steps, device=device, rounds=rounds, warmup=warmup, turn=turn, budget=budget
    )
    ratios = timing.ratios(times, BASELINE) if BASELINE in times else {}
    rows = {}
    for impl, seconds in times.items():
        found = timing.spread(seconds)
        peak = peaks[impl]
        rows[impl] = {
            "seconds": found,
            "ratio": ratios.get(impl),
            "flops_per_second": case.flops / found["median"] if case.flops else None,
            "peak_extra_bytes": None if peak is None else peak.extra,
        }
    return {
        "op": case.op,
        "place": case.place,
        "flops": case.flops,
        "rounds": max(map(len, times.values()), default=0),
        "implementations": rows,
        "skipped": case.skipped,
    }
