"""Which implementation of an op runs, and why another one does not.

====================  ==========================================================================
``"native"``          C++ for CPU tensors, where a compiler is present (:mod:`tcformer.ops._native`)
``"triton"``          Triton kernels for GPUs; on CPU tensors only under TRITON_INTERPRET=1, slowly
``"onednn"``          the library of that name inside PyTorch, for float32 on x86-64 processors
``"eager"``           plain PyTorch, everywhere
``"portable"``        plain PyTorch without what other programs lack: for exported graphs
``"reference"``       the definition in loops, everywhere, slow on purpose
====================  ==========================================================================
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)

from tcformer.ops import _native

__all__ = [
    "OPS",
    "Availability",
    "check_impl",
    "counted",
    "interpreted_kernels",
    "is_exporting",
    "is_transformed",
    "plain_pytorch",
    "report",
    "why_not",
]

OPS = ("regroup", "dpc_knn", "attend", "merge", "token_conv", "linear")
"""The folders of this package that hold an op."""


class Availability(NamedTuple):
    """One implementation of one op on this machine; ``reason`` is None when it can run."""

    op: str
    impl: str
    reason: str | None


def check_impl(
    op: str,
    impl: str,
    implementations: tuple[str, ...],
    device: torch.device,
    *,
    unfit: Mapping[str, str | None] | None = None,
) -> str:
    """Resolve "auto" to the fastest implementation; an explicit request is never replaced.

    While a graph is exported "auto" means "portable", which other programs can read, or "eager"
    for ops whose plain PyTorch they can read as it is.

    Args:
        op: name of the op, for the message.
        impl: "auto" or one of ``implementations``.
        implementations: the names that exist, fastest first.
        device: where the tensors are.
        unfit: implementation -> why it cannot take these arguments (a clause), or None if it can.

    Raises:
        ValueError: ``impl`` names none of them, or one that cannot run here.
    """
    if impl != "auto" and impl not in implementations:
        names = ", ".join(("auto", *implementations))
        raise ValueError(f"{op}: there is no implementation {impl!r}; choose one of {names}.")
    unfit = {} if unfit is None else unfit
    if impl != "auto":
        why = why_not(impl, device) or unfit.get(impl)
        if why is not None:
            raise ValueError(f"{op}: the implementation {impl!r} cannot run here: {why}.")
        return impl
    if _plain:
        return "eager"
    if is_exporting():
        return "portable" if "portable" in implementations else "eager"
    if _interpret and "triton" in implementations and unfit.get("triton") is None:
        return "triton"
    for name in implementations:
        tested = _interpreted(name, device.type)
        if not tested and why_not(name, device) is None and unfit.get(name) is None:
            return name
    return "eager"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_exporting() -> bool:
    """Whether a graph is being exported; False under plain ``torch.compile``.

    Before torch 2.12 dynamo replaces PyTorch's function of this name by True wherever it traces,
    which would keep our kernels out of every compiled model. This one it runs.
    """
    return torch.compiler.is_exporting()


def is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work: they know operators only."""
    at_work: object = torch._C._functorch.maybe_current_level()
    return at_work is not None or forward_ad._current_level >= 0


_plain = False


@contextlib.contextmanager
def plain_pytorch() -> Iterator[None]:
    """Within, "auto" means plain PyTorch everywhere: for tools that watch its operators run."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


_interpret = False


@contextlib.contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Within, "auto" takes Triton's interpreter on a CPU: to try whole networks on the kernels.

    The process must run with TRITON_INTERPRET=1.
    """
    global _interpret
    before, _interpret = _interpret, True
    try:
        yield
    finally:
        _interpret = before


def counted() -> bool:
    """Whether a FlopCounterMode of torch is on, which sees operators and what they are made of.

    What does not depend on the data then runs as one operator that has a formula, so that every
    implementation counts the same (docs/numerics.md).
    """
    if torch.compiler.is_compiling():
        return False
    return any("FlopCounter" in type(mode).__name__ for mode in _get_current_dispatch_mode_stack())


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def why_not(impl: str, device: torch.device | str) -> str | None:
    """Why an implementation cannot run on tensors of a device, as a clause; None when it can."""
    device = torch.device(device)
    if impl == "native":
        if device.type != "cpu":
            return f"native kernels are for tensors on the CPU, these are on {device.type}"
        return _native.reason()
    if impl == "onednn":
        from tcformer.ops.linear import onednn

        return onednn.reason()
    if impl == "triton":
        if importlib.util.find_spec("triton") is None:
            return "the triton package is not installed"
        if device.type != "cuda" and not _interpreted(impl, device.type):
            return "Triton kernels need a GPU; TRITON_INTERPRET=1 runs them slowly without one"
        if device.type == "cuda" and torch.cuda.is_available():
            index = torch.cuda.current_device() if device.index is None else device.index
            return _why_no_triton(index)
    return None


@functools.cache
def _why_no_triton(index: int) -> str | None:
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


def _interpreted(impl: str, device_type: str) -> bool:
    """Whether this would run in Triton's interpreter: to test kernels with, never chosen."""
    wanted = os.environ.get("TRITON_INTERPRET") == "1"
    return impl == "triton" and wanted and device_type == "cpu"


def report() -> list[Availability]:
    """List every implementation of every op, with the reason where it cannot run here."""
    # By path: as attributes of `tcformer.ops` these names are the functions.
    modules = {op: importlib.import_module(f"tcformer.ops.{op}") for op in OPS}
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    devices = {"native": "cpu", "triton": gpu}
    return [
        Availability(op, impl, why_not(impl, devices.get(impl, "cpu")))
        for op, module in modules.items()
        for impl in module.IMPLEMENTATIONS
    ]
