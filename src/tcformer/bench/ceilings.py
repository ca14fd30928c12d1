"""What this machine can do at most, measured in the same process: matrix products and a copy."""

from __future__ import annotations

import time

import torch

from tcformer.bench.timing import elapsed
from tcformer.runtime import provenance

SIDES = {"cpu": 1536, "cuda": 8192}
COPY_BYTES = {"cpu": 2**27, "cuda": 2**31}
SECONDS = 0.3
LEAST_CALLS = 3


def ceilings(device: torch.device, *, quick: bool = False) -> dict[str, float]:
    """Best of several runs, in numbers a second.

    Returns:
        `float32` and `bf16` (operations of torch.mm, a multiplication and an addition are two),
        on a CPU `onednn` (float32 again, by the library that `ops.linear` calls), and `copy` (bytes
        read plus bytes written).
    """
    side = 256 if quick else SIDES.get(device.type, 1536)
    found = {}
    if device.type == "cpu":
        reached = provenance.products(side, SECONDS)
        found["float32"] = reached.get("mkl") or reached["blas"]
        found |= {name: reached[name] for name in ("onednn",) if name in reached}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        if name in found:
            continue
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        found[name] = 2 * side**3 / _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)
    size = 2**22 if quick else COPY_BYTES.get(device.type, 2**27)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * size / _best(lambda: target.copy_(source), device)
    return found


def _best(call: object, device: torch.device) -> float:
    """The shortest of the calls that fit into a fraction of a second."""
    assert callable(call)
    call()
    best, begin, calls = float("inf"), time.perf_counter(), 0
    while calls < LEAST_CALLS or time.perf_counter() - begin < SECONDS:
        best = min(best, elapsed(lambda _: call(), 0, 1, device))
        calls += 1
    return best
