"""Linear layers on a CPU by oneDNN: no op of the paper, but `F.linear` faster.

PyTorch hands float32 products on a CPU to MKL, which has no AVX-512 path for processors that are
not Intel's; oneDNN, which PyTorch also carries but uses for float32 only when compiling, has one
and is twice as fast there. Every row has the same bits whatever the batch.
"""

from __future__ import annotations

import platform
from functools import cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import flop_registry, register_flop_formula

from tcformer.ops import dispatch
from tcformer.ops.dispatch import Backend, is_exporting, operator, register, resolve

__all__ = ["linear"]

IMPLEMENTATIONS = ("onednn", "eager")

MIN_ROWS = 2
"""oneDNN multiplies a single row by another routine, so one image alone would give other bits."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """``x @ weight.T + bias``, differentiable.

    Args:
        x: (..., N, Cin) float; which backend runs depends on N but never on the batch.
        weight: (Cout, Cin), dtype of x (outside autocast).
        bias: (Cout,), or None.
        impl: "auto", "onednn" (CPU, float32 and bfloat16) or "eager" (PyTorch's choice).

    Returns:
        (..., N, Cout) in the dtype of x; under autocast in autocast's.

    Raises:
        ValueError: an unknown ``impl``, or an explicit one that cannot run on these tensors.
    """
    # What was decided stands while dtypes and device do. What else may change from call to call
    # is asked right here: this is the most frequent call of a network.
    if (
        impl == "auto"
        and not torch.compiler.is_compiling()
        and (x.dtype, weight.dtype, x.device.type) in _TAKEN
        and x.ndim == 3
        and min(x.shape[0], x.shape[1] - MIN_ROWS + 1, *weight.shape) > 0
        and x.shape[2:] == weight.shape[1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and not (
            torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or "linear" in dispatch._plain
        )
        and (x.shape[0] == 1 or _rows_are_independent())
        and torch._C._functorch.maybe_current_level() is None
        and forward_ad._current_level < 0
    ):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    dtype = x.dtype if x.dtype == weight.dtype else None
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")  # autocast does not know this product
    reason = _unsupported_reason(x, weight, bias, dtype)
    if impl != "auto":
        unsupported = {"onednn": reason}
        impl = resolve("linear", impl, IMPLEMENTATIONS, x.device, unsupported=unsupported)
    if impl == "eager" or (impl == "auto" and (reason is not None or "linear" in dispatch._plain)):
        return F.linear(x, weight, bias)
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if torch.is_grad_enabled():
        out = _Linear.apply(x, weight, bias)
        return out
    if torch.compiler.is_compiling():
        return _product(x, weight, bias)
    _TAKEN.add((x.dtype, weight.dtype, "cpu"))
    return _multiply(x, weight, bias)


_TAKEN: set[tuple[torch.dtype, torch.dtype, str]] = set()
"""Dtypes of x and weight, and device, whose products oneDNN was found to take."""


def _unsupported_reason(
    x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None
) -> str | None:
    """Why oneDNN cannot multiply these tensors in this dtype, as a clause; None when it can."""
    if x.device.type != "cpu" or x.ndim < 2 or x.shape[-2] < MIN_ROWS:
        return f"it takes {MIN_ROWS} rows or more on the CPU"
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1] or 0 in (*x.shape[:-2], *weight.shape):
        return f"it takes no {tuple(x.shape)} by {tuple(weight.shape)}"
    if bias is not None and bias.shape != weight.shape[:1]:
        return f"it takes a bias of shape ({weight.shape[0]},), not {tuple(bias.shape)}"
    if torch.compiler.is_compiling():
        if is_exporting():
            return "exported graphs hold PyTorch's own linear layers"
        why: str | None = _traced_reason(dtype)
        return why
    if torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0:
        return "it has no rule for vmap and for derivatives in forward mode"
    return _reason(dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _traced_reason(dtype: torch.dtype | None) -> str | None:
    return _reason(dtype)


@cache
def _reason(dtype: torch.dtype | None) -> str | None:
    """Why products in a dtype are not oneDNN's on this machine; decided once a dtype."""
    if (why := unsupported_reason()) is not None:
        return why
    if dtype == torch.float32:
        return None
    if dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return f"it takes float32, and bfloat16 where the processor has it, not {dtype}"


@cache
def unsupported_reason(device: torch.device | None = None) -> str | None:
    """Why oneDNN cannot serve linear layers on this machine, as a clause; None when it can."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"it pays on x86-64 processors only, and this one is {platform.machine()}"
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch was built without oneDNN"
    try:
        # Not a public function of PyTorch: see whether it is there and means what it meant. With
        # real tensors, also where a mode replaces them by fake ones.
        with _disable_current_modes():
            x, weight, bias = torch.eye(2, 3), torch.arange(12.0).view(4, 3), torch.ones(4)
            agrees = torch.equal(_call(x, weight, bias), x @ weight.T + bias)
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"this PyTorch offers it differently ({type(error).__name__})"
    return None if agrees else "this PyTorch's function of that name does something else"


register(Backend("onednn", unsupported_reason))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        # Inductor takes PyTorch's function itself for constant weights only.
        out: Tensor = torch.ops.tcformer.onednn_linear(x, weight, bias)
        return out
    return _multiply(x, weight, bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.ndim < 3 or x.shape[:-2].numel() < 2 or _rows_are_independent():
        return _call(x, weight, bias)
    # Image by image: the size of the batch must not show in an image's features.
    images = x.reshape(-1, *x.shape[-2:]).unbind()
    stacked = torch.stack([_call(image, weight, bias) for image in images])
    return stacked.view(*x.shape[:-1], weight.shape[0])


def _call(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@cache
def _rows_are_independent() -> bool:
    """Whether a row's bits do not depend on the number of rows; they do with torch 2.9 to 2.11."""
    with _disable_current_modes(), torch.inference_mode():
        random = torch.Generator().manual_seed(0)
        x, weight = (torch.randn(size, 64, generator=random) for size in (196, 64))
        parts = [_call(part, weight, None) for part in x.split(49)]
        return torch.equal(_call(x, weight, None), torch.cat(parts))


class _Linear(torch.autograd.Function):
    """Three products: the output, and the gradients of input and weight."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        # Plain products where somebody differentiates twice: these have a gradient of their own.
        product = _plain_product if torch.is_grad_enabled() else _product
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = product(rows, weight.t(), None).view(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = product(rows.t(), x.reshape(-1, x.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(dim=0)
        return grad_x, grad_weight, grad_bias


def _plain_product(x: Tensor, weight: Tensor, bias: None) -> Tensor:
    return x @ weight.t()


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _flop(x: torch.Size, *arguments: Any, out_shape: torch.Size, **others: Any) -> int:
    """What torch's counter says of ``aten.addmm``: two for each multiply-add."""
    return 2 * prod(out_shape) * x[-1]


operator(
    "onednn_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    _multiply,
    _shape,
    flops=_flop,
    raw_flops=False,
)
if (function := getattr(torch.ops.mkldnn, "_linear_pointwise", None)) not in (None, *flop_registry):
    register_flop_formula(function)(_flop)
