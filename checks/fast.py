"""Parts 7 to 9 of `checks/gpu.py`: how fast, and where the time goes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import references
import timm
import torch
from run import Run, synchronize
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tcformer.bench import inputs, models
from tcformer.models.tcformer import SAME
from tcformer.ops import dpc_knn
from tcformer.ops.dpc_knn import triton as kernels
from tcformer.ops.dpc_knn.peaks import neg_log_density, rank_of
from tcformer.ops.regroup import apply_plan, plan_both_ways
from tcformer.runtime import timing
from tcformer.tokens import pixel_of_cell


def seconds(run: Run, call: Callable[[], Any]) -> float:
    """Median time of a call after two that warm up, in seconds."""
    for _ in range(run.size(2, 0)):
        call()
    rounds = run.size(7, 1)
    return statistics.median(
        timing.elapsed(lambda _: call(), 0, run.size(3, 1), run.device) / run.size(3, 1)
        for _ in range(rounds)
    )


def eager_speed(run: Run) -> None:
    """Where a forward pass spends its time, and images a second beside PVTv2."""
    name, partner, batch, side = _models(run)
    model = timm.create_model(name).to(run.device).eval()
    images = inputs.batches(batch, side, device=run.device, count=1)[0]
    with torch.inference_mode(), _precision(run):
        if run.on_gpu:
            model(images)
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(
            activities=[activity.CUDA if run.on_gpu else activity.CPU]
        ) as seen:
            model(images)
            synchronize(run)
    rows = [(e.key[:80], _own_time(e), e.count) for e in seen.key_averages()]
    run.numbers["kernels"] = sorted(rows, key=lambda row: -row[1])[:30]
    _clustering_speed(run)
    _gather_speed(run)
    if run.on_gpu:
        _library_speed(run)
    graph = ["+graph"] if run.on_gpu else [""]
    _in_turns(run, [name, *(name + g for g in graph if g), partner], batch, side)
    if not run.quick:  # there it would be the same models at the same batch once more
        cast = [f"+cast{g}" for g in graph]
        _in_turns(run, [one + c for one in (name, partner) for c in cast], 1, side)
    for large in (256, 512, 1024) if not run.quick else (32,):
        picture = inputs.batches(1, large, device=run.device, count=1)[0]
        with torch.inference_mode(), _precision(run), references.watched_clusters() as merges:
            model(picture)
        with torch.inference_mode(), _precision(run):
            _reset_peak(run)
            took = seconds(run, lambda picture=picture: model(picture))
        x = merges[0]["x"].float()
        run.numbers[f"{large} px, one image"] = {
            "seconds": took,
            "peak_bytes": _peak(run),
            "rows_scanned": _rows_scanned(x),
        }
    if run.on_gpu:
        _reset_peak(run)
        with torch.inference_mode(), _precision(run):
            model(images)
        run.numbers["peak_bytes of one batch"] = _peak(run)


def _models(run: Run) -> tuple[str, str, int, int]:
    if run.quick:
        return "tcformer_nano", "pvt_v2_b0", 1, 32
    return "tcformer", "pvt_v2_b2", 256, 224


def _precision(run: Run) -> Any:
    if run.dtype is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(run.device.type, run.dtype)


def _own_time(event: Any) -> float:
    return float(getattr(event, "self_device_time_total", 0) or event.self_cpu_time_total)


def _reset_peak(run: Run) -> None:
    if run.on_gpu:
        torch.cuda.reset_peak_memory_stats()


def _peak(run: Run) -> int | None:
    return torch.cuda.max_memory_allocated() if run.on_gpu else None


def _rows_scanned(x: Tensor) -> float:
    features = kernels.prepare(x.contiguous(), None, SAME)
    everyone = kernels._Columns(features.half, features.norm, None)
    found = kernels.closest(features, everyone, references.NEIGHBORS + kernels.NUM_EXTRA_NEIGHBORS)
    doubted = kernels.compact(None, found, place=references.NEIGHBORS - 1, like=x)
    return float(doubted.number.double().mean() / x.shape[1])


def _clustering_speed(run: Run) -> None:
    """Each kernel of the clustering at the first merge, for a full batch and for one image."""
    case = run.refs["clustering"][0]
    for batch in (256, 1) if not run.quick else (2,):
        x = (
            case["x"]
            .to(run.device)
            .repeat(-(-batch // case["x"].shape[0]), 1, 1)[:batch]
            .contiguous()
        )
        clusters = case["num_clusters"]
        f = kernels.prepare(x, None, SAME)
        everyone = kernels._Columns(f.half, f.norm, None)
        near = kernels.closest(f, everyone, 16)
        rank = rank_of(neg_log_density(near.d2, references.NEIGHBORS, None, None))
        found = dpc_knn(x, clusters, tolerance=SAME, impl="triton")
        rows = kernels.compact(None, like=x)
        kept = kernels._Found(*(part.clone() for part in near))
        timed: dict[str, Callable[[], Any]] = {
            "whole": lambda x=x, clusters=clusters: dpc_knn(
                x, clusters, tolerance=SAME, impl="triton"
            ),
            "prepare": lambda x=x: kernels.prepare(x, None, SAME),
            "closest, 16 neighbors": lambda f=f, e=everyone: kernels.closest(f, e, 16),
            "closest, denser token": lambda f=f, e=everyone, r=rank: kernels.closest(
                f, e, 4, rank=r
            ),
            "nearest center": lambda f=f, c=found.centers: kernels.assign(f, c, None, None),
            "separation": lambda f=f, e=everyone, n=near, r=rank: kernels.separation_of(
                f, e, n, r, None
            ),
            "compact": lambda n=near, x=x: kernels.compact(None, n, place=4, like=x),
            "sort": lambda d=near.d2[..., 0]: torch.sort(d, dim=1, stable=True),
        }
        for number in (0, 1, 16, 200) if not run.quick else (1,):
            few = rows._replace(number=torch.full_like(rows.number, min(number, x.shape[1])))
            timed[f"scan of {number} rows"] = lambda f=f, e=everyone, few=few, k=kept: kernels.scan(
                f, e, few, k
            )
        run.numbers[f"clustering of {batch} x {x.shape[1]}"] = {
            name: seconds(run, call) for name, call in timed.items()
        }


def _gather_speed(run: Run) -> None:
    """Bytes a second of the gather-sum at the widest layer of stage 2, both ways."""
    case = run.refs["clustering"][0]
    copies = -(-run.size(256, 2) // case["x"].shape[0])
    cells = case["assignment"].to(run.device).repeat(copies, 1)
    side = round(cells.shape[1] ** 0.5)
    pixels = pixel_of_cell((side, side), (side // 2, side // 2), run.device).expand_as(cells)
    sizes = (case["num_clusters"], (side // 2) ** 2)
    channels = run.size(1024, 16)
    for way, ready in enumerate(plan_both_ways(cells, pixels, *sizes, impl="triton")):
        x = torch.randn(cells.shape[0], sizes[way], channels, device=run.device).to(run.dtype)
        took = seconds(run, lambda x=x, ready=ready: apply_plan(x, ready, impl="triton"))
        moved = (x.numel() + cells.shape[0] * sizes[1 - way] * channels) * x.element_size()
        run.numbers[f"gather-sum way {way}"] = {"seconds": took, "bytes_per_second": moved / took}


def _library_speed(run: Run) -> None:
    """What is not ours and takes long: depthwise convolutions, and attention by each kernel."""
    for shape in ((256, 512, 56, 56), (256, 1024, 28, 28)):
        weight = torch.randn(shape[1], 1, 3, 3, device=run.device).to(run.dtype)
        for form, searching in (
            (torch.channels_last, False),
            (torch.channels_last, True),
            (torch.contiguous_format, False),
        ):
            x = torch.randn(*shape, device=run.device, dtype=run.dtype).contiguous(
                memory_format=form
            )
            with torch.backends.cudnn.flags(benchmark=searching):
                took = seconds(
                    run,
                    lambda x=x, w=weight: nn.functional.conv2d(x, w, padding=1, groups=w.shape[0]),
                )
            name = f"depthwise {shape}, {form}, benchmark={searching}"
            run.numbers[name] = {
                "seconds": took,
                "bytes_per_second": 2 * x.numel() * x.element_size() / took,
            }
    q = torch.randn(256, 2, 784, 64, device=run.device, dtype=run.dtype)
    k = torch.randn(256, 2, 49, 64, device=run.device, dtype=run.dtype)
    mask = torch.randn(256, 56, device=run.device, dtype=run.dtype)[:, None, None, :49].expand(
        -1, 2, 784, -1
    )
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel([backend]):
                begin = time.perf_counter()
                scaled_dot_product_attention(q, k, k, attn_mask=mask)
                synchronize(run)
                first = time.perf_counter() - begin
                took = seconds(run, lambda: scaled_dot_product_attention(q, k, k, attn_mask=mask))
            run.numbers[f"attention by {backend.name}"] = {"seconds": took, "first call": first}
        except RuntimeError as error:
            run.numbers[f"attention by {backend.name}"] = str(error)[:200]


def _in_turns(
    run: Run, names: Sequence[str], batch: int, side: int, mode: str = "inference"
) -> None:
    """Images a second of models that take turns; one that fails does not stop the others."""
    dtype = "bf16" if run.dtype is torch.bfloat16 else "float32"
    backend = "eager" if run.quick else "inductor"
    setting = models.Setting(
        run.device, mode=mode, batch=batch, size=side, dtype=dtype, backend=backend
    )
    images = inputs.batches(batch, side, device=run.device, count=run.size(4, 1))
    ready = {}
    for name in names:
        try:
            ready[name] = models.prepare(models.parse(name), setting, images)
        except RuntimeError as error:
            run.require(False, f"{name}: {type(error).__name__}: {str(error)[:300]}")
    steps = {name: one.step for name, one in ready.items()}
    taken = timing.interleaved(
        steps,
        device=run.device,
        warmup=run.size(2, 0),
        rounds=run.size(5, 1),
        turn=0.0 if run.quick else None,
    )
    run.numbers[f"{mode}, batch {batch}, {side} px"] = {
        name: {
            "seconds": timing.spread(own),
            "images_per_second": batch / statistics.median(own),
            "compile_seconds": ready[name].compile_seconds,
        }
        for name, own in taken.items()
    }
    if mode == "training":
        for name, one in ready.items():
            finite = all(bool(p.isfinite().all()) for p in one.model.parameters())
            run.require(finite, f"{name}: weights are not finite after training steps")


def compiled(run: Run) -> None:
    """Our operators are in the compiled graph, the answers are the same, and how fast it is."""
    name, partner, batch, side = _models(run)
    counted: Counter[str] = Counter()
    wanted = next(iter(run.refs["networks"].values()))
    model = references.build(next(iter(run.refs["networks"]))).to(run.device)
    images = wanted["images"].to(run.device)

    def count(graph: torch.fx.GraphModule, example: Sequence[Any]) -> Any:
        counted.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    from torch._dynamo.backends.common import aot_autograd

    with torch.no_grad():
        out = torch.compile(model, backend=aot_autograd(fw_compiler=count), fullgraph=True)(images)
        expected = model(images)
    ours = {key: number for key, number in counted.items() if key.startswith("tcformer.")}
    run.numbers["operators"] = ours
    for operator in ("tcformer.dpc_knn", "gather_sum_triton", "plan_both_ways_triton"):
        there = any(operator in key for key in ours)
        run.require(there, f"{operator} is not in the compiled graph, which holds {ours}")
    run.close(out, expected, 1e-5, "traced and eager")
    torch._dynamo.reset()
    if not run.problems:
        _in_turns(run, [f"{name}+compile", f"{partner}+compile"], batch, side)


def training(run: Run) -> None:
    """A training step beside PVTv2's, and finite losses."""
    name, partner, batch, side = _models(run)
    model = timm.create_model(name).to(run.device).train()
    images = inputs.batches(batch, side, device=run.device, count=1)[0]
    labels = torch.arange(batch, device=run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(run.size(5, 1)):
        optimizer.zero_grad()
        with _precision(run):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    run.numbers["losses"] = losses
    run.require(all(abs(loss) < 1e4 for loss in losses), f"losses are {losses}")
    del model, optimizer
    _reset_peak(run)
    _in_turns(run, [name, partner], batch, side, mode="training")
    run.numbers["peak_bytes of both"] = _peak(run)
