"""Optional C++ kernels for the CPU: compiled where a compiler is present, required nowhere.

The sources are the files ``kernels.cpp`` of the ops. The first use on a machine compiles them into
a private cache folder (some seconds, once a user); later processes load what is there. Whatever
goes wrong becomes a reason, which `tcformer doctor` prints, and the ops run as plain PyTorch.
The environment variable TCFORMER_NATIVE=0 switches them off.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcformer.ops.csrc.build import Unavailable, load
from tcformer.ops.dispatch import Backend, register

__all__ = ["KERNELS", "library", "location", "one_thread", "run", "unsupported_reason"]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, Path | None, str | None]:
    """The library and its file, or the reason why there is none; decided once a process."""
    try:
        loaded, path = load()
    except Unavailable as why:
        return None, None, str(why)
    except Exception as error:  # an optional part never takes the program down
        return None, None, f"{type(error).__name__} while preparing it: {error}"
    for name, declared in KERNELS.items():
        function = getattr(loaded, name)
        function.restype = None
        function.argtypes = [*map(_TYPES.__getitem__, declared), ctypes.c_int64]
    return loaded, path, None


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there are none: :func:`unsupported_reason` says why."""
    return _load()[0]


def location() -> Path | None:
    """The file the kernels were loaded from; beside it, with the ending ``.log``, lies its log."""
    return _load()[1]


def unsupported_reason(device: torch.device | None = None) -> str | None:
    """Why there are no C++ kernels for tensors of a device, as a clause; None where there are."""
    if device is not None and device.type != "cpu":
        return f"C++ kernels are for tensors on the CPU, these are on {device.type}"
    return _load()[2]


register(Backend("cpp", unsupported_reason))


def one_thread() -> str | None:
    """Why the kernels run on one thread only, as a clause; None where they run on torch's."""
    loaded = library()
    if loaded is None or loaded.tcf_has_fork():
        return None
    return "one thread, as torch brings no OpenMP runtime that they could share"


_TYPES: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}

KERNELS = {
    "tcf_map": "ppii",
    "tcf_dpc_knn": "piiiiippdppp",
    "tcf_regroup_gather_f32": "pppppii",
    "tcf_regroup_gather_bf16": "pppppii",
    "tcf_regroup_plan": "ppppppppppppiiiid",
    "tcf_token_conv_f32": "ppppppiiiiiii",
    "tcf_token_conv_bf16": "ppppppiiiiiii",
    "tcf_token_conv_back_f32": "ppppppppppiiiiii",
    "tcf_token_conv_back_bf16": "ppppppppppiiiiii",
}
"""The C functions and the types of their arguments, as their sources declare them.

p is a pointer, i an ``int64_t``, d a ``double``; behind these all take the number of threads.
"""


def run(function: str, *arguments: Tensor | Sequence[Tensor] | int | float | None) -> None:
    """Call a kernel on tensors and numbers, with torch's number of threads as last argument.

    Args:
        function: one of :data:`KERNELS`.
        arguments: as the kernel declares them: a dense tensor on the CPU, a list of them, or None
            for a pointer. The caller vouches for dtypes and sizes.

    Raises:
        TypeError: another number of arguments, or one of another type: an array where an
            ``int64_t`` is declared, say, or a tensor that is not dense or not on the CPU.
    """
    loaded = _load()[0]
    assert loaded is not None, "check library() before calling a kernel"
    declared = KERNELS[function]
    if len(arguments) != len(declared):
        raise TypeError(f"{function} takes {len(declared)} arguments, not {len(arguments)}")
    values: list[Any] = []
    # One loop and no functions: this runs some hundred times in a forward pass.
    for kind, value in zip(declared, arguments, strict=True):
        if kind != "p" or value is None:
            values.append(value)
            continue
        addresses = []
        for tensor in (value,) if isinstance(value, Tensor) else value:  # type: ignore[union-attr]
            if tensor.device.type != "cpu" or not tensor.is_contiguous():
                raise TypeError(
                    f"kernels take dense tensors on the CPU, not one on {tensor.device}"
                )
            addresses.append(tensor.data_ptr())
        one = isinstance(value, Tensor)
        values.append(addresses[0] if one else (ctypes.c_void_p * len(addresses))(*addresses))
    try:
        getattr(loaded, function)(*values, torch.get_num_threads())
    except ctypes.ArgumentError as error:
        raise TypeError(f"{function} takes other arguments: {error}") from error
