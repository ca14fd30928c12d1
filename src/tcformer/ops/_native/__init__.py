"""Optional C++ kernels for the CPU: compiled where a compiler is present, required nowhere.

The sources are the files ``native.cpp`` of the ops. The first use on a machine compiles them into
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

from tcformer.ops._native.build import Unavailable, load

__all__ = ["library", "location", "one_thread", "reason", "run"]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, Path | None, str | None]:
    """The library and its file, or the reason why there is none; decided once a process."""
    try:
        loaded, path = load()
    except Unavailable as why:
        return None, None, str(why)
    except Exception as error:  # an optional part never takes the program down
        return None, None, f"{type(error).__name__} while preparing it: {error}"
    return loaded, path, None


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there are none, and then :func:`reason` says why."""
    return _load()[0]


def location() -> Path | None:
    """The file the kernels were loaded from; beside it, with the ending ``.log``, lies its log."""
    return _load()[1]


def reason() -> str | None:
    """Why there are no native kernels, as a clause for a message; None where there are."""
    return _load()[2]


def one_thread() -> str | None:
    """Why the kernels run on one thread only, as a clause; None where they run on torch's."""
    loaded = library()
    if loaded is None or loaded.tcf_has_fork():
        return None
    return "one thread, as torch brings no OpenMP runtime that they could share"


def run(function: str, *arguments: Tensor | Sequence[Tensor] | int | float | None) -> None:
    """Call a kernel on tensors and numbers, with torch's number of threads as last argument.

    Args:
        function: name of a C function of the library, which returns nothing.
        arguments: dense CPU tensors become pointers (None a null pointer), lists of them arrays
            of pointers, whole numbers ``int64_t``, other numbers ``double``. The caller vouches
            for dtypes and sizes.
    """
    loaded = library()
    assert loaded is not None, "check library() before calling a kernel"
    values: list[Any] = []
    for argument in arguments:
        if argument is None:
            values.append(ctypes.c_void_p(None))
        elif isinstance(argument, Tensor):
            values.append(ctypes.c_void_p(argument.data_ptr()))
        elif isinstance(argument, Sequence):
            pointers = [tensor.data_ptr() for tensor in argument]
            values.append((ctypes.c_void_p * len(pointers))(*pointers))
        elif isinstance(argument, int):
            values.append(ctypes.c_int64(argument))
        else:
            values.append(ctypes.c_double(argument))
    call = getattr(loaded, function)
    call.restype = None
    call(*values, ctypes.c_int64(torch.get_num_threads()))
