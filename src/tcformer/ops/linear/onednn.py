"""A linear layer through oneDNN, which PyTorch carries but uses for float32 only when compiling."""

from __future__ import annotations

import platform
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import flop_registry, register_flop_formula

from tcformer.ops.dispatch import Backend, register


def unsupported_reason() -> str | None:
    """Why oneDNN cannot serve linear layers on this machine, as a clause; None when it can."""
    why: str | None = _reason()
    return why


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _reason() -> str | None:
    return _probe()


register(Backend("onednn", lambda device: _reason()))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unsupported(dtype: torch.dtype | None) -> str | None:
    """Why products in a dtype do not pay here, as a clause; None when they do."""
    if dtype == torch.float32 or (dtype == torch.bfloat16 and _has_bfloat16()):
        return None
    return f"it takes float32, and bfloat16 where the processor has it, not {dtype}"


@cache
def _has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _probe() -> str | None:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"it pays on x86-64 processors only, and this one is {platform.machine()}"
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch was built without oneDNN"
    try:
        # Not a public function of PyTorch: see whether it is there and means what it meant. With
        # real tensors, whatever mode (one of stand-ins, say) is on where somebody asks first.
        with _disable_current_modes():
            x, weight, bias = torch.eye(2, 3), torch.arange(12.0).view(4, 3), torch.ones(4)
            agrees = torch.equal(_call(x, weight, bias), x @ weight.T + bias)
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"this PyTorch offers it differently ({type(error).__name__})"
    return None if agrees else "this PyTorch's function of that name does something else"


@torch.library.custom_op("tcformer::onednn_linear", mutates_args=())
def _opaque(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # For compiled graphs: Inductor takes PyTorch's function itself for constant weights only.
    return _multiply(x, weight, bias)


@_opaque.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _flop(x: torch.Size, *arguments: Any, out_shape: torch.Size, **others: Any) -> int:
    """What torch's counter says of ``aten.addmm``: two for each multiply-add."""
    return 2 * prod(out_shape) * x[-1]


register_flop_formula(torch.ops.tcformer.onednn_linear)(_flop)
if (function := getattr(torch.ops.mkldnn, "_linear_pointwise", None)) not in (None, *flop_registry):
    register_flop_formula(function)(_flop)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        out: Tensor = _opaque(x, weight, bias)
        return out
    return _multiply(x, weight, bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.ndim < 3 or x.shape[:-2].numel() < 2 or _rows_are_independent():
        return _call(x, weight, bias)
    # Image by image: the size of the batch must not show in an image's features.
    images = x.reshape(-1, *x.shape[-2:]).unbind()
    out = torch.stack([_call(image, weight, bias) for image in images])
    return out.view(*x.shape[:-1], weight.shape[0])


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


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., N, Cin) float32 on the CPU -> (..., N, Cout)."""
    if torch.is_grad_enabled():
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return _product(x, weight, bias)
