"""Read files of weights: whatever wrote them, without running code from them, and only if intact.

torch's weights-only reader decides what may be built from a file of torch.save. Checked before it:
the checksums of the archive (torch writes and never compares them), archives that unpack to more
than they are, and keys that take forever to hash. safetensors has no checksum; ours is an entry of
its metadata.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import io
import json
import os
import pickletools
import re
import threading
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor, serialization

from tcformer.errors import UserError, shown
from tcformer.files import check_readable, is_web_page

StateDict = dict[str, Tensor]

CHECKSUM = "tensors_sha256"
"""The metadata entry of a safetensors file that holds the checksum of its content."""

_EMA_ENTRIES = (
    "model_ema", "state_dict_ema", "ema", "params_ema", "ema_state_dict", "ema_model",
    "model_ema_state_dict",
)  # fmt: skip
_WEIGHT_ENTRIES = (
    "state_dict", "model", "model_state_dict", "params", "net", "network", "module", "weights",
)  # fmt: skip
_OTHER_STATE = re.compile(r"optim|sched|scaler|rng|ranks|callback|loops|meta|args|about|param_gr")
_MAX_WRAPPINGS = 4  # files nest weights once or twice; a dict could even contain itself
_MAX_KEY_PARTS = 1_000_000  # of one tuple, counting what is in it as often as it is
_MAX_KEY_DEPTH = 500  # of tuples in tuples; hashing takes a frame of the C stack for each


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file of weights.

    Attributes:
        state_dict: tensors by key on the CPU, as the file names them.
        epoch: the last finished epoch, where the file says it.
        meta: the metadata of a safetensors file, or the `meta` entry of an MMPose file.
        raw: everything in a file of torch.save (optimizer, settings ...), None for safetensors.
        averaged: whether `state_dict` is the average (EMA) that stands beside the last weights.
    """

    path: Path
    format: Literal["safetensors", "torch"]
    state_dict: StateDict
    epoch: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    raw: Any = None
    averaged: bool = False


def read_checkpoint(path: str | os.PathLike[str], *, ema: bool | None = False) -> Checkpoint:
    """Read weights from safetensors or from a file of torch.

    Bare state dicts are accepted, and those under an entry such as `state_dict`, `model` or
    `params`, as the authors, MMPose, timm, Lightning and this package write them. The content, not
    the name, tells the kind of file. Keys stay as they are; `load_checkpoint` translates them.
    `ema=True` takes the averaged weights instead of the last ones, None wherever there are some.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, wants to run code, holds several
            sets of weights, or no averaged ones though they are asked for.
    """
    file = check_readable(path)
    kind = _kind_of(file)
    if kind == "safetensors":
        state, meta = _read_safetensors(file)
        if ema:
            raise UserError(f"{file} is a safetensors file, which holds one set of weights, no EMA")
        return Checkpoint(file, "safetensors", state, _as_epoch(meta.get("epoch")), meta)
    if kind != "torch":
        raise UserError(f"{file} is no checkpoint: it is {kind}")
    raw = safe_torch_load(file)
    state, averaged = find_weights(raw, f"{file}", ema)
    found = raw.get("meta")
    meta = dict(found) if isinstance(found, Mapping) else {}
    epoch = _as_epoch(raw.get("epoch", meta.get("epoch")))
    return Checkpoint(file, "torch", state, epoch, meta, raw, averaged)


# ---- the weights among what was saved around them ------------------------------------------------


def find_weights(content: Any, where: str, ema: bool | None = False) -> tuple[StateDict, bool]:
    """Take the state dict out of what was saved around it; `where` names the source in refusals.

    Returns:
        The tensors by key, and whether they are an average.

    Raises:
        UserError: there are no weights in it, or several sets of them.
    """
    averaged = False
    for _ in range(_MAX_WRAPPINGS):
        if not isinstance(content, Mapping):
            break
        averages = [] if ema is False or averaged else _with_weights(content, _EMA_ENTRIES)
        inner = averages or _with_weights(content, _WEIGHT_ENTRIES)
        if not inner and not any(_is_weight(value) for value in content.values()):
            # None of a known name: whatever else holds weights, if it is one.
            names = [name for name in content if isinstance(name, str)]
            names = [name for name in names if not _OTHER_STATE.search(name.lower())]
            inner = _with_weights(content, [n for n in names if n not in _EMA_ENTRIES])
            if not inner and _with_weights(content, _EMA_ENTRIES):
                raise UserError(f"{where} holds averaged (EMA) weights alone; do without --no-ema")
            inner = inner or [n for n in _WEIGHT_ENTRIES if isinstance(content.get(n), Mapping)][:1]
        if not inner:
            break
        if any(not _alike(content[inner[0]], content[other]) for other in inner[1:]):
            names = [shown(name) for name in inner]
            raise UserError(
                f"{where} holds several sets of weights ({', '.join(names)}); save the one that is "
                "meant alone"
            )
        averaged = averaged or bool(averages)
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is no checkpoint: it holds a {type(content).__name__}, no dict")
    if ema and not averaged:
        raise UserError(f"{where} holds no averaged (EMA) weights; ask for the ordinary ones")
    return _checked(content, where), averaged


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _with_weights(content: Mapping[Any, Any], names: Iterable[str]) -> list[str]:
    """The entries of these names that hold weights, at any depth."""

    def holds(value: Any, depth: int) -> bool:
        if not (depth and isinstance(value, Mapping) and all(isinstance(k, str) for k in value)):
            return False
        return any(_is_weight(v) or holds(v, depth - 1) for v in value.values())

    return [name for name in names if holds(content.get(name), _MAX_WRAPPINGS)]


def _alike(one: Any, other: Any) -> bool:
    """Whether two entries hold the same weights, so that it does not matter which is taken."""
    return one is other or (
        one.keys() == other.keys()
        and all(isinstance(v, Tensor) for each in (one, other) for v in each.values())
        and all(one[k].shape == other[k].shape and torch.equal(one[k], other[k]) for k in one)
    )


def _checked(content: Mapping[Any, Any], where: str) -> StateDict:
    """The tensors of a state dict, if they are weights."""
    # A module may add entries of its own that are no tensors; they have no place in the network.
    # Detached: whatever a file has hung on to a tensor is left behind.
    state = {key: Tensor.detach(v) for key, v in content.items() if isinstance(v, Tensor)}
    if not state:
        names = ", ".join(shown(key) for key in list(content)[:4]) or "nothing"
        raise UserError(f"{where} holds no weights: its entries are {names}")
    if not all(isinstance(key, str) for key in state):
        raise UserError(f"{where} is no checkpoint: its tensors have no names")
    for key, value in state.items():
        plain = value.layout == torch.strided and not value.is_quantized and not value.is_nested
        if not plain or value.is_meta or value.is_complex():
            kind = "dataless" if value.is_meta else f"{value.layout} {value.dtype}"
            raise UserError(f"{where} holds a {kind} tensor ({shown(key)}), which is no weight")
    return state


def _as_epoch(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if abs(value) < 10**9 else None  # NaN and infinity are not less


# ---- kinds of files, safetensors -----------------------------------------------------------------

_MAGIC = {
    b"PK\x03\x04": "torch",
    b"version https://git-lfs": "a Git LFS pointer (fetch the real file with `git lfs pull`)",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
}


def _kind_of(path: Path) -> str:
    """Tell the kind of a file by its first bytes: "torch", "safetensors", or an English noun."""
    with open(path, "rb") as stream:
        start = stream.read(512)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        # The length of the header may be damaged or larger than a truncated file; that is for
        # the reader of the format to say.
        return "safetensors"
    if start.startswith(b"\x80") and len(start) > 2:
        return "torch"
    if is_web_page(start):
        return "a web page (a download went wrong)"
    if not start.strip(b"\0"):
        return "nothing but zeros (a copy went wrong)"
    if not any(byte < 32 and byte not in b"\t\r\n" for byte in start):
        return "a text file"
    return "a file of some other kind"


def _read_safetensors(file: Path) -> tuple[StateDict, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as reader:
            meta = dict(reader.metadata() or {})
            # Tensors of an open file are windows into it; a copy survives its replacement.
            state = {key: reader.get_tensor(key).clone() for key in reader.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        cause = " ".join(str(error).split())[:120].rstrip(".")
        raise UserError(
            f"cannot read {file}: the safetensors file is damaged or incomplete ({cause}); "
            "get a fresh copy"
        ) from error
    if not state:
        raise UserError(f"{file} holds no weights: it is a safetensors file without tensors")
    if CHECKSUM in meta and meta[CHECKSUM] != checksum(state, meta):
        raise UserError(
            f"cannot read {file}: its weights differ from the checksum that was written with them; "
            "get a fresh copy, or have the program that changed them drop the entry "
            f"'{CHECKSUM}' of the header"
        )
    return state, meta


def checksum(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of everything a safetensors file says, in hexadecimal, however it is laid out.

    Covered are the metadata besides this entry itself, and each dense tensor's name, dtype, shape
    and bytes, in the order of the names.
    """
    said = sorted((key, value) for key, value in metadata.items() if key != CHECKSUM)
    tensors = [(key, str(state[key].dtype), list(state[key].shape)) for key in sorted(state)]
    digest = hashlib.sha256(json.dumps([said, tensors]).encode())
    for key in sorted(state):
        # As bytes, which NumPy knows for every dtype; a scalar has no last dimension to view.
        digest.update(state[key].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---- files of torch.save -------------------------------------------------------------------------


class _RefusedError(Exception):
    """The file is damaged or something else; the message says which."""


def safe_torch_load(path: str | os.PathLike[str]) -> Any:
    """Read a file that torch.save wrote to the CPU, without ever running code from it.

    A flipped byte is refused and never another number: every record's checksum is compared, which
    torch itself leaves out. (The older of torch's two formats has no checksums.) Allowed are what
    torch's own weights-only reader allows (tensors, numbers, strings, plain containers) and
    `argparse.Namespace`, which the authors' training checkpoints hold; nothing else, not even what
    other libraries have registered with torch as safe.

    Raises:
        UserError: missing, truncated, not a file of torch, or it wants Python code to run.
    """
    file = check_readable(path)
    try:
        # The open file, not its name: by its name torch would read a .safetensors by itself.
        with open(file, "rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on odd pickles; we say it better
            _check(stream)
            stream.seek(0)
            with _only_plain_allowed():
                content = torch.load(stream, map_location="cpu", weights_only=True)
        _check_views(content)
        return content
    except _RefusedError as error:
        raise UserError(f"cannot read {file}: {error}") from None
    except MemoryError as error:
        raise UserError(
            f"cannot read {file}: it does not fit into memory, or is damaged"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything, from IndexError to EOFError
        raise UserError(f"cannot read {file}: {_why_not_loaded(file, error)}") from error


def _check(stream: BinaryIO) -> None:
    """Refuse what torch reads wrongly, without end or into all of the memory."""
    start = stream.read(4)
    stream.seek(0)
    if start == b"PK\x03\x04":
        _check_archive(stream)
    elif start.startswith(b"\x80"):
        # The older format: four pickles (magic number, version, system, content), then numbers.
        for _ in range(4):
            if not _check_keys(stream):
                return


def _check_archive(stream: BinaryIO) -> None:
    size = stream.seek(0, 2)
    try:
        with zipfile.ZipFile(stream) as archive:
            records = archive.infolist()
            names = [record.filename.rpartition("/")[2] for record in records]
            if "constants.pkl" in names:
                raise _RefusedError(
                    "it is a TorchScript program, not a checkpoint; save its state_dict instead"
                )
            if "data.pkl" not in names:
                raise _RefusedError("it is a zip archive, but none that torch.save wrote")
            if sum(record.file_size for record in records) > size:
                raise _damaged("its records are larger than the file, so it is damaged")
            # torch can be told to leave the checksums out; then all of them are zero.
            if any(record.CRC for record in records) and (bad := archive.testzip()):
                raise _damaged(f"its record {shown(bad)} is damaged, the checksum differs")
            for record in records:
                if record.filename.endswith("data.pkl"):
                    record.CRC = None  # type: ignore[assignment]  # compared above, or left out
                    _check_keys(io.BytesIO(archive.read(record)))
    except (_RefusedError, MemoryError):
        raise
    except Exception:  # zipfile raises five kinds on damaged headers
        raise _damaged("the file is damaged or incomplete") from None


def _damaged(how: str) -> _RefusedError:
    return _RefusedError(f"{how}; get a fresh copy")


def _check_keys(stream: Any) -> bool:
    """Refuse keys that take forever to hash: tuples of the same tuples of the same tuples.

    Follows the stack machine, and knows of each value only how large and deep it is as a key.
    Returns whether the pickle was followed to its end; torch refuses those that were not.
    """
    flat = (1, 0)
    stack: list[tuple[int, int]] = []
    marks: list[int] = []
    memo: dict[Any, tuple[int, int]] = {}
    try:
        for code, argument, _ in pickletools.genops(stream):
            taken = code.stack_before
            if pickletools.markobject in taken:
                start = marks.pop()
                items, stack[start:] = stack[start:], []
                taken = taken[: taken.index(pickletools.markobject)]
            else:
                items = stack[len(stack) - len(taken) :]
            if code.name == "MARK":
                marks.append(len(stack))
            elif code.name.startswith("TUPLE"):
                parts = 1 + sum(size for size, _ in items)
                depth = 1 + max((below for _, below in items), default=0)
                if parts > _MAX_KEY_PARTS or depth > _MAX_KEY_DEPTH:
                    raise _damaged("it holds tuples nested without end")
                stack[len(stack) - len(taken) :] = [(parts, depth)]
            elif "PUT" in code.name:
                memo[argument] = stack[-1]
            elif "GET" in code.name:
                stack.append(memo.get(argument, flat))
            else:
                stack[len(stack) - len(taken) :] = [flat] * len(code.stack_after)
        return True
    except (ValueError, IndexError, TypeError, OSError, UnicodeError):
        return False


def _check_views(content: Any) -> None:
    """Refuse views that claim more than their storage holds: copying one would fill the memory."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, (Mapping, list, tuple, set)):
            waiting += value.values() if isinstance(value, Mapping) else value
        elif isinstance(value, Tensor) and value.layout == torch.strided:
            held = value.is_meta or value.is_nested or value.untyped_storage().nbytes()
            if held is not True and value.numel() * value.element_size() > held:
                raise _damaged("a tensor in it claims more numbers than it holds")


class _NumpyType:
    """Stands for `numpy.dtype` while a file is read, so that no file can build a real one.

    A real one can be told that bytes of the file are addresses of Python objects.
    """

    def __init__(self, kind: Any = "", *_: Any) -> None:
        self.kind, self.order = kind, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _NumpyArray:
    """Stands for a NumPy array beside the weights, such as a random state: it is not needed."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _numpy_scalar(kind: Any, data: Any = b"") -> Any:
    """A NumPy scalar as Python's own number or text."""
    plain = isinstance(kind, _NumpyType) and re.fullmatch(r"[biufcUS]\d{1,4}", str(kind.kind))
    if plain:
        order = {"|": "", ">": ">"}.get(kind.order, "<")
        number = np.dtype(order + kind.kind)
        if isinstance(data, bytes) and len(data) == number.itemsize:
            return np.frombuffer(data, number)[0].item()
    raise _RefusedError("it holds a NumPy scalar that is no plain number")


# NumPy 2 renamed its module; files name whichever wrote them.
_STAND_INS: list[Any] = [(_NumpyType, "numpy.dtype"), (_NumpyArray, "numpy.ndarray")]
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _STAND_INS += [(_numpy_scalar, f"{_module}.scalar"), (_NumpyArray, f"{_module}._reconstruct")]

_allowing = threading.Lock()


@contextlib.contextmanager
def _only_plain_allowed() -> Iterator[None]:
    # torch keeps one list for the process; the lock keeps two readers from restoring each
    # other's state.
    with _allowing:
        before = serialization.get_safe_globals()
        serialization.clear_safe_globals()
        serialization.add_safe_globals([argparse.Namespace, *_STAND_INS])
        try:
            yield
        finally:
            serialization.clear_safe_globals()
            serialization.add_safe_globals(before)


def _why_not_loaded(file: Path, error: Exception) -> str:
    text = str(error)
    wanted = re.search(r"GLOBAL ([\w.]+)|<(?:class|function) '?([\w.]+)", text)
    if wanted and ("nsupported" in text or "an only" in text or "llowlist" in text):
        return (
            f"it holds more than weights (a Python object '{wanted[1] or wanted[2]}'), "
            "and loading it could run code; ask for a file with plain tensors"
        )
    # EINVAL: torch looked for the end of an archive before the beginning of a file cut short.
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return error.strerror or text
    if "Unsupported operand" in text:
        return (
            "it is damaged, or pickled by another protocol than torch's own (2), the only one "
            "that is read without running code; save it again with torch.save's default"
        )
    with open(file, "rb") as stream:
        start = stream.read(4)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "the file is damaged or incomplete (or no file of torch); get a fresh copy"
    return "it is not a file that torch.save wrote"
