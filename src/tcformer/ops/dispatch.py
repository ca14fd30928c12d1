"""Which backend of an op runs, and why another one does not.

====================  ==========================================================================
``"cpp"``             C++ for CPU tensors, where a compiler is present (:mod:`tcformer.ops.csrc`)
``"triton"``          Triton kernels for GPUs; on CPU tensors only under TRITON_INTERPRET=1, slowly
``"onednn"``          the library of that name inside PyTorch, for float32 on x86-64 processors
``"eager"``           plain PyTorch, everywhere
``"export"``          plain PyTorch without what other programs lack: for exported graphs
``"reference"``       the definition in loops, everywhere, slow on purpose
====================  ==========================================================================

``impl`` takes these names, and "native" for "cpp" and "portable" for "export", their old ones.
A backend that depends on the machine registers itself here; this module imports none of them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import register_flop_formula

__all__ = [
    "OPS",
    "Availability",
    "Backend",
    "counted",
    "in_interpreter",
    "interpreted_kernels",
    "is_exporting",
    "is_transformed",
    "operator",
    "plain_pytorch",
    "register",
    "report",
    "resolve",
    "stands",
    "unsupported_reason",
]

OPS = ("regroup", "dpc_knn", "attend", "merge", "token_conv", "linear")
"""The modules of this package that report their backends."""

ALIASES = {"native": "cpp", "portable": "export"}
"""Names that backends had before, which ``impl`` still takes."""


class Backend(NamedTuple):
    """A way to run ops that not every machine has.

    Attributes:
        name: what ``impl`` calls it.
        unsupported_reason: from a device to why this backend cannot run on tensors there, as a
            clause; None when it can. Decided once a process: it may be asked at every call.
        device: where :func:`report` looks for it; None for a GPU if there is one.
    """

    name: str
    unsupported_reason: Callable[[torch.device], str | None]
    device: str | None = "cpu"


_BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Make a backend known; one that is not registered runs everywhere."""
    _BACKENDS[backend.name] = backend


class Availability(NamedTuple):
    """One backend of one op on this machine; ``unsupported_reason`` is None when it can run."""

    op: str
    backend: str
    unsupported_reason: str | None


def resolve(
    op: str,
    impl: str,
    backends: tuple[str, ...],
    device: torch.device,
    *,
    unsupported: Mapping[str, str | None] | None = None,
) -> str:
    """Resolve "auto" to the fastest backend; an explicit request is never replaced.

    While a graph is exported "auto" means "export", which other programs can read, or "eager" for
    ops whose plain PyTorch they can read as it is. ``backends`` names the fastest first, and
    ``unsupported`` says in a clause why one cannot take these arguments.

    Raises:
        ValueError: ``impl`` names none of them, or one that cannot run here.
    """
    unsupported = unsupported or {}
    if impl != "auto":
        impl = ALIASES.get(impl, impl)
        if impl not in backends:
            names = ", ".join(("auto", *backends))
            raise ValueError(f"{op}: there is no implementation {impl!r}; choose one of {names}.")
        reason = unsupported_reason(impl, device) or unsupported.get(impl)
        if reason is not None:
            raise ValueError(f"{op}: the implementation {impl!r} cannot run here: {reason}.")
        return impl
    if op in _plain:
        return "eager"
    traced = torch.compiler.is_compiling()
    if traced and is_exporting():
        return "export" if "export" in backends else "eager"
    if _interpret and "triton" in backends and unsupported.get("triton") is None:
        return "triton"
    for name in backends:
        # What Triton's interpreter would run is for tests: it is taken where they ask for it.
        if unsupported.get(name) or (name == "triton" and device.type == "cpu"):
            continue
        if name not in _BACKENDS:
            return name
        if traced:
            reason = unsupported_reason(name, device)
        else:
            reason = _BACKENDS[name].unsupported_reason(device)
        if reason is None:
            return name
    return "eager"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unsupported_reason(backend: str, device: torch.device | str) -> str | None:
    """Why a backend cannot run on tensors of a device, as a clause; None when it can."""
    found = _BACKENDS.get(backend)
    return found and found.unsupported_reason(torch.device(device))


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


def stands(op: str) -> bool:
    """Whether the backend that a plan carries may run an op; a tool may want plain PyTorch."""
    return op not in _plain and not (torch.compiler.is_compiling() and is_exporting())


_plain: frozenset[str] = frozenset()


@contextlib.contextmanager
def plain_pytorch(*ops: str) -> Iterator[None]:
    """Within, "auto" means plain PyTorch for these ops, or for all when none is named."""
    global _plain
    before, _plain = _plain, frozenset(ops or (*OPS, "merge_tokens"))
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


def in_interpreter(device: torch.device) -> bool:
    """Whether Triton's kernels would run in its interpreter, slowly, on tensors of this device."""
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def counted() -> bool:
    """Whether a FlopCounterMode of torch is on, which sees operators and what they are made of.

    What does not depend on the data then runs as one operator that has a formula, so that every
    backend counts the same (docs/numerics.md).
    """
    if torch.compiler.is_compiling():
        return False
    return any("FlopCounter" in type(mode).__name__ for mode in _get_current_dispatch_mode_stack())


def report() -> list[Availability]:
    """List every backend of every op, with the reason where it cannot run here."""
    # By path: as attributes of `tcformer.ops` these names are the functions.
    modules = {op: importlib.import_module(f"tcformer.ops.{op}") for op in OPS}
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for op, module in modules.items():
        for name in module.IMPLEMENTATIONS:
            device = _BACKENDS[name].device or gpu if name in _BACKENDS else "cpu"
            found.append(Availability(op, name, unsupported_reason(name, device)))
    return found


_LIBRARY = torch.library.Library("tcformer", "FRAGMENT")


def operator(
    schema: str,
    run: Callable[..., Any],
    shapes: Callable[..., Any],
    *,
    key: str = "CompositeExplicitAutograd",
    flops: Callable[..., int] | None = None,
    raw_flops: bool = True,
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> Any:
    """Register ``torch.ops.tcformer.<name>``, which a compiled graph holds as one node.

    ``run`` computes it under a dispatch ``key``, ``shapes`` makes empty outputs for tracing, and
    ``flops`` is its formula for torch's FLOP counter, of tensors or (not ``raw_flops``) of shapes.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, run, key)
    torch.library.register_fake(f"tcformer::{name}", shapes, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(
            f"tcformer::{name}", backward, setup_context=setup_context, lib=_LIBRARY
        )
    made = getattr(torch.ops.tcformer, name)
    if flops is not None:
        register_flop_formula(made, get_raw=raw_flops)(flops)
    return made
