"""Regroup: the one primitive behind every conversion between tokens and maps.

Weighted mean of source items over the entries (usually grid cells) that they share with a
destination::

    total[d] = eps + sum over e with dst[e] = d of w[e]
    out[d]   =       sum over e with dst[e] = d of w[e] / total[d] * x[src[e]]

Tokens to map, map to tokens, tokens to tokens and the merging of tokens differ only in which
index is the source and which the destination. A destination without entries gets zero.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from tcformer.arguments import as_float, as_int
from tcformer.ops.dispatch import Backend, in_interpreter, register, resolve, stands
from tcformer.ops.regroup import cpp, eager, export
from tcformer.ops.regroup.export import ExportPlan
from tcformer.ops.regroup.plan import EPS, GatherSum, RegroupPlan
from tcformer.shapes import Float, Integer, shaped

__all__ = [
    "EPS",
    "ExportPlan",
    "GatherSum",
    "Plan",
    "RegroupPlan",
    "apply_plan",
    "build_plans",
    "plan_both_ways",
    "plan_regroup",
    "regroup",
    "resolve_plan",
]

IMPLEMENTATIONS = ("cpp", "triton", "eager", "export", "reference")

INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}

Plan = RegroupPlan | ExportPlan
"""What :func:`apply_plan` applies: the second kind is for exported graphs."""


@shaped
def regroup(
    x: Float[Tensor, "b s c"],
    src: Integer[Tensor, "b e"],
    dst: Integer[Tensor, "b e"],
    num_dst: int,
    *,
    weight: Float[Tensor, "b e"] | None = None,
    eps: float = EPS,
    impl: str = "auto",
) -> Float[Tensor, "b d c"]:
    """Take weighted means of source items into destinations through shared entries.

    The gradient flows to ``x`` only; ``weight`` is a constant (merging, where it is not, has
    :func:`tcformer.ops.merge_tokens`). Computed in float32 or better whatever the dtype of x.

    Args:
        x: (B, S, C) float, the source items.
        src: (B, E) integer in 0..S-1, the source of every entry.
        dst: (B, E) integer in 0..num_dst-1, the destination of every entry.
        num_dst: D, number of destinations, from 1.
        weight: (B, E) float, not negative; ones when left out.
        eps: from 0, added to each destination's sum of weights.
        impl: "auto", "cpp" (C++, CPU), "triton", "eager", "export" (for exported graphs) or
            "reference".

    Returns:
        (B, D, C) in the dtype of x.

    Raises:
        ValueError: shapes that do not belong together, an index out of range (checked on the CPU
            only: elsewhere it would cost a synchronisation), an unknown ``impl`` or one that
            cannot run here.
        TypeError: ``num_dst`` is no integer, or ``eps`` no real number.

    Source: TCFormer (CVPR 2022), section 3.3; the common form is ours.
    """
    num_dst = as_int("regroup: num_dst", num_dst)
    eps = as_float("regroup: eps", eps)
    _check(x, src, dst, num_dst, weight)
    dtype = torch.promote_types(x.dtype, torch.float32)
    backend = resolve_plan(impl, x.device, dtype, IMPLEMENTATIONS)
    if backend == "reference":
        from tcformer.ops.regroup import reference

        return reference.regroup(x, src, dst, num_dst, weight, eps)
    plans = build_plans(backend, dst, src, num_dst, x.shape[1], weight=weight, eps=eps, dtype=dtype)
    return apply_plan(x, plans[1])


@shaped
def plan_regroup(
    src: Integer[Tensor, "b e"],
    dst: Integer[Tensor, "b e"],
    num_src: int,
    num_dst: int,
    *,
    weight: Float[Tensor, "b e"] | None = None,
    eps: float = EPS,
    dtype: torch.dtype = torch.float32,
    impl: str = "auto",
) -> Plan:
    """Build the plan that takes weighted means from sources to destinations.

    Args:
        src: (B, E) integer, the source of every entry.
        dst: (B, E) integer, its destination.
        num_src: S, number of sources.
        num_dst: D, number of destinations.
        weight: (B, E) float, treated as a constant; ones when left out.
        eps: added to every destination's sum of weights.
        dtype: of the normalized weights, float32 or float64.
        impl: which backend will apply the plan: "auto", "cpp", "triton", "eager" or "export".

    Raises:
        ValueError: a number is out of range, or a backend cannot run here.
        TypeError: a count is no integer, or ``eps`` no real number.
    """
    num_src = as_int("regroup: num_src", num_src, 0)
    num_dst = as_int("regroup: num_dst", num_dst)
    eps = as_float("regroup: eps", eps)
    backend = resolve_plan(impl, src.device, dtype)
    return build_plans(backend, dst, src, num_dst, num_src, weight=weight, eps=eps, dtype=dtype)[1]


@shaped
def plan_both_ways(
    a: Integer[Tensor, "b e"],
    b: Integer[Tensor, "b e"],
    num_a: int,
    num_b: int,
    *,
    eps: float = EPS,
    dtype: torch.dtype = torch.float32,
    impl: str = "auto",
) -> tuple[Plan, Plan]:
    """Build the unweighted plans a->b and b->a at the cost of one: they share their sorting."""
    num_a, num_b = as_int("regroup: num_a", num_a), as_int("regroup: num_b", num_b)
    eps = as_float("regroup: eps", eps)
    return build_plans(
        resolve_plan(impl, a.device, dtype), a, b, num_a, num_b, eps=eps, dtype=dtype
    )


def resolve_plan(
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    backends: tuple[str, ...] = IMPLEMENTATIONS[:-1],
) -> str:
    """Resolve "auto" to the backend whose plans suit weights of this dtype on this device."""
    reason = None if dtype == torch.float32 else f"its weights are float32, not {dtype}"
    return resolve("regroup", impl, backends, device, unsupported={"cpp": reason})


def build_plans(
    backend: str,
    a: Tensor,
    b: Tensor,
    num_a: int,
    num_b: int,
    *,
    weight: Tensor | None = None,
    eps: float = EPS,
    dtype: torch.dtype = torch.float32,
) -> tuple[Plan, Plan]:
    """Build the plans a->b and b->a of a backend; the arguments are checked already."""
    if backend == "cpp":
        return cpp.plan_both_ways(a, b, num_a, num_b, weight=weight, eps=eps)
    if backend == "export":
        return export.plan_both_ways(a, b, num_a, num_b, weight=weight, eps=eps, dtype=dtype)
    if backend == "triton" and dtype == torch.float32 and weight is None:
        from tcformer.ops.regroup import triton

        return triton.plan_both_ways(a, b, num_a, num_b, eps)
    padded = backend == "triton"
    padded = padded or resolve("regroup", "auto", ("triton", "eager"), a.device) == "triton"
    return eager.plan_both_ways(
        a, b, num_a, num_b, weight=weight, eps=eps, dtype=dtype, padded=padded, backend=backend
    )


@shaped
def apply_plan(
    x: Float[Tensor, "b s c"], plan: Plan, *, impl: str = "auto"
) -> Float[Tensor, "b d c"]:
    """Regroup (B, S, C) into (B, D, C) with a plan that was built before.

    The plan's own backend does it, or plain PyTorch where that cannot take the features.
    """
    if x.ndim != 3 or x.shape[1] != plan.num_src:
        raise ValueError(
            f"regroup: this plan takes features of shape (B, {plan.num_src}, C), "
            f"but x has shape {tuple(x.shape)}."
        )
    if isinstance(plan, ExportPlan):
        indices = plan.matrix, plan.entries and plan.entries[0], plan.lists and plan.lists[0]
        batch = next(index.shape[0] for index in indices if index is not None)
    else:
        batch = (plan.forward.row_start.shape[0] - 1) // plan.num_dst
    if x.shape[0] != batch:
        raise ValueError(f"regroup: this plan is for a batch of {batch}, but x has {x.shape[0]}.")
    if isinstance(plan, ExportPlan):
        resolve("regroup", impl, ("export",), x.device)
        return export.regroup(x, plan)
    reason = None
    if x.dtype not in cpp.DTYPES:
        reason = f"its arithmetic is float32, and the features are {x.dtype}"
    elif plan.forward.weight.dtype != torch.float32:
        reason = f"its weights are float32, and those of the plan {plan.forward.weight.dtype}"
    backend = plan.backend
    if impl != "auto":
        names = IMPLEMENTATIONS[:-2]
        backend = resolve("regroup", impl, names, x.device, unsupported={"cpp": reason})
    elif (backend == "cpp" and reason) or not stands("regroup"):
        backend = "eager"
    if backend == "cpp":
        return cpp.regroup(x, plan)
    if backend == "triton":
        from tcformer.ops.regroup import triton

        return triton.regroup(x, plan)
    return eager.regroup(x, plan)


def _check(x: Tensor, src: Tensor, dst: Tensor, num_dst: int, weight: Tensor | None) -> None:
    if x.ndim != 3:
        raise ValueError(f"regroup: x must have shape (B, S, C), not {tuple(x.shape)}.")
    if src.ndim != 2 or src.shape != dst.shape or src.shape[0] != x.shape[0]:
        raise ValueError(
            f"regroup: src and dst must both have shape ({x.shape[0]}, E), "
            f"not {tuple(src.shape)} and {tuple(dst.shape)}."
        )
    if not {src.dtype, dst.dtype} <= INTEGERS:
        raise ValueError("regroup: src and dst must hold integers.")
    if weight is not None and weight.shape != src.shape:
        raise ValueError(
            f"regroup: weight must have the shape of src, {tuple(src.shape)}, "
            f"not {tuple(weight.shape)}."
        )
    if src.device.type != "cpu" or torch.compiler.is_compiling() or src.numel() == 0:
        return
    for name, index, size in (("src", src, x.shape[1]), ("dst", dst, num_dst)):
        low, high = (int(bound) for bound in index.aminmax())
        if low < 0 or high >= size:
            raise ValueError(f"regroup: {name} must lie in 0..{size - 1}, not {low}..{high}.")


def _triton_unsupported_reason(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on tensors of a device, as a clause; None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "the triton package is not installed"
    if device.type != "cuda" and not in_interpreter(device):
        return "Triton kernels need a GPU; TRITON_INTERPRET=1 runs them slowly without one"
    if device.type == "cuda" and torch.cuda.is_available():
        return _gpu_unsupported_reason(
            torch.cuda.current_device() if device.index is None else device.index
        )
    return None


@functools.cache
def _gpu_unsupported_reason(index: int) -> str | None:
    """Why Triton cannot run on a GPU, as a clause: one small launch per process and GPU tells.

    Triton compiles a launcher with the system's C compiler, so that is found out only by trying.
    """
    if torch.version.hip is not None:
        return "the Triton kernels were written and proved for NVIDIA's GPUs, this torch is ROCm's"
    major, minor = torch.cuda.get_device_capability(index)
    if major < 8:
        return f"Triton needs compute capability 8.0, this GPU has {major}.{minor}"
    try:
        kernels = importlib.import_module("tcformer.ops.regroup.triton")
        # Real tensors, whatever mode (one of stand-ins, say) is on where somebody asks first.
        with _disable_current_modes():
            why: str | None = kernels.try_out(torch.device("cuda", index))
            return why
    except Exception as error:
        lines = str(error).strip().splitlines()
        first = f": {lines[0][:200].rstrip('.')}" if lines else ""
        return f"Triton cannot start a kernel here ({type(error).__name__}{first})"


register(Backend("triton", _triton_unsupported_reason, device=None))
