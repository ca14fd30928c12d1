"""Linear layers: the same numbers as ``torch.nn.functional.linear``, faster on many processors."""

from __future__ import annotations

import torch
from torch import Tensor

from tcformer.ops.dispatch import is_exporting, is_transformed, resolve
from tcformer.ops.linear import onednn

__all__ = ["linear"]

IMPLEMENTATIONS = ("onednn", "eager", "reference")

MIN_ROWS = 2
"""oneDNN multiplies a single row by another routine, so one image alone would give other bits."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """``x @ weight.T + bias``, differentiable.

    PyTorch hands float32 products on a CPU to MKL, which has no AVX-512 path for processors that
    are not Intel's; oneDNN, which PyTorch also carries, has one and is twice as fast there. Every
    row has the same bits whatever the batch.

    Args:
        x: (..., N, Cin) float; which implementation runs depends on N but never on the batch.
        weight: (Cout, Cin), dtype of x (outside autocast).
        bias: (Cout,), or None.
        impl: "auto", "onednn" (CPU, float32 and bfloat16), "eager" or "reference".

    Returns:
        (..., N, Cout) in the dtype of x; under autocast in autocast's.

    Raises:
        ValueError: an unknown ``impl``, or an explicit one that cannot run on these tensors.
    """
    unsupported = {"onednn": _unsupported(x, weight, bias)}
    impl = resolve("linear", impl, IMPLEMENTATIONS, x.device, unsupported=unsupported)
    if impl == "onednn":
        dtype = _dtype(x, weight)  # autocast does not know this product: do its work
        added = None if bias is None else bias.to(dtype)
        return onednn.linear(x.to(dtype), weight.to(dtype), added)
    if impl == "reference":
        from tcformer.ops.linear import reference

        return reference.linear(x, weight, bias)
    from tcformer.ops.linear import eager

    return eager.linear(x, weight, bias)


def _dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """In which dtype to multiply; None where the two have different ones."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return x.dtype if x.dtype == weight.dtype else None


def _unsupported(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why oneDNN cannot take these tensors, as a clause; None when it can."""
    if x.device.type != "cpu" or x.ndim < 2 or x.shape[-2] < MIN_ROWS:
        return f"it takes {MIN_ROWS} rows or more on the CPU"
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1] or 0 in (*x.shape[:-2], *weight.shape):
        return f"it takes no {tuple(x.shape)} by {tuple(weight.shape)}"
    if bias is not None and bias.shape != weight.shape[:1]:
        return f"it takes a bias of shape ({weight.shape[0]},), not {tuple(bias.shape)}"
    if is_exporting():
        return "exported graphs hold PyTorch's own linear layers"
    if not torch.compiler.is_compiling() and is_transformed():
        return "it has no rule for vmap and for derivatives in forward mode"
    return onednn.unsupported_reason() or onednn.unsupported(_dtype(x, weight))
