"""Ops side by side: every implementation that runs here, on what the network really hands them.

Features, layouts and scores are taken from a forward pass of `tcformer_light` over the images: how
much clustering and regrouping cost depends on how alike tokens are and how uneven clusters get.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
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
    """One op at one place: implementation -> what runs it, and why others are left out."""

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


class Work(NamedTuple):
    """One op at one place of the network.

    Attributes:
        place: where, with the sizes.
        call: from the name of an implementation to its output.
        wanted: what has a gradient; empty if the op has none.
        pairs: of tokens, which tell how long the reference would take.
        flops: of the matrix products in a forward pass, a multiply-add counted twice.
        published: the same, as the published code does it.
    """

    place: str
    call: Callable[[str], Tensor]
    wanted: Sequence[Tensor]
    pairs: float
    flops: float = 0.0
    published: Callable[[], Tensor] | None = None


def cases(
    names: Sequence[str], found: Sequence[Boundary], direction: str, *, with_published: bool
) -> Iterator[Case]:
    """The cases of the named ops; `dpc_knn` has no backward pass."""
    for name in (name for name in NAMES if name in names):
        for boundary in found:
            for work in _MAKERS[name](boundary):
                if direction == "forward" or work.wanted:
                    yield _case(name, work, direction, boundary.unmerged.x.device, with_published)


def _case(op: str, work: Work, direction: str, device: torch.device, with_published: bool) -> Case:
    def run(call: Callable[[], Tensor]) -> object:
        if direction == "forward":
            with torch.no_grad():
                return call()
        out = call()
        return torch.autograd.grad(out, work.wanted, torch.ones_like(out))

    case = Case(op, work.place, {}, work.flops * (1 if direction == "forward" else 3))
    for impl in importlib.import_module(f"tcformer.ops.{op}").IMPLEMENTATIONS:
        reason = unsupported_reason(impl, device)
        if impl == "reference" and work.pairs > MOST_FOR_REFERENCE:
            reason = "loops, too slow at this size"
        if reason is None:
            case.calls[impl] = partial(run, partial(work.call, impl))
        else:
            case.skipped[impl] = reason
    if with_published and work.published is not None:
        need = 20 * work.pairs if op == "dpc_knn" else 0
        if need > FREE_SHARE * free_memory(device):
            case.skipped["published"] = f"would need about {need / 2**30:.1f} GiB"
        else:
            case.calls["published"] = partial(run, work.published)
    return case


def _random(device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(*shape, device=device, requires_grad=True) for shape in shapes]


def _dpc_knn(at: Boundary) -> Iterator[Work]:
    x, clusters = at.unmerged.x, at.merged.num_tokens
    batch, tokens, channels = x.shape
    yield Work(
        f"CTM {at.number}: {tokens} tokens, {channels} channels, {clusters} clusters",
        lambda impl: dpc_knn(x, clusters, NEIGHBORS, tolerance=SAME, impl=impl).assignment,
        (),
        batch * tokens**2,
        # Distances of all pairs, then of every token to every center.
        2.0 * batch * tokens * channels * (tokens + clusters),
        lambda: published.cluster(x, clusters),
    )


def _merge(at: Boundary) -> Iterator[Work]:
    clusters = at.merged.num_tokens
    x, score = (t.detach().requires_grad_() for t in (at.unmerged.x, at.score))
    tokens, label = at.unmerged._replace(x=x), at.assignment
    yield Work(
        f"CTM {at.number}: {x.shape[1]} to {clusters} tokens, {x.shape[2]} channels",
        lambda impl: merge_tokens(tokens, label, clusters, log_weight=score, impl=impl).x,
        (x, score),
        x.shape[0] * x.shape[1] * clusters,
    )


def _regroup(at: Boundary) -> Iterator[Work]:
    layout, width = at.merged, at.hidden
    batch, cells = layout.cell_to_token.shape
    pixels = layout.map_size[0] * layout.map_size[1]
    # What is exported has an index structure of its own.
    plans = {impl: plan_token_map(layout, impl=impl) for impl in ("auto", "export")}
    for to_map in (True, False):
        count = layout.num_tokens if to_map else pixels
        (x,) = _random(layout.cell_to_token.device, (batch, count, width))
        entries = published.directions(layout, to_map)

        def call(impl: str, to_map: bool = to_map, x: Tensor = x, entries: Any = entries) -> Tensor:
            if impl == "reference":
                return regroup(x, *entries, impl=impl)
            plan = plans["export" if impl == "export" else "auto"]
            ready = plan.to_map if to_map else plan.to_tokens
            assert ready is not None  # after a merge tokens and pixels are never the same thing
            return apply_plan(x, ready, impl=impl)

        yield Work(
            f"stage {at.number + 1}: {'tokens to map' if to_map else 'map to tokens'}, "
            f"{layout.num_tokens} tokens, {pixels} pixels, {width} channels",
            call,
            (x,),
            batch * count * cells,
            published=partial(published.through_cells, x, *entries),
        )


def _token_conv(at: Boundary) -> Iterator[Work]:
    layout, width = at.merged, at.hidden
    batch, cells = layout.cell_to_token.shape
    device, tokens = layout.cell_to_token.device, layout.num_tokens
    plan = plan_token_map(layout)
    made = _random(device, (batch, tokens, width), (width, 1, 3, 3), (width,), (width,))
    x, *weights = made
    yield Work(
        f"stage {at.number + 1}: {tokens} tokens, {width} channels",
        lambda impl: token_conv(x, plan, *weights, gelu=True, impl=impl),
        made,
        batch * cells * (tokens + layout.map_size[0] * layout.map_size[1]),
    )


def _linear(at: Boundary) -> Iterator[Work]:
    batch, _, channels = at.unmerged.x.shape
    tokens, width = at.merged.num_tokens, at.hidden
    device = at.unmerged.x.device
    made = _random(device, (batch, tokens, channels), (width, channels), (width,))
    yield Work(
        f"stage {at.number + 1}: {tokens} tokens, {channels} to {width} channels",
        lambda impl: linear(*made, impl=impl),
        made,
        batch * tokens * width,
        2.0 * batch * tokens * channels * width,
    )


def _attend(at: Boundary) -> Iterator[Work]:
    stage = at.number + 1
    batch, _, channels = at.unmerged.x.shape
    heads, queries = channels // 64, at.merged.num_tokens
    keys = math.prod(max(1, side // {2: 4, 3: 2, 4: 1}[stage]) for side in at.merged.map_size)
    shapes = [(batch, heads, count, 64) for count in (queries, keys, keys)]
    made = _random(at.unmerged.x.device, *shapes, (batch, keys))
    q, k, v, bias = made
    yield Work(
        f"stage {stage}: {queries} queries, {keys} keys, {heads} heads",
        lambda impl: attend(q, k, v, bias=bias, impl=impl),
        made,
        0,
        4.0 * batch * heads * queries * keys * 64,
    )


_MAKERS = {
    "dpc_knn": _dpc_knn,
    "regroup": _regroup,
    "token_conv": _token_conv,
    "merge": _merge,
    "attend": _attend,
    "linear": _linear,
}
NAMES = tuple(_MAKERS)


def measure(case: Case, *, device: torch.device, **options: Any) -> dict[str, Any]:
    """Time the implementations of one case in turns, `options` as `timing.interleaved` has them.

    Returns:
        A row of the record.
    """
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
    times = timing.interleaved(steps, device=device, **options)
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

    def best(step: timing.Step) -> float:
        return min(timing.interleaved({"": step}, device=device, rounds=5, warmup=1)[""])

    found: dict[str, float] = {}
    if device.type == "cpu":
        reached = provenance.products(side, 0.3)
        found["float32"] = reached.get("mkl") or reached["blas"]
        found |= {name: reached[name] for name in ("onednn",) if name in reached}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        if name not in found:
            a, b, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
            call = lambda _, a=a, b=b, out=out: torch.mm(a, b, out=out)  # noqa: E731
            found[name] = 2 * side**3 / best(call)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * size / best(lambda _: target.copy_(source))
    return found
