"""Parts 0 to 6 and 10 of `checks/gpu.py`: is every answer right?"""

from __future__ import annotations

import itertools
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import references
import timm
import torch
import triton
import triton.language as tl
from run import Run, synchronize
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from tcformer.bench.ops import ceilings
from tcformer.ops import attend, cases, dispatch, dpc_knn, merge_tokens
from tcformer.ops.dpc_knn import Clusters
from tcformer.ops.dpc_knn import triton as kernels
from tcformer.ops.regroup import EPS, apply_plan, eager, plan_both_ways
from tcformer.tokens import Tokens, grid_layout, pixel_of_cell

ROOT = Path(__file__).resolve().parents[1]
NEAR = 1e-6
"""Relative difference in float64 below which float32 may decide either way."""

ALLOWED = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float64: 1e-13}
"""Largest error ||out - reference|| / ||reference|| of one op."""


# Part 0


def facts(run: Run) -> None:
    """Versions, the device, the order of attention kernels, and that a kernel starts at all."""
    note = run.numbers
    note.update(python=platform.python_version(), torch=torch.__version__, timm=timm.__version__)
    note.update(triton=triton.__version__, cuda=torch.version.cuda, hip=torch.version.hip)
    if run.on_gpu:
        found = torch.cuda.get_device_properties(run.device)
        note.update(gpu=found.name, capability=f"{found.major}.{found.minor}")
        note.update(memory=found.total_memory, processors=found.multi_processor_count)
        note.update(cache=getattr(found, "L2_cache_size", None))
        note.update(cudnn=torch.backends.cudnn.version())
    x = torch.randn(1, 1, 16, 64, device=run.device, dtype=run.dtype)
    scaled_dot_product_attention(x, x, x)
    if hasattr(torch._C, "_get_sdp_priority_order"):
        order = torch._C._get_sdp_priority_order()
        note["attention"] = [SDPBackend(number).name for number in order]
    reason = dispatch.unsupported_reason("triton", run.device.type)
    run.require(reason is None, f"Triton cannot run here: {reason}")
    dpc_knn(torch.randn(1, 16, 4, device=run.device), 4, impl="triton")
    note["ceilings"] = ceilings(run.device, quick=run.quick)


# Parts 1 and 2


def kernel_tests(run: Run) -> None:
    """The tests of the kernels, compiled for this device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/kernels"]
    command += ["-n", "0", "-k", "compact or no_batch"] if run.quick else ["-n", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr[-300:]]
    run.numbers["pytest"] = last[0]
    run.require(done.returncode == 0, f"pytest ends with {done.returncode}: {done.stdout[-2000:]}")


def self_check(run: Run) -> None:
    """Every implementation against the definition of its op, on small cases."""
    found = [
        cases.check(op, impl, run.device)
        for op, impl in cases.implementations(run.device)
        if not run.quick or impl == "triton"
    ]
    run.numbers["checked"] = [f"{one.op}/{one.impl}" for one in found]
    run.require(any(one.impl == "triton" for one in found), "no Triton kernel was checked")
    for one in found:
        run.require(one.problem is None, f"{one.op}/{one.impl}: {one.problem}")


# Part 3


def clustering(run: Run) -> None:
    """The clusters of float32 on this device beside those of float64, at the models' sizes."""
    for number, case in enumerate(run.refs["clustering"]):
        x, mask = case["x"].to(run.device), case["mask"]
        mask = None if mask is None else mask.to(run.device)
        expected = Clusters(case["assignment"].to(run.device), case["centers"].to(run.device))
        options = {"mask": mask, "tolerance": case["tolerance"]}
        found = _cluster(x, case, options)
        _compare(run, case, x, found, expected)
        copies = -(-run.size(64, 2) // x.shape[0]) if x.shape[1] <= 4096 else 1
        many = {**options, "mask": None if mask is None else mask.repeat(copies, 1)}
        # What may not change a bit: another run, batch, length of the lists, or tiling.
        ways: dict[str, Any] = {"a second time": {}, "in a larger batch": None}
        ways["with short lists"] = {"NUM_EXTRA_NEIGHBORS": 3}
        for tiles in _tilings(run, x.shape[2]):
            ways[f"with {tiles}"] = {"tiles_for": lambda channels, tiles=tiles: tiles}
        every = list(ways.items())
        for when, patches in every if not run.quick else [every[number % len(every)]]:
            if patches is None:
                again = _cluster(x.repeat(copies, 1, 1), case, many)
                again = Clusters(*(part[: x.shape[0]] for part in again))
            else:
                with mock.patch.multiple(kernels, **patches) if patches else nullcontext():
                    again = _cluster(x, case, options)
            _same(run, case["name"], found, again, when)
    tokens = run.size(65536, 100)
    x = torch.randn(1, tokens, 16, device=run.device)
    once, again = (dpc_knn(x, tokens // 4, impl="triton") for _ in range(2))
    _same(run, "many tokens", once, again, "a second time")
    run.require(_in_range(once, tokens // 4, tokens), "many tokens: an index is out of range")
    x = torch.randn(2, 30, 8, device=run.device)
    x[0, 3] = torch.nan
    found = dpc_knn(x, 8, impl="triton")
    run.require(_in_range(found, 8, 30), "NaN: an index is out of range")
    alone = dpc_knn(x[1:], 8, impl="triton")
    run.require(torch.equal(found.assignment[1:], alone.assignment), "NaN reaches another image")
    synchronize(run)


def _cluster(x: Tensor, case: dict[str, Any], options: dict[str, Any]) -> Clusters:
    with cases.poisoned():
        return dpc_knn(x, case["num_clusters"], case["k"], **options, impl="triton")


def _tilings(run: Run, channels: int) -> Iterator[kernels.Tiles]:
    own = kernels.tiles_for(channels)
    if run.quick:
        yield own._replace(rows=32, columns=16)
        return
    for rows, warps in ((64, 8), (128, 4), (128, 8)):
        yield own._replace(rows=rows, warps=warps)


def _same(run: Run, name: str, a: Clusters, b: Clusters, when: str) -> None:
    wrong = sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))
    run.require(wrong == 0, f"{name}: {wrong} indices differ {when}")


def _in_range(found: Clusters, clusters: int, tokens: int) -> bool:
    label, center = found
    low, high = int(label.min()), int(label.max())
    return low >= 0 and high < clusters and int(center.min()) >= 0 and int(center.max()) < tokens


def _compare(run: Run, case: dict[str, Any], x: Tensor, found: Clusters, wanted: Clusters) -> None:
    """Count the tokens in other clusters than in float64; each must be a near tie there."""
    name, differ = case["name"], (found.assignment != wanted.assignment).any(1)
    share = float((found.assignment != wanted.assignment).double().mean())
    run.numbers[name] = {"other_clusters": share}
    differ |= (found.centers != wanted.centers).any(1)
    if not bool(differ.any()):
        return
    if case["mask"] is not None:  # made without near ties
        run.require(False, f"{name}: clusters differ under a mask")
        return
    for image in differ.nonzero().flatten().tolist():
        exact = x[image : image + 1].double()
        ours, theirs = set(found.centers[image].tolist()), set(wanted.centers[image].tolist())
        if ours != theirs:
            score = references.scores(exact, case["k"], case["tolerance"])[0]
            exchanged = score[torch.tensor(sorted(ours ^ theirs), device=x.device)]
            gap = float(exchanged.max() - exchanged.min())
            near = gap <= 10 * NEAR * max(1.0, float(exchanged.abs().max()))
            run.require(near, f"{name}: other centers, and scores differ by {gap:.1e}")
        for start in range(0, exact.shape[1], 1024):
            d2 = torch.cdist(exact[:, start : start + 1024], exact[:, found.centers[image]])[0]
            own = d2.gather(1, found.assignment[image, start : start + 1024, None])[:, 0]
            least = d2.amin(1)
            slack = 1e-9 * float(exact.norm(dim=-1).max()) + case["tolerance"] * x.shape[2] ** 0.5
            wrong = int((own > least * (1 + NEAR) + slack).sum())
            run.require(wrong == 0, f"{name}: {wrong} tokens are not with their nearest center")
    # Where a center is exchanged, the tokens around it move too: this bounds the whole.
    run.require(
        share < 5e-4 or run.quick, f"{name}: {share:.2%} of the tokens lie in other clusters"
    )


# Part 4


@triton.jit
def _product_kernel(
    half_ptr: tl.tensor,
    out_ptr: tl.tensor,
    channels: tl.tensor,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """The products of the first ROWS tokens with each other, summed as `closest` sums them."""
    row = tl.arange(0, ROWS)
    depth = tl.arange(0, CHANNELS)
    product = tl.zeros((ROWS, ROWS), tl.float32)
    for offset in range(0, channels, CHANNELS):
        inside = offset + depth < channels
        at = row[:, None] * channels + (offset + depth)[None, :]
        mine = tl.load(half_ptr + at, mask=inside[None, :], other=0.0)
        product = tl.dot(mine, tl.trans(mine), product)
    tl.store(out_ptr + row[:, None] * ROWS + row[None, :], product)


def certificate(run: Run) -> None:
    """No column outside a list may be nearer than its radius: how tensor cores round decides it."""
    merges = [case for case in run.refs["clustering"] if case["name"].startswith("tcformer")]
    tokens = {case["name"]: case["x"][:2] for case in merges[: run.size(3, 1)]}
    first = merges[0]["x"][:1]
    tokens["shifted by 100"] = first + 100
    draw = torch.Generator().manual_seed(0)
    for channels in (512, 1024) if not run.quick else (40,):
        wide = torch.randn(1, run.size(1024, 64), channels, generator=draw)
        half = wide.shape[1] // 2
        wide[:, half:] = wide[:, :half] + 0.01 * wide[:, half:]
        tokens[f"close pairs of {channels} channels"] = wide
    for name, x in tokens.items():
        x = x.to(run.device).contiguous()
        features = kernels.prepare(x, None, 0.0)
        everyone = kernels._Columns(features.half, features.norm, None)
        with cases.poisoned():
            found = kernels.closest(features, everyone, 16)
        outside = []
        for start in range(0, x.shape[1], 512):
            rows = slice(start, start + 512)
            d2 = torch.cdist(
                x[:, rows].double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist"
            )
            d2 = d2.square() / x.shape[2]
            outside.append(d2.scatter(2, found.column[:, rows].long(), torch.inf).amin(-1))
        nearest = torch.cat(outside, 1)
        wrong = int((found.radius.double() > nearest * (1 + NEAR)).sum())
        run.require(
            wrong == 0, f"{name}: {wrong} columns outside a list are nearer than its radius"
        )
        doubted = kernels.compact(None, found, place=references.NEIGHBORS - 1, like=x)
        share = float(doubted.number.double().mean() / x.shape[1])
        used = _used(features)
        run.numbers[name] = {"allowance_used": used, "rows_scanned": share}
        run.require(used <= 1, f"{name}: products are off by {used:.2f} of what the bound allows")


def _used(features: Any) -> float:
    """The largest error of a product as a share of the bound's allowance for it."""
    half = features.half[0, : min(64, 1 << (features.half.shape[1].bit_length() - 1))].contiguous()
    rows, channels = half.shape
    out = torch.empty(rows, rows, device=half.device)
    step = kernels.tiles_for(channels).channels
    _product_kernel[(1,)](half, out, channels, ROWS=rows, CHANNELS=step, num_warps=4)
    exact = half.double() @ half.double().mT
    norm2 = half.double().square().sum(1)
    allowance = (channels + 64) * 2.0**-23 * (norm2[:, None] + norm2)
    return float((2 * (out.double() - exact).abs() / allowance.clamp(min=1e-300)).max())


# Part 5


def gathers(run: Run) -> None:
    """Plans, their application, merging and attention, forward and backward."""
    case = next(c for c in run.refs["clustering"] if c["name"].endswith("CTM 1"))
    cells = case["assignment"].to(run.device)
    copies = -(-run.size(256, 2) // cells.shape[0])
    cells = cells.repeat(copies, 1)
    side = round(cells.shape[1] ** 0.5)
    map_size = (side // 2, side // 2)
    pixels = pixel_of_cell((side, side), map_size, run.device).expand_as(cells).contiguous()
    sizes = (case["num_clusters"], map_size[0] * map_size[1])
    with cases.poisoned():
        made = plan_both_ways(cells, pixels, *sizes, impl="triton")
    for ours, plain in zip(
        made,
        eager.plan_both_ways(
            cells, pixels, *sizes, weight=None, eps=EPS, dtype=torch.float32, padded=True
        ),
        strict=True,
    ):
        for a, b in zip(
            (*ours.forward, *ours.backward), (*plain.forward, *plain.backward), strict=True
        ):
            used = (
                a.shape[0]
                if a.shape == ours.forward.row_start.shape
                else int(ours.forward.row_start[-1])
            )
            same = (
                torch.equal(a[:used], b[:used])
                if not a.is_floating_point()
                else torch.allclose(a[:used], b[:used], rtol=1e-6)
            )
            run.require(same, "the plan kernels and plain PyTorch make different plans")
    for dtype, channels in itertools.product(
        ALLOWED, (1, 30, 320, 1024) if not run.quick else (1, 30)
    ):
        if dtype is torch.float64 and channels > 320:
            continue
        _applied(run, made, (cells, pixels), sizes, dtype, channels)
    _merged(run, case)
    for keys, trained in itertools.product(
        (49, 64, 196, 1024) if not run.quick else (7,), (False, True)
    ):
        for dtype in (torch.float32, torch.bfloat16):
            _attention(run, keys, trained, dtype)
    if run.on_gpu:
        stream = torch.cuda.Stream()
        x = torch.randn(cells.shape[0], sizes[0], 64, device=run.device)
        expected = apply_plan(x, made[0])
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            aside = apply_plan(x.clone(), made[0])
        stream.synchronize()
        run.require(torch.equal(aside, expected), "another stream gives another answer")


def _applied(
    run: Run, made: Any, indices: Any, sizes: Any, dtype: torch.dtype, channels: int
) -> None:
    """Means by index arithmetic in float64 beside the kernel, there and back."""
    for way, (src, dst) in enumerate((indices, indices[::-1])):
        if dtype is torch.float64:
            ready = plan_both_ways(*indices, *sizes, dtype=dtype, impl="triton")[way]
        else:
            ready = made[way]
        sources, targets, some = sizes[way], sizes[1 - way], slice(0, 2)
        x = (
            torch.randn(src.shape[0], sources, channels, device=run.device)
            .to(dtype)
            .requires_grad_()
        )
        with cases.poisoned():
            out = apply_plan(x, ready, impl="triton")
        # .sum() hands an expanded gradient of stride zero to the kernel.
        (grad,) = torch.autograd.grad(out.sum(), x)
        count = torch.zeros(2, targets, device=run.device, dtype=torch.float64)
        count.scatter_add_(1, dst[some], torch.ones_like(dst[some], dtype=torch.float64))
        take = src[some].unsqueeze(-1).expand(-1, -1, channels)
        put = dst[some].unsqueeze(-1).expand(-1, -1, channels)
        weight = (1 / (count + EPS)).gather(1, dst[some]).unsqueeze(-1)
        values = x.detach()[some].double().gather(1, take) * weight
        total = torch.zeros(2, targets, channels, device=run.device, dtype=torch.float64)
        back = torch.zeros(2, sources, channels, device=run.device, dtype=torch.float64)
        total.scatter_add_(1, put, values)
        back.scatter_add_(1, take, weight.expand_as(values))
        name = f"regroup way {way}, {channels} channels, {dtype}"
        run.close(out[some], total, ALLOWED[dtype], name)
        run.close(grad[some], back, ALLOWED[dtype], f"{name}, gradient")


def _merged(run: Run, case: dict[str, Any]) -> None:
    """Merging with scores far apart, in float32 beside float64."""
    x, labels = case["x"].to(run.device), case["assignment"].to(run.device)
    side = round(x.shape[1] ** 0.5)
    draw = torch.Generator().manual_seed(1)
    score = (120 * torch.rand(labels.shape, generator=draw) - 60).to(run.device)
    kept = []
    for dtype, impl in ((torch.float32, "triton"), (torch.float64, "eager")):
        layout = grid_layout(x.shape[0], (side, side), run.device)
        leaves = [part.detach().to(dtype).requires_grad_() for part in (x, score)]
        tokens = Tokens(leaves[0], layout)
        merged = merge_tokens(tokens, labels, case["num_clusters"], log_weight=leaves[1], impl=impl)
        weights = torch.linspace(-1, 1, merged.x.shape[2], device=run.device, dtype=dtype)
        kept.append([merged.x, *torch.autograd.grad((merged.x * weights).sum(), leaves)])
    # The gradient of a score, u (x . g - merged . g), is small beside what it subtracts: a dot
    # product of C terms in float32 is off by about sqrt(C) eps / 2 of their size, 5e-7 for 64.
    merged, grad_x = (part.detach() for part in kept[1][:2])
    mean = merged.gather(1, labels.unsqueeze(-1).expand_as(x))
    terms = float((grad_x.abs() * (x.double().abs() + mean.abs())).sum(-1).norm())
    for name, ours, exact, least in zip(
        ("merge", "merge, features", "merge, scores"), *kept, (0.0, 0.0, terms), strict=True
    ):
        run.close(ours, exact, ALLOWED[torch.float32], name, least=least)


def _attention(run: Run, keys: int, trained: bool, dtype: torch.dtype) -> None:
    """Biased attention and its gradients beside a softmax in float64; and which kernel did it."""
    batch, heads, queries = run.size(8, 2), 2, run.size(784, 20)
    draw = torch.Generator().manual_seed(keys)
    shapes = (
        (batch, heads, queries, 64),
        (batch, heads, keys, 64),
        (batch, heads, keys, 64),
        (batch, keys),
    )
    made = [torch.randn(*shape, generator=draw).to(run.device, dtype) for shape in shapes]
    q, k, v, bias = (part.requires_grad_(trained) for part in made)
    name = f"attend, {keys} keys, {dtype}, {'training' if trained else 'inference'}"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if run.on_gpu else activity.CPU]) as seen:
        out = attend(q, k, v, bias=bias)
        synchronize(run)
    run.numbers[f"{name}, kernels"] = sorted({event.key for event in seen.key_averages()})[:8]
    exact = [part.detach().double().requires_grad_(trained) for part in made]
    score = exact[0] @ exact[1].mT / 8 + exact[3][:, None, None]
    wanted = score.softmax(-1) @ exact[2]
    allowed = 2e-6 if dtype is torch.float32 else 8e-3
    run.close(out, wanted, allowed, name)
    if trained:
        weights = torch.randn(wanted.shape, generator=draw).to(run.device)
        ours = torch.autograd.grad((out * weights).sum(), [q, k, v, bias])
        theirs = torch.autograd.grad((wanted * weights).sum(), exact)
        for which, a, b in zip("qkvb", ours, theirs, strict=True):
            run.close(a, b, 5 * allowed, f"{name}, gradient of {which}")
    run.require(out.isfinite().all(), f"{name}: not finite")


# Part 6


def networks(run: Run) -> None:
    """Whole networks: with the clusters of float64 imposed, then on their own."""
    for name, wanted in run.refs["networks"].items():
        model = references.build(name).to(run.device)
        images = wanted["images"].to(run.device)
        forced = [Clusters(*pair) for pair in wanted["clusters"]]
        with torch.no_grad(), references.watched_clusters(forced):
            run.close(model(images), wanted["logits"], 1e-4, f"{name}, imposed clusters: logits")
        if "gradients" in wanted:
            few = [Clusters(*(part[:2] for part in pair)) for pair in forced]
            with references.watched_clusters(few):
                found = references.gradients(model, images[:2])
            whole = float(sum(part.double().square().sum() for part in found.values()) ** 0.5)
            for key, expected in wanted["gradients"].items():
                # Some gradients are zero but for rounding: measure those against the whole.
                least = 1e-3 * whole
                run.close(found[key], expected, 1e-3, f"{name}, gradient of {key}", least=least)
            worst = max(v for k, v in run.numbers.items() if "gradient of" in k)
            run.numbers = {k: v for k, v in run.numbers.items() if "gradient of" not in k}
            run.numbers[f"{name}, worst gradient"] = worst
        with torch.no_grad(), references.watched_clusters() as merges:
            free = model(images)
            again = model(images)
        run.require(torch.equal(free, again), f"{name}: another forward pass gives other bits")
        shares = [
            float((merge["assignment"].cpu() == pair[0]).double().mean())
            for merge, pair in zip(merges, wanted["clusters"], strict=False)
        ]
        run.numbers[f"{name}, same clusters as float64"] = shares
        run.require(
            run.quick or shares[0] > 0.98, f"{name}: first clusters agree in {shares[0]:.1%}"
        )
        _alone(run, name, model, images, merges)
        _half(run, name, model, images, free)
        if run.on_gpu:
            _captured(run, name, model, images)
        _backward_twice(run, name, model, images[:2])


def _alone(run: Run, name: str, model: nn.Module, images: Tensor, merges: Sequence[Any]) -> None:
    with torch.no_grad(), references.watched_clusters() as single:
        model(images[:1])
    for number, (alone, together) in enumerate(zip(single, merges, strict=False), start=1):
        same = torch.equal(alone["assignment"], together["assignment"][:1])
        # Libraries choose other products for other batches: this is noted, not required.
        run.numbers[f"{name}, merge {number}: alone as in the batch"] = same


def _half(run: Run, name: str, model: nn.Module, images: Tensor, free: Tensor) -> None:
    with torch.no_grad(), torch.autocast(run.device.type, torch.bfloat16):
        logits = model(images)
    run.require(logits.isfinite().all(), f"{name} in bfloat16: not finite")
    run.numbers[f"{name}, bfloat16: same top-1"] = float(
        (logits.argmax(1) == free.argmax(1)).double().mean()
    )


def _captured(run: Run, name: str, model: nn.Module, images: Tensor) -> None:
    """A CUDA graph answers for new images as the eager network does."""
    static = images.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside), torch.no_grad():
        for _ in range(3):
            model(static)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        out = model(static)
    static.copy_(images.flip(0))
    graph.replay()
    with torch.no_grad():
        expected = model(images.flip(0))
    run.require(torch.allclose(out, expected, atol=1e-5), f"{name}: a CUDA graph answers otherwise")


def _backward_twice(run: Run, name: str, model: nn.Module, images: Tensor) -> None:
    """Whether gradients repeat bit for bit, by default and in PyTorch's deterministic mode."""
    for strict in (False, True) if run.on_gpu else (True,):
        torch.use_deterministic_algorithms(strict)
        try:
            first, second = (references.gradients(model, images) for _ in range(2))
            differ = [key for key in first if not torch.equal(first[key], second[key])]
            run.numbers[f"{name}, gradients that differ, deterministic={strict}"] = differ[:20]
            run.require(not (strict and differ), f"{name}: {len(differ)} gradients differ")
        except RuntimeError as error:
            run.require(False, f"{name}: deterministic mode refuses: {str(error)[:200]}")
        finally:
            torch.use_deterministic_algorithms(False)


# Part 10


def sanitizer(run: Run) -> None:
    """NVIDIA's memory and race checkers over a few tests of the kernels."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        run.numbers["skipped"] = "compute-sanitizer is not installed"
        return
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/ops/kernels",
        "-k",
    ]
    for kind, chosen in (
        ("memcheck", "mask or compact"),
        ("racecheck", "equal_tokens or registration"),
    ):
        command = [tool, "--tool", kind, "--error-exitcode", "9", *tests, chosen]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        run.numbers[kind] = done.stdout.strip().splitlines()[-1:]
        run.require(
            done.returncode == 0, f"{kind} ends with {done.returncode}: {done.stdout[-1500:]}"
        )
